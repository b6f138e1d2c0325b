"""Checks of the image layer: each kind looks at a staged (or built) tree and knows how its control is taken
away.

A look returns the complaint, or None. A mutation changes the subject so that the look has to complain; one
that finds nothing to change raises BuildError, since it would prove nothing.
"""

from __future__ import annotations

import configparser
import hashlib
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from veilor.build.errors import BuildError
from veilor.core import policy
from veilor.core.product import KEYS_DIR, Product, load


@dataclass(frozen=True)
class Subject:
    """What is looked at: a TREE as it lies on the machine, and beside it SOURCES with the repository's
    kickstart/.
    """

    tree: Path
    sources: Path

    def at(self, path: str) -> Path:
        """The file that PATH of a check means."""
        return (self.sources if path.startswith("kickstart/") else self.tree) / path

    def text(self, path: str) -> str:
        """The file's text; empty when there is none."""
        file = self.at(path)
        return file.read_text(errors="replace") if file.is_file() else ""

    def write(self, path: str, text: str) -> None:
        """Replace the file at PATH, which a mutation has to change."""
        file = self.at(path)
        if file.is_file() and file.read_text(errors="replace") == text:
            raise BuildError(f"the mutation changes nothing in {path}: it has to follow the product")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def remove(self, path: str) -> None:
        """Take the file at PATH away."""
        try:
            self.at(path).unlink()
        except FileNotFoundError:
            raise BuildError(
                f"the mutation finds no {path} to remove: it has to follow the product"
            ) from None

    @property
    def product(self) -> Product:
        return load(self.tree / "usr/lib/veilor/product.toml")


Mutation = tuple[str, Callable[[Subject], None]]


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
    values = [value for _, name, value in settings(subject, "sysctl.d/*.conf") if name == key]
    return (
        None
        if values and values[-1] == want
        else f"{key} is {values[-1] if values else 'not set'}, not {want}"
    )


def sysctl_mutations(key: str, want: str) -> list[Mutation]:
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
    files = sorted((subject.tree / "usr/lib/bootc/kargs.d").glob("*.toml"))
    return [one for path in files for one in tomllib.loads(path.read_text())["kargs"]]


def karg(subject: Subject, argument: str) -> str | None:
    same = [one for one in kargs(subject) if one.split("=")[0] == argument.split("=")[0]]
    return (
        None
        if same and same[-1] == argument
        else f"the kernel is started with {same or 'nothing of that name'}, not {argument}"
    )


def karg_mutations(argument: str) -> list[Mutation]:
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


def lines_of(text: str) -> list[str]:
    return [
        " ".join(line.split())
        for line in text.splitlines()
        if line.strip() and not line.lstrip().startswith(("#", "//", ";"))
    ]


def lines(subject: Subject, path: str, has: list[str]) -> str | None:
    """Every line of HAS stands in the file at PATH, on a line of its own that is no comment."""
    given = lines_of(subject.text(path))
    missing = [one for one in has if one not in given]
    return f"{path} lacks the line {missing[0]!r}" if missing else None


def lines_mutations(path: str, has: list[str]) -> list[Mutation]:
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
    """The rules that write a change to each place of WATCH (key to places) down, by both ways into the
    kernel.
    """
    return [
        f"-a always,exit -F arch={way} -F {place} -F perm=wa -F key={key}"
        for way in ("b64", "b32")
        for key, places in watch.items()
        for place in places
    ]


def audit(subject: Subject, path: str, watch: dict[str, list[str]]) -> str | None:
    """The file at PATH has audit's rules for each place of WATCH: `path=FILE` or `dir=FOLDER`, by its key in
    the log.
    """
    return lines(subject, path, audit_rules(watch))


def audit_mutations(path: str, watch: dict[str, list[str]]) -> list[Mutation]:
    return lines_mutations(path, audit_rules(watch))


def every(subject: Subject, path: str, words: list[str], has: str) -> str | None:
    """In the file at PATH there are lines that begin with one of WORDS, and each has the word HAS."""
    found = [line.split() for line in lines_of(subject.text(path)) if line.split()[0] in words]
    bare = [line[1] for line in found if has not in line[1:]]
    return (
        f"{path}: without {has}: {', '.join(bare)}"
        if bare
        else None
        if found
        else f"{path} has no {' or '.join(words)}"
    )


def every_mutations(path: str, words: list[str], has: str) -> list[Mutation]:
    def add(subject: Subject) -> None:
        subject.write(path, subject.text(path) + f"{words[0]} example.org\n")

    def only(subject: Subject) -> None:
        subject.write(
            path,
            "\n".join(line for line in subject.text(path).splitlines() if line.split()[:1] != [words[0]]),
        )

    return [(f"one more, without {has}", add), ("none is left", only)]


def ini(subject: Subject, path: str, section: str, key: str, want: str) -> str | None:
    """The file at PATH, read as systemd reads its own, gives KEY in SECTION the value WANT."""
    found = configparser.ConfigParser(
        strict=False, interpolation=None, delimiters=("=",), comment_prefixes=("#", ";")
    )
    found.optionxform = str
    try:
        found.read_string(subject.text(path))
        value = found.get(section, key)
    except configparser.Error:
        return f"{path} does not give {key}"
    return None if value == want else f"{path}: {key} is {value}, not {want}"


def ini_mutations(path: str, section: str, key: str, want: str) -> list[Mutation]:
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


def masked(subject: Subject, path: str) -> str | None:
    file = subject.at(path)
    return (
        None
        if file.is_symlink() and str(file.readlink()) == "/dev/null"
        else f"{path} does not lead to /dev/null"
    )


def masked_mutations(path: str) -> list[Mutation]:
    def real(subject: Subject) -> None:
        subject.remove(path)
        subject.at(path).symlink_to(f"/usr/lib/systemd/system/{Path(path).name}")

    return [("it is not masked", lambda s: s.remove(path)), ("it is enabled", real)]


def link(subject: Subject, path: str) -> str | None:
    """The link at PATH leads to a file of the tree (so a unit is wanted and there)."""
    file = subject.at(path)
    target = subject.tree / str(file.readlink()).lstrip("/") if file.is_symlink() else None
    return (
        None if target and target.is_file() else f"{path} leads nowhere" if target else f"{path} is missing"
    )


def link_mutations(path: str) -> list[Mutation]:
    return [
        ("the link is gone", lambda s: s.remove(path)),
        ("what it leads to is gone", lambda s: s.remove(str(s.at(path).readlink()).lstrip("/"))),
    ]


def policy_intact(subject: Subject) -> str | None:
    found = policy.problems(subject.text("etc/containers/policy.json"), subject.product)
    if not found and "use-sigstore-attachments: true" not in subject.text(
        "etc/containers/registries.d/veilor.yaml"
    ):
        return "registries.d does not say where the signatures lie"
    return "; ".join(found) or None


def policy_mutations() -> list[Mutation]:
    path = "etc/containers/policy.json"

    def edit(change: Callable[[dict, Product], None]) -> Callable[[Subject], None]:
        def write(subject: Subject) -> None:
            data = json.loads(subject.text(path))
            change(data, subject.product)
            subject.write(path, json.dumps(data))

        return write

    def scope(data: dict, product: Product) -> dict:
        return data["transports"]["docker"][product.image_repo][0]

    anything = [{"type": "insecureAcceptAnything"}]
    return [
        ("anything is taken by default", edit(lambda data, product: data.update(default=anything))),
        (
            "our image needs no signature",
            edit(lambda data, product: data["transports"]["docker"].update({product.image_repo: anything})),
        ),
        (
            "our scope is gone",
            edit(lambda data, product: data["transports"]["docker"].pop(product.image_repo)),
        ),
        (
            "a signature for another name will do",
            edit(lambda data, product: scope(data, product).pop("signedIdentity")),
        ),
        (
            "a rule of its own for the tag",
            edit(lambda data, product: data["transports"]["docker"].update({product.image_ref: anything})),
        ),
        ("there is no policy", lambda s: s.remove(path)),
        ("nothing says where signatures lie", lambda s: s.remove("etc/containers/registries.d/veilor.yaml")),
    ]


def key_paths(subject: Subject) -> list[str]:
    return [
        f"{KEYS_DIR}/{name}".lstrip("/")
        for name in (*subject.product.image_keys, *subject.product.channel_keys)
    ]


def keys(subject: Subject) -> str | None:
    """The product's public keys are there, each another, and each with the hash that the image carries for
    it.
    """
    texts = {path: subject.text(path) for path in key_paths(subject)}
    bad = [path for path, text in texts.items() if "BEGIN PUBLIC KEY" not in text]
    if bad or len(set(texts.values())) < len(texts):
        return f"{bad[0]} is no public key" if bad else "a key stands twice"
    shipped = subject.text(policy.SUMS.lstrip("/")).splitlines()
    other = [
        path
        for path in texts
        if f"{hashlib.sha256(subject.at(path).read_bytes()).hexdigest()}  /{path}" not in shipped
    ]
    return f"{policy.SUMS} has no such hash for {other[0]}" if other else None


def keys_mutations() -> list[Mutation]:
    return [
        ("a key is missing", lambda s: s.remove(key_paths(s)[1])),
        ("the channel's key is the image's", lambda s: s.write(key_paths(s)[-1], s.text(key_paths(s)[0]))),
        ("a key is another", lambda s: s.write(key_paths(s)[0], s.text(key_paths(s)[0]) + "\n")),
        ("there are no hashes", lambda s: s.remove(policy.SUMS.lstrip("/"))),
    ]


def floor(subject: Subject) -> str | None:
    """The image says below which statement nothing is taken."""
    try:
        number = json.loads(subject.text("usr/lib/veilor/channel-floor.json"))["sequence"]
    except (ValueError, LookupError, TypeError):
        return "there is no channel-floor.json that can be read"
    return None if isinstance(number, int) and number >= 0 else f"the floor is {number!r}"


def floor_mutations() -> list[Mutation]:
    path = "usr/lib/veilor/channel-floor.json"
    return [
        ("there is none", lambda s: s.remove(path)),
        ("it is below all", lambda s: s.write(path, '{"sequence": -1}')),
    ]


# An image's own object store: a machine is given the files, and each is looked at where it lies.
STORE = PurePosixPath("/sysroot/ostree/repo")


def no_setuid(subject: Subject, allowed: list[str]) -> str | None:
    """No file has the set-user-ID or set-group-ID bit but those ALLOWED: paths, in which * stands for a part
    of one name.
    """
    for path in sorted(subject.tree.rglob("*")):
        name = PurePosixPath("/", path.relative_to(subject.tree))
        if (
            path.is_file()
            and not path.is_symlink()
            and path.stat().st_mode & 0o6000
            and not name.is_relative_to(STORE)
        ):
            if not any(name.match(f"/{pattern}") for pattern in allowed):
                return f"set-user-ID: {name.relative_to('/')}"
    return None


def no_setuid_mutations(allowed: list[str]) -> list[Mutation]:
    def give(path: str) -> Callable[[Subject], None]:
        def change(subject: Subject) -> None:
            if not subject.at(path).exists():
                subject.write(path, "")
            subject.at(path).chmod(0o4755)

        return change

    beside = {f"{PurePosixPath(pattern.replace('*', '')).parent}/other" for pattern in allowed}
    return [(f"{path} has the bit", give(path)) for path in ("usr/bin/veilor-update", *sorted(beside))]


KICKSTART = "kickstart/install.ks"


def kickstart_files(subject: Subject) -> list[str]:
    """The kickstart and the parts of it that it includes."""
    text = subject.text(KICKSTART)
    return [
        KICKSTART,
        *(f"kickstart/{name}" for name in re.findall(r"^%include (snippets/\S+\.ks)$", text, re.M)),
    ]


def kickstart_lines(subject: Subject) -> list[str]:
    return [line for path in kickstart_files(subject) for line in lines_of(subject.text(path))]


def kickstart(subject: Subject, command: str, options: list[str]) -> str | None:
    """In the kickstart a line begins with COMMAND, and each one that does has every one of OPTIONS."""
    found = [line.split() for line in kickstart_lines(subject) if line.startswith(command + " ")]
    missing = [option for line in found for option in options if option not in line]
    return (
        f"the kickstart's `{command}` lacks {missing[0]}"
        if missing
        else None
        if found
        else f"the kickstart has no `{command}`"
    )


def kickstart_mutations(command: str, options: list[str]) -> list[Mutation]:
    def without(one: str) -> Callable[[Subject], None]:
        def change(subject: Subject) -> None:
            for path in kickstart_files(subject):
                if command in subject.text(path) and one in subject.text(path):
                    return subject.write(
                        path,
                        "".join(
                            (line.replace(f" {one}", "") if line.startswith(command) else line) + "\n"
                            for line in subject.text(path).splitlines()
                        ),
                    )
            raise BuildError(f"no part of the kickstart has `{command}` with {one}")

        return change

    return [(f"without {one}", without(one)) for one in options] + [
        ("a second one without", lambda s: s.write(KICKSTART, s.text(KICKSTART) + f"{command} x\n"))
    ]


def kickstart_never(subject: Subject, words: list[str]) -> str | None:
    """No line of the kickstart has a word that begins with one of WORDS."""
    given = kickstart_lines(subject)
    bad = [word for line in given for word in line.split() if word.startswith(tuple(words))]
    return f"the kickstart says {bad[0]}" if bad else None if given else "there is no kickstart"


def kickstart_never_mutations(words: list[str]) -> list[Mutation]:
    def add(word: str) -> Callable[[Subject], None]:
        return lambda s: s.write(kickstart_files(s)[-1], s.text(kickstart_files(s)[-1]) + f"part x {word}x\n")

    return [(f"it says {word}", add(word)) for word in words] + [
        ("there is none", lambda s: s.remove(KICKSTART))
    ]


def xml(subject: Subject, path: str, attributes: dict, children: list[str]) -> str | None:
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


def xml_mutations(path: str, attributes: dict, children: list[str]) -> list[Mutation]:
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


KINDS: dict[str, tuple[Callable[..., str | None], Callable[..., list[Mutation]]]] = {
    "sysctl": (sysctl, sysctl_mutations),
    "karg": (karg, karg_mutations),
    "lines": (lines, lines_mutations),
    "audit": (audit, audit_mutations),
    "every": (every, every_mutations),
    "ini": (ini, ini_mutations),
    "masked": (masked, masked_mutations),
    "link": (link, link_mutations),
    "policy": (policy_intact, policy_mutations),
    "keys": (keys, keys_mutations),
    "kickstart": (kickstart, kickstart_mutations),
    "kickstart-never": (kickstart_never, kickstart_never_mutations),
    "xml": (xml, xml_mutations),
    "floor": (floor, floor_mutations),
    "no-setuid": (no_setuid, no_setuid_mutations),
}
