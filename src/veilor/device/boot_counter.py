"""GRUB's counter of the starts of a new version: `veilor_counter` in grubenv.

GRUB counts by the fragment 08_veilor.cfg, which says what it makes of each value. Whether something is to be
counted is decided in health.py.
"""

import os
import re

from veilor.device.run import DeviceError, at, run

GRUBENV = "/boot/grub2/grubenv"
CONFIGURATIONS = ("/boot/grub2/grub.cfg", "/boot/grub2/custom.cfg")
ENTRIES = "/boot/loader/entries"
VARIABLE = "veilor_counter"
TRIES = 3  # starts that a new version gets
RETURNING = 0  # with this value GRUB starts entry 1
WENT_BACK = (0, -1)  # after a start of entry 1: -1, or still 0 where the disk did not take it
ATTEMPTS = 3  # a program that fails once must not decide what boots


def _list_variables() -> dict[str, str]:
    done = run(["grub2-editenv", str(at(GRUBENV)), "list"], timeout=30)
    if done.code:
        raise DeviceError(f"{GRUBENV} cannot be read ({done.reason})")
    return dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)


def read_variables() -> dict[str, str]:
    """GRUB's saved variables. Raises DeviceError when they cannot be read, also not at another attempt."""
    for left in reversed(range(ATTEMPTS)):
        try:
            return _list_variables()
        except DeviceError:
            if not left:
                raise
    raise AssertionError("not reached")


def read_counter() -> int | None:
    """The counter; None when it is unset or cannot be read."""
    try:
        return int(read_variables()[VARIABLE])
    except (DeviceError, LookupError, ValueError):
        return None


def _edit(*words: str) -> None:
    try:
        if os.statvfs(at("/boot")).f_flag & os.ST_RDONLY:
            run(["mount", "-o", "remount,rw", str(at("/boot"))], timeout=60)
        done = run(["grub2-editenv", str(at(GRUBENV)), *words], timeout=30)
        if done.code:
            raise DeviceError(f"{GRUBENV} cannot be written ({done.reason})")
        with at(GRUBENV).open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise DeviceError(f"{GRUBENV} cannot be written ({error.strerror})") from None


def set_counter(value: int) -> None:
    """Have GRUB go on from VALUE. Raises DeviceError, also when the file does not keep what is written."""
    for left in reversed(range(ATTEMPTS)):
        try:
            _edit("set", f"{VARIABLE}={value}")
        except DeviceError:
            if not left:
                raise
        if read_counter() == value:
            return
    raise DeviceError(f"{GRUBENV} does not keep what is written to it")


def clear_counter() -> None:
    """Count nothing any more. Raises DeviceError, also when the file keeps what was removed."""
    for left in reversed(range(ATTEMPTS)):
        if VARIABLE not in read_variables():
            return
        try:
            _edit("unset", VARIABLE)
        except DeviceError:
            if not left:
                raise
    if VARIABLE in read_variables():
        raise DeviceError(f"{GRUBENV} keeps what was removed from it")


def why_not_counted() -> str | None:
    """What keeps this machine's boot loader from counting starts, as a sentence; None when it can."""
    try:
        read_variables()
    except DeviceError as error:
        return error.outcome.what
    for path in CONFIGURATIONS:
        try:
            if VARIABLE in at(path).read_text(errors="replace"):
                return None
        except OSError:
            continue
    return "its boot loader was set up without the part that counts them"


def deployment_of(arguments: str) -> tuple[str, int] | None:
    """Checksum and serial of the deployment that the kernel's ARGUMENTS start; None when they name none."""
    link = re.search(r"(?:^|\s)ostree=(/\S+)", arguments)
    if link is None:
        return None
    name = os.path.basename(os.path.realpath(at("/sysroot" + link[1])))
    found = re.fullmatch(r"([0-9a-f]{64})\.([0-9]+)", name)
    return (found[1], int(found[2])) if found else None


def booted_deployment() -> tuple[str, int] | None:
    """Checksum and serial of what runs, from the kernel's command line.

    No program is needed for that, so it works on a broken system too.
    """
    try:
        return deployment_of(at("/proc/cmdline").read_text())
    except OSError:
        return None


def first_entry() -> tuple[str, int] | None:
    """Checksum and serial of what GRUB's entry 0 starts; None when that cannot be told.

    ostree writes ostree-N.conf, the highest number for what is to be started first
    (install_deployment_kernel in ostree-sysroot-deploy.c, August 2026).
    """
    newest: tuple[int, str] | None = None
    try:
        for path in at(ENTRIES).iterdir():
            number = re.fullmatch(r"ostree-(\d+)\S*\.conf", path.name)
            if number and (newest is None or int(number[1]) > newest[0]):
                newest = (int(number[1]), path.read_text(errors="replace"))
    except OSError:
        return None
    if newest is None:
        return None
    options = re.search(r"^options\s(.*)$", newest[1], re.MULTILINE)
    return deployment_of(options[1]) if options else None
