"""veilor-firstboot-rebase: moves a machine from what the installer wrote to the signed image.

After that it never runs again. What it does next depends only on what bootc says now and on what has just
happened: the table below. It remembers nothing, so it can be killed at any step and goes on.
"""

import argparse
import contextlib
import time
from dataclasses import replace
from datetime import UTC, datetime

from veilor.core.host import UNMANAGED, Host, ImageState, image_state
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.core.statement import Statement
from veilor.device import (
    ask,
    bootc,
    channel,
    health,
    health_record,
    network,
    notice,
    preflight,
    state,
    tell,
    update,
)
from veilor.device.health_record import Bootstrap, Deployment
from veilor.device.run import DeviceError, at, run
from veilor.device.shipped import compare

PROGRAM = "veilor-firstboot-rebase"
UNIT = f"{PROGRAM}.service"
STAMP = "/var/lib/veilor/firstboot-done"
# seconds between attempts; after the last one systemd starts us anew
DELAYS = (3, 5, 10, 20, 30, 30, 30, 30, 30)
STEPS = 40
UNTIL_THEN = "until then it runs what the installer wrote, unverified"

EVENTS = ("start", "silent", "refused", "held", "announced", "staged", "failed")
_ACTIONS: dict[str, tuple[str, ...]] = {
    # row                 start    silent  refused  held     announced  staged           failed
    "unverified": ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
    "booted-other": ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
    "booted-announced": ("fetch", "wait", "stop", "finish", "finish", "finish", "stop"),
    "staged-other": ("fetch", "wait", "stop", "leave", "drop", "drop_and_stop", "drop_and_stop"),
    "staged-locked": ("fetch", "wait", "stop", "leave", "let_go", "let_go", "stop"),
    "staged-announced": ("fetch", "wait", "stop", "leave", "let_go", "finish", "stop"),
    # whatever happens, a machine that it is not for is left alone
    **dict.fromkeys(map(str, update.UNFIT), ("explain",) * len(EVENTS)),
}
# TABLE[ROW][EVENT] is the action of Walk: rows are found by `find_row`
TABLE = {row: dict(zip(EVENTS, actions, strict=True)) for row, actions in _ACTIONS.items()}


def find_row(host: Host, reference: str, said: Statement | None) -> str:
    """The row of TABLE for a machine with the deployments HOST when SAID is announced (None: not known)."""
    where = image_state(host, reference)
    if where not in (ImageState.OURS, ImageState.UNVERIFIED):
        return where
    wanted = said.digest if said else None
    if host.staged:
        if host.staged.digest != wanted:
            return "staged-other"
        return "staged-locked" if host.staged.locked else "staged-announced"
    if where is ImageState.UNVERIFIED:
        return where
    return "booted-announced" if host.running.digest == wanted else "booted-other"


class Walk:
    """One walk through the table. Each action returns the next event, or an Outcome that ends it.

    `host` and `row` are of this step. `said` is there after `fetch`. `error` is the newest thing that failed.
    """

    def __init__(
        self,
        facts: Product,
        lock: contextlib.ExitStack,
        now: bool = False,
        ask: bool = False,
        progress: str = "none",
    ) -> None:
        self.facts, self.lock, self.now, self.ask, self.progress = facts, lock, now, ask, progress
        self.host, self.row = UNMANAGED, ""
        self.said: Statement | None = None
        self.warnings: tuple[str, ...] = ()
        self.delays = [] if now else list(DELAYS)
        self.error = DeviceError(
            "bootc has ended well, but what it should have staged is not there",
            "nothing was changed",
            "it is tried again",
        )

    @property
    def announced(self) -> Statement:
        """What the channel announces, for actions that come after `fetch`. Raises LookupError."""
        if self.said is None:
            raise LookupError("no statement was fetched")
        return self.said

    def go(self) -> Outcome:
        """Walk to the end. Raises DeviceError."""
        event = "start"
        for _ in range(STEPS):
            self.host = bootc.status() if at("/run/ostree-booted").exists() else UNMANAGED
            self.row = find_row(self.host, self.facts.image_ref, self.said)
            done = getattr(self, TABLE[self.row][event])()
            if isinstance(done, Outcome):
                return done
            event = done
        raise DeviceError(
            "The first boot does not come to an end", f"it stopped at {self.row}", "see `veilor-status`"
        )

    def explain(self) -> Outcome:
        """Say why nothing is done on a machine that this is not for."""
        outcome = update.unfit(ImageState(self.row), self.host, self.facts)
        tell.announce("firstboot", outcome)
        return outcome

    def fetch(self) -> str:
        """Ask the channel what is announced; the event says how it answered. Raises DeviceError."""
        try:
            if not network.connected():  # said at once, while the boot screen is still there
                why, then = network.EXPLAINED["offline"]
                raise DeviceError(
                    "The update channel cannot be asked", why, then, Code.LATER, {"network": "offline"}
                )
            self.said, self.warnings = channel.announced(self.facts, self.host.running)
        except DeviceError as error:
            self.error = error
            if error.outcome.code is Code.REFUSED:
                return "refused"
            if "network" in error.outcome.facts:
                return "silent"
            raise
        return "held" if self.announced.digest in state.held_back() else "announced"

    def wait(self) -> str:
        """Say what is waited for, wait, and begin again. Raises DeviceError after the last of DELAYS."""
        why, then = network.EXPLAINED[self.error.outcome.facts.get("network", "unknown")]
        tell.announce(
            "firstboot",
            Outcome(Code.LATER, f"Waiting to be moved to the signed image: {why}", UNTIL_THEN, then),
        )
        if not self.delays:
            raise self.error
        self.lock.close()  # a person who cannot wait may go ahead
        wait_for_change(self.delays.pop(0))
        self.lock.enter_context(state.exclusive_lock(60))
        return "start"

    def stop(self) -> Outcome:
        """End with the newest error. Raises DeviceError."""
        raise self.error

    def leave(self) -> Outcome:
        """Say why what is announced is not installed by itself."""
        entry = state.held_back()[self.announced.digest]
        # LATER: what runs is unverified, so the unit goes on looking for something newer.
        outcome = Outcome(
            Code.LATER,
            f"{self.announced.title} is not installed by itself: {entry.reason}",
            UNTIL_THEN,
            "a newer version will be, and is looked for",
        )
        tell.announce("firstboot", outcome)
        return outcome

    def stage(self) -> str:
        """Fetch and compare what is announced; the way back is pinned before. Raises DeviceError."""
        # Its turn in a rollout is no matter here: what runs is unverified.
        self.warnings += preflight.require(
            preflight.before_download(PROGRAM, None, datetime.now(UTC)), self.now, self.ask
        )
        self.keep_bootstrap()
        try:
            self.host, more = update.stage(self.host, self.facts, self.announced, "first boot", self.progress)
        except DeviceError as error:
            self.error = error
            return "failed"
        self.warnings += more
        return "staged"

    def drop(self) -> str:
        """Make sure that what is staged never boots."""
        if self.host.staged:
            update.drop(self.host.staged)
        return "announced"

    def drop_and_stop(self) -> Outcome:
        """Do both. Raises DeviceError."""
        self.drop()
        return self.stop()

    def let_go(self) -> str:
        """Let what was downloaded and locked boot at the next restart."""
        self.keep_bootstrap()
        self.host, more = update.let_go(self.host, "first boot")
        self.warnings += more
        return "staged"

    def finish(self) -> Outcome:
        """Leave the stamp, disable the unit and say that it is done.

        TABLE leads here only when what is booted or staged is the announced digest, verified.
        """
        said, staged = self.announced, self.host.staged
        if staged and not health.armed_for(staged):
            self.warnings += update.try_to_arm(self.host.running, Deployment.from_entry(staged), "first boot")
        # The stamp first: without it, and disabled, a power cut that loses what is staged would leave nobody
        # to go on; with it the updates do.
        stamp = {"schema": 1, "digest": said.digest, "version": said.version, "when": state.format_now()}
        state.write_record(STAMP, stamp)
        done = run(["systemctl", "disable", UNIT], timeout=60)
        if done.code:
            self.warnings += (
                f"`systemctl disable {UNIT}` failed ({done.reason}); it does not start again all the same",
            )
        if problem := compare.problem():
            self.warnings += (problem,)
            tell.announce("as-shipped", Outcome(Code.FAILED, problem))
        if staged is None:
            tell.notify("firstboot", None)
            return Outcome(
                Code.DONE, f"{said.title} runs, verified by the container policy", warnings=self.warnings
            )
        outcome = Outcome(
            Code.DONE,
            f"{said.title} was verified and is ready",
            "until the restart this machine runs what the installer wrote, unverified",
            update.RESTART,
            warnings=self.warnings,
        )
        tell.announce("firstboot", outcome)
        return outcome

    def keep_bootstrap(self) -> None:
        """Pin what the installer wrote, as a way back until two updates have proved themselves."""
        booted = self.host.running
        if booted.follows(self.facts.image_ref):
            return
        if booted.pinned:  # by an earlier run of this, or by somebody whose pin is not ours to remove
            return
        # Noted first: a pin that nobody knows of would never be removed again.
        with health_record.edit() as record:
            noted = Deployment.from_entry(booted)
            if record.bootstrap is None:
                record.bootstrap = Bootstrap(noted)
            else:
                noted = replace(noted, raw=record.bootstrap.deployment.raw)
                record.bootstrap = replace(record.bootstrap, deployment=noted)
        try:
            bootc.pin_booted()
        except DeviceError as error:
            self.warnings += (f"what the installer wrote could not be pinned: {error.outcome.what}",)


def wait_for_change(seconds: float) -> None:
    """Wait SECONDS, or until a network comes up that was not there."""
    before, deadline = network.connected(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(1, seconds))
        if not before and network.connected():
            return


def report() -> Outcome:
    """How far it is, without root, a lock or a network."""
    stamp, held = state.read_record(STAMP), state.held_back()
    if stamp:
        return Outcome(
            Code.DONE,
            f"Done on {stamp.get('when')}: moved to veilor-os {stamp.get('version')}",
            facts={"done": True, **stamp},
        )
    unit = run(["systemctl", "is-active", UNIT], timeout=30).out.strip()
    last = notice.read().get("firstboot")
    failed = "; ".join(str(entry.reason) for entry in held.values())
    means = last.line if last else failed or f"the unit is {unit or 'unknown'}"
    return Outcome(
        Code.DONE,
        "Not done yet: what runs is as the installer wrote it, unverified",
        means,
        "" if unit in ("active", "activating") else f"`{PROGRAM} --retry` begins anew",
        {"done": False, "unit": unit or None, "last": last.line if last else None},
    )


def retry() -> Outcome:
    """Forget what keeps the unit from going on, and start it again. Raises DeviceError."""
    facts, host = channel.product(), bootc.status()
    newest = host.staged or host.booted
    if newest and newest.follows(facts.image_ref) and state.read_record(STAMP):
        return Outcome(
            Code.DONE,
            f"Nothing to begin anew: {newest.title} was verified by the container policy",
            facts={"state": "done"},
        )
    with state.exclusive_lock(60):
        at(STAMP).unlink(missing_ok=True)
        for digest in state.held_back():
            state.stop_holding_back(digest)
    for verb in ("enable", "reset-failed", "start"):
        done = run(["systemctl", "--no-block", verb, UNIT], timeout=60)
        if done.code and verb != "reset-failed":  # that one fails where nothing has failed
            raise DeviceError(
                f"`systemctl {verb} {UNIT}` failed ({done.reason})",
                "nothing has begun anew",
                f"try `{PROGRAM} --now`",
            )
    return Outcome(
        Code.DONE,
        "It begins anew in the background",
        "",
        f"`{PROGRAM} --status` says how far it is",
        {"state": "started"},
    )


def rebase(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS."""
    if args.status:
        return report()
    ask.require_root(PROGRAM, args)
    if args.retry:
        return retry()
    facts, can_ask = channel.product(), args.now and preflight.can_ask(args)
    try:
        with contextlib.ExitStack() as lock:
            lock.enter_context(state.exclusive_lock(60))
            return Walk(
                facts, lock, args.now, can_ask, "json" if args.json else "auto" if args.now else "none"
            ).go()
    except DeviceError as error:
        if error.outcome.code in (Code.REFUSED, Code.FAILED) or "finding" in error.outcome.facts:
            tell.announce("firstboot", error.outcome)
        raise


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-firstboot-rebase."""
    about = "Moves a freshly installed machine to the signed image; started by its unit at the first boots."
    parser = tell.parser(PROGRAM, about, Code.REFUSED, Code.UNFIT)
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--status", action="store_true", help="only say whether it is done, and what it waits for"
    )
    only.add_argument(
        "--retry",
        action="store_true",
        help="forget what failed here, and let the unit begin anew in the background",
    )
    only.add_argument(
        "--now",
        action="store_true",
        help="do it here and now: no waiting for a network, and also on a metered connection, "
        "a low battery or little free space",
    )
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-firstboot-rebase."""
    return tell.conclude(make_parser(), argv, rebase)
