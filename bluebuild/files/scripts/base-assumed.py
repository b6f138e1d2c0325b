#!/usr/bin/env -S python3 -I
"""Stops the build where the base is not as our scripts take it to be, or starts what nobody has decided on.

What is assumed stands in files/base/assumed.toml, what is known in files/base/known.toml. Runs before
anything of ours is in the tree. Exit codes: 0 all is as assumed, 1 something is not, each with its line.
"""

import fnmatch
import os
import re
import stat
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

# What a unit or its script says when it changes which system boots, or the boot loader.
UPDATES = re.compile(
    r"\b(?:bootc|rpm-ostree|ostree admin|bootupctl)\b[^\n#;|&]*"
    r"\b(?:upgrade|update|switch|rebase|deploy|install|finalize-staged|adopt-and-update)\b"
)
STARTED = re.compile(r"^Exec\w+=[-@:+!|]*(/\S+)", re.M)
LARGEST = 256 * 1024  # bytes of a script that is read


def missing(root: Path, row: dict) -> str:
    """What of ROW is not so in the tree ROOT, or nothing."""
    if row["kind"] == "package":
        asked = subprocess.run(["rpm", "-q", row["path"]], capture_output=True, timeout=60, check=False)
        return f"the package {row['path']} is gone" if asked.returncode else ""
    found = sorted(root.glob(row["path"]))
    if not found:
        return f"/{row['path']} is gone"
    return next(filter(None, (wrong(path, row) for path in found)), "")


def wrong(path: Path, row: dict) -> str:
    """What of ROW is not so at PATH, which is there, or nothing."""
    mode, kind = path.lstat().st_mode, row["kind"]
    if kind == "link":
        return "" if path.is_symlink() and os.readlink(path) == row["mode"] else f"{path} leads elsewhere"
    if not (stat.S_ISDIR(mode) if kind == "dir" else stat.S_ISREG(mode)):
        return f"{path} is no {kind}"
    wanted, has = row.get("mode", ""), f"{stat.S_IMODE(mode):04o}"
    if (wanted == "u+s" and not mode & stat.S_ISUID) or wanted not in ("", "u+s", has):
        return f"{path} has the mode {has}, not {wanted}"
    if "has" in row and not re.search(row["has"], path.read_text(errors="replace"), re.M):
        return f"{path} has no line with {row['has']}"
    return ""


def timers(root: Path) -> Iterator[str]:
    """Each timer of the tree ROOT that is turned on: system/NAME or user/NAME."""
    for who in ("system", "user"):
        for folder in ("etc", "usr/lib"):
            for path in (root / folder / "systemd" / who).glob("*.wants/*.timer"):
                yield f"{who}/{path.name}"


def updaters(root: Path) -> Iterator[str]:
    """Each unit of the tree ROOT that changes which system boots: system/NAME or user/NAME."""
    for who in ("system", "user"):
        for folder in ("etc", "usr/lib"):
            for path in (root / folder / "systemd" / who).glob("*.service"):
                if not path.is_symlink() and UPDATES.search(said_and_started(root, path)):
                    yield f"{who}/{path.name}"


def said_and_started(root: Path, unit: Path) -> str:
    """The text of UNIT, without comments, and of the scripts that it starts."""
    texts = [re.sub(r"^\s*[#;].*$", "", unit.read_text(errors="replace"), flags=re.M)]
    for name in STARTED.findall(texts[0]):
        program = root / name.lstrip("/")
        if program.is_file() and program.stat().st_size <= LARGEST:
            text = program.read_text(errors="replace")
            texts.append(text if text.startswith("#!") else "")
    # Program and verb may stand on two lines, or be two strings of a list.
    return re.sub(r"""["'],\s*["']|\\\n""", " ", "\n".join(texts))


def privileged(root: Path) -> Iterator[str]:
    """Each file below /usr of the tree ROOT that runs with its owner's or its group's rights."""
    for folder, _, names in os.walk(root / "usr"):
        for name in names:
            path = Path(folder, name)
            mode = path.lstat().st_mode
            if stat.S_ISREG(mode) and mode & (stat.S_ISUID | stat.S_ISGID):
                yield str(path.relative_to(root))


def unknown(root: Path, known: dict) -> Iterator[str]:
    """A sentence for each thing of the tree ROOT that starts by itself or has rights and is not KNOWN."""
    for table, what, found in (
        ("timers", "a timer that is turned on", timers(root)),
        ("updaters", "a unit that changes which system boots", updaters(root)),
        ("setuid", "a file that runs with others' rights", privileged(root)),
    ):
        for name in sorted(set(found)):
            if not any(fnmatch.fnmatchcase(name, pattern) for pattern in known[table]):
                yield (
                    f"{name} is {what} and not in files/base/known.toml; decide what becomes of it, then add "
                    f"it under [{table}]"
                )


def rests_on(scripts: Path, row: str) -> str:
    """The names of the scripts that rest on ROW."""
    found = [
        path.name
        for path in sorted(scripts.iterdir())
        if path.is_file()
        and any(row in line.split() for line in re.findall(r"^# Rests on: (.*)$", path.read_text(), re.M))
    ]
    return ", ".join(found) or "nothing"


def main() -> int:
    """Compare the tree at $VEILOR_ROOT with both files; the exit code."""
    root = Path(os.environ.get("VEILOR_ROOT") or "/")
    files = Path(os.environ.get("CONFIG_DIRECTORY") or "/tmp/files")
    rows = tomllib.loads((files / "base/assumed.toml").read_text())["row"]
    stops = []
    for row in rows:
        if not (what := missing(root, row)):
            continue
        what = what.replace(str(root) + "/", "/") if root != Path("/") else what
        if "may_go" in row:
            print(f"base-assumed: {row['id']}: {what}; {row['may_go']}")
        else:
            stops.append(
                f"{row['id']}: {what}; {rests_on(files / 'scripts', row['id'])} rests on it ({row['why']}) "
                "See what the base does instead, then change the script and files/base/assumed.toml"
            )
    stops += unknown(root, tomllib.loads((files / "base/known.toml").read_text()))
    for stop in stops:
        print(f"base-assumed: {stop}", file=sys.stderr)
    if not stops:
        print(f"base-assumed: the base is as {len(rows)} rows assume, and starts nothing that is unknown")
    return 1 if stops else 0


if __name__ == "__main__":
    sys.exit(main())
