"""Slots: which one the rotation gives, what a failure does, what is said of those left out."""

from pathlib import Path

import pytest

from veilor.cli import parser
from veilor.lab.sabotage import SABOTAGES
from veilor.lab.scenario import load_scenario
from veilor.lab.slots import (
    Slot,
    SlotPass,
    SlotRun,
    choose,
    describe_left_out,
    load_slots,
    read_passes,
    run_slots,
)
from veilor.lab.verdict import UsageError

ROOT = Path(__file__).resolve().parents[2]
SLOTS = [
    Slot("a", "A", [SlotRun(["one"]), SlotRun(["two"])]),
    Slot("b", "B", [SlotRun(["three"], "no SELinux")]),
]


def test_every_committed_slot_names_what_there_is_and_every_sabotage_has_its_turn():
    slots = load_slots(ROOT / "scenarios/slots.toml")
    proved = {"disk-truncated"}  # after every life, by make rehearse-sabotage
    for run in (run for slot in slots for run in slot.runs):
        args = parser().parse_args(["rehearse", *run.argv])
        scenario = load_scenario(args.scenario, ROOT / "scenarios")
        for name in filter(None, (args.start, args.until)):
            scenario.position_of(name)
        if args.sabotage:
            assert args.prove and args.sabotage in SABOTAGES
            proved.add(args.sabotage)
    assert proved == set(SABOTAGES)


def test_each_has_its_turn_and_a_name_overrules():
    assert [choose(SLOTS, [], commits)[0].name for commits in range(3)] == ["a", "b", "a"]
    long = Slot("long", "takes an hour", [SlotRun(["four"])], by_hand=True)
    assert [choose([SLOTS[0], long, SLOTS[1]], [], commits)[0].name for commits in range(3)] == [
        "a",
        "b",
        "a",
    ]
    assert choose([*SLOTS, long], ["long"], 0) == [long]
    assert [slot.name for slot in choose(SLOTS, ["b", "a"], 0)] == ["b", "a"]
    with pytest.raises(UsageError, match="no slot is called c; there are: a, b"):
        choose(SLOTS, ["c"], 0)


def test_all_runs_of_a_slot_are_made_and_one_failure_fails_it(tmp_path):
    done = []
    code = run_slots(
        SLOTS, SLOTS[:1], lambda argv: done.append(argv) or len(done) % 2, tmp_path / "slots.json", "x"
    )
    assert code == 1 and done == [["one"], ["two"]] and not read_passes(tmp_path / "slots.json")


def test_somebody_who_stops_one_stops_them_all(tmp_path):
    done = []
    assert run_slots(SLOTS, SLOTS, lambda argv: done.append(argv) or 130, tmp_path / "slots.json", "x") == 130
    assert done == [["one"]]


def test_not_run_counts_only_where_a_reason_is_given(tmp_path):
    record = tmp_path / "new/slots.json"
    assert run_slots(SLOTS, SLOTS[:1], lambda argv: 4, record, "x") == 4
    assert run_slots(SLOTS, SLOTS[1:], lambda argv: 4, record, "x") == 0
    assert list(read_passes(record)) == ["b"] and read_passes(record)["b"].inputs == "x"


def test_what_was_left_out_is_said_with_when_it_last_passed():
    assert describe_left_out(SLOTS, SLOTS[:1], {}, "x") == [
        "slot b: NOT RUN this time; it never passed on this machine"
    ]
    at = {"b": SlotPass(0, "x")}
    assert "1970-01-01 00:00 UTC on the same inputs" in describe_left_out(SLOTS, SLOTS[:1], at, "x")[0]
    assert "on other inputs" in describe_left_out(SLOTS, SLOTS[:1], at, "y")[0]


@pytest.mark.parametrize("text", ["", "[]", '{"b": 1}', '{"b": {"at": "now", "inputs": "x"}}'])
def test_a_damaged_record_says_nothing(tmp_path, text):
    (tmp_path / "slots.json").write_text(text)
    assert read_passes(tmp_path / "slots.json") == {}


NAMED = '[[slot]]\nname = "a"\ntitle = "t"\n'


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[[slot",
        "slot = 3",
        '[[slot]]\nname = "a"',
        NAMED + 'runs = [{argv = "\'"}]',
        NAMED + "by_hand = true\nruns = []",
    ],
)
def test_a_file_that_says_no_slots_is_one_line(tmp_path, text):
    (tmp_path / "slots.toml").write_text(text)
    with pytest.raises(UsageError, match="compare it with the committed one"):
        load_slots(tmp_path / "slots.toml")
