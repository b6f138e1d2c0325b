"""Controls: what of this repository, or of the base, a claim of the threat model rests on.

`PATH` is a whole file or folder. `PATH#KEY` is what the file says of one thing:

- `sysctl.d/FILE#NAME`: the lines that set NAME
- `kargs.d/FILE#ARGUMENT`: the kernel arguments of that name, `iommu.strict` for `iommu.strict=1`
- `FILE.toml#TABLE.KEY`: that value, or that table
- a systemd unit or another ini file, `FILE#SECTION.KEY` or `FILE#[SECTION]`: those lines
- `MODULE.py#FUNCTION` (or a class, or a constant): its code and what it reaches in its module, see code.py
- any other file, `FILE#WORDS`: the lines in which these words stand and that are no comments

`base:NAME` is a setting of the base that threats/base.toml names.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from veilor.build.errors import BuildError
from veilor.build.threats import code
from veilor.build.threats.kinds.subject import is_comment

SYSCTL, KARGS = "*/sysctl.d/*.conf", "*/kargs.d/*.toml"
INI = ("*/systemd/system/*", "*/zram-generator.conf.d/*")
# Files of which every line is a setting: a new one says something that nobody promised, or weakens what
# somebody did.
LINES = (
    "*/modprobe.d/*",
    "*/etc/chrony.conf",
    "*/firewalld/firewalld.conf",
    "*/sshd_config.d/*",
    "*/veilor/usbguard/*",
    "*/audit/rules.d/*",
    "*/system-preset/*",
    "*/systemd/system/*.d/*",
)


@dataclass(frozen=True)
class Control:
    """A file or folder of the repository, or with `key` one thing that the file says."""

    path: str
    key: str = ""

    def __str__(self) -> str:
        return f"{self.path}#{self.key}" if self.key else self.path


def parse_control(text: str) -> Control:
    """The control that TEXT of threats/*.toml names; not for `base:NAME`."""
    path, _, key = text.partition("#")
    return Control(path, key)


def matches(path: str, patterns: tuple[str, ...]) -> bool:
    """Whether one of PATTERNS fits PATH."""
    return any(fnmatch(path, pattern) for pattern in patterns)


def holds_many(path: str) -> bool:
    """Whether the file at PATH holds settings or functions that claims share, each with its own key."""
    return matches(path, (SYSCTL, KARGS, *LINES, "*.py"))


def content(source_root: Path, control: Control) -> str | None:
    """What CONTROL says in the repository at SOURCE_ROOT, without comments and layout.

    None when there is no such file, or it says nothing of the key. Raises BuildError for one that cannot be
    read as what it is.
    """
    path = source_root / control.path
    if path.is_symlink():
        return None if control.key else f"link to {path.readlink()}"
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file() and file.suffix != ".pyc")
        return "\n".join(
            f"{file.relative_to(path)}\n{content(source_root, Control(str(file.relative_to(source_root))))}"
            for file in files
        )
    if not path.is_file():
        return None
    try:
        return said(control, path.read_text(errors="replace"))
    except (SyntaxError, ValueError, LookupError) as error:
        raise BuildError(f"{path}, a control of the threat model, cannot be read: {error}") from None


def said(control: Control, text: str) -> str | None:
    """What TEXT, the file's, says of CONTROL's key; the whole of it without one."""
    if control.path.endswith(".py"):
        module = code.read_module(text)
        if control.key and control.key not in module.parts:
            return None
        return module.code([control.key] if control.key else list(module.parts))
    if not control.key:
        return "\n".join(line.strip() for line in text.splitlines() if not is_comment(line))
    if fnmatch(control.path, KARGS):
        found = [one for one in tomllib.loads(text)["kargs"] if one.split("=")[0] == control.key]
        return "\n".join(found) or None
    if control.path.endswith(".toml"):
        return toml_value(tomllib.loads(text), control.key)
    every, numbers = text.splitlines(), line_numbers(control, text)
    return "\n".join(setting(control.path, every[number]) for number in numbers) or None


def setting(path: str, line: str) -> str:
    """LINE of the file at PATH without the space that means nothing there."""
    flat = " ".join(line.split())
    return re.sub(r" ?= ?", "=", flat, count=1) if matches(path, (SYSCTL, *INI)) else flat


def toml_value(table: dict[str, Any], key: str) -> str | None:
    """The value of the dotted KEY in TABLE as JSON."""
    value: object = table
    for name in key.split("."):
        if not isinstance(value, dict) or name not in value:
            return None
        value = value[name]
    return json.dumps(value, sort_keys=True, default=str)


def line_numbers(control: Control, text: str) -> list[int]:
    """The lines of TEXT, from 0, that say something of CONTROL's key; for files whose settings are lines."""
    if fnmatch(control.path, SYSCTL):
        return [number for number, name in sysctl_names(text) if name == control.key]
    if matches(control.path, INI):
        return [number for number, names in ini_names(text) if control.key in names]
    words = re.compile(rf"(?<![\w-]){re.escape(control.key)}(?![\w-])")
    return [number for number, line in meaningful(text) if words.search(" ".join(line.split()))]


def meaningful(text: str) -> list[tuple[int, str]]:
    """The lines of TEXT that are neither empty nor comments, each with its number from 0."""
    return [(number, line) for number, line in enumerate(text.splitlines()) if not is_comment(line)]


def sysctl_names(text: str) -> list[tuple[int, str]]:
    """The name that each line of a sysctl.d file sets."""
    return [
        (number, line.split("=")[0].strip().lstrip("-").replace("/", "."))
        for number, line in meaningful(text)
    ]


def ini_names(text: str) -> list[tuple[int, tuple[str, str]]]:
    """For each line of an ini file below a section: the section as `[NAME]`, and `NAME.KEY`."""
    found, section = [], ""
    for number, line in meaningful(text):
        if line.startswith("["):
            section = line.strip()
            continue
        found.append((number, (section, f"{section[1:-1]}.{line.split('=')[0].strip()}")))
    return found


def without(control: Control, text: str) -> str:
    """TEXT, the file's, with what it says of CONTROL's key removed."""
    if fnmatch(control.path, KARGS):
        return re.sub(rf'"{re.escape(control.key)}(=[^"]*)?"', '"quiet"', text)
    gone = line_numbers(control, text)
    kept = [line for number, line in enumerate(text.splitlines()) if number not in gone]
    return "".join(f"{line}\n" for line in kept)
