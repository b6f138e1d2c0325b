"""Whether a new deployment works, and the way back from one that doesn't.

GRUB counts the first boots of what was staged: `boot_counter` 3, 2, 1, 0, then it boots the entry before
(-1), as long as greenboot's health check has not called a boot good. `arm` starts that; MOMENTS are what is
done in the course of a boot. What is remembered between boots: health_record.py.
"""

import contextlib
import os
import re
import time
from collections.abc import Callable
from dataclasses import replace

from veilor.core.host import Entry
from veilor.core.outcome import Code, Outcome
from veilor.device import bootc, channel, health_record, state, tell
from veilor.device.health_record import Deployment, HealthRecord, Proven, Return, Trial
from veilor.device.run import DeviceError, at, run

GRUBENV = "/boot/grub2/grubenv"
CHECKER = "greenboot-healthcheck.service"
FAILURES = "/run/veilor/health-failures.json"
PROBE = "/var/lib/veilor/.health-check"
STAGED = "/run/ostree/staged-deployment"  # is there while something waits to be deployed at shutdown
# GRUB's boot_counter: how many boots a new version gets, what stands there in the last of them, and what
# after GRUB has gone back to the version before
TRIES = 3
LAST_TRY = 0
WENT_BACK = -1
KEPT_UPDATES = 2  # healthy updates until the bootstrap may go
KEPT_FAILURES = 20


def grub_variables() -> dict[str, str]:
    """GRUB's saved variables. Raises DeviceError."""
    done = run(["grub2-editenv", str(at(GRUBENV)), "list"], timeout=30)
    if done.code:
        raise DeviceError(f"{GRUBENV} cannot be read ({done.reason})")
    return dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)


def boot_counter() -> int | None:
    """GRUB's boot counter; None when it is off or cannot be read."""
    try:
        return int(grub_variables()["boot_counter"])
    except (DeviceError, LookupError, ValueError):
        return None


def write_grub(*words: str) -> None:
    """`grub2-editenv GRUBENV WORDS`, down to the disk. Raises DeviceError."""
    try:
        if os.statvfs(at("/boot")).f_flag & os.ST_RDONLY:  # greenboot leaves it so
            run(["mount", "-o", "remount,rw", str(at("/boot"))], timeout=60)
        done = run(["grub2-editenv", str(at(GRUBENV)), *words], timeout=30)
        if done.code:
            raise DeviceError(f"{GRUBENV} cannot be written ({done.reason})")
        with at(GRUBENV).open("rb") as file:
            os.fsync(file.fileno())
    except OSError as error:
        raise DeviceError(f"{GRUBENV} cannot be written ({error.strerror})") from None


def arm(source: Entry, target: Deployment, by: str) -> None:
    """Have GRUB count the boots of TARGET (its checksum may still be None), with SOURCE to go back to.

    BY is "first boot" or "update". Armed before TARGET can boot, so that no boot of it goes uncounted; if it
    is never deployed, the next good boot of SOURCE disarms. Raises DeviceError when this machine has no such
    counter.
    """
    wait_for_checker()
    with health_record.edit() as record:
        record.armed = Trial(target, Deployment.from_entry(source), by, state.format_now())
    write_grub("set", f"boot_counter={TRIES}", "boot_success=0")
    if boot_counter() != TRIES:
        raise DeviceError(f"{GRUBENV} does not keep what is written to it")


def armed_for(target: Entry) -> bool:
    """Whether the counter stands ready for TARGET."""
    trial = health_record.read().armed
    if trial is None or trial.target.identity != target.deployment:
        return False
    return boot_counter() == TRIES


def disarm() -> None:
    """Stop counting: nothing new boots next.

    A counter that stays all the same is removed by the next good boot.
    """
    with health_record.edit() as record:
        was, record.armed = record.armed, None
    if was:
        with contextlib.suppress(DeviceError):
            write_grub("unset", "boot_counter")


def wait_for_checker(limit: float = 180) -> None:
    """Wait until this boot's health check has ended, at most LIMIT seconds.

    It would remove a counter that is set before.
    """
    deadline = time.monotonic() + limit
    while run(["systemctl", "is-active", CHECKER], timeout=30).out.strip() == "activating":
        if time.monotonic() >= deadline:
            return
        time.sleep(1)


def booted_deployment() -> tuple[str, int] | None:
    """Checksum and serial of what runs, from the kernel's command line.

    No program is needed for that, so it works on a broken system too.
    """
    try:
        link = re.search(r"(?:^|\s)ostree=(/\S+)", at("/proc/cmdline").read_text())
    except OSError:
        return None
    if link is None:
        return None
    folder = os.path.basename(os.path.realpath(at("/sysroot" + link[1])))
    found = re.fullmatch(r"([0-9a-f]{64})\.([0-9]+)", folder)
    return (found[1], int(found[2])) if found else None


def runs_target(trial: Trial) -> bool:
    """Whether what runs is the deployment that TRIAL counts."""
    booted = booted_deployment()
    if booted is None:
        return False
    if booted == trial.source.identity:
        return False
    if trial.target.checksum is None:  # armed before it was staged: it is whatever is not the source
        return True
    return trial.target.checksum == booted[0]


def disk_is_full() -> bool:
    """Whether /var has no room at all: no version's fault, and the one before would find it the same."""
    try:
        return os.statvfs(at("/var")).f_bavail == 0
    except OSError:
        return False


def check_deployment() -> list[str]:
    """bootc answers, and knows what is booted."""
    return [] if bootc.status().booted else ["no deployment is booted"]


def check_trust() -> list[str]:
    """This version could verify the next one."""
    return channel.trust_problems(channel.product())


def check_floor() -> list[str]:
    """The lowest sequence number that this version accepts can be read."""
    return [] if channel.floor() >= 0 else ["the channel's floor is below zero"]


def check_memory() -> list[str]:
    """What the machine remembers can be written."""
    if not disk_is_full():
        state.write_record(PROBE, {})
        at(PROBE).unlink()
    return []


# Each gives what is wrong, as sentences, or raises DeviceError.
CHECKS: dict[str, Callable[[], list[str]]] = {
    "deployment": check_deployment,
    "trust": check_trust,
    "floor": check_floor,
    "memory": check_memory,
}


def run_checks() -> Outcome:
    """Run the named checks, and leave what failed for `note_failure`; none needs a network."""
    failures = []
    for name, check in CHECKS.items():
        try:
            found = check()
        except DeviceError as error:
            found = [error.outcome.what]
        print(f"FAILED  {name}: {'; '.join(found)}" if found else f"ok  {name}", flush=True)
        failures += found
    state.write_record(FAILURES, {"schema": 1, "failures": failures})
    if failures:
        return Outcome(Code.FAILED, f"The health check failed: {'; '.join(failures)}")
    return Outcome(Code.DONE, "Healthy")


def note_unlock() -> Outcome:
    """Right after the disk was unlocked: note which deployment this boot is of."""
    with health_record.edit() as record:
        trial = record.armed
        if trial is None:
            return Outcome(Code.DONE, "No new version is being tried")
        if runs_target(trial):
            trial = replace(trial, unlocked=trial.unlocked + 1)
            record.armed = trial
            return Outcome(Code.DONE, f"Boot {trial.unlocked} of a new version that was unlocked")
        # Staged is what a power cut loses: then nothing new is there to be counted.
        record.armed = None
        if boot_counter() != WENT_BACK:
            return Outcome(Code.DONE, "The new version is not what runs")
        if booted_deployment() == trial.source.identity:
            again = record.back is not None and never_unlocked_again(trial, record.back)
            record.back = Return(replace(trial, when=state.format_now()), handled=False, again=again)
        return Outcome(Code.DONE, "The boot loader went back to an older version")


def never_unlocked_again(trial: Trial, before: Return) -> bool:
    """Whether TRIAL and the return BEFORE it were of one image that nobody unlocked either time."""
    if trial.unlocked or before.trial.unlocked:
        return False
    return trial.target.digest == before.trial.target.digest


def finish_return() -> Outcome:
    """After an automatic return: make what runs the default again, and say why."""
    back = health_record.read().back
    if back is None or back.handled:
        return Outcome(Code.DONE, "This boot is no automatic return")
    trial, outcome = back.trial, explain_return(back)
    tell.announce("health", outcome)  # first: a full disk or a lock must not keep it from the person
    runs_source = booted_deployment() == trial.source.identity
    with state.exclusive_lock(60):
        if trial.target.digest and (trial.unlocked or back.again):
            state.hold_back(trial.target.digest, str(trial.target.version), "health", outcome.what)
        if runs_source and bootc.status().rollback_queued:
            bootc.rollback()
        if runs_source and bootc.status().rollback_queued:
            raise DeviceError(
                "The version that runs could not be made the default again",
                "the next restart may try the failed one",
                "run `veilor-rollback`",
            )
        write_grub("unset", "boot_counter")
    with health_record.edit() as record:
        record.back = replace(record.back or back, handled=True, reason=outcome.line())
    return outcome


def explain_return(back: Return) -> Outcome:
    """What a person is told about an automatic return."""
    new, old = f"veilor-os {back.trial.target.version}", back.trial.source.version
    if back.again:
        return Outcome(
            Code.DONE,
            f"For the second time {new} was started {TRIES} times and the disk was not seen to be unlocked, "
            f"so {old} was started again",
            "either nobody typed the passphrase, or that version stops right after it",
            "it is not installed again until something newer is announced",
        )
    if not back.trial.unlocked:
        return Outcome(
            Code.DONE,
            f"{new} was started {TRIES} times and the disk was not seen to be unlocked, so {old} was "
            "started again",
            "most likely nobody typed the passphrase, which says nothing against it",
            "it will be offered once more",
        )
    failures = "; ".join(back.trial.failures)
    why = f"failed its health check ({failures})" if failures else "never came to the end of its health check"
    return Outcome(
        Code.DONE,
        f"{new} was started {TRIES} times and {why}, so the machine went back to {old} by itself",
        "your files are as they were",
        "it is not installed again until something newer is announced",
    )


def note_failure() -> Outcome:
    """greenboot has called this boot bad.

    While there are tries left greenboot restarts by itself; after the last one we do.
    """
    reasons = [str(one) for one in state.get_list(state.read_record(FAILURES), "failures")]
    with health_record.edit() as record:
        trial = record.armed
        if trial is not None and not runs_target(trial):
            trial = None
        if trial is not None:
            failures = tuple(dict.fromkeys([*trial.failures, *reasons]))
            record.armed = replace(trial, failures=failures[:KEPT_FAILURES])
    said = f"The health check failed ({'; '.join(reasons) or 'see journalctl -u ' + CHECKER})"
    if trial is None:
        outcome = Outcome(
            Code.DONE,
            said,
            "this version has worked before, so it is kept",
            "`veilor-rollback` leads to the one before it",
        )
        tell.announce("health", outcome)
        return outcome
    if boot_counter() == LAST_TRY:
        tell.on_screen(f"{said}. That was the last try: restarting into the version before")
        run(["systemctl", "--no-block", "reboot"], timeout=60)
    return Outcome(Code.DONE, said)


def note_success() -> Outcome:
    """greenboot has called this boot good: stop counting, and after enough good updates unpin the bootstrap.

    greenboot means to remove the counter itself, but has made /boot read-only just before and doesn't notice.
    """
    with health_record.edit() as record:
        trial = record.armed
        if trial is not None:
            good = runs_target(trial)
            if good and trial.target.digest not in [one.digest for one in record.healthy]:
                record.healthy += (Proven(trial.target.digest, trial.by),)
            if good or not at(STAGED).exists():
                record.armed = None  # else it counts what was staged while this boot was still being judged
    if record.armed is not None:
        # greenboot removes the counter regardless of its deployment
        write_grub("set", f"boot_counter={TRIES}", "boot_success=0")
    elif boot_counter() is not None:
        write_grub("unset", "boot_counter")
    unpin_bootstrap(record)
    return Outcome(Code.DONE, "Healthy")


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


def settle_counter() -> Outcome:
    """After the health check, whichever way it ended: the counter counts only what we armed.

    greenboot starts it by itself for any failed boot, which would lead a machine with, say, a full disk
    through restarts into an older system. And it removes it after a return, also while that return is not yet
    dealt with.
    """
    back = health_record.read().back
    if back is not None and not back.handled:
        write_grub("set", f"boot_counter={WENT_BACK}", "boot_success=0")
        return Outcome(
            Code.DONE,
            "The automatic return is still to be dealt with; the boot loader stays with this version",
        )
    with health_record.edit() as record:  # held, so that nobody arms in between
        if record.armed is None and boot_counter() is not None:
            write_grub("unset", "boot_counter")
    return Outcome(Code.DONE, "Settled")


def restart_if_hanging() -> Outcome:
    """Some minutes after the unlock, or in emergency mode: restart a new version that was not called good."""
    if not hangs():
        return Outcome(Code.DONE, "Nothing hangs")
    # whatever is broken, the machine must restart
    with contextlib.suppress(DeviceError), health_record.edit() as record:
        if record.armed is not None and not record.armed.unlocked:
            # emergency mode came before that was noted, but not before the disk was unlocked
            record.armed = replace(record.armed, unlocked=1)
    tell.on_screen("this new version did not come to the end of its health check: restarting")
    run(["systemctl", "reboot", "--force"], timeout=120)
    return Outcome(Code.DONE, "Restarting")


def hangs() -> bool:
    """Whether what runs is a new version whose boots are still counted."""
    data = state.read_record(state.HEALTH)
    if not data:  # emergency mode, and /var is not mounted
        for path in at("/sysroot/ostree/deploy").glob(f"*{state.HEALTH}"):
            data = state.read_record(f"/{path.relative_to(at('/'))}")
    trial = HealthRecord.from_dict(data).armed
    if trial is None or not runs_target(trial):
        return False
    if not at(GRUBENV).exists():  # where /boot is not mounted GRUB has counted all the same
        return True
    return boot_counter() is not None


MOMENTS: dict[str, Callable[[], Outcome]] = {
    "check": run_checks,
    "unlocked": note_unlock,
    "return": finish_return,
    "failed": note_failure,
    "healthy": note_success,
    "settle": settle_counter,
    "deadline": restart_if_hanging,
}


def main(argv: list[str]) -> int:
    """The program `health MOMENT`, started by units and by greenboot's folders, not by people."""
    parser = tell.parser(
        "health", "The moments of a boot that decide whether a new version stays.", Code.UNFIT, as_json=False
    )
    parser.add_argument("moment", choices=MOMENTS)
    return tell.conclude(parser, argv, lambda args: MOMENTS[args.moment]())
