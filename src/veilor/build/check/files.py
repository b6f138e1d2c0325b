"""The files of the repository that the checks read."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from veilor.build.check.finding import LIMIT


def tracked(root: Path) -> list[Path]:
    """Every file that git keeps or would take; outside of a clone every file."""
    argv = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(argv, capture_output=True, check=False, timeout=LIMIT)
    if listed.returncode:
        names = [path for path in root.rglob("*") if path.is_file()]
    else:
        names = [root / name for name in listed.stdout.decode().split("\0") if name]
    return sorted({path for path in names if path.is_file() and not path.is_symlink()})


def texts(root: Path, left_out: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """Name and text of every text file below ROOT whose name does not begin with one of LEFT_OUT."""
    for path in tracked(root):
        name = str(path.relative_to(root))
        if name.startswith(left_out):
            continue
        try:
            yield name, path.read_text()
        except UnicodeDecodeError:
            continue
