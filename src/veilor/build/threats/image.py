"""Runs the image checks, and proves that they can fail: each control is removed in a copy of the tree."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.stage import stage
from veilor.build.threats.controls import Control, parse_control, without
from veilor.build.threats.kinds.registry import KINDS
from veilor.build.threats.kinds.subject import Subject
from veilor.build.threats.model import ImageCheck, Model

KEPT = ("kickstart",)  # what a subject holds beside the staged tree


@contextmanager
def staged(source_root: Path) -> Iterator[Subject]:
    """The subject made of the repository at SOURCE_ROOT, in a folder of its own."""
    with tempfile.TemporaryDirectory(prefix="veilor-threats-") as scratch:
        tree = stage(source_root, Path(scratch, "tree"))
        for name in KEPT:
            shutil.copytree(source_root / name, Path(scratch, "sources", name))
        yield Subject(tree, Path(scratch, "sources"))


def subject(source_root: Path, tree: Path | None = None) -> AbstractContextManager[Subject]:
    """What the image checks look at: the files in TREE, of a built image, or else the tree staged from
    SOURCE_ROOT.
    """
    if tree and not (tree / "usr/lib/veilor/product.toml").is_file():
        raise BuildError(
            f"{tree} holds no veilor-os; name the root of a built image's files, or leave --tree out"
        )
    return nullcontext(Subject(tree.absolute(), source_root)) if tree else staged(source_root)


class Copy:
    """A copy of a subject, without our programs' code, that is spoilt and made whole again."""

    def __init__(self, honest: Subject, scratch: Path) -> None:
        for part, name in ((honest.tree, "tree"), (honest.sources, "sources")):
            shutil.copytree(
                part, scratch / name, symlinks=True, ignore=shutil.ignore_patterns("device", "core")
            )
        self.subject, self.root = Subject(scratch / "tree", scratch / "sources"), scratch
        self.honest = self.contents()

    def contents(self) -> dict[Path, tuple[str | bytes, int]]:
        """Each file's bytes or link's target, and its mode."""
        files = [path for path in self.root.rglob("*") if path.is_symlink() or path.is_file()]
        return {
            path: (os.readlink(path) if path.is_symlink() else path.read_bytes(), path.lstat().st_mode)
            for path in files
        }

    def restore(self) -> None:
        """Undo what a mutation did."""
        now = self.contents()
        for path in now.keys() | self.honest.keys():
            if now.get(path) == self.honest.get(path):
                continue
            path.unlink(missing_ok=True)
            if path in self.honest:
                data, mode = self.honest[path]
                if isinstance(data, str):
                    path.symlink_to(data)
                else:
                    path.write_bytes(data)
                    path.chmod(mode & 0o7777)


def image_problem(subject: Subject, check: ImageCheck) -> str | None:
    """What CHECK has to say against SUBJECT; None when it holds."""
    return KINDS[check.kind].check(subject, **check.arguments)


def image_problems(model: Model, subject: Subject, built: bool = False) -> dict[str, str | None]:
    """The problem that each image check reports, or None.

    Checks that need a built image are left out unless BUILT.
    """
    return {
        check.id: image_problem(subject, check)
        for claim in model.claims
        for check in claim.image
        if built or not check.built
    }


def mutate(model: Model, subject: Subject) -> tuple[list[str], list[str]]:
    """(what was tried, what no check noticed): every mutation of every check on the staged tree, and every
    control removed.

    Raises BuildError when a check reports a problem of the honest tree: then nothing could be proved.
    """
    wrong = [f"{name}: {what}" for name, what in image_problems(model, subject).items() if what]
    if wrong:
        raise BuildError(
            f"the staged tree does not keep its claims ({wrong[0]}); fix that before proving the checks"
        )
    tried, blind = [], []

    with tempfile.TemporaryDirectory(prefix="veilor-mutation-") as scratch:
        copy = Copy(subject, Path(scratch))
        for title, change, checks in attempts(model):
            tried.append(title)
            change(copy.subject)
            if not any(image_problem(copy.subject, check) for check in checks):
                blind.append(title)
            copy.restore()
    return tried, blind


def attempts(model: Model) -> Iterator[tuple[str, Callable[[Subject], None], list[ImageCheck]]]:
    """What is tried: a title, the change, and the checks of which one has to report a problem."""
    for claim in model.claims:
        checks = [check for check in claim.image if not check.built]
        for check in checks:
            yield from (
                (f"{check.id}: {what}", change, [check])
                for what, change in KINDS[check.kind].mutations(**check.arguments)
            )
        for control in map(parse_control, claim.controls):
            path = staged_path(control)
            if path and claim.state in ("enforced", "opt-in"):
                yield f"{claim.id}: without {control}", removal(control, path), checks


def staged_path(control: Control) -> str | None:
    """Where CONTROL lies in a subject; None for one that is no file of the overlay or kickstart."""
    if control.path.startswith("overlay/"):
        return control.path.removeprefix("overlay/")
    is_kickstart = control.path.startswith("kickstart/") and control.path.endswith(".ks")
    return control.path if is_kickstart else None


def removal(control: Control, path: str) -> Callable[[Subject], None]:
    """What removes CONTROL, which lies at PATH in a subject: the file, or what it says of the key."""

    def remove(subject: Subject) -> None:
        if control.key:
            subject.write(path, without(control, subject.text(path)))
        else:
            subject.remove(path)

    return remove
