"""Writes the command reference, docs/COMMANDS.md and docs/VEILOR.md, from the programs' own parsers.

`python docs/commands.py` writes them, with --check it only says whether they are stale (exit code 1). A tool
for the documents: it is the one place that sees both the machine's programs and the developer's command.
"""

from __future__ import annotations

import argparse
import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

DOCS = Path(__file__).resolve().parent
NOTE = "<!-- Generated from the programs' own parsers by `make docs`. -->"
MACHINE = f"""# Commands on the machine

{NOTE}

Every program that veilor-os adds to an installed machine, with all its arguments. What they are for in daily life
stands in [daily use](USE.md).

Each program ends with one line: what happened, what it means, what to do next. With `--json` it answers with one JSON
object instead, which a front end can rely on; its schema lies in `/usr/share/veilor/schema`. There lie also the schemas
`progress` (one line each on standard error during `veilor-update --json`) and `notice` (`/run/veilor/notice.json`, what
the person should know).

They run as root, by `run0` or `sudo`. Without root there are `veilor-firstboot-rebase --status` and `veilor-doctor`, which
then leaves more claims UNKNOWN. Who sits at the machine also has, through units that polkit guards
(`11-veilor-ask.rules`), `veilor-status` and `veilor-update` (also with one of `--check`, `--now` and `--download-only`)
without a password, and `veilor-rollback --yes` with an administrator's password. With `veilor-update --apply` the restart is
asked for in your name: logind wants a password while somebody else is logged in. Whatever else is refused says why.
"""  # noqa: E501
DEVELOPER = f"""# The veilor command

{NOTE}

What people who build, sign or rehearse veilor-os type. `make setup` puts it at `.venv/bin/veilor`.
"""


class _Taken(Exception):
    """Carries the parser out of a program that was about to use it."""


def machine_parsers() -> list[argparse.ArgumentParser]:
    """The parser of each program that people start on an installed machine, in the order of main.PROGRAMS.

    Raises SystemExit for a program whose parser cannot be taken.
    """
    from veilor.device import main, tell

    found = []
    for module in main.PROGRAMS.values():

        def take(parser, *rest, **more):
            found.append(parser)
            raise _Taken

        with mock.patch.object(tell, "conclude", take):
            try:
                importlib.import_module(f"veilor.device.{module}").main([])
            except _Taken:
                continue
        raise SystemExit(
            f"docs/commands.py: {module} does not end by tell.conclude; teach machine_parsers its way"
        )
    # The rest is started by units alone.
    return [parser for parser in found if parser.prog.startswith("veilor-")]


def developer_parsers() -> list[argparse.ArgumentParser]:
    """The parser of each verb of `veilor`; a group of verbs is replaced by its verbs."""
    from veilor.cli import parser

    return list(verbs(parser()))


def verbs(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of PARSER's verbs, or PARSER itself where it has none."""
    groups = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not groups:
        yield parser
    for group in groups:
        for one in group.choices.values():
            yield from verbs(one)


def code(text: str) -> str:
    """TEXT as code in a cell of a table."""
    return "`" + text.replace("|", "\\|") + "`"


def label(action: argparse.Action) -> str:
    """What is typed for ACTION: `--key KEY`, `DIR`, `[SCENARIO]`."""
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else action.dest.upper())
    if action.option_strings and action.nargs == "?":
        return ", ".join(action.option_strings) + f" [{value}]"
    if action.option_strings:
        return ", ".join(action.option_strings) + (f" {value}" if action.nargs != 0 else "")
    return {"?": f"[{value}]", "*": f"[{value} …]", "+": f"{value} …"}.get(action.nargs, str(value))


def usage(parser: argparse.ArgumentParser) -> str:
    """How PARSER's program is called, in one line. argparse's own differs between versions of Python."""
    group_of = {id(one): group for group in parser._mutually_exclusive_groups for one in group._group_actions}
    words, groups_done = [parser.prog], set()
    for action in sorted(parser._actions, key=lambda action: not action.option_strings):
        group = group_of.get(id(action))
        if isinstance(action, argparse._HelpAction) or id(group) in groups_done:
            continue
        text = " | ".join(map(label, group._group_actions)) if group else label(action)
        if group:
            groups_done.add(id(group))
        optional = action.option_strings and not (group or action).required
        words.append(f"[{text}]" if optional else text)
    return " ".join(words)


def section(parser: argparse.ArgumentParser) -> str:
    """The chapter on one program or verb: purpose, usage, arguments."""
    about = parser.description.rstrip(".")
    parts = [f"\n## {parser.prog}\n", f"{about[:1].upper()}{about[1:]}.\n", f"```\n{usage(parser)}\n```\n"]
    rows = [
        (label(action), action.help or "", action.required and bool(action.option_strings))
        for action in parser._actions
        if not isinstance(action, argparse._HelpAction) and action.help != argparse.SUPPRESS
    ]
    if rows:
        parts.append("| argument | what it does |\n|---|---|")
        parts += [
            f"| {code(typed)} | "
            f"{' '.join(text.replace('|', chr(92) + '|').split())}{' (required)' if must else ''} |"
            for typed, text, must in rows
        ]
        parts.append("")
    more = (parser.epilog or "").rpartition("exit codes:")[0].strip()
    return "\n".join([*parts, *([f"```\n{more}\n```\n"] if more else [])])


def exit_codes(parser: argparse.ArgumentParser) -> dict[int, str]:
    """The exit codes that PARSER's help ends with, and what they mean."""
    listed = (parser.epilog or "").rpartition("exit codes:")[2]
    return {int(number): text for number, text in re.findall(r"^  (\d+) +(.+)$", listed, re.M)}


def table(codes: dict[int, str]) -> str:
    """The chapter on exit codes."""
    rows = [f"| {number} | {text} |" for number, text in sorted(codes.items())]
    return "\n".join(["\n## Exit codes\n", "| code | meaning |", "|---|---|", *rows, ""])


def machine_page() -> str:
    """The text of docs/COMMANDS.md."""
    parsers, meanings, parts = machine_parsers(), {}, []
    for parser in parsers:
        codes = exit_codes(parser)
        meanings |= codes
        parts.append(f"{section(parser)}\nExit codes: {', '.join(map(str, codes))}.\n")
    return MACHINE + "".join(parts) + table(meanings)


def developer_page() -> str:
    """The text of docs/VEILOR.md."""
    parsers = developer_parsers()
    return DEVELOPER + "".join(map(section, parsers)) + table(exit_codes(parsers[0]))


PAGES = {"COMMANDS.md": machine_page, "VEILOR.md": developer_page}


def stale(folder: Path = DOCS) -> list[str]:
    """The names of the pages that are missing in FOLDER or out of date."""
    found = []
    for name, make in PAGES.items():
        page = folder / name
        if not page.is_file() or page.read_text() != make():
            found.append(name)
    return found


def main(argv: list[str]) -> int:
    """Write the pages, or with --check name those that are stale."""
    parser = argparse.ArgumentParser(prog="docs/commands.py", description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit code 1 when a page is stale"
    )
    if not parser.parse_args(argv).check:
        for name, make in PAGES.items():
            (DOCS / name).write_text(make())
        return 0
    found = stale()
    for name in found:
        print(
            f"docs/{name} is out of date: the programs' parsers say something else; write it anew with "
            "`make docs` and commit it",
            file=sys.stderr,
        )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
