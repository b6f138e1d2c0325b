"""Known holes of a candidate: what Fedora's advisories say of its RPMs, what may be ignored, what is told.

    python -m veilor.build.holes trivyignore FILE    what trivy may ignore, from bluebuild/ignored-holes.toml
    python -m veilor.build.holes judge FOLDER        FOLDER: known.json, open.json, packages.tsv, sbom.json

`known.json` and `open.json` are what `dnf5 advisory list --security --json` answers in the candidate, with
--installed and with --available; fields as in dnf5's libdnf5-cli/output/advisorylist.cpp of 2026-08-21: name,
type, severity, nevra. `packages.tsv` has name and vendor of each RPM. Written to FOLDER: holes.md, the text
for the release. Exit codes: 0 no critical hole with a fix, 1 there is one or nothing could be seen.
"""

from __future__ import annotations

import datetime
import json
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import yaml

from veilor.build.errors import BuildError

FILE = "bluebuild/ignored-holes.toml"
ROOT = Path(__file__).resolve().parents[3]
LONGEST = datetime.timedelta(days=90)
VENDOR = "Fedora Project"
ATTESTED = 16 * 1024 * 1024  # bytes that GitHub's attestation takes of a list
LEVELS = ("critical", "important", "moderate", "low", "none")


@dataclass(frozen=True)
class Ignored:
    """A hole that may stand: its ID, WHY, and the last day, UNTIL."""

    id: str
    why: str
    until: datetime.date


@dataclass(frozen=True)
class Advisory:
    """One of Fedora's advisories, NAME, of a LEVEL, with the package NEVRA that has the fix."""

    name: str
    level: str
    nevra: str


def read_ignored(text: str, today: datetime.date) -> list[Ignored]:
    """The entries of the file's TEXT. Raises BuildError for one that has expired or is too far ahead."""
    try:
        rows = [Ignored(**row) for row in tomllib.loads(text).get("ignore", [])]
        late = [row.id for row in rows if row.until < today]
        far = [row.id for row in rows if row.until > today + LONGEST]
        idle = [row.id for row in rows if not row.why.strip()]
    except (ValueError, TypeError, AttributeError) as error:
        raise BuildError(f"{FILE} cannot be used ({error}); see its head for the form") from None
    for names, what in (
        (late, "has expired"),
        (far, "reaches further than 90 days"),
        (idle, "gives no reason"),
    ):
        if names:
            raise BuildError(
                f"{FILE}: {', '.join(names)} {what}; look at it anew, then change or remove the entry"
            )
    return rows


def trivy_ignores(rows: list[Ignored]) -> str:
    """ROWS as trivy's ignore file (.trivyignore.yaml) has them; trivy counts the last day as expired."""
    entries = [
        {"id": row.id, "expired_at": row.until + datetime.timedelta(days=1), "statement": row.why}
        for row in rows
        if not row.id.startswith("FEDORA-")
    ]
    return yaml.safe_dump({"vulnerabilities": entries}, allow_unicode=True)


def advisories(text: str) -> list[Advisory]:
    """The security advisories in dnf5's answer TEXT. Raises BuildError when it is none."""
    try:
        rows = json.loads(text)
        return [
            Advisory(row["name"], row["severity"].lower() or "none", row["nevra"])
            for row in rows
            if row["type"] == "security"
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BuildError(
            f"dnf5's answer cannot be understood ({error!r:.80}), so no RPM was looked at"
        ) from None


def judge(known: str, offered: str, packages: str, ignored: list[Ignored]) -> tuple[str, list[str]]:
    """What the release says, and what stops it, a line each.

    KNOWN are advisories of what is installed, OFFERED those with a newer package than that, PACKAGES a line
    `name TAB vendor` for each RPM. Raises BuildError when the answers show that nothing was seen.
    """
    seen, missing = advisories(known), advisories(offered)
    vendors = dict(line.split("\t", 1) for line in packages.splitlines() if "\t" in line)
    if not vendors or not seen:
        raise BuildError(
            f"{len(vendors)} RPMs and {len(seen)} advisories of what is installed: Fedora's did "
            "not match this image, so nothing is known of its RPMs"
        )
    names = {row.id for row in ignored}
    left = [one for one in missing if one.name not in names]
    stops = [
        f"{one.name} is critical, and {one.nevra} has the fix, which is not in this image; build on a newer "
        f"base, or name it in {FILE} with a reason and a last day"
        for one in left
        if one.level == "critical"
    ]
    return told(vendors, seen, left, ignored), stops


def told(vendors: dict[str, str], seen: list[Advisory], left: list[Advisory], ignored: list[Ignored]) -> str:
    """The text for the release: what was looked at, what was found, and what nobody looked at."""
    others = sorted(name for name, vendor in vendors.items() if vendor != VENDOR)
    levels = {level: sorted({one.name for one in left if one.level == level}) for level in LEVELS}
    open_ones = [f"{len(names)} {level}" for level, names in levels.items() if names]
    lines = [
        "## Known holes, when this was built",
        "",
        f"- Fedora's security advisories were held against {len(vendors) - len(others)} RPMs of Fedora's; "
        f"{len({one.name for one in seen})} of them are in. Fixed by Fedora and not in this image yet: "
        f"{', '.join(open_ones) or 'none'}.",
        "- Programs that carry their own libraries (Go, Rust, Python, npm) were looked through by trivy, for "
        "critical holes with a fix.",
        f"- Not looked at: {len(others)} RPMs that are not Fedora's ({', '.join(others[:40])}"
        f"{' and more' if len(others) > 40 else ''}), holes that nobody has announced, holes without a fix.",
    ]
    lines += [f"- Known and ignored until {row.until}: {row.id}, {row.why}." for row in ignored]
    return "\n".join(lines) + "\n"


def main(argv: list[str]) -> int:
    """Carry out ARGV; the exit code."""
    try:
        ignored = read_ignored((ROOT / FILE).read_text(), datetime.datetime.now(datetime.UTC).date())
        if len(argv) == 2 and argv[0] == "trivyignore":
            Path(argv[1]).write_text(trivy_ignores(ignored))
            return 0
        if len(argv) != 2 or argv[0] != "judge":
            raise BuildError("want trivyignore FILE, or judge FOLDER")
        folder = Path(argv[1])
        known, offered, packages = (folder / name for name in ("known.json", "open.json", "packages.tsv"))
        text, stops = judge(known.read_text(), offered.read_text(), packages.read_text(), ignored)
        listed = folder / "sbom.json"
        if not listed.exists():
            text += "- A dry run: trivy looked at nothing.\n"
        elif (size := listed.stat().st_size) > ATTESTED:
            text += f"- The list of what is in it has {size >> 20} MiB, too large for GitHub to attest.\n"
        (folder / "holes.md").write_text(text)
        print(text, end="")
    except (BuildError, OSError) as error:
        stops = [str(error)]
    for stop in stops:
        print(f"holes: {stop}", file=sys.stderr)
    return 1 if stops else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
