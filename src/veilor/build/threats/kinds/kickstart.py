"""Image checks of the kickstart: what the installer is told, and what it is never told."""

from __future__ import annotations

import re
from collections.abc import Callable

from veilor.build.errors import BuildError
from veilor.build.threats.kinds.subject import Mutation, Subject, lines_of

KICKSTART = "kickstart/install.ks"


def kickstart_files(subject: Subject) -> list[str]:
    """The kickstart and the parts of it that it includes."""
    text = subject.text(KICKSTART)
    return [
        KICKSTART,
        *(f"kickstart/{name}" for name in re.findall(r"^%include (snippets/\S+\.ks)$", text, re.M)),
    ]


def kickstart_lines(subject: Subject) -> list[str]:
    """The lines of the kickstart and its parts that are no comments."""
    return [line for path in kickstart_files(subject) for line in lines_of(subject.text(path))]


def kickstart(subject: Subject, command: str, options: list[str]) -> str | None:
    """In the kickstart a line begins with COMMAND, and each one that does has every one of OPTIONS."""
    found = [line.split() for line in kickstart_lines(subject) if line.startswith(command + " ")]
    missing = [option for line in found for option in options if option not in line]
    if missing:
        return f"the kickstart's `{command}` lacks {missing[0]}"
    return None if found else f"the kickstart has no `{command}`"


def kickstart_mutations(command: str, options: list[str]) -> list[Mutation]:
    """COMMAND lacks each of OPTIONS, and stands there a second time with none of them."""

    def without(one: str) -> Callable[[Subject], None]:
        def change(subject: Subject) -> None:
            for path in kickstart_files(subject):
                text = subject.text(path)
                if command not in text or one not in text:
                    continue
                changed = ""
                for line in text.splitlines():
                    changed += (line.replace(f" {one}", "") if line.startswith(command) else line) + "\n"
                return subject.write(path, changed)
            raise BuildError(f"no part of the kickstart has `{command}` with {one}")

        return change

    return [(f"without {one}", without(one)) for one in options] + [
        ("a second one without", lambda s: s.write(KICKSTART, s.text(KICKSTART) + f"{command} x\n"))
    ]


def kickstart_never(subject: Subject, words: list[str]) -> str | None:
    """No line of the kickstart has a word that begins with one of WORDS."""
    given = kickstart_lines(subject)
    bad = [word for line in given for word in line.split() if word.startswith(tuple(words))]
    if bad:
        return f"the kickstart says {bad[0]}"
    return None if given else "there is no kickstart"


def kickstart_never_mutations(words: list[str]) -> list[Mutation]:
    """A line with each of WORDS is added, and the kickstart is gone."""

    def add(word: str) -> Callable[[Subject], None]:
        return lambda s: s.write(kickstart_files(s)[-1], s.text(kickstart_files(s)[-1]) + f"part x {word}x\n")

    return [(f"it says {word}", add(word)) for word in words] + [
        ("there is none", lambda s: s.remove(KICKSTART))
    ]
