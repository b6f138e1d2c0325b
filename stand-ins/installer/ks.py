"""Reads a kickstart into what the planner and the deployer need. What is not in SUPPORTED is an error, never
ignored.
"""

import importlib
import re
import sys
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path

if (
    "requests" not in sys.modules
):  # pykickstart wants it for kickstarts from the network, which this medium doesn't have
    try:
        import requests  # noqa: F401
    except ImportError:
        stub = types.ModuleType("requests")
        stub.exceptions = types.ModuleType("requests.exceptions")
        stub.exceptions.SSLError = stub.exceptions.RequestException = OSError
        sys.modules |= {"requests": stub, "requests.exceptions": stub.exceptions}

from pykickstart.base import BaseHandler
from pykickstart.constants import (
    CLEARPART_TYPE_LIST,
    CLEARPART_TYPE_NONE,
    KS_REBOOT,
    KS_SCRIPT_ONERROR,
    KS_SCRIPT_POST,
    KS_SCRIPT_PRE,
)
from pykickstart.errors import KickstartError
from pykickstart.parser import KickstartParser
from system import Failed

# Every command and option that this program carries out (or that, as `text`, describes what it does anyway).
SUPPORTED = {
    "text": (),
    "lang": (),
    "keyboard": ("--vckeymap",),
    "timezone": ("--utc",),
    "rootpw": ("--lock",),
    "ignoredisk": ("--only-use",),
    "zerombr": (),
    "clearpart": ("--list", "--drives", "--initlabel", "--disklabel"),
    "reqpart": (),
    "part": (
        "--fstype",
        "--size",
        "--grow",
        "--encrypted",
        "--luks-version",
        "--pbkdf",
        "--pbkdf-memory",
        "--label",
    ),
    "bootloader": ("--timeout", "--append"),
    "poweroff": (),
    "reboot": ("--eject",),
    "ostreecontainer": ("--stateroot", "--transport", "--url", "--no-signature-verification"),
}
SECTIONS = {
    "%pre": ("--interpreter", "--erroronfail", "--log"),
    "%post": ("--interpreter", "--erroronfail", "--log", "--nochroot"),
    "%onerror": ("--interpreter", "--log"),
}
FILE_SYSTEMS = ("ext4",)


@dataclass(frozen=True)
class Part:
    """A partition asked for; size and KDF memory in MiB and KiB, 0 where nothing was said."""

    mount: str
    fstype: str
    size: int
    grow: bool = False
    encrypted: bool = False
    luks_version: str = ""
    pbkdf: str = ""
    pbkdf_memory: int = 0
    label: str = ""


@dataclass(frozen=True)
class Script:
    """A script and how it is run."""

    text: str
    interpreter: str
    in_chroot: bool
    must_succeed: bool
    log: str | None
    line: int


@dataclass(frozen=True)
class Kickstart:
    """Everything that was asked for."""

    only_use: tuple[str, ...]
    clear: tuple[str, ...]
    clear_drives: tuple[str, ...]
    label: str
    reqpart: bool
    parts: tuple[Part, ...]
    stateroot: str
    transport: str
    url: str
    append: tuple[str, ...]
    timeout: int | None
    keymap: str
    lang: str
    timezone: str
    end: str
    post: tuple[Script, ...] = field(repr=False)
    onerror: tuple[Script, ...] = field(repr=False)


def unsupported(text: str) -> list[str]:
    """What in TEXT, included files not looked at, is not in the tables above: one line each."""
    wrong, inside = [], False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if line.startswith("%end"):
            inside = False
        elif inside or not words or words[0].startswith("#") or words[0] == "%include":
            continue
        else:
            table = SECTIONS if words[0].startswith("%") else SUPPORTED
            inside = words[0].startswith("%")
            if words[0] not in table:
                wrong.append(f"line {number}: {words[0]}")
            options = re.findall(r"(?<!\S)--[a-z0-9-]+", re.sub(r"\"[^\"]*\"|'[^']*'", "", line))
            wrong += [
                f"line {number}: {words[0]} {option}"
                for option in options
                if option not in table.get(words[0], options)
            ]
    return wrong


def make_handler() -> BaseHandler:
    """The handler for the Fedora of product.toml, which is beside this program or at the root of a clone."""
    here = Path(__file__).resolve().parent
    file = next(path for path in (here / "product.toml", here.parents[1] / "product.toml") if path.is_file())
    fedora = tomllib.loads(file.read_text())["product"]["version"]
    try:
        module = importlib.import_module(f"pykickstart.handlers.f{fedora}")
    except ModuleNotFoundError:
        raise Failed(
            f"this medium's pykickstart does not know Fedora {fedora}, which product.toml names; take a "
            "newer one by `make lock`; nothing was changed"
        ) from None
    return getattr(module, f"F{fedora}Handler")()


def scripts(handler: BaseHandler, *kinds: int) -> tuple[Script, ...]:
    return tuple(
        Script(s.script, s.interp, s.inChroot, s.errorOnFail, s.logfile, s.lineno)
        for s in handler.scripts
        if s.type in kinds
    )


def parse(text: str, *, includes: bool) -> BaseHandler:
    """TEXT as the parser of product.toml's Fedora understands it.

    With INCLUDES each included file is read as well, and one that is missing is an error.
    """
    wrong = unsupported(text)
    for name in re.findall(r"^%include\s+(\S+)", text, re.M) if includes else ():
        try:
            with open(name) as included:
                wrong += [f"{name}, {one}" for one in unsupported(included.read())]
        except OSError:
            raise Failed(
                f"the kickstart includes {name}, which no script has made; nothing was changed"
            ) from None
    if wrong:
        raise Failed(
            f"the kickstart asks for what this installer can't do ({'; '.join(wrong)}); nothing was changed"
        )
    handler = make_handler()
    try:
        KickstartParser(handler, missingIncludeIsFatal=includes).readKickstartFromString(text)
    except KickstartError as error:
        raise Failed(
            f"the kickstart is not valid: {' '.join(str(error).split())}; nothing was changed"
        ) from None
    return handler


def read_pre(text: str) -> tuple[tuple[Script, ...], tuple[Script, ...]]:
    """The %pre and %onerror scripts of TEXT, before what they make is there."""
    handler = parse(text, includes=False)
    return scripts(handler, KS_SCRIPT_PRE), scripts(handler, KS_SCRIPT_ONERROR)


def read(text: str) -> Kickstart:
    """All of TEXT with its includes. Raises Failed when something isn't supported or missing."""
    h = parse(text, includes=True)
    parts = tuple(
        Part(
            p.mountpoint,
            p.fstype,
            p.size or 0,
            bool(p.grow),
            bool(p.encrypted),
            p.luks_version,
            p.pbkdf,
            p.pbkdf_memory,
            p.label or "",
        )
        for p in h.partition.partitions
    )
    wrong = [p.mount for p in parts if p.fstype not in FILE_SYSTEMS]
    if wrong:
        raise Failed(
            f"this installer makes {', '.join(FILE_SYSTEMS)} only, not what is asked for "
            f"{', '.join(wrong)}; nothing was changed"
        )
    if h.clearpart.seen and h.clearpart.type not in (None, CLEARPART_TYPE_LIST, CLEARPART_TYPE_NONE):
        raise Failed("the kickstart erases partitions by kind, not by name; nothing was changed")
    if not h.ostreecontainer.seen:
        raise Failed(
            "the kickstart has no ostreecontainer line, so there is nothing to install; nothing was changed"
        )
    return Kickstart(
        tuple(h.ignoredisk.onlyuse),
        tuple(h.clearpart.devices),
        tuple(h.clearpart.drives),
        h.clearpart.disklabel or "gpt",
        bool(h.reqpart.seen),
        parts,
        h.ostreecontainer.stateroot or "default",
        h.ostreecontainer.transport or "registry",
        h.ostreecontainer.url,
        tuple((h.bootloader.appendLine or "").split()),
        h.bootloader.timeout,
        h.keyboard.vc_keymap or "",
        h.lang.lang or "",
        h.timezone.timezone or "",
        "reboot" if h.reboot.action == KS_REBOOT else "poweroff",
        scripts(h, KS_SCRIPT_POST),
        scripts(h, KS_SCRIPT_ONERROR),
    )
