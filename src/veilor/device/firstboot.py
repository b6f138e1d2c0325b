"""veilor-firstboot-rebase: moves a machine from what the installer wrote to the signed image, and then never runs again.

What it does next depends only on what bootc says now and on what has just happened: the table below. It remembers
nothing, so it can be killed at any step and goes on.
"""

import time

from veilor.core.host import Host, place
from veilor.core.outcome import Code, Outcome
from veilor.core.product import Product
from veilor.core.statement import Statement
from veilor.device import bootc, channel, health, state, tell, update
from veilor.device.run import DeviceError, at, run

UNIT = "veilor-firstboot-rebase.service"
STAMP = "/var/lib/veilor/firstboot-done"
DELAYS = (3, 5, 10, 20, 30, 30, 30, 30, 30)  # seconds between attempts; after the last one systemd starts us anew
STEPS = 40

EVENTS = ("start", "silent", "refused", "held", "announced", "staged", "failed")
TABLE = {state: dict(zip(EVENTS, actions, strict=True)) for state, actions in {
    # whatever happens, a machine that it is not for is left alone
    **dict.fromkeys(update.UNFIT, ("explain",) * len(EVENTS)),
    # state               start    silent  refused  held     announced  staged           failed
    "unverified":       ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
    "booted-other":     ("fetch", "wait", "stop", "leave", "stage", "stop", "stop"),
    "booted-announced": ("fetch", "wait", "stop", "finish", "finish", "finish", "stop"),
    "staged-other":     ("fetch", "wait", "stop", "leave", "drop", "drop_and_stop", "drop_and_stop"),
    "staged-locked":    ("fetch", "wait", "stop", "leave", "let_go", "let_go", "stop"),
    "staged-announced": ("fetch", "wait", "stop", "leave", "let_go", "finish", "stop"),
}.items()}


def look(host: Host | None, reference: str, said: Statement | None) -> str:
    """The state, a row of TABLE, of a machine with the status HOST (None: no ostree at all) when SAID is announced."""
    where = place(host, reference) if host else "package"
    if where not in ("ours", "unverified"):
        return where
    wanted = said.digest if said else None
    if host.staged:
        return "staged-other" if host.staged.digest != wanted else "staged-locked" if host.staged.locked else "staged-announced"
    return where if where == "unverified" else "booted-announced" if host.booted.digest == wanted else "booted-other"


class Walk:
    """One walk through the table. Each action returns the next event, or an Outcome that ends it."""

    def __init__(self, facts: Product) -> None:
        self.facts, self.host, self.state = facts, None, ""
        self.said: Statement | None = None
        self.warnings: tuple[str, ...] = ()
        self.delays = list(DELAYS)
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
        raise DeviceError("The first boot comes to no end", f"it stopped at {self.state}", "see `veilor-status`")

    def explain(self) -> Outcome:
        outcome = update.unfit(self.state, self.host or Host(None, None, None, (), False), self.facts)
        tell.announce("firstboot", outcome)
        return outcome

    def fetch(self) -> str:
        try:
            self.said, self.warnings = channel.announced(self.facts)
        except DeviceError as error:
            self.error = error
            return "refused" if error.outcome.code is Code.REFUSED else "silent"
        return "held" if self.said.digest in state.held_back() else "announced"

    def wait(self) -> str:
        if not self.delays:
            raise self.error
        if len(self.delays) == len(DELAYS):
            tell.announce("firstboot", Outcome(Code.LATER, "Waiting for a network to move this machine to the signed image",
                                               "until then it runs what the installer wrote, unverified", "connect it to a network"))
        wait_for_change(self.delays.pop(0))
        return "start"

    def stop(self) -> Outcome:
        if self.error:
            raise self.error
        raise DeviceError("bootc has ended well, but what it should have staged is not there", "nothing was changed", "it is tried again")

    def leave(self) -> Outcome:
        entry = state.held_back()[self.said.digest]
        return Outcome(Code.DONE, f"{self.said.title} is not installed by itself: {entry.get('reason')}", next="a newer version will be")

    def stage(self) -> str:
        self.keep_bootstrap()
        try:
            self.host, more = update.stage(self.host, self.facts, self.said, "first boot", quiet=True)
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
            self.warnings += update.try_to_arm(self.host.booted, health.describe(self.host.staged), "first boot")
        done = run(["systemctl", "disable", UNIT], timeout=60)
        if done.code:
            raise DeviceError(f"`systemctl disable {UNIT}` failed ({done.reason})", "the signed image is in place all the same",
                              "it is tried again")
        state.write(STAMP, {"schema": 1, "digest": self.said.digest, "version": self.said.version, "when": state.now()})
        if self.host.staged is None:
            tell.notify("firstboot", None)
            return Outcome(Code.DONE, f"{self.said.title} runs, verified by the container policy", warnings=self.warnings)
        outcome = Outcome(Code.DONE, f"{self.said.title} was verified and is ready",
                          "until the restart this machine runs what the installer wrote, unverified", update.RESTART,
                          warnings=self.warnings)
        tell.announce("firstboot", outcome)
        return outcome

    def keep_bootstrap(self) -> None:
        """Pin what the installer wrote, so that there is a way back until two updates have proved themselves."""
        booted = self.host.booted
        if booted.follows(self.facts.image_ref):
            return
        if not booted.pinned:
            try:
                bootc.pin_booted()
            except DeviceError as error:
                self.warnings += (f"what the installer wrote could not be pinned: {error.outcome.what}",)
                return
        with state.edit(state.HEALTH) as data:
            data["bootstrap"] = {**state.part(data, "bootstrap"), **health.describe(booted)}


def online() -> bool:
    """Whether the kernel has any default route."""
    try:
        v4 = any(line.split()[1] == "00000000" for line in at("/proc/net/route").read_text().splitlines()[1:])
        v6 = at("/proc/net/ipv6_route").read_text().splitlines()
        return v4 or any(line.startswith("0" * 32 + " 00 ") and not line.endswith(" lo") for line in v6)
    except (OSError, LookupError):
        return True


def wait_for_change(seconds: float) -> None:
    """Wait SECONDS, or until a network comes up that was not there."""
    before, deadline = online(), time.monotonic() + seconds
    while time.monotonic() < deadline:
        time.sleep(min(1, seconds))
        if not before and online():
            return


def rebase(args) -> Outcome:
    """The whole program, as asked by ARGS."""
    if args.status:
        stamp = state.read(STAMP)
        if stamp:
            said = f"Done on {stamp.get('when')}: moved to veilor-os {stamp.get('version')}"
            return Outcome(Code.DONE, said, facts={"done": True, **stamp})
        return Outcome(Code.DONE, "Not done yet: what runs is as the installer wrote it, unverified", facts={"done": False})
    facts = channel.product()
    try:
        with state.alone(60):
            return Walk(facts).go()
    except DeviceError as error:
        if error.outcome.code in (Code.REFUSED, Code.FAILED):
            tell.announce("firstboot", error.outcome)
        raise


def main(argv: list[str]) -> int:
    """The program veilor-firstboot-rebase."""
    about = "Moves a freshly installed machine to the signed image; started by its unit at the first boots."
    parser = tell.parser("veilor-firstboot-rebase", about, Code.REFUSED, Code.UNFIT)
    parser.add_argument("--status", action="store_true", help="only say whether it is done")
    return tell.conclude(parser, argv, rebase)
