"""Man pages and shell completions of the programs on the machine, made from their own command lines.

The staged programs are asked in a process of their own what options they have: nothing here imports the
device's code, and what is described is what is shipped. Same programs, same bytes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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


def describe(tree: Path) -> dict[str, dict]:
    """The programs in TREE that people start: by name `about`, `more` and `options`. Raises BuildError."""
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
    return json.loads(done.stdout)


def write(tree: Path, version: str) -> None:
    """Write man pages and completions for the programs in TREE, a release of VERSION, into it.

    Raises BuildError when the programs do not describe themselves.
    """
    programs = describe(tree)
    makers = {"bash": bash, "zsh": zsh, "fish": fish}
    for name, said in programs.items():
        others = [other for other in programs if other != name]
        texts = {f"usr/share/man/man{SECTION}/{name}.{SECTION}": man(name, said, others, version)}
        texts |= {
            COMPLETIONS[shell].format(name): make(name, said["options"]) for shell, make in makers.items()
        }
        for place, text in texts.items():
            (tree / place).parent.mkdir(parents=True, exist_ok=True)
            (tree / place).write_text(text)


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


def man(name: str, said: dict, others: list[str], version: str) -> str:
    """The man page of the program NAME."""
    first = said["about"].split(". ")[0].rstrip(".;")
    lines = [
        f'.TH {name.upper()} {SECTION} "" "veilor-os {version}" "veilor-os"',
        ".SH NAME",
        roff(f"{name} - {first[:1].lower()}{first[1:]}"),
        ".SH SYNOPSIS",
        rf".B {roff(name)}",
        r"[\fIOPTION\fR]..." if said["options"] else "",
        ".SH DESCRIPTION",
        roff(said["about"]),
        ".SH OPTIONS",
    ]
    for option in said["options"]:
        value = (
            " " + "|".join(option["choices"]) if option["choices"] else " VALUE" if option["takes"] else ""
        )
        lines += [".TP", r"\fB" + roff(", ".join(option["flags"]) + value) + r"\fR", roff(option["help"])]
    for block in filter(None, said["more"].strip().split("\n\n")):
        title, _, body = block.partition("\n")
        lines += [
            ".SH EXIT STATUS" if title.startswith("exit codes") else ".SH WHAT IS LOOKED AT FIRST",
            ".nf",
            roff(body),
            ".fi",
        ]
    lines.append(".SH FILES")
    for path, what in FILES:
        lines += [".TP", rf"\fI{roff(path)}\fR", roff(what)]
    lines += [".SH SEE ALSO", ", ".join(rf"\fB{roff(other)}\fR({SECTION})" for other in [*others, "bootc"])]
    return "\n".join(filter(None, lines)) + "\n"


def bash(name: str, options: list[dict]) -> str:
    """Completion of NAME for bash."""
    words = " ".join(flag for option in options for flag in option["flags"] if flag.startswith("-"))
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


def zsh(name: str, options: list[dict]) -> str:
    """Completion of NAME for zsh."""
    specs = [
        f"  '({' '.join(option['flags'])}){flag}[{quoted(option['help'])}]'"
        for option in options
        for flag in option["flags"]
        if flag.startswith("-")
    ]
    return f"#compdef {name}\n_arguments \\\n" + " \\\n".join(specs) + "\n"


def fish(name: str, options: list[dict]) -> str:
    """Completion of NAME for fish."""
    lines = [f"complete -c {name} -f"]
    for option in options:
        named = [flag for flag in option["flags"] if flag.startswith("-")]
        flags = "".join(f" -l {flag[2:]}" if flag.startswith("--") else f" -s {flag[1:]}" for flag in named)
        lines += [f"complete -c {name}{flags} -d '{quoted(option['help'])}'"] if flags else []
    return "\n".join(lines) + "\n"
