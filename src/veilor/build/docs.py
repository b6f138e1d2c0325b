"""Pages that are generated from data, so that they cannot drift from what the programs use."""

from __future__ import annotations

import tomllib
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats import page as threat_page
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
    """docs/DECISIONS.md with its list of records. Raises BuildError without its marks, and when two records
    share a number.
    """
    text, known, listed = (source_root / DECISIONS).read_text(), {}, ""
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


def write_pages(source_root: Path) -> None:
    """Write the generated pages anew."""
    (source_root / VERIFIED).write_text(verified_page(source_root))
    (source_root / DECISIONS).write_text(decisions_page(source_root))
    (source_root / threat_page.PAGE).write_text(threat_page.page(source_root))


def check_pages(source_root: Path) -> None:
    """Raise BuildError when a generated page is not what its data say."""
    if (source_root / VERIFIED).read_text() != verified_page(source_root):
        raise BuildError(
            f"{VERIFIED} does not say what {STAND_INS} says; write it anew with `make docs` and commit it"
        )
    if (source_root / DECISIONS).read_text() != decisions_page(source_root):
        raise BuildError(
            f"{DECISIONS} does not list what lies in docs/decisions; write it anew with `make docs` and "
            "commit it"
        )
    page = source_root / threat_page.PAGE
    if not page.is_file() or page.read_text() != threat_page.page(source_root):
        raise BuildError(
            f"{threat_page.PAGE} does not say what threats/ says; write it anew with `make docs` and commit "
            "it"
        )
