"""Flavours: every scenario asks for one that there is, and the staged tree replaces what the base has without
reaching elsewhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from veilor.lab import flavour
from veilor.lab.scenario import load_scenario

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "scenarios").glob("[!_]*.py")))
def test_every_scenario_asks_for_a_flavour_that_there_is(name):
    assert load_scenario(name, ROOT / "scenarios").flavour in {**flavour.FLAVOURS, **flavour.DESKTOPS}


def test_the_life_stays_on_the_plain_base():
    assert load_scenario("life", ROOT / "scenarios").flavour == "" and flavour.DESKTOPS[""] == ()


def test_a_part_of_a_scenario_keeps_its_flavour():
    scenario = load_scenario("boot-screen", ROOT / "scenarios")
    assert (
        scenario.flavour == "boot-screen" and scenario.up_to(scenario.phases[0].name).flavour == "boot-screen"
    )


def test_stamping_replaces_files_and_links_and_writes_through_none(tmp_path):
    staged, root, elsewhere = tmp_path / "staged", tmp_path / "root", tmp_path / "elsewhere"
    for folder in (staged / "etc", root / "etc"):
        folder.mkdir(parents=True)
    elsewhere.write_text("untouched")
    (root / "etc/a").symlink_to(elsewhere)
    (root / "etc/b").write_text("old")
    os.link(root / "etc/b", tmp_path / "cached")
    (staged / "etc/a").write_text("new")
    (staged / "etc/b").symlink_to("a")
    (staged / "usr").mkdir()
    (staged / "usr/c").write_text("c")
    flavour.lay_over(staged, root)
    assert (root / "etc/a").read_text() == "new" and not (root / "etc/a").is_symlink()
    assert os.readlink(root / "etc/b") == "a" and (root / "usr/c").read_text() == "c"
    assert elsewhere.read_text() == "untouched" and (tmp_path / "cached").read_text() == "old"
