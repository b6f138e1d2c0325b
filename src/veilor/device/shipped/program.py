"""as-shipped: the last step of an installation makes /etc what the image says, except what ALLOWED names.

The first boot and veilor-doctor look at the files that a claim of the threat model rests on.
"""

import argparse
import contextlib
import os
import re
import shutil
import stat
from pathlib import Path

from veilor.core.outcome import Code, Outcome
from veilor.device import tell
from veilor.device.run import DeviceError, at
from veilor.device.shipped.compare import (
    ETC,
    IMAGE_ETC,
    differences,
    every_name,
    locked,
    problem,
    sentence,
)

PROGRAM = "as-shipped"
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
PREPARE_ROOT = "/usr/lib/ostree/prepare-root.conf"
COMPOSEFS = re.compile(r"^\[composefs\](?:\n(?!\[).*)*\n\s*enabled\s*=\s*(?!no\b|false\b|0\b)\S", re.M)
ROOT_ROW = re.compile(r"^[^#\s]\S*\s+/\s.*", re.M)


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


def release_root() -> list[str]:
    """Take / out of fstab where the image is mounted by composefs; a sentence for it. Raises OSError.

    The initramfs mounts it there, read-only, and systemd-remount-fs would fail at every start trying to make
    it what the installer wrote (ostreedev/ostree#3193).
    """
    fstab, conf = at(f"{ETC}/fstab"), at(PREPARE_ROOT)
    if not fstab.exists() or not conf.exists() or not COMPOSEFS.search(conf.read_text()):
        return []
    text = fstab.read_text()
    fstab.write_text(ROOT_ROW.sub(r"# mounted by the initramfs: \g<0>", text))
    return [f"{ETC}/fstab: / is mounted by the initramfs"] if fstab.read_text() != text else []


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
        said = [f"{ETC}/{name} ({how}): put back" for name, how in before.items()]
        said += [*remove_leftovers(), *release_root()]
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
