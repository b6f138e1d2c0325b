"""Man pages and shell completions of the programs on the machine, made from their own command lines.

The staged programs are asked in a process of their own what options they have: nothing here imports the
device's code, and what is described is what is shipped. Same programs, same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from veilor.build.errors import BuildError

APP = "usr/lib/veilor/app"
LAUNCHERS = "usr/bin"
SECTION = 8
COMPLETIONS = {
    "bash": "usr/share/bash-completion/completions/{}",
    "zsh": "usr/share/zsh/site-functions/_{}",
    "fish": "usr/share/fish/vendor_completions.d/{}.fish",
}
# Runs with the staged tree's app folder and program names as arguments; prints what `describe` returns.
ASK = r"""
import argparse, importlib, json, sys
sys.path.insert(0, sys.argv[1])
programs = importlib.import_module("veilor.device.main").PROGRAMS
found = {}
for name in sys.argv[2:]:
    if name.removeprefix("veilor-") not in programs:
        continue
    made = importlib.import_module("veilor.device." + programs[name.removeprefix("veilor-")]).make_parser()
    found[name] = {"about": made.description, "more": made.epilog or "", "options": [
        {"flags": list(action.option_strings) or [action.dest], "help": action.help or "", "takes": action.nargs != 0,
         "choices": list(action.choices or [])} for action in made._actions if action.help != argparse.SUPPRESS]}
json.dump(found, sys.stdout)
"""  # noqa: E501
FILES = (
    ("/usr/lib/veilor/product.toml", "which image and channel this machine follows"),
    ("/etc/veilor/veilor.toml", "the owner's settings; need not be there"),
    ("/etc/containers/policy.json", "what an image must be signed by"),
    ("/var/lib/veilor", "what the machine remembers"),
    ("/run/veilor/notice.json", "what the person should know"),
    ("/usr/share/veilor/schema", "JSON Schemas of the answers with --json"),
)


@dataclass(frozen=True)
class Option:
    """One option of a program: its FLAGS (or an argument's name), whether it TAKES a value, and which."""

    flags: tuple[str, ...]
    help: str
    takes: bool
    choices: tuple[str, ...]

    @property
    def dashed(self) -> tuple[str, ...]:
        """The flags that begin with a dash: an argument without one has none."""
        return tuple(flag for flag in self.flags if flag.startswith("-"))

    @property
    def value(self) -> str:
        """What follows the flags on the command line, with a space before it."""
        if self.choices:
            return " " + "|".join(self.choices)
        return " VALUE" if self.takes else ""


@dataclass(frozen=True)
class Program:
    """What a program says of itself: ABOUT it in a paragraph, MORE in blocks with titles, its options."""

    about: str
    more: str
    options: tuple[Option, ...]


def describe(tree: Path) -> dict[str, Program]:
    """The programs in TREE that people start, by name. Raises BuildError when one cannot be asked."""
    names = sorted(path.name for path in (tree / LAUNCHERS).glob("veilor-*"))
    if not names:
        return {}
    done = subprocess.run(
        [sys.executable, "-I", "-B", "-c", ASK, str(tree / APP), *names],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    if done.returncode:
        raise BuildError(
            "the staged programs do not describe themselves: "
            f"{(done.stderr.strip().splitlines() or ['no word'])[-1]}"
        )
    return {name: read_program(described) for name, described in json.loads(done.stdout).items()}


def read_program(described: dict[str, Any]) -> Program:
    """The program that ASK has DESCRIBED in JSON."""
    options = []
    for one in described["options"]:
        options.append(Option(tuple(one["flags"]), one["help"], one["takes"], tuple(one["choices"])))
    return Program(described["about"], described["more"], tuple(options))


def write(tree: Path, version: str) -> None:
    """Write man pages and completions for the programs in TREE, a release of VERSION, into it.

    Raises BuildError as `describe`.
    """
    programs = describe(tree)
    for name, program in programs.items():
        others = [other for other in programs if other != name]
        texts = {f"usr/share/man/man{SECTION}/{name}.{SECTION}": man(name, program, others, version)}
        for shell, complete in (("bash", bash), ("zsh", zsh), ("fish", fish)):
            texts[COMPLETIONS[shell].format(name)] = complete(name, program.options)
        for path, text in texts.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_text(text)


def roff(text: str) -> str:
    """TEXT so that roff takes it as it is: man(7)."""
    plain = (
        text.replace("\\", r"\e")
        .replace("-", r"\-")
        .replace("'", r"\(aq")
        .replace("`", r"\(ga")
        .replace("…", "...")
    )
    return "\n".join(rf"\&{line}" if line.startswith(".") else line for line in plain.splitlines())


def man(name: str, program: Program, others: list[str], version: str) -> str:
    """The man page of PROGRAM, called NAME, in a release of VERSION that has the programs OTHERS too."""
    first = program.about.split(". ")[0].rstrip(".;")
    lines = [
        f'.TH {name.upper()} {SECTION} "" "veilor-os {version}" "veilor-os"',
        ".SH NAME",
        roff(f"{name} - {first[:1].lower()}{first[1:]}"),
        ".SH SYNOPSIS",
        rf".B {roff(name)}",
        r"[\fIOPTION\fR]..." if program.options else "",
        ".SH DESCRIPTION",
        roff(program.about),
        ".SH OPTIONS",
    ]
    for option in program.options:
        flags = ", ".join(option.flags) + option.value
        lines += [".TP", r"\fB" + roff(flags) + r"\fR", roff(option.help)]
    for block in filter(None, program.more.strip().split("\n\n")):
        title, _, body = block.partition("\n")
        section = ".SH EXIT STATUS" if title.startswith("exit codes") else ".SH WHAT IS LOOKED AT FIRST"
        lines += [section, ".nf", roff(body), ".fi"]
    lines.append(".SH FILES")
    for path, what in FILES:
        lines += [".TP", rf"\fI{roff(path)}\fR", roff(what)]
    lines += [".SH SEE ALSO", ", ".join(rf"\fB{roff(other)}\fR({SECTION})" for other in [*others, "bootc"])]
    return "\n".join(filter(None, lines)) + "\n"


def bash(name: str, options: tuple[Option, ...]) -> str:
    """Completion of NAME for bash."""
    words = " ".join(flag for option in options for flag in option.dashed)
    function = "_" + name.replace("-", "_")
    return (
        f"# bash completion of {name}\n{function}() {{\n"
        f"    mapfile -t COMPREPLY < <(compgen -W '{words}' -- "
        f'"${{COMP_WORDS[COMP_CWORD]}}")\n}}\ncomplete -F {function} {name}\n'
    )


def quoted(text: str) -> str:
    """TEXT so that it can stand between single quotes for zsh and fish.

    Nothing in it ends the quotes, or has a meaning inside of zsh's specs.
    """
    return text.replace("\\", "").replace("'", "’").replace("[", "(").replace("]", ")")


def zsh(name: str, options: tuple[Option, ...]) -> str:
    """Completion of NAME for zsh."""
    specs = []
    for option in options:
        for flag in option.dashed:
            specs.append(f"  '({' '.join(option.flags)}){flag}[{quoted(option.help)}]'")
    return f"#compdef {name}\n_arguments \\\n" + " \\\n".join(specs) + "\n"


def fish(name: str, options: tuple[Option, ...]) -> str:
    """Completion of NAME for fish."""
    lines = [f"complete -c {name} -f"]
    for option in options:
        flags = ""
        for flag in option.dashed:
            flags += f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}"
        if flags:
            lines.append(f"complete -c {name}{flags} -d '{quoted(option.help)}'")
    return "\n".join(lines) + "\n"
