"""Every sabotage still finds what it breaks in the product as it is now, and a run is judged by verdict and
phase.
"""

import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.lab import sabotage
from veilor.lab.sabotage import SABOTAGES, apply_live, apply_to_tree, was_noticed
from veilor.lab.scenario import load_scenario
from veilor.lab.verdict import LabFault, Verdict

ROOT = Path(__file__).resolve().parents[2]
OF_THE_TREE = sorted(name for name, one in SABOTAGES.items() if one.tree)


def contents(tree):
    return {
        str(p.relative_to(tree)): p.read_bytes()
        for p in sorted(tree.rglob("*"))
        if p.is_file() and not p.is_symlink()
    } | {str(p.relative_to(tree)): str(p.readlink()) for p in tree.rglob("*") if p.is_symlink()}


@pytest.mark.parametrize("name", OF_THE_TREE)
def test_it_changes_the_staged_tree_once(tmp_path, staged, name):
    tree = shutil.copytree(staged, tmp_path / "tree", symlinks=True)
    before = contents(tree)
    apply_to_tree(name, tree, "44.9")
    after = contents(tree)
    assert len({path for path in before.keys() | after.keys() if before.get(path) != after.get(path)}) == 1


@pytest.mark.parametrize("name", OF_THE_TREE)
def test_one_that_finds_nothing_to_break_says_so(tmp_path, name):
    with pytest.raises((LabFault, FileNotFoundError)):
        apply_to_tree(name, tmp_path, "44.9")


def test_each_is_expected_in_a_phase_that_exists_and_never_to_pass():
    phases = [phase.name for phase in load_scenario("life", ROOT / "scenarios").phases]
    for one in SABOTAGES.values():
        assert one.phase in phases and one.verdict in (Verdict.OS_FAULT, Verdict.LAB_FAULT)
        assert bool(one.tree) != bool(one.live)
        assert bool(one.begins) == bool(one.live or one.since) and (
            not one.begins or phases.index(one.begins) <= phases.index(one.phase)
        )


def test_one_that_begins_late_leaves_the_images_before_as_they_are(tmp_path, staged):
    tree = shutil.copytree(staged, tmp_path / "tree", symlinks=True)
    before = contents(tree)
    apply_to_tree("health-check-missing", tree, "44.2")
    assert contents(tree) == before
    apply_to_tree("health-check-missing", tree, "44.10")
    assert contents(tree) != before


def test_a_live_one_strikes_at_its_moment_alone():
    killed = []
    world = SimpleNamespace(machine=SimpleNamespace(process=SimpleNamespace(kill=lambda: killed.append(1))))
    apply_live("qemu-killed", "first-boot", world)
    apply_live(None, "second-boot", world)
    assert not killed
    apply_live("qemu-killed", "second-boot", world)
    assert killed == [1]


def test_the_scenario_offers_every_moment():
    text = (ROOT / "scenarios/life.py").read_text()
    for one in SABOTAGES.values():
        assert not one.point or f'world.apply_sabotage("{one.point}")' in text


def run(*phases):
    return SimpleNamespace(
        phases=[
            SimpleNamespace(name=name, verdict=verdict, reason=" ".join(why))
            for name, verdict, *why in phases
        ]
    )


def test_a_run_is_judged_by_verdict_and_phase():
    noticed, line = was_noticed(
        "qemu-killed",
        run(("install", Verdict.PASS), ("second-boot", Verdict.LAB_FAULT, "QEMU died while", "…")),
    )
    assert noticed and "as it should be" in line
    for other in (
        run(("second-boot", Verdict.OS_FAULT)),
        run(("first-boot", Verdict.LAB_FAULT)),
        run(("install", Verdict.PASS)),
    ):
        noticed, line = was_noticed("qemu-killed", other)
        assert not noticed and "blind" in line
    noticed, line = was_noticed("qemu-killed", run(("second-boot", Verdict.LAB_FAULT, "No space left")))
    assert not noticed and "for another reason: No space left" in line


def replaced_functions():
    """(file below veilor/, function) for each check that a scenario or a sabotage replaces on a machine."""
    text = (ROOT / "scenarios/updates.py").read_text()
    yield from re.findall(r'disable_check\(\s*world,\s*"([^"]+)",\s*"def (\w+)\(', text)
    text = Path(sabotage.__file__).read_text()
    yield from re.findall(r'f"\{APP\}/([^"]+)",\s*"(?:\\n)*def (\w+)\(', text)


@pytest.mark.parametrize(("file", "name"), sorted(replaced_functions()))
def test_a_function_that_is_replaced_to_disable_a_check_is_there(file, name):
    assert re.search(rf"^def {name}\(", (ROOT / "src/veilor" / file).read_text(), re.MULTILINE)


def test_replaced_functions_are_found():
    assert {name for _, name in replaced_functions()} == {
        "check_sequence",
        "compare",
        "digest_of_tag",
        "fetch_statement",
        "main",
    }
