"""Image checks of single settings: sysctl, kernel arguments, and the keys of ini files."""

from __future__ import annotations

import configparser
import tomllib
from collections.abc import Callable
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.threats.kinds.subject import Mutation, Subject


def settings(subject: Subject, pattern: str) -> list[tuple[Path, str, str]]:
    """Every `key = value` under sysctl.d in the order in which systemd applies them: by file name, /etc in
    place of /usr.
    """
    files = {
        path.name: path for folder in ("usr/lib", "etc") for path in (subject.tree / folder).glob(pattern)
    }
    found = []
    for name in sorted(files):
        for line in files[name].read_text().splitlines():
            key, mark, value = line.strip().lstrip("-").partition("=")
            if mark and not key.startswith(("#", ";")):
                found.append((files[name], key.strip().replace("/", "."), value.strip()))
    return found


def sysctl(subject: Subject, key: str, want: str) -> str | None:
    """Of the sysctl.d files the last that sets KEY gives it the value WANT."""
    values = [value for _, name, value in settings(subject, "sysctl.d/*.conf") if name == key]
    if values and values[-1] == want:
        return None
    return f"{key} is {values[-1] if values else 'not set'}, not {want}"


def sysctl_mutations(key: str, want: str) -> list[Mutation]:
    """KEY is not set, and set to a weaker value than WANT."""

    def without(subject: Subject) -> None:
        for path in {path for path, name, _ in settings(subject, "sysctl.d/*.conf") if name == key}:
            kept = [line for line in path.read_text().splitlines() if line.partition("=")[0].strip() != key]
            subject.write(str(path.relative_to(subject.tree)), "\n".join(kept) + "\n")

    weak = f"{key} = {int(want) - 1 if want.lstrip('-').isdigit() else 'core'}\n"
    return [
        (f"{key} is not set", without),
        (f"a later file weakens {key}", lambda s: s.write("etc/sysctl.d/zz-weaker.conf", weak)),
    ]


def kargs(subject: Subject) -> list[str]:
    """The kernel arguments that the kargs.d files of SUBJECT give, in their order."""
    files = sorted((subject.tree / "usr/lib/bootc/kargs.d").glob("*.toml"))
    return [one for path in files for one in tomllib.loads(path.read_text())["kargs"]]


def karg(subject: Subject, argument: str) -> str | None:
    """Of the kernel arguments with the name of ARGUMENT the last is this one."""
    same = [one for one in kargs(subject) if one.split("=")[0] == argument.split("=")[0]]
    if same and same[-1] == argument:
        return None
    return f"the kernel is started with {same or 'nothing of that name'}, not {argument}"


def karg_mutations(argument: str) -> list[Mutation]:
    """ARGUMENT is gone, and followed by another value."""

    def without(subject: Subject) -> None:
        for path in (subject.tree / "usr/lib/bootc/kargs.d").glob("*.toml"):
            if f'"{argument}"' in path.read_text():
                return subject.write(
                    str(path.relative_to(subject.tree)), path.read_text().replace(f'"{argument}"', '"quiet"')
                )
        raise BuildError(f"no kargs.d file gives {argument}")

    other = f'kargs = ["{argument.split("=")[0]}=weaker"]\n'
    return [
        ("the argument is gone", without),
        ("a later file gives another", lambda s: s.write("usr/lib/bootc/kargs.d/zz.toml", other)),
    ]


class CaseKept(configparser.ConfigParser):
    """A reader of ini files in which the case of a key matters, as it does for systemd."""

    def optionxform(self, optionstr: str) -> str:
        return optionstr


def ini(subject: Subject, path: str, section: str, key: str, want: str) -> str | None:
    """The file at PATH, read as systemd reads its own, gives KEY in SECTION the value WANT."""
    found = CaseKept(strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#", ";"))
    try:
        found.read_string(subject.text(path))
        value = found.get(section, key)
    except configparser.Error:
        return f"{path} does not give {key}"
    return None if value == want else f"{path}: {key} is {value}, not {want}"


def ini_mutations(path: str, section: str, key: str, want: str) -> list[Mutation]:
    """KEY is gone, has another value than WANT, and the whole file is gone."""

    def change(to: str) -> Callable[[Subject], None]:
        def write(subject: Subject) -> None:
            given = subject.text(path).splitlines()
            subject.write(
                path, "".join(to if line.split("=")[0].strip() == key else line + "\n" for line in given)
            )

        return write

    return [
        (f"{key} is gone", change("")),
        (f"{key} is another", change(f"{key}=another\n")),
        ("the file is gone", lambda s: s.remove(path)),
    ]
