"""All of bootc that the product uses, in one place, and the three things that only ostree itself can do.

Forms (held by a test): status --format=json --format-version=1 · switch --progress-fd N
--enforce-container-sigpolicy REF · upgrade --download-only --progress-fd N · upgrade --from-downloaded ·
rollback. What they print is shown to people, never decided by: decisions are made on what status says
afterwards.
"""

import os
import re

from veilor.core import host
from veilor.core.host import Entry, Host
from veilor.core.outcome import Code
from veilor.device import preflight
from veilor.device.run import PIPE, DeviceError, Done, at, failure_code, run
from veilor.device.tell import PullProgress

STATUS = ["bootc", "status", "--format=json", "--format-version=1"]
STATUS_TIMEOUT = 120.0  # seconds: bootc waits for whoever holds the sysroot's lock
PULL_TIMEOUT = 6 * 3600.0  # a whole image over a slow line
CHANGE_TIMEOUT = 900.0
NO_ROOM = 16 << 20  # bytes
ROOM = {
    "/sysroot": "delete what is large under /home, empty the trash, `podman system prune`; then try again",
    "/boot": "delete what you put into /boot yourself, nothing below /boot/ostree; then try again",
}
BUSY = (
    "another program is installing or removing a system version and holds the lock; wait until it has "
    "ended, then try again"
)


def status() -> Host:
    """The deployments as they are now. Raises DeviceError: ROOT, LATER when it is blocked, FAILED."""
    if os.geteuid() != 0:
        raise DeviceError(
            "Only root can ask what is installed",
            "bootc answers nobody else",
            "start it with sudo",
            Code.ROOT,
        )
    try:
        done = run(STATUS, timeout=STATUS_TIMEOUT)
    except DeviceError as error:
        if error.outcome.code is Code.LATER:
            raise DeviceError(
                f"`bootc status` did not answer within {STATUS_TIMEOUT:.0f} s", "", BUSY, Code.LATER
            ) from None
        raise
    if done.code:
        raise full_disk("bootc status", done) or DeviceError(
            f"`bootc status` failed ({done.reason})",
            "nothing can be said about this system, and nothing was changed",
            "`journalctl -b` may say more",
        )
    try:
        return host.parse(done.out)
    except ValueError as error:
        raise DeviceError(
            f"`bootc status` answered what cannot be understood ({error})",
            "nothing was changed",
            "this release and its bootc do not fit together; please report it",
        ) from None


def find_full_disk() -> str | None:
    """/sysroot or /boot, if that has no room: then nothing that changes versions works."""
    for path in ROOM:
        free = preflight.free(at(path))
        if free is not None and free < NO_ROOM:
            return path
    return None


def full_disk(what: str, done: Done) -> DeviceError | None:
    """What is said where WHAT has failed as DONE says and a disk has no room; None where they have."""
    path = find_full_disk()
    if path is None:
        return None
    return DeviceError(
        f"The disk is full ({path}), so `{what}` failed ({done.reason})",
        "neither an update nor a rollback works before there is room; nothing was changed",
        ROOM[path],
        facts={"finding": "full"},
    )


def switch(reference: str, progress: str = "auto") -> None:
    """Follow REFERENCE from now on and stage it, verified by the container policy.

    It is ready for the next boot at once.
    """
    _fetch(
        ["bootc", "switch", "--progress-fd", PIPE, "--enforce-container-sigpolicy", reference],
        reference,
        progress,
    )


def download(progress: str = "auto") -> None:
    """Stage the newest image of the reference followed, locked: it cannot boot before `unlock`."""
    _fetch(["bootc", "upgrade", "--download-only", "--progress-fd", PIPE], "the update", progress)


def _fetch(argv: list[str], what: str, progress: str) -> None:
    shown = PullProgress(progress)
    try:
        done = run(argv, timeout=PULL_TIMEOUT, progress=shown)
    finally:
        shown.end()
    if not done.code:
        return
    full = full_disk(argv[1], done)
    if full:
        raise full
    code = failure_code(done.err)
    means, then = {
        Code.REFUSED: (
            "the container policy does not accept it, and nothing was installed",
            "this is not a matter of trying again; if it lasts, compare the keys on the product's web site",
        ),
        Code.LATER: ("the registry did not answer as it should", "it is tried again later"),
    }.get(code, ("nothing changes at the next restart", "see `journalctl -b` for more"))
    raise DeviceError(f"Fetching {what} failed ({done.reason})", means, then, code)


def unlock() -> None:
    """Let the locked staged deployment boot. Nothing is fetched again."""
    _change(["bootc", "upgrade", "--from-downloaded"])


def rollback() -> None:
    """Swap which of the booted and the rollback deployment boots next; what is staged is dropped."""
    _change(["bootc", "rollback"])


def _change(argv: list[str]) -> None:
    done = run(argv, timeout=CHANGE_TIMEOUT)
    if done.code:
        raise full_disk(" ".join(argv), done) or DeviceError(
            f"`{' '.join(argv)}` failed ({done.reason})",
            "what boots next is as `veilor-status` says",
            "try again",
        )


def drop_staged(staged: Entry) -> Host:
    """Make sure that STAGED never boots: remove it from the list of deployments. The status after that.

    bootc has no verb for this (a rollback drops it as well, but changes the boot order), so it is `ostree
    admin undeploy 0`, where ostree always lists what is staged, run only when 0 really is STAGED. Raises
    DeviceError when it is still there.
    """
    listed = _deployments()
    if listed and listed[0] == staged.deployment and at("/run/ostree/staged-deployment").exists():
        run(["ostree", "admin", "undeploy", "0"], timeout=CHANGE_TIMEOUT)
    after = status()
    if after.staged and after.staged.deployment == staged.deployment:
        raise DeviceError(
            f"{staged.title} must not boot, but could not be removed",
            "it stays locked and is gone after a restart"
            if after.staged.locked
            else "a restart would boot it",
            ("" if after.staged.locked else "do not restart; ") + "run `ostree admin undeploy 0` as root",
            Code.REFUSED,
        )
    return after


def pin_booted() -> None:
    """Keep the booted deployment through updates until it is unpinned. Raises DeviceError."""
    _ostree("pin", "booted")


def unpin(entry: Entry) -> bool:
    """Let updates remove ENTRY again; whether it was found."""
    listed = _deployments()
    if entry.deployment not in listed:
        return False
    _ostree("pin", "--unpin", str(listed.index(entry.deployment)))
    return True


def _ostree(*verb: str) -> None:
    done = run(["ostree", "admin", *verb], timeout=CHANGE_TIMEOUT)
    if done.code:
        raise DeviceError(f"`ostree admin {' '.join(verb)}` failed ({done.reason})")


def _deployments() -> list[tuple[str, int]]:
    """Checksum and serial of each deployment in ostree's order, which is the INDEX that its commands take."""
    done = run(["ostree", "admin", "status"], timeout=STATUS_TIMEOUT)
    return [
        (checksum, int(serial))
        for checksum, serial in re.findall(r"^[* ] \S+ ([0-9a-f]{64})\.([0-9]+)", done.out, re.M)
    ]
