"""Drives a machine through every sequence of boots, up to a depth, and judges each state that it comes to.

One step is one boot: nobody unlocks the disk, or somebody does and the version that runs is healthy, fails
its check, hangs, panics, ends in emergency mode or shows nobody a login (which of these is a property of the
version); then the person does nothing, updates or goes back, and restarts or loses power. Into each step
comes at most one fault: the power fails after any single write, any single program that is started fails, the
disk is full, or another program of ours hangs and holds the lock.

By hand: .venv/bin/python tests/device/explorer.py --depth 6 --faults 2
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from simulation import BOOTSTRAP, NEW, OLD, QUALITIES, RECORDS, Disk, Fault, Simulation, Step, in_place

SETTLES_WITHIN = 9  # quiet, unlocked boots until a machine has to have come to rest

# -- what must hold


def counter_is_of_what_it_counts(simulation: Simulation, disk: Disk) -> str | None:
    """The counter never stands for an entry that it does not count: it is set only while NEW, unproved, is
    entry 0.
    """
    if disk.grub is None or "veilor_counter" not in dict(disk.grub):
        return None
    if disk.order[0] == NEW:
        return None
    record = json.loads(dict(disk.files).get(RECORDS[1], "{}"))
    if (record.get("armed") or {}).get("target", {}).get("version") == NEW:
        # the power failed while it was put in place: the next unlock, which judge_end does, removes it
        return None
    return f"the counter is set, and entry 0 is {disk.order[0]}"


def judge_step(simulation: Simulation, before: Disk, step: Step, after: Disk) -> Iterator[str]:
    """What is wrong with this one step."""
    ran = simulation.running
    if simulation.reboot and ran in (OLD, BOOTSTRAP):
        yield f"{ran} has worked before, and was restarted by our own programs"
    if simulation.reboot and ran == NEW and simulation.quality == "good":
        yield "a good version was restarted by our own programs"
    if step.fault.kind != "program fails:":  # a grub2-editenv that fails cannot have written what it should
        wrong = counter_is_of_what_it_counts(simulation, after)
        if wrong:
            yield wrong


QUIET = Step()


def judge_end(simulation: Simulation, disk: Disk) -> Iterator[str]:
    """From DISK on nothing goes wrong any more and the disk is unlocked each time: where does the machine
    come to rest?
    """
    ran: list[tuple[str, str]] = []
    for _ in range(SETTLES_WITHIN):
        disk = simulation.take(disk, QUIET)
        ran.append((simulation.running, simulation.reboot))
        lingers = simulation.quality in ("fails its check", "hangs", "emergency")
        if simulation.running == NEW and lingers and not simulation.reboot:
            yield "a bad version is not left by itself: somebody has to switch the machine off"
            return
    if ran[-1] != ran[-2] or ran[-1][1]:
        yield f"it does not come to rest: {ran}"
    elif ran[-1][0] == BOOTSTRAP:
        yield "it ends on the unverified bootstrap"
    elif ran[-1][0] == NEW and simulation.quality != "good":
        yield "it ends on the bad version"
    wrong = counter_is_of_what_it_counts(simulation, disk)
    if wrong or (disk.grub and "veilor_counter" in dict(disk.grub)):
        yield f"at rest the counter is still set: {wrong or disk.grub}"


# -- the search


@dataclass
class Found:
    """What a search saw. `violations`: sentence -> the shortest sequence of steps that leads to it."""

    states: int = 0
    steps: int = 0
    rests: int = 0
    violations: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    counts: Counter[str] = dataclasses.field(default_factory=Counter)


def variants(simulation: Simulation, disk: Disk) -> Iterator[tuple[Step, Disk]]:
    """Every step that can follow on DISK, each with the disk after it. Faults are tried as deep as the
    faultless step goes.
    """
    yield Step(unlock=False), simulation.take(disk, Step(unlock=False))
    simulation.take(disk, QUIET)
    # Going back to the bootstrap by hand is a person's right, and says nothing about us.
    doings = ("nothing", "update", "go back") if simulation.running == NEW else ("nothing", "update")
    for doing in doings:
        for ends in ("restart", "power off"):
            step = Step(True, doing, ends)
            yield step, simulation.take(disk, step)
            if ends != "restart":
                continue
            writes, calls = simulation.writes, simulation.calls
            for number in range(1, writes + 1):
                cut = dataclasses.replace(step, fault=Fault("power cut after write", number))
                yield cut, simulation.take(disk, cut)
            for number in range(1, calls + 1):
                fails = dataclasses.replace(step, fault=Fault("program fails:", number))
                yield fails, simulation.take(disk, fails)
            for kind in ("disk full", "lock held"):
                hindered = dataclasses.replace(step, fault=Fault(kind))
                yield hindered, simulation.take(disk, hindered)
            if simulation.reboot or simulation.running == NEW and simulation.quality != "good":
                return  # the person comes to nothing in such a boot


def explore(quality: str, depth: int, start: Disk, faults: int = 2, seconds: float = 1e9) -> Found:
    """Every state within DEPTH steps of START, with at most FAULTS faults on the way; NEW is of QUALITY."""
    found = Found()
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.access("/dev/shm", os.W_OK) else None) as folder:
        simulation = Simulation(Path(folder), quality)
        with in_place(simulation):
            seen = {(start.key(), faults)}
            settled: set = set()
            waiting = deque([(start, faults, [])])
            deadline = time.monotonic() + seconds
            while waiting and time.monotonic() < deadline:
                disk, left, path = waiting.popleft()
                found.states += 1
                if disk.key() not in settled:
                    settled.add(disk.key())
                    found.rests += 1
                    for wrong in judge_end(simulation, disk):
                        found.counts[wrong[:60]] += 1
                        found.violations.setdefault(wrong, path)
                if len(path) >= depth:
                    continue
                for step, after in variants(simulation, disk):
                    costs = step.fault.kind != "none"
                    if costs and not left:
                        continue
                    found.steps += 1
                    for wrong in judge_step(simulation, disk, step, after):
                        found.counts[wrong[:60]] += 1
                        found.violations.setdefault(wrong, [*path, str(step)])
                    key = (after.key(), left - costs)
                    if key not in seen:
                        seen.add(key)
                        waiting.append((after, left - costs, [*path, str(step)]))
    return found


START = Disk((OLD, BOOTSTRAP))


def main() -> int:
    """By hand: explore.py [--depth N] [--faults N] [--quality NAME]."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depth", type=int, default=6)
    parser.add_argument("--faults", type=int, default=2)
    parser.add_argument("--quality", choices=QUALITIES, action="append")
    args = parser.parse_args()
    wrong = 0
    for quality in args.quality or QUALITIES:
        began = time.monotonic()
        found = explore(quality, args.depth, START, args.faults)
        wrong += len(found.violations)
        print(
            f"{quality}: {found.states} states, {found.steps} boots, {found.rests} ends, "
            f"{time.monotonic() - began:.0f} s"
        )
        for sentence, path in found.violations.items():
            print(f"  WRONG: {sentence}\n    " + "\n    ".join(path))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
