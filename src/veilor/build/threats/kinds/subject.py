"""What image checks inspect: a staged (or built) tree, and the repository's kickstart beside it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.core.product import Product, load


@dataclass(frozen=True)
class Subject:
    """What is checked: a TREE as it lies on the machine, and beside it SOURCES with the repository's
    kickstart/.
    """

    tree: Path
    sources: Path

    def at(self, path: str) -> Path:
        """The file that PATH of a check means."""
        return (self.sources if path.startswith("kickstart/") else self.tree) / path

    def text(self, path: str) -> str:
        """The file's text; empty when there is none."""
        file = self.at(path)
        return file.read_text(errors="replace") if file.is_file() else ""

    def write(self, path: str, text: str) -> None:
        """Replace the file at PATH by TEXT. Raises BuildError where that changes nothing."""
        file = self.at(path)
        if file.is_file() and file.read_text(errors="replace") == text:
            raise BuildError(f"the mutation changes nothing in {path}: it has to follow the product")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        """Remove the file at PATH. Raises BuildError where there is none."""
        try:
            self.at(path).unlink()
        except FileNotFoundError:
            raise BuildError(
                f"the mutation finds no {path} to remove: it has to follow the product"
            ) from None

    @property
    def product(self) -> Product:
        """The product's facts, as the tree has them."""
        return load(self.tree / "usr/lib/veilor/product.toml")


Mutation = tuple[str, Callable[[Subject], None]]


def is_comment(line: str) -> bool:
    """Whether LINE of a settings file says nothing: it is empty, or a comment."""
    return not line.strip() or line.lstrip().startswith(("#", "//", ";"))


def lines_of(text: str) -> list[str]:
    """The lines of TEXT that say something, with single spaces."""
    return [" ".join(line.split()) for line in text.splitlines() if not is_comment(line)]
