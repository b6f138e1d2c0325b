#!/usr/bin/env -S python3 -I
"""The base's ujust recipes that would break this system's promises say what to do instead.

Which, and what they say, stands in files/base/recipes.toml. A recipe that changes which system boots or opens
the firewall and is not in that file stops the build, so that a new one is seen. Exit codes: 0 done, 1 not;
then no file was changed.
"""

# Rests on: just-list

import os
import re
import shlex
import sys
import tomllib
from pathlib import Path

FOLDERS = ("usr/share/bluebuild/justfiles", "usr/share/ublue-os/just", "usr/lib/ujust")
HEAD = re.compile(r"""^@?(?P<name>[A-Za-z_][\w-]*)(?:[ \t]+(?:"[^"\n]*"|'[^'\n]*'|[^:"'\n])*)?:(?!=)""", re.M)
PROGRAM = re.compile(r"/usr/(?:libexec|lib|bin)/[\w./-]+")
# What changes which system boots, what is in it, or what reaches this machine.
BREAKS = re.compile(
    r"\b(?:rpm-ostree|bootc)\b[^\n#;|&]*\b(?:install|rebase|switch|upgrade|update|override|rollback|deploy)\b"
    r"|\bfirewall-(?:offline-)?cmd\b[^\n]*--(?:add-|set-default|change-)"
)
LARGEST = 256 * 1024  # bytes of a script that is read


def recipes(text: str) -> list[tuple[str, int, int]]:
    """Each recipe of the just file TEXT: its name, and from where to where its head and body reach."""
    found = []
    for head in HEAD.finditer(text):
        end = text.find("\n", head.end())
        end = len(text) if end < 0 else end + 1
        # The body is what is indented; an empty line belongs to it where more follows.
        body = re.compile(r"(?:[ \t]*\n)*(?:[ \t]+\S[^\n]*(?:\n|\Z))").match(text, end)
        while body:
            end = body.end()
            body = re.compile(r"(?:[ \t]*\n)*(?:[ \t]+\S[^\n]*(?:\n|\Z))").match(text, end)
        found.append((head["name"], head.start(), end))
    return found


def breaks(root: Path, recipe: str) -> bool:
    """Whether the text of RECIPE, or a script of the tree ROOT that it names, does what BREAKS finds."""
    texts = [recipe]
    for name in PROGRAM.findall(recipe):
        path = root / name.lstrip("/")
        if path.is_file() and path.stat().st_size <= LARGEST:
            texts.append(path.read_text(errors="replace"))
    return bool(BREAKS.search(re.sub(r"""["'],\s*["']|\\\n""", " ", "\n".join(texts))))


def in_place_of(name: str, sentence: str) -> str:
    """The recipe that stands where the base's recipe NAME was."""
    return f"{name} *ARGS:\n    @echo {shlex.quote(sentence)} >&2; exit 1\n"


def led(
    root: Path, text: str, instead: dict[str, str], left: dict[str, str]
) -> tuple[str, list[str], list[str]]:
    """TEXT with the recipes of INSTEAD led elsewhere; which those were; which others break a promise."""
    done, unknown = [], []
    for name, start, end in reversed(recipes(text)):
        if name in instead:
            text = text[:start] + in_place_of(name, instead[name]) + text[end:]
            done.append(name)
        elif name not in left and breaks(root, text[start:end]):
            unknown.append(name)
    return text, done, unknown


def main() -> int:
    """Lead the recipes of the tree at $VEILOR_ROOT; the exit code."""
    root = Path(os.environ.get("VEILOR_ROOT") or "/")
    files = Path(os.environ.get("CONFIG_DIRECTORY") or "/tmp/files")
    tables = tomllib.loads((files / "base/recipes.toml").read_text())
    new, names, stops = {}, [], []
    for path in sorted(path for folder in FOLDERS for path in (root / folder).rglob("*.just")):
        before = path.read_text()
        text, done, unknown = led(root, before, tables["instead"], tables["left"])
        names += done
        stops += [f"{name} in /{path.relative_to(root)}" for name in unknown]
        if text != before:
            new[path] = text
    for stop in stops:
        print(
            f"recipes: {stop} changes which system boots, or opens the firewall; say in "
            "files/base/recipes.toml what it has to say instead, or why it may stay",
            file=sys.stderr,
        )
    if stops:
        return 1
    for path, text in new.items():
        mode = path.stat().st_mode
        path.write_text(text)
        path.chmod(mode & 0o7777)
    print(f"recipes: {', '.join(sorted(names)) or 'none'} led elsewhere")
    return 0


if __name__ == "__main__":
    sys.exit(main())
