"""Image checks of files: the lines they have, where links lead, which files have the set-user-ID bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from veilor.build.threats.kinds.subject import Mutation, Subject, lines_of


def lines(subject: Subject, path: str, has: list[str]) -> str | None:
    """Every line of HAS stands in the file at PATH, on a line of its own that is no comment."""
    given = lines_of(subject.text(path))
    missing = [one for one in has if one not in given]
    return f"{path} lacks the line {missing[0]!r}" if missing else None


def lines_mutations(path: str, has: list[str]) -> list[Mutation]:
    """Each line of HAS is a comment, and the file at PATH is gone."""

    def without(one: str) -> Callable[[Subject], None]:
        def change(subject: Subject) -> None:
            kept = [
                "# " + line if " ".join(line.split()) == one else line
                for line in subject.text(path).splitlines()
            ]
            subject.write(path, "\n".join(kept) + "\n")

        return change

    return [(f"{one!r} is a comment", without(one)) for one in has] + [
        (f"{path} is gone", lambda s: s.remove(path))
    ]


def audit_rules(watch: dict[str, list[str]]) -> list[str]:
    """The rules that log a change to each path of WATCH (key in the log to paths), by both ways into the
    kernel.
    """
    return [
        f"-a always,exit -F arch={way} -F {path} -F perm=wa -F key={key}"
        for way in ("b64", "b32")
        for key, paths in watch.items()
        for path in paths
    ]


def audit(subject: Subject, path: str, watch: dict[str, list[str]]) -> str | None:
    """The file at PATH has audit's rules for each path of WATCH: `path=FILE` or `dir=FOLDER`, by its key in
    the log.
    """
    return lines(subject, path, audit_rules(watch))


def audit_mutations(path: str, watch: dict[str, list[str]]) -> list[Mutation]:
    """Each of the rules is a comment, and the file at PATH is gone."""
    return lines_mutations(path, audit_rules(watch))


def every(subject: Subject, path: str, words: list[str], has: str) -> str | None:
    """In the file at PATH there are lines that begin with one of WORDS, and each has the word HAS."""
    found = [line.split() for line in lines_of(subject.text(path)) if line.split()[0] in words]
    bare = [line[1] for line in found if has not in line[1:]]
    if bare:
        return f"{path}: without {has}: {', '.join(bare)}"
    return None if found else f"{path} has no {' or '.join(words)}"


def every_mutations(path: str, words: list[str], has: str) -> list[Mutation]:
    """One more line without HAS, and none at all."""

    def add(subject: Subject) -> None:
        subject.write(path, subject.text(path) + f"{words[0]} example.org\n")

    def only(subject: Subject) -> None:
        subject.write(
            path,
            "\n".join(line for line in subject.text(path).splitlines() if line.split()[:1] != [words[0]]),
        )

    return [(f"one more, without {has}", add), ("none is left", only)]


def masked(subject: Subject, path: str) -> str | None:
    """The unit at PATH is masked: a link to /dev/null."""
    file = subject.at(path)
    if file.is_symlink() and str(file.readlink()) == "/dev/null":
        return None
    return f"{path} does not lead to /dev/null"


def masked_mutations(path: str) -> list[Mutation]:
    """The unit at PATH is not masked, and is enabled."""

    def real(subject: Subject) -> None:
        subject.remove(path)
        subject.at(path).symlink_to(f"/usr/lib/systemd/system/{Path(path).name}")

    return [("it is not masked", lambda s: s.remove(path)), ("it is enabled", real)]


def link(subject: Subject, path: str) -> str | None:
    """The link at PATH leads to a file of the tree (so a unit is wanted and there)."""
    file = subject.at(path)
    if not file.is_symlink():
        return f"{path} is missing"
    target = subject.tree / str(file.readlink()).lstrip("/")
    return None if target.is_file() else f"{path} leads nowhere"


def link_mutations(path: str) -> list[Mutation]:
    """The link at PATH is gone, and what it leads to."""
    return [
        ("the link is gone", lambda s: s.remove(path)),
        ("what it leads to is gone", lambda s: s.remove(str(s.at(path).readlink()).lstrip("/"))),
    ]


def xml(subject: Subject, path: str, attributes: dict[str, str], children: list[str]) -> str | None:
    """The XML file at PATH has a root with just ATTRIBUTES of those named, and just CHILDREN as 'tag name'
    beside the texts.
    """
    try:
        root = ElementTree.fromstring(subject.text(path))
    except ElementTree.ParseError:
        return f"{path} is missing or no XML"
    for name, want in attributes.items():
        if root.get(name, "") != want:
            return f"{path}: {name} is {root.get(name)}, not {want}"
    found = sorted(
        f"{child.tag} {child.get('name')}" for child in root if child.tag not in ("short", "description")
    )
    return None if found == sorted(children) else f"{path} holds {found}, not {children}"


def xml_mutations(path: str, attributes: dict[str, str], children: list[str]) -> list[Mutation]:
    """A zone of firewalld opens a service, accepts everything, and is gone."""

    def opened(subject: Subject) -> None:
        subject.write(path, subject.text(path).replace("</zone>", '<service name="ssh"/></zone>'))

    def accepts(subject: Subject) -> None:
        root = ElementTree.fromstring(subject.text(path))
        root.set(next(iter(attributes)), "ACCEPT")
        subject.write(path, ElementTree.tostring(root, encoding="unicode"))

    return [
        ("a service is opened", opened),
        ("everything is accepted", accepts),
        ("the zone is gone", lambda s: s.remove(path)),
    ]


# An image's own object store: a machine is given the files, and each is checked where it lies.
STORE = PurePosixPath("/sysroot/ostree/repo")


def no_setuid(subject: Subject, allowed: list[str]) -> str | None:
    """No file has the set-user-ID or set-group-ID bit except those ALLOWED: paths, in which * stands for a
    part of one name.
    """
    for path in sorted(subject.tree.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        name = PurePosixPath("/", path.relative_to(subject.tree))
        if not path.stat().st_mode & 0o6000 or name.is_relative_to(STORE):
            continue
        if not any(name.match(f"/{pattern}") for pattern in allowed):
            return f"set-user-ID: {name.relative_to('/')}"
    return None


def no_setuid_mutations(allowed: list[str]) -> list[Mutation]:
    """A program of ours has the bit, and a file beside each of those ALLOWED."""

    def give(path: str) -> Callable[[Subject], None]:
        def change(subject: Subject) -> None:
            if not subject.at(path).exists():
                subject.write(path, "")
            subject.at(path).chmod(0o4755)

        return change

    beside = {f"{PurePosixPath(pattern.replace('*', '')).parent}/other" for pattern in allowed}
    return [(f"{path} has the bit", give(path)) for path in ("usr/bin/veilor-update", *sorted(beside))]
