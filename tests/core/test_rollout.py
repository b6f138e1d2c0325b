"""Places in a rollout window: spread evenly, other ones with each version, and never a reason to wait for
ever.
"""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from veilor.core import rollout, statement

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def said(hours=24, version="44.2", start=START, issued=START):
    return statement.parse(
        json.dumps(
            {
                "schema": 1,
                "repository": "ghcr.io/a/b",
                "tag": "44",
                "digest": "sha256:" + "ab" * 32,
                "version": version,
                "sequence": 1,
                "issued": f"{issued:%Y-%m-%dT%H:%M:%SZ}",
                "expires": "2027-01-01T00:00:00Z",
                "rollout": {"start": f"{start:%Y-%m-%dT%H:%M:%SZ}", "hours": hours},
            }
        ).encode()
    )


MACHINES = [f"{number:032x}" for number in range(4000)]


@pytest.mark.parametrize(
    ("setting", "first", "last"), [("normal", 0, 1), ("early", 0, 0.1), ("late", 0.9, 1)]
)
def test_places_are_spread_evenly_over_their_part_of_the_window(setting, first, last):
    places = [
        (rollout.window_position(machine, "44.2", setting) - first) / (last - first) for machine in MACHINES
    ]
    tenths = [sum(n <= place * 10 < n + 1 for place in places) for n in range(10)]
    assert sum(tenths) == len(MACHINES) and all(
        320 < tenth < 480 for tenth in tenths
    )  # 400 ± 4 standard deviations


def test_a_machine_has_another_place_with_another_version():
    first, second = (
        [rollout.window_position(machine, version) for machine in MACHINES] for version in ("44.2", "44.3")
    )
    both_early = sum(a < 0.1 and b < 0.1 for a, b in zip(first, second, strict=True))
    assert 15 < both_early < 70, "a tenth of a tenth, not the same machines first every time"


def test_it_waits_for_its_turn_and_no_longer():
    due = rollout.turn(said(), MACHINES[0])
    assert START <= due <= START + 24 * HOUR
    assert rollout.waits(said(), MACHINES[0], "normal", due - HOUR) == due
    assert rollout.waits(said(), MACHINES[0], "normal", due) is None
    assert all(
        rollout.waits(said(), machine, "normal", START + 24 * HOUR) is None for machine in MACHINES[:100]
    )


def test_a_release_without_a_window_is_for_everybody_at_once_whatever_the_clock_says():
    for clock in (
        START - 5 * HOUR,
        START,
        START + HOUR,
        START - timedelta(days=3000),
        START + timedelta(days=3000),
    ):
        assert rollout.waits(said(hours=0), MACHINES[0], "normal", clock) is None


def test_a_window_that_begins_later_is_waited_for():
    later = said(hours=0, start=START + 5 * HOUR)
    assert rollout.waits(later, MACHINES[0], "normal", START) == START + 5 * HOUR
    assert rollout.waits(later, MACHINES[0], "normal", START + 5 * HOUR) is None


def test_a_clock_that_is_far_behind_cannot_keep_a_machine_waiting():
    late = next(machine for machine in MACHINES if rollout.window_position(machine, "44.2") > 0.9)
    assert rollout.waits(said(), late, "normal", START - 2 * HOUR) is not None
    assert rollout.waits(said(), late, "normal", datetime(1970, 1, 1, tzinfo=UTC)) is None


@pytest.mark.parametrize(
    ("looked", "failed", "due", "expected"),
    [
        (None, False, None, True),
        (-19, False, None, False),
        (-20, False, None, True),
        (-0.9, True, None, False),
        (-1, True, None, True),
        (-2, False, -1, True),
        (-2, False, 1, False),
        (-1, False, -2, False),
        (5, False, None, True),
    ],
)
def test_when_to_look(looked, failed, due, expected):
    moment = [None if hours is None else START + hours * HOUR for hours in (looked, due)]
    assert rollout.time_to_ask(moment[0], failed, moment[1], START) is expected


def test_who_slept_through_the_turn_gets_a_second_one_and_no_third():
    machine = next(machine for machine in MACHINES if rollout.window_position(machine, "44.2") < 0.2)
    due = rollout.turn(said(), machine)
    assert rollout.second_turn(said(), machine, "normal", due + timedelta(minutes=20), None) is None, (
        "it was awake"
    )
    woke = due + 3 * HOUR
    second = rollout.second_turn(said(), machine, "normal", woke, None)
    assert woke <= second <= woke + rollout.SECOND
    assert rollout.second_turn(said(), machine, "normal", second - HOUR / 60, second) == second
    assert rollout.second_turn(said(), machine, "normal", second, second) is None
    assert rollout.second_turn(said(), machine, "normal", second + 9 * HOUR, second) is None, (
        "it slept through that one too"
    )
    assert rollout.second_turn(said(), machine, "normal", woke, due) is not None, (
        "what was noted is the first turn"
    )


def test_no_second_turn_long_after_the_window_or_without_one():
    assert rollout.second_turn(said(), MACHINES[0], "normal", START + 49 * HOUR, None) is None
    assert rollout.second_turn(said(hours=0), MACHINES[0], "normal", START + 5 * HOUR, None) is None


def test_a_turn_noted_for_another_release_keeps_nobody_waiting_for_long():
    woke = rollout.turn(said(), MACHINES[0]) + HOUR
    assert (
        rollout.second_turn(said(), MACHINES[0], "normal", woke, START + timedelta(days=900))
        <= woke + rollout.SECOND
    )


def test_the_oracles_bound_is_one_and_the_shipped_way_stays_near_it():
    """A small run of the benchmark: everybody at once is far worse, and the bound is not above an even
    spread.
    """
    import importlib.util
    from pathlib import Path

    spec = importlib.util.spec_from_file_location(
        "rollout_benchmark", Path(__file__).resolve().parents[2] / "benchmarks/rollout.py"
    )
    benchmark = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = benchmark  # its dataclasses look for their module there
    spec.loader.exec_module(benchmark)
    assert benchmark.lower_bound([[0, 6], [0, 4]]) == 5.0 and benchmark.lower_bound([[9, 0], [0, 1]]) == 9.0
    found = benchmark.simulate(4000, 48, 20, 1)
    ours, at_once = (max(counts) for counts in found.load.values())
    assert found.oracle <= 4000 / 48 * 1.2 and ours < 1.7 * found.oracle and at_once > 5 * ours
    assert sum(found.load["veilor-os"]) > 0.97 * found.reached
