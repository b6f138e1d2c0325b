"""Every state that a machine can come to within a few boots, and that the search finds a machine that is
spoilt.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from explorer import START, explore
from simulation import FRAGMENT, QUALITIES, read_fragment

from veilor.core.outcome import Code, Outcome
from veilor.device import health


@pytest.mark.parametrize("quality", QUALITIES)
def test_no_sequence_of_boots_leads_astray(quality):
    found = explore(quality, 2, START, faults=1)
    assert found.violations == {}
    assert found.states > 20 and found.steps > 80, "the search has become shallow"


def nothing(*_: object) -> Outcome:
    return Outcome(Code.DONE, "nothing")


@pytest.mark.parametrize(
    ("quality", "moment", "words"),
    [
        ("panics", "count", "it ends on the bad version"),
        ("hangs", "return", "at rest the counter is still set"),
        ("hangs", "deadline", "a bad version is not left by itself"),
        ("emergency", "deadline", "a bad version is not left by itself"),
        ("good", "healthy", "a good version was restarted by our own programs"),
    ],
)
def test_a_spoilt_machine_is_found(monkeypatch, quality, moment, words):
    monkeypatch.setitem(health.MOMENTS, moment, nothing)
    found = explore(quality, 2, START, faults=0)
    assert any(words in sentence for sentence in found.violations), found.violations


def test_the_grub_fragment_neither_skips_a_try_nor_counts_for_ever():
    known, otherwise = read_fragment(FRAGMENT.read_text())
    assert known == {"0": (1, "-1"), "-1": (0, "0"), "1": (0, "0"), "2": (0, "1")}
    assert otherwise == (0, "2"), "3, and whatever a damaged file holds"
    assert FRAGMENT.read_text().endswith("\n"), "bootupd joins fragments as they are"
