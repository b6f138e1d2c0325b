"""/etc held against /usr/etc, as the image has it: what differs, and what of it the claims rest on.

ostree merges /etc by file: what was once changed there hides every later version of the image's own file.
"""

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from veilor.core import claims
from veilor.device.run import at

KIND = "as-shipped"  # the kind of check that names what claims rest on
ETC, IMAGE_ETC = "/etc", "/usr/etc"
OPENED = "firewalld/zones/"  # where `firewall-cmd --permanent` keeps what a person opens
CHANGED, MISSING, ADDED = "changed", "missing", "not the image's"


def paths(folder: Path) -> Iterator[str]:
    """The path, from FOLDER, of everything in it; a folder comes before what it holds. Raises OSError."""
    for entry in sorted(os.scandir(folder), key=lambda one: one.name):
        yield entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from (f"{entry.name}/{path}" for path in paths(Path(entry.path)))


def content(path: Path, name: str) -> tuple[object, ...] | None:
    """What PATH is as far as it matters here: kind, mode, owner, what it holds; None when it is not there.

    NAME is its path from /etc: of shadow it counts that root is locked, which the image need not say.
    """
    try:
        found = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stat.S_ISLNK(found.st_mode):
        return (stat.S_IFLNK, os.readlink(path))
    held = locked(path.read_bytes()) if name == "shadow" else b""
    if stat.S_ISREG(found.st_mode) and name != "shadow":
        held = path.read_bytes()
    return (found.st_mode, found.st_uid, found.st_gid, held)


def locked(shadow: bytes) -> bytes:
    """The text of SHADOW with root's password locked, if it has one that could match."""
    return re.sub(rb"^root:(?![!*])", b"root:!", shadow, flags=re.M)


def difference(name: str) -> str:
    """How /etc/NAME differs from the image's, for a sentence; empty when it does not. Raises OSError."""
    here, image = (content(at(f"{folder}/{name}"), name) for folder in (ETC, IMAGE_ETC))
    if here == image and (name != "shadow" or here is None or is_locked()):
        return ""
    return MISSING if here is None else CHANGED if image is not None else ADDED


def is_locked() -> bool:
    """Whether /etc/shadow locks root itself."""
    text = at(f"{ETC}/shadow").read_bytes()
    return locked(text) == text


def differences(names: Iterable[str]) -> dict[str, str]:
    """Which of NAMES, paths from /etc, differ from the image's, and how. Raises OSError."""
    return {name: how for name in names if (how := difference(name))}


def every_name() -> list[str]:
    """The paths of everything in /etc or in the image's, whose folders come first. Raises OSError."""
    return sorted({*paths(at(ETC)), *paths(at(IMAGE_ETC))})


def sentence(found: dict[str, str]) -> str:
    """FOUND differences for a person, the first of them."""
    named = [f"{ETC}/{name} ({how})" for name, how in sorted(found.items())]
    return ", ".join(named[:5]) + (f" and {len(named) - 5} more" if named[5:] else "")


def claimed() -> dict[str, str]:
    """What of /etc that an enforced claim rests on differs from the image's.

    Raises OSError, ValueError and LookupError.
    """
    every = claims.parse(at(claims.PATH).read_text())
    checks = [check for claim in every for check in claim.checks if check.kind == KIND]
    return differences(sorted({name for check in checks for name in check.arguments["names"]}))


def problem() -> str:
    """A sentence on what `claimed` finds, with how to put it back; empty when all is the image's."""
    try:
        found = claimed()
    except (OSError, ValueError, LookupError) as error:
        return f"Whether /etc is as the image has it could not be seen ({error})"
    if not found:
        return ""
    return (
        f"Settings that promises of this system rest on are not the image's: {sentence(found)}; "
        "`veilor-doctor` says how to put them back"
    )
