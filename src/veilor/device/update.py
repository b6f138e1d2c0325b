"""veilor-update: what the channel announces, fetched locked, compared, then let go for the next restart.

It restarts the machine only with --apply.
"""

import argparse
import contextlib
import enum
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from veilor.core.host import Entry, Host, ImageState, image_state
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome
from veilor.core.preflight import PreflightFinding, found, rows
from veilor.core.product import Product
from veilor.core.rollout import time_to_ask
from veilor.core.statement import LASTING, Statement, stale_words
from veilor.device import ask, boot_counter, bootc, channel, clock, health, preflight, state, tell
from veilor.device.health_record import Deployment
from veilor.device.run import DeviceError, at, run

PROGRAM = "veilor-update"
# then the person is notified; with ASK_RARELY added, nobody is without updates for three days unnoticed
LONG_HELD = timedelta(hours=60)
MISSES = 2  # shutdowns at which a version could not be put in place, until only a person tries it again
# seconds after the start: by then a new version has shown whether it works, and the person has what they
# came for
SETTLED = 600.0

RESTART = "restart when you like"
UNFIT = {
    ImageState.PACKAGE: (
        "This system is not one that is replaced as a whole",
        "veilor-os cannot take it over without erasing it, so nothing was changed",
        "back up your files and install veilor-os anew, or, which destroys what is there, `bootc install "
        "to-existing-root`",
    ),
    ImageState.LAYERED: (
        "This system has packages layered on it, or is not made from an image",
        "a new version would silently drop them, so nothing was changed",
        "`rpm-ostree reset` removes the layers, then try again",
    ),
    ImageState.FOREIGN: (
        "This machine follows {booted}, not veilor-os",
        "somebody has switched it, so nothing was changed",
        "`bootc switch --enforce-container-sigpolicy {ours}` as root leads back",
    ),
    ImageState.OTHERS_STAGED: (
        "{staged} is waiting for the next restart, and it is not from veilor-os",
        "somebody has put it there, so it was left alone",
        "restart into it, or remove it with `ostree admin undeploy 0` as root, then try again",
    ),
}


def unfit(where: ImageState, host: Host, facts: Product) -> Outcome:
    """What is said on a machine that stands at WHERE, one of UNFIT."""
    names = {
        "booted": host.booted and host.booted.reference,
        "staged": host.staged and (host.staged.reference or host.staged.title),
        "ours": facts.image_ref,
    }
    what, means, then = (text.format(**names) for text in UNFIT[where])
    return Outcome(Code.UNFIT, what, means, then, {"state": where})


class Todo(enum.StrEnum):
    """What is to be done on a machine that is `ours` or `unverified`; "state" in the answer."""

    CURRENT = "current"
    WITHDRAWN = "withdrawn"  # staged, but no longer announced, or called withdrawn
    HELD = "held"  # not until something newer is announced
    READY = "ready"  # staged already
    UNLOCK = "unlock"  # downloaded already
    QUEUED = "queued"  # a rollback waits for the restart
    MISSED = "missed"  # let go twice, and twice not put in place: no third time by itself
    STAGE = "stage"
    DOWNLOADED = "downloaded"  # only an answer: it was to be downloaded, and no more


def decide(host: Host, said: Statement, reference: str, held: dict[str, state.HeldBack]) -> Todo:
    """What is to be done where the deployments are HOST's and SAID is announced, with HELD held back."""
    booted, staged = host.running, host.staged
    if staged and staged.digest in said.withdrawn:  # it must not boot, whatever else holds
        return Todo.WITHDRAWN
    if booted.digest == said.digest and booted.follows(reference):
        if staged is None:
            return Todo.CURRENT
        return Todo.READY if staged.digest == said.digest else Todo.WITHDRAWN
    if said.digest in held:
        return Todo.HELD
    if staged and staged.digest == said.digest:
        return Todo.UNLOCK if staged.locked else Todo.READY
    if host.rollback_queued:
        return Todo.QUEUED
    return Todo.STAGE


def stage(
    host: Host, facts: Product, said: Statement, by: str, progress: str = "auto"
) -> tuple[Host, tuple[str, ...]]:
    """Fetch what SAID announces; the status after that, with it staged and compared, and warnings.

    On a machine that already follows the product it is locked. The first move to it cannot be: bootc has no
    such form of switch, so the counter is armed before, and what differs from the announcement is dropped,
    whatever ends this. Raises DeviceError.
    """
    newest = channel.digest_of_tag(facts.image_ref)
    if newest and newest != said.digest:
        preflight.require([found("ahead", title=said.title)], False, False)
    if (host.staged or host.running).follows(facts.image_ref):
        bootc.download(progress)
        return compare(bootc.status(), facts, said), ()
    warnings = try_to_arm(host.running, Deployment(said.digest, said.version), by)
    try:
        bootc.switch(facts.image_ref, progress)
        return compare(bootc.status(), facts, said), warnings
    except BaseException:  # SIGTERM too: that comes with a shutdown, which would put what is staged in place
        health.disarm()
        with contextlib.suppress(DeviceError):
            left = bootc.status().staged
            if left and left.digest != said.digest:
                bootc.drop_staged(left)
        raise


def compare(host: Host, facts: Product, said: Statement) -> Host:
    """HOST, if what is staged is what SAID announces, verified.

    Else it is dropped, so that it can never boot, and DeviceError is raised.
    """
    staged = host.staged
    if staged is None:
        raise DeviceError(
            f"{said.title} is announced, but the registry does not have it yet",
            "nothing was changed",
            "it is tried again later",
            Code.LATER,
        )
    if not staged.follows(facts.image_ref):
        drop(staged)
        raise DeviceError(
            "Refused: bootc did not record that the image was verified",
            "it was removed again, nothing was installed",
            "report this: it should not be possible",
            Code.REFUSED,
        )
    if staged.digest != said.digest:
        drop(staged)
        got, wanted = f"{staged.title} ({short(staged.digest)})", f"{said.version} ({short(said.digest)})"
        raise DeviceError(
            f"Refused: the registry gave {got}, but {wanted} is announced",
            "it was removed again, nothing was installed: either a release is being published right now, "
            "or somebody has changed what the name stands for",
            "it is checked again later",
            Code.REFUSED,
        )
    return host


def drop(staged: Entry) -> Host:
    """Make sure that STAGED never boots, and stop counting its boots; the status after that."""
    after = bootc.drop_staged(staged)
    health.disarm()
    return after


def let_go(host: Host, by: str) -> tuple[Host, tuple[str, ...]]:
    """Let what is staged boot at the next restart, its first boots counted.

    The status after that, and warnings. Raises DeviceError.
    """
    staged = host.staged
    if staged is None:
        raise LookupError("nothing is staged")
    warnings: tuple[str, ...] = ()
    if not health.armed_for(staged):
        warnings = try_to_arm(host.running, Deployment.from_entry(staged), by)
    if not staged.locked:
        return host, warnings
    bootc.unlock()
    after = bootc.status()
    if after.staged is None or after.staged.locked or after.staged.deployment != staged.deployment:
        raise DeviceError(
            "The downloaded version could not be made ready",
            "the next restart boots what runs now",
            "try again",
        )
    return after, warnings


def try_to_arm(source: Entry, target: Deployment, by: str) -> tuple[str, ...]:
    """Arm the boot counter; warnings.

    A machine without a counter still gets its update, with a warning: staying old is worse.
    """
    health.arm(source, target, by)
    problem = boot_counter.why_not_counted()
    return (f"this machine cannot go back by itself if the new version fails: {problem}",) if problem else ()


def update(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS. Raises DeviceError."""
    facts = channel.product()
    host = bootc.status()
    where = image_state(host, facts.image_ref)
    if where in UNFIT:
        return unfit(where, host, facts)
    warnings = preflight.require(preflight.offline(), args.now, False)
    said, more = channel.announced(facts, host.running)
    now = datetime.now(UTC)
    known = max(said.issued, state.parse_time(host.running.timestamp) or said.issued)
    warnings += more + preflight.require(preflight.clock(now, known), True, False)
    held = state.held_back()
    todo = decide(host, said, facts.image_ref, held)
    if todo is Todo.WITHDRAWN and host.staged and not args.check:
        gone = f"{host.staged.title} was ready and is no longer announced, so it was removed"
        host = drop(host.staged)
        todo, warnings = decide(host, said, facts.image_ref, held), (*warnings, gone)
    if todo is Todo.STAGE and args.download_only and where is ImageState.UNVERIFIED:
        raise DeviceError(
            "The first move to the signed image cannot be downloaded alone",
            "bootc makes it ready as soon as it has it, so nothing was fetched",
            "`veilor-update` makes the move at the next restart",
            Code.USAGE,
        )
    missed = health.read_missed(said.digest)
    if todo is Todo.STAGE and args.due and missed and missed.times >= MISSES:
        return replace(health.explain_missed(missed), facts={"state": Todo.MISSED})
    findings: list[PreflightFinding] = []
    if todo is Todo.STAGE:
        # What runs is unverified, or known to be bad: nobody waits for a turn.
        waits = where is ImageState.OURS and host.running.digest not in said.withdrawn
        findings = preflight.before_download(PROGRAM, said if waits else None, now, args.due, host.kept)
    end = explain(todo, host, said, held, findings, args.check)
    if end is None:
        if todo is Todo.STAGE:
            warnings += preflight.require(findings, args.now, preflight.can_ask(args))
            host, more = stage(host, facts, said, "update", "json" if args.json else "auto")
            warnings += more
        # What runs would be the way back from it, and has not proved that it can be one.
        unproved = health.awaits_proof()
        if (args.download_only or unproved) and host.staged and host.staged.locked:
            todo = Todo.DOWNLOADED
            end = Outcome(
                Code.DONE,
                f"{said.title} is downloaded and locked",
                "what runs now has not proved itself yet, so it is no way back"
                if unproved
                else "a restart boots what runs now",
                "`veilor-update` makes it ready",
            )
        else:
            host, more = let_go(host, "update")
            warnings += more
            todo = Todo.READY
            end = Outcome(
                Code.DONE, f"{said.title} is ready", "what runs now is kept as the way back", RESTART
            )
    return replace(
        end,
        warnings=warnings,
        facts={
            "state": todo,
            "booted": host.running.digest,
            "staged": host.staged and host.staged.digest,
            "findings": preflight.as_facts(findings),
            "announced": {
                "version": said.version,
                "digest": said.digest,
                "epoch": said.epoch,
                "sequence": said.sequence,
                "issued": state.format_time(said.issued),
                "expires": state.format_time(said.expires),
            },
        },
    )


def explain(
    todo: Todo,
    host: Host,
    said: Statement,
    held: dict[str, state.HeldBack],
    findings: list[PreflightFinding],
    only_check: bool,
) -> Outcome | None:
    """What is said where nothing is installed: because of TODO, or because of --check (ONLY_CHECK).

    None where something is to be installed or let go.
    """
    new = said.title
    if todo is Todo.CURRENT:
        return Outcome(Code.DONE, f"{new} is what runs, and nothing newer is announced")
    if todo is Todo.HELD:
        return Outcome(
            Code.DONE,
            f"{new} is announced, but is not installed by itself: {held[said.digest].reason}",
            next="a newer version will be; `veilor-rollback` leads to it if it is still there",
        )
    if todo is Todo.QUEUED:
        return Outcome(
            Code.DONE,
            f"{new} is announced; a return to {host.next.title if host.next else 'unknown'} waits for the "
            "next restart",
            "an update now would undo that",
            "restart first",
        )
    if not only_check:
        return None
    if todo is Todo.WITHDRAWN:
        return Outcome(
            Code.DONE, "The update that is ready is no longer announced", next="`veilor-update` removes it"
        )
    if todo is Todo.READY:
        return Outcome(Code.DONE, f"{new} is ready", next=RESTART)
    return Outcome(
        Code.DONE,
        f"{new} is announced",
        ". ".join(one.what for one in findings),
        "`veilor-update` installs it",
    )


def too_early() -> str | None:
    """Why the timer's run has nothing to do now, as a sentence; None when it should look for news."""
    try:
        up = float(at("/proc/uptime").read_text().split()[0])
    except (OSError, ValueError, LookupError):
        up = SETTLED
    if up < SETTLED:
        return "The machine has just started"
    last = state.last_attempt()
    if time_to_ask(last.when, last.failed, last.turn, datetime.now(UTC), last.since):
        return None
    return "News was asked for a short time ago"


def why_no_update(outcome: Outcome) -> str | None:
    """What keeps this machine from its updates, in one word of OUTCOME; None when nothing does.

    Neither this machine's turn in a rollout, which comes by itself, nor another program that holds the lock.
    """
    finding = outcome.facts.get("finding")
    if finding == "turn" or (outcome.code is Code.LATER and "lock" in outcome.facts):
        return None
    if isinstance(finding, str):
        return finding
    if outcome.facts.get("state") == "held":
        return "held"
    if outcome.code is Code.DONE:
        return None
    return str(outcome.facts.get("network") or outcome.code.name.lower())


def note_attempt(outcome: Outcome) -> bool:
    """Record that news was asked for, and what came of it; whether no update has come for LONG_HELD.

    It counts from the first attempt of an unbroken run that ended without one, whatever kept it each time.
    """
    cause, now = why_no_update(outcome), datetime.now(UTC)
    with state.edit_record(state.STATE) as data:
        before = state.Attempt.from_dict(state.get_dict(data, "look"))
        since = (before.since or now) if cause else None
        data["look"] = state.Attempt(
            when=now,
            failed=cause is not None and cause != "held",
            turn=state.parse_time(outcome.facts.get("turn")),
            finding=cause,
            since=since,
        ).to_dict()
    return since is not None and now - since >= LONG_HELD


def update_and_notify(args: argparse.Namespace) -> Outcome:
    """`update`, alone, with what the person should know left as a notice."""
    if not ask.is_root():
        return and_restart(ask.do_by_unit(PROGRAM, args), args)
    if args.due:
        clock.notify_if_adrift()
    wait = too_early() if args.due else None
    if wait:
        return Outcome(Code.DONE, wait, facts={"state": "too early"})
    try:
        with state.exclusive_lock():
            outcome = update(args)
    except DeviceError as error:
        note_and_notify(error.outcome)
        raise
    if args.check and outcome.code is Code.DONE:
        notify_of_silence(outcome)
    else:
        note_and_notify(outcome)
    return and_restart(outcome, args)


def note_and_notify(outcome: Outcome) -> None:
    """Record how the update ended, and leave a notice where the person should know or act."""
    held = note_attempt(outcome)
    notify_of_silence(outcome)
    ready = outcome.facts.get("state") == "ready"
    at_once = outcome.code in (Code.REFUSED, Code.UNFIT) or outcome.facts.get("finding") == "full"
    if held or at_once or ready:
        tell.notify("update", outcome)
    elif outcome.code is not Code.LATER:  # that one says nothing against an update that is ready
        tell.notify("update", None)


def notify_of_silence(outcome: Outcome) -> None:
    """Leave a notice when the channel has been silent for LASTING, or remove it.

    What is no network's fault is never told as one: not where OUTCOME says that this machine takes no
    updates.
    """
    late = channel.stale()
    if late is None or late < LASTING or outcome.code is Code.UNFIT:
        tell.notify("channel", None)
    else:
        tell.notify("channel", Outcome(Code.LATER, stale_words(late)))


def and_restart(outcome: Outcome, args: argparse.Namespace) -> Outcome:
    """OUTCOME; with --apply in ARGS, and a new version ready, the machine is restarted into it."""
    if args.apply and outcome.facts.get("state") == "ready":
        return restart(outcome)
    return outcome


def restart(ready: Outcome) -> Outcome:
    """Restart into what is READY.

    Only systemd is asked, when no lock is held any more: whoever still holds one at shutdown keeps the new
    version from being put in place (seen with `bootc upgrade --apply`). It asks logind first, whose own rules
    decide for somebody who is not root.
    """
    done = run(["systemctl", "--no-block", "reboot"], timeout=60)
    if done.code:
        return replace(
            ready, warnings=(*ready.warnings, f"the machine could not be restarted ({done.reason})")
        )
    return replace(ready, next="the machine restarts now", facts={**ready.facts, "restarting": True})


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-update."""
    about = (
        "Installs the announced version of veilor-os for the next restart. The machine is never "
        "restarted unless --apply is given."
    )
    parser = tell.parser(PROGRAM, about, Code.REFUSED, Code.UNFIT, more=findings_help())
    only = parser.add_mutually_exclusive_group()
    only.add_argument(
        "--check",
        action="store_true",
        help="only say whether there is something newer, and what would hold it up",
    )
    only.add_argument(
        "--download-only", action="store_true", help="download and compare, but keep it from booting"
    )
    only.add_argument(
        "--apply", action="store_true", help="restart the machine at once when the new version is ready"
    )
    parser.add_argument("--now", action="store_true", help="go on where the table below says so")
    parser.add_argument(
        "--due",
        action="store_true",
        help="as the timer does: nothing within 10 minutes of the start or 20 hours of the "
        "last time it asked (1 hour if that failed), unless this machine's turn has come",
    )
    return parser


def findings_help() -> str:
    """The table of findings for the help."""
    lines = [
        f"  {name:10} {does.split(' (')[0]:8} {now:8} {code:>4}  {seen}\n"
        for name, seen, does, now, code in rows()
    ]
    head = f"  {'finding':10} {'then':8} {'--now':8} {'exit':>4}  found when\n"
    return "what is checked first (ask: defer, where nobody can be asked):\n" + head + "".join(lines)


def main(argv: list[str]) -> int:
    """The program veilor-update."""
    return tell.conclude(make_parser(), argv, update_and_notify)
