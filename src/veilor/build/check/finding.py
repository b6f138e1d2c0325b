"""What a check says: where something is wrong, or why it could not look."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

LIMIT = 120.0


@dataclass(frozen=True, order=True)
class Finding:
    """Something that is wrong: the file below the repository's root, the line in it (0: the file as a whole)
    and one sentence.
    """

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {' '.join(self.text.split())}"


@dataclass(frozen=True, order=True)
class Notice(Finding):
    """Something that is known to be unfinished: named by every check, refused by a release alone."""


class Remark(Finding):
    """Something to know that is not wrong: it fails neither a check nor a release."""


class CannotRun(Exception):
    """The check could not look at all; the text says what it needs. Never to be taken for a pass."""


class Nothing(Exception):
    """There was nothing to look at, in the place below the repository's root that the text names. A finding,
    never a pass.
    """


def some(files: list[Path], place: str) -> list[Path]:
    """FILES, of which there has to be one in PLACE. Raises Nothing where there is none."""
    if not files:
        raise Nothing(place)
    return files


def ask(
    run: Callable | None, argv: list[str], binds: list[Path], stdin: bytes | None = None
) -> tuple[int, str]:
    """Run ARGV in the tools tree: its exit code and both outputs as text. Raises CannotRun without a tree, or
    where the tree is older than the program's place in its package list."""
    if run is None:
        raise CannotRun(f"{argv[0]} is in the tools tree, which is not there; `veilor lab tools` makes it")
    done = run(argv, binds=binds, timeout=LIMIT, stdin=stdin, check=False)
    said = (done.stdout + done.stderr).decode(errors="replace")
    if done.returncode and f"execvp {argv[0]}" in said:
        raise CannotRun(f"this tools tree has no {argv[0]}; `veilor lab tools` makes a newer one")
    return done.returncode, said


def own(name: str) -> Path:
    """The program NAME in the environment that we run from. Raises CannotRun when it is not there."""
    path = Path(sys.executable).with_name(name)
    if not path.exists():
        raise CannotRun(f"{name} is not in {path.parent}; `make checkers` puts it there, where it can")
    return path


def call(name: str, argv: list[str], cwd: Path) -> tuple[int, str, str]:
    """Run our own program NAME with ARGV in CWD: exit code, standard output, standard error."""
    done = subprocess.run(
        [own(name), *argv],
        cwd=cwd,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        timeout=LIMIT,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def line_of(text: str, needle: str) -> int:
    """The first line of TEXT with NEEDLE in it, 0 when there is none."""
    return next((number for number, line in enumerate(text.splitlines(), 1) if needle in line), 0)


def lines_matching(text: str, pattern: str) -> list[tuple[int, re.Match]]:
    """Number and match of every line of TEXT in which PATTERN is found."""
    return [
        (number, found)
        for number, line in enumerate(text.splitlines(), 1)
        if (found := re.search(pattern, line))
    ]
