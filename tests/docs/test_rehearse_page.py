"""The page on rehearsals names every scenario and every phase of a life, and each scenario has a slot."""

from __future__ import annotations

import re
from pathlib import Path

from veilor.lab.scenario import load_scenario
from veilor.lab.slots import load_slots

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/REHEARSE.md").read_text()
SCENARIOS = {path.stem for path in (ROOT / "scenarios").glob("*.py")}


def chapter(title: str) -> str:
    """The text of the page below the heading TITLE."""
    return PAGE.split(f"\n## {title}\n", 1)[1].split("\n## ")[0]


def test_each_phase_of_life_has_its_line_in_order():
    named = re.findall(r"^\| `([a-z-]+)` \|", chapter("What happens in `life`"), re.M)
    assert named == [phase.name for phase in load_scenario("life", ROOT / "scenarios").phases]


def test_each_other_scenario_has_its_line():
    named = re.findall(r"^- `([a-z-]+)`:", chapter("Other scenarios, and slots"), re.M)
    assert sorted(named) == sorted(SCENARIOS - {"life"})


def test_each_other_scenario_is_rehearsed_in_a_slot():
    slots = load_slots(ROOT / "scenarios/slots.toml")
    assert SCENARIOS - {"life"} <= {run.argv[0] for slot in slots for run in slot.runs}
