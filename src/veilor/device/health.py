"""Whether a new deployment works, and the way back from one that doesn't.

GRUB counts the first boots of what was staged: `boot_counter` 3, 2, 1, 0, then it boots the entry before
(-1), as long as greenboot's health check has not called a boot good. `arm` starts that; the rest here are the
moments of a boot.

health.json: {"schema": 1, "armed": null | {"target": DEPLOYMENT, "from": DEPLOYMENT, "by", "unlocked": boots
that got past the passphrase, "failures": [sentence], "when"}, "return": null | {the same, "handled": bool,
"again": never unlocked for the second time, "reason"}, "bootstrap": null | {DEPLOYMENT, "unpinned"},
"healthy": [{"digest", "by"}]}; DEPLOYMENT: {"digest", "version", "checksum", "serial"}.
"""

import contextlib
import os
import re
import time

from veilor.core.host import Entry
from veilor.core.outcome import Code, Outcome
from veilor.device import bootc, channel, state, tell
from veilor.device.run import DeviceError, at, run

GRUBENV = "/boot/grub2/grubenv"
CHECKER = "greenboot-healthcheck.service"
FAILURES = "/run/veilor/health-failures.json"
PROBE = "/var/lib/veilor/.health-check"
TRIES = 3
KEPT_UPDATES = 2  # healthy updates until the bootstrap may go


def grub() -> dict[str, str]:
    """GRUB's saved variables. Raises DeviceError."""
    done = run(["grub2-editenv", str(at(GRUBENV)), "list"], timeout=30)
    if done.code:
        raise DeviceError(f"{GRUBENV} cannot be read ({done.reason})")
    return dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)


def counter() -> int | None:
    """GRUB's boot counter; None when it is off or cannot be read."""
    try:
        return int(grub()["boot_counter"])
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


def describe(entry: Entry) -> dict:
    """ENTRY as health.json keeps it."""
    return {
        "digest": entry.digest,
        "version": entry.title,
        "checksum": entry.checksum,
        "serial": entry.serial,
    }


def arm(source: Entry, target: dict, by: str) -> None:
    """Have GRUB count the boots of TARGET (a DEPLOYMENT, its checksum may still be None), with SOURCE to go
    back to.

    BY is "first boot" or "update". Armed before TARGET can boot, so that no boot of it goes uncounted; if it
    is never deployed, the next good boot of SOURCE disarms. Raises DeviceError when this machine has no such
    counter.
    """
    wait_for_checker()
    with state.edit_record(state.HEALTH) as data:
        data["armed"] = {
            "target": target,
            "from": describe(source),
            "by": by,
            "unlocked": 0,
            "failures": [],
            "when": state.format_now(),
        }
    write_grub("set", f"boot_counter={TRIES}", "boot_success=0")
    if counter() != TRIES:
        raise DeviceError(f"{GRUBENV} does not keep what is written to it")


def armed_for(target: Entry) -> bool:
    """Whether the counter stands ready for TARGET."""
    armed = state.get_dict(state.get_dict(state.read_record(state.HEALTH), "armed"), "target")
    return (armed.get("checksum"), armed.get("serial")) == target.deployment and counter() == TRIES


def disarm() -> None:
    """Stop counting: nothing new boots next. A counter that stays all the same is taken away by the next good
    boot.
    """
    with state.edit_record(state.HEALTH) as data:
        was, data["armed"] = data.get("armed"), None
    if was:
        with contextlib.suppress(DeviceError):
            write_grub("unset", "boot_counter")


def wait_for_checker(limit: float = 180) -> None:
    """Wait until this boot's health check has ended: it would take the counter that is set before."""
    deadline = time.monotonic() + limit
    while (
        run(["systemctl", "is-active", CHECKER], timeout=30).out.strip() == "activating"
        and time.monotonic() < deadline
    ):
        time.sleep(1)


def booted_deployment() -> tuple[str, int] | None:
    """Checksum and serial of what runs, from the kernel's command line: no program needed, so it works on a
    broken one too.
    """
    try:
        link = re.search(r"(?:^|\s)ostree=(/\S+)", at("/proc/cmdline").read_text())
    except OSError:
        return None
    found = link and re.fullmatch(
        r"([0-9a-f]{64})\.([0-9]+)", os.path.basename(os.path.realpath(at("/sysroot" + link[1])))
    )
    return (found[1], int(found[2])) if found else None


def runs_target(armed: dict) -> bool:
    """Whether what runs is the deployment that ARMED counts."""
    booted, target, source = (
        booted_deployment(),
        state.get_dict(armed, "target"),
        state.get_dict(armed, "from"),
    )
    return (
        booted is not None
        and booted != (source.get("checksum"), source.get("serial"))
        and target.get("checksum") in (None, booted[0])
    )


def full() -> bool:
    """Whether /var has no room at all: no version's fault, and the one before would find it the same."""
    try:
        return os.statvfs(at("/var")).f_bavail == 0
    except OSError:
        return False


# Each gives what is wrong, as sentences, or raises DeviceError.
CHECKS = {
    "deployment": lambda: [] if bootc.status().booted else ["no deployment is booted"],
    "trust": lambda: channel.trust_problems(channel.product()),
    "floor": lambda: [] if channel.floor() >= 0 else ["the channel's floor is below zero"],
    "memory": lambda: [] if full() else state.write_record(PROBE, {}) or at(PROBE).unlink() or [],
}


def check() -> Outcome:
    """Run the named checks; none needs a network."""

    failures = []
    for name, work in CHECKS.items():
        try:
            found = work()
        except DeviceError as error:
            found = [error.outcome.what]
        print(f"{'FAILED' if found else 'ok'}  {name}{': ' * bool(found)}{'; '.join(found)}", flush=True)
        failures += found
    state.write_record(FAILURES, {"schema": 1, "failures": failures})
    if failures:
        return Outcome(Code.FAILED, f"The health check failed: {'; '.join(failures)}")
    return Outcome(Code.DONE, "Healthy")


def unlocked() -> Outcome:
    """Right after the disk was unlocked: note which deployment this boot is of."""
    with state.edit_record(state.HEALTH) as data:
        armed = data.get("armed")
        if not isinstance(armed, dict):
            return Outcome(Code.DONE, "No new version is being tried")
        source = state.get_dict(armed, "from")
        if runs_target(armed):
            number = armed.get("unlocked")
            armed["unlocked"] = (number if isinstance(number, int) else 0) + 1
            return Outcome(Code.DONE, f"Boot {armed['unlocked']} of a new version that was unlocked")
        # Staged is what a power cut loses: then nothing new is there to be counted.
        data["armed"] = None
        if counter() != -1:
            return Outcome(Code.DONE, "The new version is not what runs")
        if booted_deployment() == (source.get("checksum"), source.get("serial")):
            before = state.get_dict(data, "return")
            again = state.get_dict(before, "target").get("digest") == state.get_dict(armed, "target").get(
                "digest"
            ) and not before.get("unlocked")
            data["return"] = {
                **armed,
                "handled": False,
                "again": again and not armed.get("unlocked"),
                "when": state.format_now(),
            }
        return Outcome(Code.DONE, "The boot loader went back to an older version")


def go_back() -> Outcome:
    """After an automatic return: make what runs the default again, and say why."""
    back = state.read_record(state.HEALTH).get("return")
    if not isinstance(back, dict) or back.get("handled") is not False:
        return Outcome(Code.DONE, "This boot is no automatic return")
    target, source = state.get_dict(back, "target"), state.get_dict(back, "from")
    outcome = explain_return(target, source, back)
    tell.announce("health", outcome)  # first: a full disk or a lock must not keep it from the person
    runs_source = booted_deployment() == (source.get("checksum"), source.get("serial"))
    with state.exclusive_lock(60):
        if (back.get("unlocked") or back.get("again")) and isinstance(target.get("digest"), str):
            state.hold_back(target["digest"], str(target.get("version")), "health", outcome.what)
        if runs_source and bootc.status().rollback_queued:
            bootc.rollback()
        if runs_source and bootc.status().rollback_queued:
            raise DeviceError(
                "The version that runs could not be made the default again",
                "the next restart may try the failed one",
                "run `veilor-rollback`",
            )
        write_grub("unset", "boot_counter")
    with state.edit_record(state.HEALTH) as data:
        state.get_dict(data, "return").update(handled=True, reason=outcome.line())
    return outcome


def explain_return(target: dict, source: dict, back: dict) -> Outcome:
    """What a person is told about an automatic return."""
    new, old = f"veilor-os {target.get('version')}", source.get("version")
    if back.get("again"):
        return Outcome(
            Code.DONE,
            f"For the second time {new} was started {TRIES} times and the disk was not seen to be unlocked, "
            f"so {old} was started again",
            "either nobody typed the passphrase, or that version stops right after it",
            "it is not installed again until something newer is announced",
        )
    if not back.get("unlocked"):
        return Outcome(
            Code.DONE,
            f"{new} was started {TRIES} times and the disk was not seen to be unlocked, so {old} was "
            "started again",
            "most likely nobody typed the passphrase, which says nothing against it",
            "it will be offered once more",
        )
    failures = "; ".join(map(str, state.get_list(back, "failures")))
    why = f"failed its health check ({failures})" if failures else "never came to the end of its health check"
    return Outcome(
        Code.DONE,
        f"{new} was started {TRIES} times and {why}, so the machine went back to {old} by itself",
        "your files are as they were",
        "it is not installed again until something newer is announced",
    )


def failed() -> Outcome:
    """greenboot has called this boot bad. While there are tries left it restarts by itself; after the last
    one we do.
    """
    reasons = [str(one) for one in state.get_list(state.read_record(FAILURES), "failures")]
    with state.edit_record(state.HEALTH) as data:
        armed = data.get("armed")
        counts = isinstance(armed, dict) and runs_target(armed)
        if counts:
            armed["failures"] = list(dict.fromkeys([*map(str, state.get_list(armed, "failures")), *reasons]))[
                :20
            ]
    said = f"The health check failed ({'; '.join(reasons) or 'see journalctl -u ' + CHECKER})"
    if not counts:
        outcome = Outcome(
            Code.DONE,
            said,
            "this version has worked before, so it is kept",
            "`veilor-rollback` leads to the one before it",
        )
        tell.announce("health", outcome)
        return outcome
    if counter() == 0:
        tell.on_screen(f"{said}. That was the last try: restarting into the version before")
        run(["systemctl", "--no-block", "reboot"], timeout=60)
    return Outcome(Code.DONE, said)


def healthy() -> Outcome:
    """greenboot has called this boot good: stop counting, and after enough good updates let the bootstrap go.

    greenboot means to take the counter away itself, but has made /boot read-only just before and doesn't
    notice.
    """
    with state.edit_record(state.HEALTH) as data:
        armed, known = (
            data.get("armed"),
            [one for one in state.get_list(data, "healthy") if isinstance(one, dict)],
        )
        if isinstance(armed, dict):
            digest = state.get_dict(armed, "target").get("digest")
            if runs_target(armed) and digest not in [one.get("digest") for one in known]:
                known.append({"digest": digest, "by": armed.get("by")})
            if runs_target(armed) or not at("/run/ostree/staged-deployment").exists():
                data["armed"] = None  # else it counts what was staged while this boot was still being judged
            data["healthy"] = known
        waiting = isinstance(data.get("armed"), dict)
        updates, bootstrap = sum(one.get("by") == "update" for one in known), data.get("bootstrap")
    if waiting:
        write_grub(
            "set", f"boot_counter={TRIES}", "boot_success=0"
        )  # greenboot takes it away, whomever it counts
    elif counter() is not None:
        write_grub("unset", "boot_counter")
    if updates >= KEPT_UPDATES and isinstance(bootstrap, dict) and not bootstrap.get("unpinned"):
        for entry in bootc.status().others:  # not while it is booted or the way back
            if (
                entry.pinned
                and entry.deployment == (bootstrap.get("checksum"), bootstrap.get("serial"))
                and bootc.unpin(entry)
            ):
                with state.edit_record(state.HEALTH) as data:
                    state.get_dict(data, "bootstrap")["unpinned"] = state.format_now()
    return Outcome(Code.DONE, "Healthy")


def settle() -> Outcome:
    """After the health check, whichever way it ended: the counter counts only what we armed.

    greenboot starts it by itself for any failed boot, which would lead a machine with, say, a full disk
    through restarts into an older system. And it takes it away after a return, also while that return is not
    yet dealt with.
    """
    record = state.read_record(state.HEALTH)
    back = record.get("return")
    if isinstance(back, dict) and back.get("handled") is False:
        write_grub("set", "boot_counter=-1", "boot_success=0")
        return Outcome(
            Code.DONE,
            "The automatic return is still to be dealt with; the boot loader stays with this version",
        )
    with state.edit_record(state.HEALTH) as data:  # held, so that nobody arms in between
        if not isinstance(data.get("armed"), dict) and counter() is not None:
            write_grub("unset", "boot_counter")
    return Outcome(Code.DONE, "Settled")


def deadline() -> Outcome:
    """Some minutes after the unlock, or in emergency mode: a new version that was not called good by now is
    hanging.
    """
    record = state.read_record(state.HEALTH)
    if not record:  # emergency mode, and /var is not mounted
        for path in at("/sysroot/ostree/deploy").glob(f"*{state.HEALTH}"):
            record = state.read_record(f"/{path.relative_to(at('/'))}")
    armed = record.get("armed")
    counted = (
        counter() is not None or not at(GRUBENV).exists()
    )  # where /boot is not mounted GRUB has counted all the same
    if not isinstance(armed, dict) or not runs_target(armed) or not counted:
        return Outcome(Code.DONE, "Nothing hangs")
    with (
        contextlib.suppress(DeviceError),
        state.edit_record(state.HEALTH) as data,
    ):  # whatever is broken, the machine must restart
        noted = state.get_dict(data, "armed")
        if not noted.get("unlocked"):
            noted["unlocked"] = (
                1  # emergency mode came before that was noted, but not before the disk was unlocked
            )
    tell.on_screen("this new version did not come to the end of its health check: restarting")
    run(["systemctl", "reboot", "--force"], timeout=120)
    return Outcome(Code.DONE, "Restarting")


MOMENTS = {
    "check": check,
    "unlocked": unlocked,
    "return": go_back,
    "failed": failed,
    "healthy": healthy,
    "settle": settle,
    "deadline": deadline,
}


def main(argv: list[str]) -> int:
    """The program `health MOMENT`, started by units and by greenboot's folders, not by people."""
    parser = tell.parser(
        "health", "The moments of a boot that decide whether a new version stays.", Code.UNFIT, as_json=False
    )
    parser.add_argument("moment", choices=MOMENTS)
    return tell.conclude(parser, argv, lambda args: MOMENTS[args.moment]())
