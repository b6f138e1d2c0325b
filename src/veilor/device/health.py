"""Whether a new version works, and the way back from one that doesn't.

The record (health_record.py) is the one truth about a new version. GRUB's counter (boot_counter.py) is
derived from it, and written in an order in which a power cut between any two writes does no harm.

State       The record says                                  GRUB's counter
idle        nothing is on trial                              unset
waiting     `armed`, and its target is not in place yet      unset
on trial    `armed`, and its target is entry 0               3 to -1; set by `count_starts` at the shutdown
                                                             that puts it in place, or by `note_unlock`
returning   `return`, not handled: the version before is     0: the next start is of entry 1 again
            to be entry 0 again

Invariants, held by tests/device/explorer.py:
1. The counter is set only while entry 0 is a new version that has not proved itself, or will be in seconds.
2. A return that has begun ends on the version before, whichever program fails and wherever the power is cut.
3. A version that has worked before is never restarted by our programs.
4. Nothing ends on the unverified bootstrap while a verified version is on the disk.
5. A good version that nobody unlocks is offered again.

MOMENTS are what is done in the course of a boot; units start them. checks.py says what is judged, in what
time, and what is left to the person. A check that failed on the version before as well (`failing` in the
record) is not held against a new one: it would find the same where it went back to.
"""

import contextlib
import time
from collections.abc import Callable
from dataclasses import replace

from veilor.core.host import Entry
from veilor.core.outcome import Code, Outcome
from veilor.device import boot_counter, bootc, checks, health_record, state, tell
from veilor.device.boot_counter import RETURNING, TRIES, booted_deployment, first_entry
from veilor.device.health_record import Deployment, HealthRecord, Missed, Proven, Return, Trial
from veilor.device.run import DeviceError, at, run

CHECK_UNIT = "veilor-boot-check.service"
FAILURES = "/run/veilor/health-failures.json"
GOOD = "/run/veilor/boot-good"  # this boot was called good; in memory, since the disk may be full
AWAITS_LOGIN = "/run/veilor/awaits-login"  # its checks are good, and only a login proves it
FINALIZE_FAILURE = "/boot/ostree/finalize-failure.stamp"  # ostree's, until the boot after it
STAGED = "/run/ostree/staged-deployment"  # is there while something waits to be deployed at shutdown
FORCED = 5  # our restarts of a version that hangs where GRUB does not count
LOCKED = f"{STAGED}-locked"  # and while that is locked: libostree/ostree-sysroot-private.h, 2026.4
KEPT_UPDATES = 2  # healthy updates until the bootstrap may go
KEPT_FAILURES = 20
LOOKS_AGAIN = 10.0  # seconds until somebody is looked for at the login again


def is_target(deployment: tuple[str, int] | None, trial: Trial) -> bool:
    """Whether DEPLOYMENT is the new version of TRIAL."""
    if deployment is None:
        return False
    if deployment == trial.source.identity:
        return False
    if trial.target.checksum is None:  # armed before it was staged: it is whatever is not the source
        return True
    return trial.target.checksum == deployment[0]


def booted_trial(record: HealthRecord) -> Trial | None:
    """The trial that RECORD has of the version that runs; None when that is not on trial."""
    if record.armed is not None and is_target(booted_deployment(), record.armed):
        return record.armed
    return None


def has_worked(record: HealthRecord, digest: str | None) -> bool:
    """Whether the version with DIGEST was called good in some boot, this one included."""
    return at(GOOD).exists() or digest in [one.digest for one in record.healthy]


def needs_counter(record: HealthRecord) -> bool:
    """Whether RECORD says that GRUB's entry 0 is a version on trial, or one that is to be left for good."""
    if record.armed is not None:
        return is_target(first_entry(), record.armed)
    if record.back is None or record.back.handled:
        return False
    return is_target(first_entry(), record.back.trial)


def may_restart(record: HealthRecord) -> bool:
    """Whether our programs may restart the machine: what runs is on trial, and has never worked."""
    trial = booted_trial(record)
    return trial is not None and not has_worked(record, trial.target.digest)


# From an update to the shutdown that puts it in place


def arm(source: Entry, target: Deployment, by: str) -> None:
    """Note that TARGET (its checksum may still be None) is to be on trial, with SOURCE to go back to.

    BY is "first boot" or "update". Noted before TARGET can boot, so that no boot of it goes unwatched.
    Raises DeviceError when the record cannot be written: then nothing new must boot.
    """
    wait_for_verdict()
    with health_record.edit() as record:
        record.armed = Trial(target, Deployment.from_entry(source), by, state.format_now())


def armed_for(target: Entry) -> bool:
    """Whether TARGET is noted to be on trial."""
    trial = health_record.read().armed
    return trial is not None and trial.target.identity == target.deployment


def disarm() -> None:
    """Nothing is on trial any more. A counter that stays all the same is removed at the next boot."""
    with contextlib.suppress(DeviceError):
        boot_counter.clear_counter()  # first: it must not outlive the note of what it counts
    with health_record.edit() as record:
        record.armed = None


def wait_for_verdict(limit: float = 500) -> None:
    """Wait until this boot is judged, at most LIMIT seconds: its verdict is none on what is armed now."""
    deadline = time.monotonic() + limit
    while run(["systemctl", "is-active", CHECK_UNIT], timeout=30).out.strip() == "activating":
        if time.monotonic() >= deadline:
            return
        time.sleep(1)


def count_starts() -> Outcome:
    """At a shutdown, before ostree puts what is staged in place: from now on entry 0's starts are counted.

    Before, so that no power cut leaves a new version that nobody counts; not sooner, so that what runs now is
    counted only if the power fails in these seconds, and then until the next unlock.
    """
    record = health_record.read()
    if record.armed is None or booted_trial(record) is not None:
        return Outcome(Code.DONE, "No new version is about to be put in place")
    if not at(STAGED).exists() or at(LOCKED).exists():
        return Outcome(Code.DONE, "What was to be on trial is not about to boot")
    boot_counter.set_counter(TRIES)
    # What the owner has changed since this version's own check, in /etc, meets the new one as well.
    now = [name for name in checks.LASTING if checks.find_faults(name, patient=False)]
    note_failing(tuple(dict.fromkeys([*record.failing, *now])))
    return Outcome(Code.DONE, f"The new version will have {TRIES} starts to prove itself")


def settle_counter() -> Outcome:
    """At a shutdown, after ostree has put in place what was staged, or failed to: only a trial is counted."""
    record = health_record.read()
    if needs_counter(record):
        return Outcome(Code.DONE, "The starts of the first entry are counted")
    if record.armed is not None and was_let_go(record.armed):
        return note_missed(record.armed)
    boot_counter.clear_counter()
    return Outcome(Code.DONE, "The next start is of a version that has worked before")


# Right after the unlock


def note_unlock() -> Outcome:
    """Right after the disk was unlocked: note which version this boot is of."""
    record = health_record.read()
    trial, running = record.armed, booted_deployment()
    if trial is None:
        return unlocked_without_trial(record)
    if is_target(running, trial):
        return unlocked_target(record, trial)
    if running != trial.source.identity:
        return Outcome(Code.DONE, "Somebody has chosen a third version; the one on trial is left as it is")
    if not is_target(first_entry(), trial):
        if was_let_go(trial):
            return note_missed(trial)
        disarm()
        return Outcome(Code.DONE, "The new version was lost before a shutdown, which says nothing against it")
    if boot_counter.read_counter() not in boot_counter.WENT_BACK:
        return Outcome(Code.DONE, "Somebody has chosen the version before; the one on trial is left as it is")
    return begin_return(trial)


def unlocked_without_trial(record: HealthRecord) -> Outcome:
    """Nothing is armed: go on with a return that was cut, or remove a counter that a power cut has left."""
    if needs_counter(record):
        boot_counter.set_counter(RETURNING)
        return Outcome(Code.DONE, "An automatic return is still to be finished")
    boot_counter.clear_counter()
    return Outcome(Code.DONE, "No new version is being tried")


def unlocked_target(record: HealthRecord, trial: Trial) -> Outcome:
    """The version on trial runs and was unlocked."""
    if boot_counter.read_counter() is None and not has_worked(record, trial.target.digest):
        # GRUB's file was damaged, or could not be written at the shutdown.
        with contextlib.suppress(DeviceError):
            if boot_counter.why_not_counted() is None:
                boot_counter.set_counter(TRIES - 1)
    with health_record.edit() as now:
        if now.armed is not None:
            now.armed = replace(now.armed, unlocked=now.armed.unlocked + 1)
        now.missed = None
    return Outcome(Code.DONE, f"Boot {trial.unlocked + 1} of a new version that was unlocked")


def was_let_go(trial: Trial) -> bool:
    """Whether a shutdown was to put the version of TRIAL, which never ran, in place."""
    if trial.unlocked or is_target(booted_deployment(), trial):
        return False
    return boot_counter.read_counter() is not None or finalize_failure() is not None


def note_missed(trial: Trial) -> Outcome:
    """The new version was let go and could not be put in place at a shutdown: note how often, and why."""
    with contextlib.suppress(DeviceError):
        boot_counter.clear_counter()  # first: it must not outlive the note of what it counts
    with health_record.edit() as record:
        times = 0
        if record.missed is not None and record.missed.deployment.digest == trial.target.digest:
            times = record.missed.times
        record.missed = Missed(trial.target, times + 1, state.format_now(), finalize_failure())
        record.armed = None
    return Outcome(Code.DONE, "The new version was not put in place")


def read_missed(announced: str) -> Missed | None:
    """What could not be put in place, if its digest is ANNOUNCED; what is announced no more is forgotten."""
    missed = health_record.read().missed
    if missed is None or missed.deployment.digest == announced:
        return missed
    with contextlib.suppress(DeviceError), health_record.edit() as record:
        record.missed = None
    return None


def finalize_failure() -> str | None:
    """What ostree says of a version that it could not put in place at the last shutdown, as one line."""
    try:
        with at(FINALIZE_FAILURE).open("rb") as file:
            return " ".join(file.read(1000).decode(errors="replace").split())
    except OSError:
        return None


def explain_missed(missed: Missed) -> Outcome:
    """What a person is told about a version that could not be put in place."""
    often = "at the last shutdown" if missed.times == 1 else f"at {missed.times} shutdowns"
    why = f" ({missed.reason})" if missed.reason else ""
    return Outcome(
        Code.FAILED,
        f"veilor-os {missed.deployment.version} could not be put in place {often}{why}",
        "what ran before runs on, and the machine gets no updates while that lasts",
        "most often /boot lacks room or the local SELinux policy cannot be built; "
        "once that is mended (section 7 of docs/RECOVERY.md), `veilor-update` tries again",
    )


def begin_return(trial: Trial) -> Outcome:
    """GRUB has used up the tries of TRIAL and started the version before."""
    boot_counter.set_counter(RETURNING)  # first: without the record, the next start is of this version again
    with health_record.edit() as record:
        again = record.back is not None and unproved_again(trial, record.back)
        record.back = Return(replace(trial, when=state.format_now()), handled=False, again=again)
        record.armed = None
    return Outcome(Code.DONE, "The boot loader went back to the version before")


def is_blameless(trial: Trial) -> bool:
    """Whether nothing is known against the version of TRIAL: nobody unlocked it, or nobody logged in."""
    return not trial.failures and trial.passed >= trial.unlocked


def unproved_again(trial: Trial, before: Return) -> bool:
    """Whether TRIAL and the return BEFORE it were of one image, with nothing known against it both times."""
    if not is_blameless(trial) or not is_blameless(before.trial):
        return False
    return trial.target.digest == before.trial.target.digest


def finish_return() -> Outcome:
    """After an automatic return: make the version before the default again, and say why."""
    record = health_record.read()
    back = record.back
    if record.missed is not None:
        tell.announce("health", explain_missed(record.missed))
    if back is None or back.handled:
        return Outcome(Code.DONE, "This boot is no automatic return")
    trial, outcome = back.trial, explain_return(back)
    if trial.source.digest in state.withdrawn():
        note = f"{trial.source.version} was withdrawn by its makers, so don't stay with it for long"
        outcome = replace(outcome, means=f"{outcome.means}; {note}")
    tell.announce("health", outcome)  # first: a full disk or a lock must not keep it from the person
    with state.exclusive_lock(60):
        if trial.target.digest and (back.again or not is_blameless(trial)):
            state.hold_back(trial.target.digest, str(trial.target.version), "health", outcome.what)
        if is_target(first_entry(), trial):
            bootc.rollback()
        if is_target(first_entry(), trial):
            raise DeviceError(
                "The version before could not be made the default again",
                "the next restart starts it all the same",
                "run `veilor-rollback`",
            )
        boot_counter.clear_counter()
    with health_record.edit() as record:
        record.back = replace(record.back or back, handled=True, reason=outcome.line())
    return outcome


def explain_return(back: Return) -> Outcome:
    """What a person is told about an automatic return."""
    new, old = f"veilor-os {back.trial.target.version}", back.trial.source.version
    if not is_blameless(back.trial):
        failures = "; ".join(back.trial.failures)
        why = (
            f"failed its health check ({failures})"
            if failures
            else "never came to the end of its health check"
        )
        return Outcome(
            Code.DONE,
            f"{new} was started {TRIES} times and {why}, so the machine went back to {old} by itself",
            "your files are as they were",
            "it is not installed again until something newer is announced",
        )
    if back.trial.passed:
        what, likely = "nobody logged in", "the login screen cannot be used"
        innocent = "most likely nobody wanted to, which says nothing against it"
    else:
        what, likely = "the disk was not seen to be unlocked", "that version stops right after it"
        innocent = "most likely nobody typed the passphrase, which says nothing against it"
    started = f"{new} was started {TRIES} times and {what}, so {old} was started again"
    if back.again:
        return Outcome(
            Code.DONE,
            f"For the second time {started}",
            f"either nobody was there, or {likely}",
            "it is not installed again until something newer is announced",
        )
    return Outcome(Code.DONE, started, innocent, "it will be offered once more")


# The verdict


def run_checks() -> Outcome:
    """Run the named checks, and leave what failed for `note_failure`.

    Of a version on trial, what failed on the one before as well is told and not held against it. Of any
    other, what failed is noted, for whatever comes after it.
    """
    record = health_record.read()
    on_trial = booted_trial(record) is not None
    failing: dict[str, list[str]] = {}
    for name in checks.CHECKS:
        found = checks.find_faults(name)
        print(f"FAILED  {name}: {'; '.join(found)}" if found else f"ok  {name}", flush=True)
        if found:
            failing[name] = found
    excused = [name for name in failing if on_trial and name in record.failing]
    blamed = [text for name, found in failing.items() if name not in excused for text in found]
    if not on_trial:
        note_failing(tuple(failing))
    state.write_record(FAILURES, {"schema": 1, "failures": blamed})
    if blamed:
        return Outcome(Code.FAILED, f"The health check failed: {'; '.join(blamed)}")
    if excused:
        sentences = "; ".join(text for name in excused for text in failing[name])
        means = "the version before has the same, so this one is kept"
        return announce_kept(f"The health check found: {sentences}", means)
    return Outcome(Code.DONE, "Healthy")


def note_failing(names: tuple[str, ...]) -> None:
    """Note that the checks NAMES fail on the version that runs."""
    with contextlib.suppress(DeviceError), health_record.edit() as record:
        record.failing = names


def note_failure() -> Outcome:
    """This boot was called bad: a new version is restarted, and GRUB goes back after the last try."""
    reasons = [str(one) for one in state.get_list(state.read_record(FAILURES), "failures")]
    said = f"The health check failed ({'; '.join(reasons) or 'see journalctl -u ' + CHECK_UNIT})"
    if not may_restart(health_record.read()):
        return announce_kept(said, "this version has worked before, so it is kept", way_out())
    with contextlib.suppress(DeviceError), health_record.edit() as record:
        if record.armed is not None:
            failures = tuple(dict.fromkeys([*record.armed.failures, *reasons]))
            record.armed = replace(record.armed, failures=failures[:KEPT_FAILURES])
    counter = boot_counter.read_counter()
    if counter is None:
        means = "this new version is kept, since the boot loader does not count its starts"
        return announce_kept(said, means, way_out())
    if checks.somebody_is_logged_in():
        means = "it is not restarted, since somebody is logged in"
        return announce_kept(said, means, f"save your work; {way_out()}")
    last = (
        "That was the last try: restarting into the version before" if counter == RETURNING else "Restarting"
    )
    tell.on_screen(f"{said}. {last}")
    run(["systemctl", "--no-block", "reboot"], timeout=60)
    return Outcome(Code.DONE, said)


def announce_kept(what: str, means: str, then: str = "") -> Outcome:
    """Tell the person WHAT the check found on a version that goes on running all the same."""
    outcome = Outcome(Code.DONE, what, means, then)
    tell.announce("health", outcome)
    return outcome


def way_out() -> str:
    """What a person can do about a version that fails its check: a rollback needs room on the disk."""
    full = bootc.find_full_disk()
    return bootc.ROOM[full] if full else "`veilor-rollback` leads to the one before it"


def note_success() -> Outcome:
    """The checks of this boot are good. Where people log in on a screen, a new version is still on trial."""
    with contextlib.suppress(DeviceError):
        state.replace_file(GOOD, b"", 0o644)
    record = health_record.read()
    on_trial = booted_trial(record) is not None
    if not on_trial and needs_counter(record):
        return Outcome(Code.DONE, "Healthy; the starts of another version are still counted")
    if on_trial and checks.is_desktop() and not checks.somebody_is_logged_in():
        state.replace_file(AWAITS_LOGIN, b"", 0o644)  # first: the disk may be too full for the record
        with contextlib.suppress(DeviceError), health_record.edit() as record:
            if record.armed is not None:
                record.armed = replace(record.armed, passed=record.armed.passed + 1)
        return Outcome(Code.DONE, "Healthy; the first login proves it")
    return prove()


def prove() -> Outcome:
    """What runs has proved itself: nothing is on trial, and after enough good updates the bootstrap may go.

    GRUB's counter goes first. Cut between the two, the version is tried once more; in the other order a
    counter would stand that nobody knows of.
    """
    boot_counter.clear_counter()
    with health_record.edit() as record:
        trial = booted_trial(record)
        if trial is not None:
            if trial.target.digest not in [one.digest for one in record.healthy]:
                record.healthy += (Proven(trial.target.digest, trial.by),)
            record.armed, record.missed = None, None
    unpin_bootstrap(record)
    return Outcome(Code.DONE, "Healthy")


def awaits_proof() -> bool:
    """Whether what runs is still on trial. Somebody who is logged in proves it now."""
    if booted_trial(health_record.read()) is None:
        return False
    wait_for_verdict()
    if at(GOOD).exists() and checks.somebody_is_logged_in():
        prove()
    return health_record.read().armed is not None


def wait_for_login() -> Outcome:
    """Wait until somebody has logged in: then a new version has proved itself. It ends with the machine."""
    while not checks.somebody_is_logged_in():
        time.sleep(LOOKS_AGAIN)
    if booted_trial(health_record.read()) is None:
        return Outcome(Code.DONE, "Another version is on trial by now")
    return prove()


def unpin_bootstrap(record: HealthRecord) -> None:
    """Let updates remove what the installer wrote once KEPT_UPDATES updates in RECORD were good.

    Not while it is booted or the way back: then it is none of the others that bootc lists.
    """
    bootstrap = record.bootstrap
    if bootstrap is None or bootstrap.unpinned:
        return
    if sum(one.by == "update" for one in record.healthy) < KEPT_UPDATES:
        return
    for entry in bootc.status().others:
        if not entry.pinned or entry.deployment != bootstrap.deployment.identity:
            continue
        if bootc.unpin(entry):
            with health_record.edit() as now:
                now.bootstrap = replace(now.bootstrap or bootstrap, unpinned=state.format_now())


def restart_if_hanging() -> Outcome:
    """Some minutes after the unlock, or in emergency mode: restart a new version that was not called good."""
    record, path = find_record()
    if record.armed is None or not may_restart(record):
        return Outcome(Code.DONE, "Nothing hangs")
    if checks.somebody_is_logged_in() or checks.show_unit("rescue.target").get("ActiveState") == "active":
        return Outcome(Code.DONE, "Somebody works on this machine: it is not restarted")
    counted, unlocked = boot_counter.read_counter() is not None, record.armed.unlocked
    if not counted and unlocked >= FORCED:
        return Outcome(
            Code.DONE,
            "This version hangs, and the boot loader does not count its starts: it is not restarted any more",
        )
    noted = False
    with contextlib.suppress(DeviceError), health_record.edit(path) as now:
        if now.armed is not None:
            # Emergency mode came before the unlock was noted, but not before the disk was unlocked.
            now.armed = replace(now.armed, unlocked=max(unlocked, 1) if counted else unlocked + 1)
        noted = True
    if not counted and not noted:
        return Outcome(Code.DONE, "This version hangs, and nobody can count its starts: it is not restarted")
    tell.on_screen("this new version did not come to the end of its health check: restarting")
    run(["systemctl", "reboot", "--force"], timeout=120)
    return Outcome(Code.DONE, "Restarting")


def find_record() -> tuple[HealthRecord, str]:
    """The record and its path: in emergency mode /var may not be mounted, and it lies below /sysroot."""
    if state.read_record(state.HEALTH):
        return health_record.read(), state.HEALTH
    for file in at("/sysroot/ostree/deploy").glob(f"*{state.HEALTH}"):
        path = f"/{file.relative_to(at('/'))}"
        return health_record.read(path), path
    return HealthRecord.from_dict({}), state.HEALTH


MOMENTS: dict[str, Callable[[], Outcome]] = {
    "unlocked": note_unlock,
    "return": finish_return,
    "check": run_checks,
    "failed": note_failure,
    "healthy": note_success,
    "login": wait_for_login,
    "deadline": restart_if_hanging,
    "count": count_starts,
    "settle": settle_counter,
}


def main(argv: list[str]) -> int:
    """The program `health MOMENT`, started by units, not by people."""
    parser = tell.parser(
        "health", "The moments of a boot that decide whether a new version stays.", Code.UNFIT, as_json=False
    )
    parser.add_argument("moment", choices=MOMENTS)
    return tell.conclude(parser, argv, lambda args: MOMENTS[args.moment]())
