"""Slots: what is rehearsed besides the machine's whole life; they rotate, one per commit.

What was left out is printed with when it last passed on this machine, and whether that was with the same
inputs.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
import tomllib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from veilor.lab.cache import write_atomic
from veilor.lab.verdict import EXIT, EXIT_INTERRUPTED, UsageError, Verdict


@dataclass(frozen=True)
class SlotRun:
    """A command line of `veilor rehearse`; NOT_RUN is the reason why its verdict may be that, or empty."""

    argv: list[str]
    not_run: str = ""


@dataclass(frozen=True)
class Slot:
    """Rehearsals that are run together. One that is BY_HAND is left out of the rotation."""

    name: str
    title: str
    runs: list[SlotRun]
    by_hand: bool = False


@dataclass(frozen=True)
class SlotPass:
    """When a slot last passed, in seconds since 1970, and the hash of its inputs then."""

    at: int
    inputs: str


def load_slots(path: Path) -> list[Slot]:
    """The slots of the slots.toml at PATH, in order. Raises UsageError for a file that has none to rotate."""
    try:
        slots = [_read_slot(entry) for entry in tomllib.loads(path.read_text())["slot"]]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be used ({type(error).__name__}: {error}); compare it with the committed one"
        ) from None
    if all(slot.by_hand for slot in slots):
        raise UsageError(f"{path} has no slot that rotates; compare it with the committed one")
    return slots


def _read_slot(entry: dict[str, Any]) -> Slot:
    runs = [SlotRun(shlex.split(run["argv"]), run.get("not_run", "")) for run in entry["runs"]]
    return Slot(entry["name"], entry["title"], runs, entry.get("by_hand", False))


def choose(slots: list[Slot], names: list[str], commits: int) -> list[Slot]:
    """The slots NAMES; without names the one that the rotation gives after so many COMMITS.

    Raises UsageError on a name that is none.
    """
    known = {slot.name: slot for slot in slots}
    for name in names:
        if name not in known:
            raise UsageError(f"no slot is called {name}; there are: {', '.join(known)}")
    if names:
        return [known[name] for name in names]
    rotating = [slot for slot in slots if not slot.by_hand]
    return [rotating[commits % len(rotating)]]


def run_slots(
    slots: list[Slot], chosen: list[Slot], run: Callable[[list[str]], int], record: Path, inputs: str
) -> int:
    """Run the CHOSEN ones of SLOTS by RUN, which takes a command line and answers its exit code.

    Returns 0 when all went well, else the first other exit code. RECORD is a JSON file that keeps when each
    slot last passed and a hash of its INPUTS.
    """
    code = 0
    for slot in chosen:
        print(f"slot {slot.name}: {slot.title}", file=sys.stderr, flush=True)
        failed = 0
        for rehearsal in slot.runs:
            ended_with = _rehearse(rehearsal, run)
            if ended_with == EXIT_INTERRUPTED:
                return ended_with
            failed = failed or ended_with
        code = code or failed
        print(f"slot {slot.name}: {'failed' if failed else 'passed'}", file=sys.stderr, flush=True)
        if not failed:
            _record_pass(record, slot.name, SlotPass(int(time.time()), inputs))
    for line in describe_left_out(slots, chosen, read_passes(record), inputs):
        print(line, file=sys.stderr, flush=True)
    return code


def _rehearse(rehearsal: SlotRun, run: Callable[[list[str]], int]) -> int:
    """The exit code of REHEARSAL by RUN, where NOT_RUN counts as 0 if there is a reason for it."""
    print(f"slot: veilor rehearse {shlex.join(rehearsal.argv)}", file=sys.stderr, flush=True)
    code = run(rehearsal.argv)
    if code == EXIT[Verdict.NOT_RUN] and rehearsal.not_run:
        print(f"slot: part of it was NOT RUN here: {rehearsal.not_run}", file=sys.stderr, flush=True)
        return 0
    return code


def _record_pass(record: Path, name: str, now: SlotPass) -> None:
    passes = read_passes(record) | {name: now}
    record.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(record, json.dumps({name: asdict(last) for name, last in passes.items()}, indent=1))


def read_passes(record: Path) -> dict[str, SlotPass]:
    """When each slot last passed here, by its name; empty when RECORD cannot be read."""
    passes = {}
    try:
        for name, entry in json.loads(record.read_text()).items():
            if isinstance(entry["at"], int) and isinstance(entry["inputs"], str):
                passes[name] = SlotPass(entry["at"], entry["inputs"])
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}
    return passes


def describe_left_out(
    slots: list[Slot], chosen: list[Slot], passes: dict[str, SlotPass], inputs: str
) -> list[str]:
    """A line for each of SLOTS not among the CHOSEN: when it last passed, with these INPUTS or not."""
    lines = []
    for slot in slots:
        if slot in chosen:
            continue
        last = passes.get(slot.name)
        when = "it never passed on this machine"
        if last:
            same = "the same inputs" if last.inputs == inputs else "other inputs"
            when = f"last passed here {time.strftime('%Y-%m-%d %H:%M', time.gmtime(last.at))} UTC on {same}"
        lines.append(f"slot {slot.name}: NOT RUN this time; {when}")
    return lines
