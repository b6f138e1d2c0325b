"""What a check finds, or why it could not run; and how it runs the programs that it asks."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120.0  # seconds for one program


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong: where, and in one sentence what, and what to do next.

    PATH is below the repository's root; LINE is the line in that file, 0 for the file as a whole.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.text.split())}"


@dataclass(frozen=True, order=True)
class Notice(Finding):
    """Something that is known to be unfinished: every check names it, only a release refuses it."""


class Remark(Finding):
    """Something to know that is not wrong: it fails neither a check nor a release."""


class CannotRun(Exception):
    """The check could not run at all; the text says what it needs. This never counts as a pass."""


class NothingToCheck(Exception):
    """The folder that the text names has no file to check, which is a finding and not a pass."""


def at_least_one(files: list[Path], folder: str) -> list[Path]:
    """FILES as they are. Raises NothingToCheck, which names FOLDER, where there are none."""
    if not files:
        raise NothingToCheck(folder)
    return files


def run_tool(
    run: Callable | None, argv: list[str], binds: list[Path], stdin: bytes | None = None
) -> tuple[int, str]:
    """Run ARGV in the tools tree, which sees the folders BINDS: its exit code, and both its outputs as text.

    RUN is the tools tree's runner. Raises CannotRun where that is None, and where the tree lacks the program.
    """
    if run is None:
        raise CannotRun(f"{argv[0]} is in the tools tree, which is not there; `veilor lab tools` makes it")
    done = run(argv, binds=binds, timeout=LIMIT, stdin=stdin, check=False)
    output = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode and f"execvp {argv[0]}" in output:
        raise CannotRun(f"this tools tree has no {argv[0]}; `veilor lab tools` makes a newer one")
    return done.returncode, output


def find_own(name: str) -> Path:
    """The program NAME in the environment that we run from. Raises CannotRun when it is not there."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise CannotRun(
            f"{name} is not in {path.parent}; `make checkers ARGS=--all` puts it there, where it can"
        )
    return path


def run_own(name: str, argv: list[str], cwd: Path) -> tuple[int, str, str]:
    """Run the program NAME of our environment with ARGV in CWD: exit code, standard output, standard error.

    Raises CannotRun as `find_own`.
    """
    done = subprocess.run(
        [find_own(name), *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def line_of(text: str, needle: str) -> int:
    """The number of the first line of TEXT that contains NEEDLE; 0 when none does."""
    for number, line in enumerate(text.splitlines(), 1):
        if needle in line:
            return number
    return 0


def lines_matching(text: str, pattern: str) -> list[tuple[int, re.Match]]:
    """The number and the match of every line of TEXT in which PATTERN is found."""
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := re.search(pattern, line):
            found.append((number, match))
    return found
