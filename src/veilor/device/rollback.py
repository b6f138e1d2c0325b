"""veilor-rollback: back to the version before at the next restart, or forward again."""

import argparse
import contextlib
import sys

from veilor.core.host import Entry, Host
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome
from veilor.device import ask, bootc, channel, health, state, tell
from veilor.device.run import DeviceError, run

MEANS = (
    "/etc goes back to that version's own copy, without changes made since; /home and the rest of /var stay "
    "as they are, and both versions stay on the disk"
)

MENU = (
    "switch the machine off and on, press Esc or hold Shift until the boot menu comes, and choose the second "
    "entry: that is the version before, for this start"
)
UPDATERS = (
    "veilor-update-stage.service",
    "veilor-ask-update.service",
    "veilor-ask-update-now.service",
    "veilor-ask-download.service",
)


ANYWAY = (
    "`veilor-update` looks for a newer version; "
    "`run0 veilor-rollback --yes --withdrawn` goes back all the same"
)


def plan(host: Host) -> tuple[Entry, list[Entry]]:
    """What the next restart will boot after a rollback, and what is rolled back from. Raises DeviceError."""
    if host.booted is None:
        raise DeviceError(
            "This system is not one that is replaced as a whole",
            "there is no version before it",
            "",
            Code.UNFIT,
        )
    if host.rollback is None or host.rollback.reference is None:
        raise DeviceError("There is no version before this one", "nothing was changed", "", Code.UNFIT)
    to, default = (host.booted, host.rollback) if host.rollback_queued else (host.rollback, host.booted)
    away = [entry for entry in (host.staged, default) if entry is not None]
    return to, [entry for entry in away if entry.digest != to.digest]


def read_host() -> Host:
    """The deployments. Raises DeviceError with the way back that needs nothing of this system."""
    try:
        return bootc.status()
    except DeviceError as error:
        if error.outcome.code is Code.ROOT:
            raise
        now = error.outcome
        raise DeviceError(now.what, now.means, f"{now.next}; or {MENU}", now.code, now.facts) from None


def follows_product(entry: Entry) -> bool:
    """Whether ENTRY was verified as an image of this product; False where the product's file is damaged."""
    try:
        return entry.follows(channel.product().image_ref)
    except DeviceError:
        return False


def stop_updates() -> None:
    """End what updates in the background: a download may last for hours, and it is what the person leaves."""
    with contextlib.suppress(DeviceError):
        run(["systemctl", "stop", *UPDATERS], timeout=120)


def remember(to: Entry, away: list[Entry]) -> None:
    """Hold back what is left (AWAY), and no longer what is gone back to. Raises DeviceError."""
    for entry in away:
        if entry.digest:
            state.hold_back(entry.digest, entry.title, "rolled back", "it was rolled back by hand")
    if to.digest:
        state.stop_holding_back(to.digest)


def roll_back(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS."""
    if not ask.is_root():
        return ask.do_by_unit("veilor-rollback", args)
    host = read_host()
    to, away = plan(host)
    verified = follows_product(to)
    said = [
        f"The next restart boots {to.title} "
        f"({short(to.digest)}){'' if verified else ', which was never verified'}",
        MEANS,
    ]
    if host.staged:
        said.append(f"The update that is ready ({host.staged.title}) is removed")
    withdrawn = to.digest in state.withdrawn()
    if withdrawn:
        said.append(f"Beware: {to.title} was withdrawn by its makers, who say that it must not be started")
    held = state.held_back().get(to.digest or "")
    if held and held.cause == "health":
        said.append(f"Beware: {held.reason}")
    if args.yes and withdrawn and not args.withdrawn:
        return Outcome(
            Code.REFUSED, "Nothing was changed: this has to be asked for by name", ". ".join(said), ANYWAY
        )
    if not args.yes:
        if args.json or not sys.stdin.isatty():
            return Outcome(
                Code.USAGE, "Nothing was changed: this has to be confirmed", ". ".join(said), "add --yes"
            )
        print(". ".join(said) + ".")
        if not tell.confirm("Go on? [y/N] "):
            return Outcome(Code.USAGE, "Nothing was changed")
    warnings: list[str] = []
    stop_updates()
    with state.exclusive_lock(60):
        if bootc.status() != host:
            raise DeviceError(
                "The system has changed in the meantime", "nothing was done", "try again", Code.LATER
            )
        # First, so that no timer stages again what the person is leaving.
        noted = state.held_back()
        try:
            remember(to, away)
        except DeviceError as error:  # the way back is worth more than the memory of it
            warnings.append(f"{error.outcome.what}, so the timer may offer again what you leave")
        try:
            bootc.rollback()
        except DeviceError:
            with contextlib.suppress(DeviceError):
                state.restore_held_back(noted)
            raise
        after = bootc.status()
        if after.staged or after.rollback_queued == host.rollback_queued:
            raise DeviceError("bootc did not change what boots next", "see `veilor-status`", MENU)
        with contextlib.suppress(DeviceError):
            health.disarm()
    tell.notify("update", None)
    outcome = Outcome(
        Code.DONE,
        ". ".join(said),
        next="restart when you like; `veilor-rollback` again leads forward",
        facts={
            "state": "rolled back",
            "next_boot": to.digest,
            "version": to.title,
            "verified": verified,
            "withdrawn": withdrawn,
            "from": [entry.digest for entry in away],
        },
        warnings=tuple(warnings),
    )
    tell.notify("rollback", outcome if after.rollback_queued else None)
    return outcome


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-rollback."""
    about = (
        "Boots the version before this one at the next restart; once more, and it is this one again. "
        f"{MEANS}."
    )
    parser = tell.parser("veilor-rollback", about, Code.REFUSED, Code.UNFIT)
    parser.add_argument("--yes", action="store_true", help="don't ask; needed with --json")
    parser.add_argument(
        "--withdrawn",
        action="store_true",
        help="with --yes: go back also to a version that was withdrawn by its makers, which --yes alone "
        "refuses with exit code 4",
    )
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-rollback."""
    return tell.conclude(make_parser(), argv, roll_back)
