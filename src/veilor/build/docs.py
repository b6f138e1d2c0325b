"""Pages that are generated from data, so that they cannot drift from what the programs use."""

from __future__ import annotations

import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats import page as threat_page
from veilor.build.threats import results_page
from veilor.core.product import load

STAND_INS = "src/veilor/lab/stand_ins.toml"
VERIFIED = "docs/VERIFIED.md"
NONE = "No rehearsal with a part of the right-hand column is on record here. None was made on real hardware."
SOME = (
    "What of the right-hand column was seen stands there in bold, with its date and how. Nothing else of it "
    "is on record here,\n"
    "and nothing was seen on real hardware."
)
HEAD = f"""# What a rehearsal shows, and on what

<!-- Generated from {STAND_INS} by `make docs`. -->

`make rehearse` runs the product's own files: the staged tree, the kickstart, the ISO builder, the container policy and
the programs on the machine. Around them, the parts below are stand-ins. What was shown on a stand-in is not said of the
real part; each row says what shows that. A report names the stand-ins of its own run.

{{seen}}

| stand-in | in the place of | why | what takes its place |
|---|---|---|---|
"""  # noqa: E501


def verified_page(source_root: Path) -> str:
    """The text of docs/VERIFIED.md: one row for each declared stand-in."""
    rows, entries = [], tomllib.loads((source_root / STAND_INS).read_text())["stand_in"]
    product = load(source_root / "product.toml")
    for entry in entries:
        command = product.fill_in(entry["command"])
        shown_by = entry["replaced_by"] + (f": `{command}`" if command else "")
        shown_by += f". **Seen: {entry['seen']}**" if entry.get("seen") else ""
        cells = (entry["title"], entry["stands_for"], entry["why"], shown_by)
        rows.append("| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |\n")
    return HEAD.format(seen=SOME if any(entry.get("seen") for entry in entries) else NONE) + "".join(rows)


DECISIONS = "docs/DECISIONS.md"
RECORDS = ("<!-- records: generated from docs/decisions by `make docs` -->\n", "<!-- end of records -->\n")


def decisions_page(source_root: Path) -> str:
    """docs/DECISIONS.md with its list of records.

    Raises BuildError when the marks around the list are missing, and when two records share a number.
    """
    text, listed = (source_root / DECISIONS).read_text(), ""
    known: dict[str, str] = {}
    first, last = text.find(RECORDS[0]), text.find(RECORDS[1])
    if not 0 <= first < last:
        raise BuildError(f"{DECISIONS} has lost the two marks around its list of records; put them back")
    for path in sorted((source_root / "docs/decisions").glob("*.md")):
        number = path.name[:4]
        if number in known:
            raise BuildError(
                f"{known[number]} and {path.name} share a number; give the newer one the next that is free"
            )
        known[number] = path.name
        listed += (
            f"- [{number}](decisions/{path.name}): {path.read_text().splitlines()[0].removeprefix('# ')}\n"
        )
    return text[: first + len(RECORDS[0])] + "\n" + listed + "\n" + text[last:]


# The pages that `make docs` writes, and the function that makes the text of each of the repository's root.
PAGES: dict[str, Callable[[Path], str]] = {
    VERIFIED: verified_page,
    DECISIONS: decisions_page,
    threat_page.PAGE: threat_page.page,
}
# Pages that another command writes, which is the way to bring them up to date: the page and that command.
WRITTEN_OTHERWISE: dict[str, tuple[Callable[[Path], str], str]] = {
    results_page.PAGE: (results_page.results_page, results_page.REFRESH),
}


@dataclass(frozen=True)
class StalePage:
    """A generated page that differs from its data, from LINE on (0: as a whole), and what to do about it."""

    path: str
    line: int
    advice: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.advice}"


def write_pages(source_root: Path) -> None:
    """Write the generated pages anew. Raises BuildError when the data of one cannot be used."""
    for path, make in PAGES.items():
        (source_root / path).write_text(make(source_root))


def stale_pages(source_root: Path) -> list[StalePage]:
    """Every generated page that is not what its data make of it, with the first line that differs."""
    found = []
    every = {path: (make, "make docs") for path, make in PAGES.items()} | WRITTEN_OTHERWISE
    for path, (make, command) in every.items():
        page = source_root / path
        try:
            wanted = make(source_root)
        except BuildError as error:
            found.append(StalePage(path, 0, str(error)))
            continue
        if not page.is_file():
            found.append(StalePage(path, 0, f"{path} is missing: run `{command}` and commit it"))
            continue
        line = first_difference(page.read_text(), wanted)
        if line:
            found.append(StalePage(path, line, f"{path} is out of date: run `{command}` and commit it"))
    return found


def first_difference(text: str, wanted: str) -> int:
    """The number of the first line of TEXT that is not the one of WANTED; 0 when the two are the same."""
    if text == wanted:
        return 0
    pairs = zip([*text.splitlines(), ""], [*wanted.splitlines(), ""], strict=False)
    differing = (number for number, (one, other) in enumerate(pairs, 1) if one != other)
    return next(differing, len(wanted.splitlines()))


def check_pages(source_root: Path) -> None:
    """Raise BuildError that names each generated page which is not what its data make of it."""
    stale = stale_pages(source_root)
    if stale:
        raise BuildError("; ".join(map(str, stale)))
