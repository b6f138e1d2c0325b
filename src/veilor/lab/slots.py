"""Slots: what is rehearsed by turns, one for each commit, besides the machine's whole life.

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
from dataclasses import dataclass
from pathlib import Path

from veilor.lab.cache import write_atomic
from veilor.lab.verdict import EXIT, EXIT_INTERRUPTED, UsageError, Verdict


@dataclass(frozen=True)
class Slot:
    """RUNS are command lines of `veilor rehearse`, each with the reason why its verdict may be NOT_RUN, or
    nothing.

    One that is BY_HAND never has its turn by itself.
    """

    name: str
    title: str
    runs: list[tuple[list[str], str]]
    by_hand: bool = False


def load_slots(path: Path) -> list[Slot]:
    """The slots of a slots.toml, in order, one at least of which takes turns. Raises UsageError for a file
    that says none.
    """
    try:
        slots = [
            Slot(
                one["name"],
                one["title"],
                [(shlex.split(run["argv"]), run.get("not_run", "")) for run in one["runs"]],
                one.get("by_hand", False),
            )
            for one in tomllib.loads(path.read_text())["slot"]
        ]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise UsageError(
            f"{path} cannot be used ({type(error).__name__}: {error}); compare it with the committed one"
        ) from None
    if all(slot.by_hand for slot in slots):
        raise UsageError(f"{path} has no slot that takes its turn; compare it with the committed one")
    return slots


def choose(slots: list[Slot], names: list[str], turn: int) -> list[Slot]:
    """The slots NAMES; without names the one whose TURN it is. Raises UsageError on a name that is none."""
    known = {slot.name: slot for slot in slots}
    for name in names:
        if name not in known:
            raise UsageError(f"no slot is called {name}; there are: {', '.join(known)}")
    taking_turns = [slot for slot in slots if not slot.by_hand]
    return [known[name] for name in names] or [taking_turns[turn % len(taking_turns)]]


def run_slots(
    slots: list[Slot], chosen: list[Slot], run: Callable[[list[str]], int], record: Path, inputs: str
) -> int:
    """Run the CHOSEN ones of SLOTS by RUN, which takes a command line and answers its exit code; 0 when all
    went well.

    RECORD is a JSON file that keeps when each slot last passed and a hash of its INPUTS.
    """
    code = 0
    for slot in chosen:
        print(f"slot {slot.name}: {slot.title}", file=sys.stderr, flush=True)
        failed = 0
        for argv, not_run in slot.runs:
            one = _run(argv, not_run, run)
            if one == EXIT_INTERRUPTED:
                return one
            failed = failed or one
        code = code or failed
        print(f"slot {slot.name}: {'failed' if failed else 'passed'}", file=sys.stderr, flush=True)
        if not failed:
            kept = {**read_passes(record), slot.name: {"at": int(time.time()), "inputs": inputs}}
            record.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(record, json.dumps(kept, indent=1))
    for line in describe_left_out(slots, chosen, read_passes(record), inputs):
        print(line, file=sys.stderr, flush=True)
    return code


def _run(argv: list[str], not_run: str, run: Callable[[list[str]], int]) -> int:
    print(f"slot: veilor rehearse {shlex.join(argv)}", file=sys.stderr, flush=True)
    code = run(argv)
    if code == EXIT[Verdict.NOT_RUN] and not_run:
        print(f"slot: part of it was NOT RUN here: {not_run}", file=sys.stderr, flush=True)
        return 0
    return code


def read_passes(record: Path) -> dict[str, dict]:
    """When each slot last passed here; empty when nothing readable says so."""
    try:
        found = json.loads(record.read_text())
        return {
            name: one
            for name, one in found.items()
            if isinstance(one["at"], int) and isinstance(one["inputs"], str)
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError):
        return {}


def describe_left_out(slots: list[Slot], chosen: list[Slot], last: dict[str, dict], inputs: str) -> list[str]:
    """A line for each slot that was not run now."""
    lines = []
    for slot in slots:
        if slot in chosen:
            continue
        told = last.get(slot.name)
        when = "it never passed on this machine"
        if told:
            same = "the same inputs" if told["inputs"] == inputs else "other inputs"
            when = (
                f"last passed here {time.strftime('%Y-%m-%d %H:%M', time.gmtime(told['at']))} UTC on {same}"
            )
        lines.append(f"slot {slot.name}: NOT RUN this time; {when}")
    return lines
