"""How every program of the product ends: one value that text, JSON and notices are made of."""

import enum
from dataclasses import dataclass, field
from typing import Any


class Code(enum.IntEnum):
    """Exit codes, the same for every program."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    LATER = 3
    REFUSED = 4
    UNFIT = 5
    ROOT = 6
    UNSEEN = 7
    INTERRUPTED = 130


MEANINGS = {
    Code.DONE: "done, or nothing to do",
    Code.FAILED: "it failed; the line on standard error says what and what boots next",
    Code.USAGE: "the command line is wrong, or a confirmation was not given",
    Code.LATER: "not now: no network, no answer, or another program holds the lock; trying again later is "
    "right",
    Code.REFUSED: "refused: something that must be trusted could not be verified, is older than what was "
    "seen, or was withdrawn",
    Code.UNFIT: "this machine is not of the kind that the program works on; nothing was changed",
    Code.ROOT: "it needs root",
    Code.UNSEEN: "nothing was seen to be wrong, but not everything could be seen",
    Code.INTERRUPTED: "interrupted; run it again and it goes on",
}


def exit_codes(*codes: Code) -> str:
    """The table of exit codes for a program's help."""
    return "exit codes:\n" + "".join(f"  {code.value:<4} {MEANINGS[code]}\n" for code in codes)


def plain(text: str) -> str:
    """TEXT for a line, with a space for each character that is not printable.

    Some of its words come from a registry or another program, and none may move a terminal's cursor.
    """
    return "".join(char if char.isprintable() else " " for char in text)


@dataclass(frozen=True)
class Outcome:
    """What happened, what it means, what to do next: sentences without a full stop.

    The last two may be empty. `facts` is extra data for --json; `warnings` are sentences shown before the
    rest.
    """

    code: Code
    what: str
    means: str = ""
    next: str = ""
    facts: dict[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def line(self) -> str:
        """What happened, what it means and what to do next as one line of sentences."""
        parts = [plain(part) for part in (self.what, self.means, self.next) if part]
        parts[1:] = [part[:1].upper() + part[1:] for part in parts[1:]]  # the first may begin with a name
        return " ".join(part + ("" if part.endswith((".", "?", "!")) else ".") for part in parts)

    def as_dict(self) -> dict[str, Any]:
        """For --json (schema 1): `facts` beside the fixed fields, which win over facts of the same name."""
        return {
            **self.facts,
            "schema": 1,
            "code": int(self.code),
            "what": self.what,
            "means": self.means,
            "next": self.next,
            "warnings": list(self.warnings),
        }
