"""veilor-rollback: back to the version before at the next restart, or forward again."""

import argparse
import sys

from veilor.core.host import Entry, Host
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome
from veilor.device import ask, bootc, channel, health, state, tell
from veilor.device.run import DeviceError

MEANS = (
    "/etc goes back to that version's own copy, without changes made since; /home and the rest of /var stay "
    "as they are, and both versions stay on the disk"
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


def roll_back(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS."""
    if not ask.is_root():
        return ask.do_by_unit("veilor-rollback", args)
    host = bootc.status()
    to, away = plan(host)
    verified = to.follows(channel.product().image_ref)
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
        if input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
            return Outcome(Code.USAGE, "Nothing was changed")
    with state.exclusive_lock():
        if bootc.status() != host:
            raise DeviceError(
                "The system has changed in the meantime", "nothing was done", "try again", Code.LATER
            )
        # First, so that no timer stages again what the person is leaving.
        for entry in away:
            if entry.digest:
                state.hold_back(entry.digest, entry.title, "rolled back", "it was rolled back by hand")
        if to.digest:
            state.stop_holding_back(to.digest)
        bootc.rollback()
        after = bootc.status()
        if after.staged or after.rollback_queued == host.rollback_queued:
            raise DeviceError("bootc did not change what boots next", "see `veilor-status`", "try again")
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
