"""veilor-firstboot-rebase: moves a machine from what the installer wrote to the signed image, and then never
runs again.

What it does next depends only on what bootc says now and on what has just happened: the table below. It
remembers nothing, so it can be killed at any step and goes on.
"""

import contextlib
import time
from datetime import UTC, datetime

from veilor.core.host import Host, image_state
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.core.statement import Statement
from veilor.device import ask, bootc, channel, health, network, preflight, state, tell, update
from veilor.device.run import DeviceError, at, run

PROGRAM = "veilor-firstboot-rebase"
UNIT = f"{PROGRAM}.service"
STAMP = "/var/lib/veilor/firstboot-done"
DELAYS = (
    3,
    5,
    10,
    20,
    30,
    30,
    30,
    30,
    30,
)  # seconds between attempts; after the last one systemd starts us anew
STEPS = 40
UNTIL_THEN = "until then it runs what the installer wrote, unverified"

EVENTS = ("start", "silent", "refused", "held", "announced", "staged", "failed")
TABLE = {
    state: dict(zip(EVENTS, actions, strict=True))
    for state, actions in {
        # whatever happens, a machine that it is not for is left alone
        **dict.fromkeys(update.UNFIT, ("explain",) * len(EVENTS)),
        # state               start    silent  refused  held     announced  staged           failed
        "unverified": ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
        "booted-other": ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
        "booted-announced": ("fetch", "wait", "stop", "finish", "finish", "finish", "stop"),
        "staged-other": ("fetch", "wait", "stop", "leave", "drop", "drop_and_stop", "drop_and_stop"),
        "staged-locked": ("fetch", "wait", "stop", "leave", "let_go", "let_go", "stop"),
        "staged-announced": ("fetch", "wait", "stop", "leave", "let_go", "finish", "stop"),
    }.items()
}


def look(host: Host | None, reference: str, said: Statement | None) -> str:
    """The state, a row of TABLE, of a machine with the status HOST (None: no ostree at all) when SAID is
    announced.
    """
    where = image_state(host, reference) if host else "package"
    if where not in ("ours", "unverified"):
        return where
    wanted = said.digest if said else None
    if host.staged:
        return (
            "staged-other"
            if host.staged.digest != wanted
            else "staged-locked"
            if host.staged.locked
            else "staged-announced"
        )
    return (
        where
        if where == "unverified"
        else "booted-announced"
        if host.booted.digest == wanted
        else "booted-other"
    )


class Walk:
    """One walk through the table. Each action returns the next event, or an Outcome that ends it."""

    def __init__(
        self,
        facts: Product,
        lock: contextlib.ExitStack,
        now: bool = False,
        ask: bool = False,
        progress: str = "none",
    ) -> None:
        self.facts, self.lock, self.now, self.ask, self.progress = facts, lock, now, ask, progress
        self.host, self.state = None, ""
        self.said: Statement | None = None
        self.warnings: tuple[str, ...] = ()
        self.delays = [] if now else list(DELAYS)
        self.error: DeviceError | None = None

    def go(self) -> Outcome:
        """Walk to the end. Raises DeviceError."""
        event = "start"
        for _ in range(STEPS):
            self.host = bootc.status() if at("/run/ostree-booted").exists() else None
            self.state = look(self.host, self.facts.image_ref, self.said)
            done = getattr(self, TABLE[self.state][event])()
            if isinstance(done, Outcome):
                return done
            event = done
        raise DeviceError(
            "The first boot comes to no end", f"it stopped at {self.state}", "see `veilor-status`"
        )

    def explain(self) -> Outcome:
        outcome = update.unfit(self.state, self.host or Host(None, None, None, (), False), self.facts)
        tell.announce("firstboot", outcome)
        return outcome

    def fetch(self) -> str:
        try:
            if not network.connected():  # said at once, while the boot screen is still there
                why, then = network.EXPLAINED["offline"]
                raise DeviceError(
                    "The update channel cannot be asked", why, then, Code.LATER, {"network": "offline"}
                )
            self.said, self.warnings = channel.announced(self.facts)
        except DeviceError as error:
            self.error = error
            if error.outcome.code is Code.REFUSED:
                return "refused"
            if "network" in error.outcome.facts:
                return "silent"
            raise
        return "held" if self.said.digest in state.held_back() else "announced"

    def wait(self) -> str:
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
        if self.error:
            raise self.error
        raise DeviceError(
            "bootc has ended well, but what it should have staged is not there",
            "nothing was changed",
            "it is tried again",
        )

    def leave(self) -> Outcome:
        entry = state.held_back()[self.said.digest]
        # LATER: what runs is unverified, so the unit goes on looking for something newer.
        outcome = Outcome(
            Code.LATER,
            f"{self.said.title} is not installed by itself: {entry.get('reason')}",
            UNTIL_THEN,
            "a newer version will be, and is looked for",
        )
        tell.announce("firstboot", outcome)
        return outcome

    def stage(self) -> str:
        # Its turn in a rollout is no matter here: what runs is unverified.
        self.warnings += preflight.require(
            preflight.before_download(PROGRAM, None, datetime.now(UTC)), self.now, self.ask
        )
        self.keep_bootstrap()
        try:
            self.host, more = update.stage(self.host, self.facts, self.said, "first boot", self.progress)
        except DeviceError as error:
            self.error = error
            return "failed"
        self.warnings += more
        return "staged"

    def drop(self) -> str:
        bootc.drop_staged(self.host.staged)
        health.disarm()
        return "announced"

    def drop_and_stop(self) -> Outcome:
        return self.drop() and self.stop()

    def let_go(self) -> str:
        self.keep_bootstrap()
        self.host, more = update.let_go(self.host, "first boot")
        self.warnings += more
        return "staged"

    def finish(self) -> Outcome:
        """Only ever reached when what is booted or staged is the announced digest, verified: see `look`."""
        if self.host.staged and not health.armed_for(self.host.staged):
            self.warnings += update.try_to_arm(
                self.host.booted, health.describe(self.host.staged), "first boot"
            )
        # The stamp first: without it, and disabled, a power cut that loses what is staged would leave nobody
        # to go on; with it the updates do.
        state.write_record(
            STAMP,
            {
                "schema": 1,
                "digest": self.said.digest,
                "version": self.said.version,
                "when": state.format_now(),
            },
        )
        done = run(["systemctl", "disable", UNIT], timeout=60)
        if done.code:
            self.warnings += (
                f"`systemctl disable {UNIT}` failed ({done.reason}); it does not start again all the same",
            )
        if self.host.staged is None:
            tell.notify("firstboot", None)
            return Outcome(
                Code.DONE, f"{self.said.title} runs, verified by the container policy", warnings=self.warnings
            )
        outcome = Outcome(
            Code.DONE,
            f"{self.said.title} was verified and is ready",
            "until the restart this machine runs what the installer wrote, unverified",
            update.RESTART,
            warnings=self.warnings,
        )
        tell.announce("firstboot", outcome)
        return outcome

    def keep_bootstrap(self) -> None:
        """Pin what the installer wrote, so that there is a way back until two
        updates have proved themselves.
        """
        booted = self.host.booted
        if booted.follows(self.facts.image_ref) or booted.pinned:
            return  # pinned: by an earlier run of this, or by somebody whose pin is none of ours to take away
        # Noted first: a pin that nobody knows of would never be taken away again.
        with state.edit_record(state.HEALTH) as data:
            data["bootstrap"] = {**state.get_dict(data, "bootstrap"), **health.describe(booted)}
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
    last = state.get_dict(state.get_dict(state.read_record(tell.NOTICE), "notices"), "firstboot").get("line")
    failed = "; ".join(str(entry.get("reason")) for entry in held.values())
    means = last if isinstance(last, str) else failed or f"the unit is {unit or 'unknown'}"
    return Outcome(
        Code.DONE,
        "Not done yet: what runs is as the installer wrote it, unverified",
        means,
        "" if unit in ("active", "activating") else f"`{PROGRAM} --retry` begins anew",
        {"done": False, "unit": unit or None, "last": last if isinstance(last, str) else None},
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


def rebase(args) -> Outcome:
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


def make_parser():
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
