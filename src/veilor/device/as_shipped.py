"""as-shipped: /etc held against /usr/etc, as the image has it.

ostree merges /etc by file: what was once changed there hides every later version of the image's own file. So
the last step of an installation puts back all that ALLOWED does not name, and the first boot and
veilor-doctor look at the files that a claim of the threat model rests on.
"""

import argparse
import contextlib
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from veilor.core import claims
from veilor.core.outcome import Code, Outcome
from veilor.device import tell
from veilor.device.run import DeviceError, at

PROGRAM = "as-shipped"
KIND = "as-shipped"  # the kind of check that names what claims rest on
ETC, IMAGE_ETC = "/etc", "/usr/etc"
REPOSITORY = "/sysroot/ostree/repo/config"
ROOT_HOME = "/var/roothome"
# What an installation may say in /etc that the image does not, each with the reason.
ALLOWED = {
    "fstab": "which file systems of this machine are mounted where",
    "crypttab": "which containers of this machine are opened",
    "mdadm.conf": "which disks of this machine are an array",
    "lvm/devices/system.devices": "which devices of this machine hold logical volumes",
    "vconsole.conf": "the keyboard that the person chose, also for the passphrase",
    "X11/xorg.conf.d/00-keyboard.conf": "the same keyboard on the desktop",
    "locale.conf": "the language that the person chose",
    "localtime": "the time zone",
    "adjtime": "whether the clock of the hardware runs in UTC",
    "hostname": "the name of this machine",
    "machine-id": "each machine has its own",
}
# What systemd-tmpfiles puts into root's home, from the image: settings of shells.
SHELLS = (".bash_logout", ".bash_profile", ".bashrc", ".cshrc", ".profile", ".tcshrc")
REMOTE = re.compile(r'^\[remote ".*?(?=^\[|\Z)', re.M | re.S)
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


def unwanted() -> dict[str, str]:
    """What of /etc differs from the image's and is not allowed. Raises OSError."""
    found = differences(every_name())
    kept = {*ALLOWED, *(str(folder) for name in ALLOWED for folder in Path(name).parents)}
    return {name: how for name, how in found.items() if name not in kept}


def is_folder(path: Path) -> bool:
    """Whether PATH is a folder itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()


def restore(name: str) -> None:
    """Make /etc/NAME what the image has there. Raises OSError."""
    here, image = at(f"{ETC}/{name}"), at(f"{IMAGE_ETC}/{name}")
    if not all(is_folder(at(f"{ETC}/{folder}")) for folder in Path(name).parents):
        return  # what lies behind a link is not of /etc
    if is_folder(here) and not is_folder(image):
        shutil.rmtree(here)
    if not os.path.lexists(image):
        here.unlink(missing_ok=True)
        return
    if not is_folder(image):
        new = here.with_name(f".{here.name}.veilor-new")
        new.unlink(missing_ok=True)
        shutil.copy2(image, new, follow_symlinks=False)
        if name == "shadow":
            new.write_bytes(locked(image.read_bytes()))
        new.replace(here)
    elif not is_folder(here):
        here.unlink(missing_ok=True)
        here.mkdir()
    found = image.lstat()
    os.chown(here, found.st_uid, found.st_gid, follow_symlinks=False)
    if not here.is_symlink():
        here.chmod(stat.S_IMODE(found.st_mode))


def remove_leftovers() -> list[str]:
    """Take out what the installer leaves outside of /etc; a sentence for each. Raises OSError.

    The source of the installation counts as a remote of ostree, unverified; root's home gets its kickstart.
    """
    said = []
    with contextlib.suppress(FileNotFoundError):
        config = at(REPOSITORY)
        text = config.read_text()
        if REMOTE.search(text):
            new = config.with_name(f"{config.name}.veilor-new")
            new.write_text(REMOTE.sub("", text))
            shutil.copymode(config, new)
            new.replace(config)
            said.append(f"{REPOSITORY}: the installer's remote was taken out")
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(at(ROOT_HOME).iterdir()):
            if path.name not in SHELLS:
                shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
                said.append(f"{ROOT_HOME}/{path.name}: removed")
    return said


def put_back() -> Outcome:
    """Make a system that was just installed what its image says. Raises DeviceError where it cannot be."""
    if at("/run/ostree-booted").exists():
        raise DeviceError(
            "This is for an installation, and this system runs",
            "nothing was changed",
            "`veilor-doctor` names what differs and how to put it back",
            Code.UNFIT,
        )
    try:
        before = unwanted()
        for name in before:
            restore(name)
        said = [*(f"{ETC}/{name} ({how}): put back" for name, how in before.items()), *remove_leftovers()]
        left = unwanted()
    except OSError as error:
        raise DeviceError(
            f"/etc could not be made what the image says ({error})",
            "what was installed must not be used",
            "install again",
        ) from None
    print("\n".join(said), flush=True)
    if left:
        raise DeviceError(
            f"/etc stays other than the image's: {sentence(left)}",
            "what was installed must not be used",
            "install again",
        )
    return Outcome(
        Code.DONE, f"/etc is the image's, except what an installation has to say ({len(said)} mended)"
    )


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


def look(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS. Raises DeviceError."""
    if args.put_back:
        return put_back()
    said = problem()
    return Outcome(Code.FAILED if said else Code.DONE, said or "What promises rest on is the image's")


def main(argv: list[str]) -> int:
    """The program as-shipped."""
    parser = tell.parser(PROGRAM, "Holds /etc against the image's own.", Code.UNFIT, as_json=False)
    parser.add_argument("--put-back", action="store_true", help="at the end of an installation alone")
    return tell.conclude(parser, argv, look)
