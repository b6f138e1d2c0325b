"""Reads a kickstart into what the planner and the deployer need.

A command, section or option that is not in the tables below is an error, never ignored.
"""

import importlib
import re
import sys
import tomllib
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

try:
    import requests  # noqa: F401
except ImportError:
    # pykickstart imports it to fetch kickstarts from a network, which this medium doesn't have.
    stub, exceptions = types.ModuleType("requests"), types.ModuleType("requests.exceptions")
    vars(exceptions).update(SSLError=OSError, RequestException=OSError)
    vars(stub).update(exceptions=exceptions)
    sys.modules |= {"requests": stub, "requests.exceptions": exceptions}

from pykickstart.base import BaseHandler
from pykickstart.constants import (
    CLEARPART_TYPE_LIST,
    CLEARPART_TYPE_NONE,
    KS_REBOOT,
    KS_SCRIPT_ONERROR,
    KS_SCRIPT_POST,
    KS_SCRIPT_PRE,
    KS_SCRIPT_PREINSTALL,
)
from pykickstart.errors import KickstartError
from pykickstart.parser import KickstartParser
from system import Failed

# Every command and option that this program carries out.
SUPPORTED: dict[str, tuple[str, ...]] = {
    "firewall": ("--use-system-defaults",),
    "xconfig": ("--startxonboot",),
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
SECTIONS: dict[str, tuple[str, ...]] = {
    "%pre": ("--interpreter", "--erroronfail", "--log"),
    "%pre-install": ("--interpreter", "--erroronfail", "--log"),
    "%post": ("--interpreter", "--erroronfail", "--log", "--nochroot"),
    "%onerror": ("--interpreter", "--log"),
}
FILE_SYSTEMS = ("ext4",)
# How clearpart may say what is erased: not at all, nothing, or by name.
CLEARPART_TYPES = (None, CLEARPART_TYPE_NONE, CLEARPART_TYPE_LIST)


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
    """A script, how it is run, and the line of the kickstart that it begins on."""

    text: str
    interpreter: str
    in_chroot: bool
    must_succeed: bool
    log: str | None
    line: int


@dataclass(frozen=True)
class Kickstart:
    """Everything that was asked for, in the kickstart's own words."""

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
    firewall_of_the_system: bool
    starts_x: bool
    pre_install: tuple[Script, ...] = field(repr=False)
    post: tuple[Script, ...] = field(repr=False)
    onerror: tuple[Script, ...] = field(repr=False)


def find_unsupported(text: str) -> list[str]:
    """What in TEXT is not in the tables above, one line each. Files that it includes are not read."""
    found: list[str] = []
    in_section = False
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if line.startswith("%end"):
            in_section = False
            continue
        if in_section or not words:
            continue
        if words[0].startswith("#") or words[0] == "%include":
            continue
        in_section = words[0].startswith("%")
        table = SECTIONS if in_section else SUPPORTED
        if words[0] not in table:
            found.append(f"line {number}: {words[0]}")
            continue
        unquoted = re.sub(r"\"[^\"]*\"|'[^']*'", "", line)
        for option in re.findall(r"(?<!\S)--[a-z0-9-]+", unquoted):
            if option not in table[words[0]]:
                found.append(f"line {number}: {words[0]} {option}")
    return found


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


def scripts_of(handler: BaseHandler, kind: int) -> tuple[Script, ...]:
    """The scripts of one KIND (a KS_SCRIPT_ constant) that HANDLER has read, in their order."""
    return tuple(
        Script(one.script, one.interp, one.inChroot, one.errorOnFail, one.logfile, one.lineno)
        for one in handler.scripts
        if one.type == kind
    )


def parse(text: str, *, includes: bool) -> BaseHandler:
    """TEXT as the parser of product.toml's Fedora understands it.

    With INCLUDES each included file is read as well, and one that is missing is an error. Raises Failed.
    """
    wrong = find_unsupported(text)
    included = re.findall(r"^%include\s+(\S+)", text, re.M) if includes else []
    for name in included:
        try:
            with open(name) as file:
                wrong += [f"{name}, {one}" for one in find_unsupported(file.read())]
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


def read_early_scripts(text: str) -> tuple[tuple[Script, ...], tuple[Script, ...]]:
    """The %pre and the %onerror scripts of TEXT, whose includes need not be there yet. Raises Failed."""
    handler = parse(text, includes=False)
    return scripts_of(handler, KS_SCRIPT_PRE), scripts_of(handler, KS_SCRIPT_ONERROR)


def read_kickstart(text: str) -> Kickstart:
    """All of TEXT with its includes. Raises Failed when something isn't supported or missing."""
    handler = parse(text, includes=True)
    image = handler.ostreecontainer
    parts = tuple(part_from(one) for one in handler.partition.partitions)
    wrong = [part.mount for part in parts if part.fstype not in FILE_SYSTEMS]
    if wrong:
        raise Failed(
            f"this installer makes {', '.join(FILE_SYSTEMS)} only, not what is asked for "
            f"{', '.join(wrong)}; nothing was changed"
        )
    if handler.clearpart.seen and handler.clearpart.type not in CLEARPART_TYPES:
        raise Failed("the kickstart erases partitions by kind, not by name; nothing was changed")
    if not image.seen:
        raise Failed(
            "the kickstart has no ostreecontainer line, so there is nothing to install; nothing was changed"
        )
    return Kickstart(
        only_use=tuple(handler.ignoredisk.onlyuse),
        clear=tuple(handler.clearpart.devices),
        clear_drives=tuple(handler.clearpart.drives),
        label=handler.clearpart.disklabel or "gpt",
        reqpart=bool(handler.reqpart.seen),
        parts=parts,
        stateroot=image.stateroot or "default",
        transport=image.transport or "registry",
        url=image.url,
        append=tuple((handler.bootloader.appendLine or "").split()),
        timeout=handler.bootloader.timeout,
        keymap=handler.keyboard.vc_keymap or "",
        lang=handler.lang.lang or "",
        timezone=handler.timezone.timezone or "",
        end="reboot" if handler.reboot.action == KS_REBOOT else "poweroff",
        firewall_of_the_system=bool(handler.firewall.seen and handler.firewall.use_system_defaults),
        starts_x=bool(handler.xconfig.startX),
        pre_install=scripts_of(handler, KS_SCRIPT_PREINSTALL),
        post=scripts_of(handler, KS_SCRIPT_POST),
        onerror=scripts_of(handler, KS_SCRIPT_ONERROR),
    )


def part_from(data: Any) -> Part:
    """A `part` line as pykickstart has read it."""
    return Part(
        mount=data.mountpoint,
        fstype=data.fstype,
        size=data.size or 0,
        grow=bool(data.grow),
        encrypted=bool(data.encrypted),
        luks_version=data.luks_version,
        pbkdf=data.pbkdf,
        pbkdf_memory=data.pbkdf_memory,
        label=data.label or "",
    )
