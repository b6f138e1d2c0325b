"""The base's recipes that break a promise lead to ours, and a new one that would is seen."""

from __future__ import annotations

import runpy
import shutil
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "bluebuild/files/scripts/recipes.py"
# Not by an import, which would leave bytecode in a folder of which each file has to be named in the recipe.
recipes = SimpleNamespace(**runpy.run_path(str(SCRIPT), run_name="recipes"))
TOGGLES = "usr/share/bluebuild/justfiles/common/toggles.just"
INSTEAD = tomllib.loads((ROOT / "bluebuild/files/base/recipes.toml").read_text())["instead"]


@pytest.fixture
def lead(run_script):
    return lambda: run_script("recipes.py")


def test_the_recipe_says_what_to_do_instead_and_its_neighbours_stay(base, lead):
    good, said = lead()
    assert good and "install-vpn, rebase-secureblue, set-cups led elsewhere" in said
    text = (base / TOGGLES).read_text()
    assert "ujust veilor-printing on" in text and "set_cups" not in text
    assert text.endswith("# Says something\nbios:\n    @echo bios\n\n    @echo done\n")
    before = text
    assert lead()[0] and (base / TOGGLES).read_text() == before, "twice is once"


@pytest.mark.parametrize(
    "recipe",
    [
        "new:\n    rpm-ostree install x\n",
        "new *A:\n    #!/bin/run0 /bin/bash\n\n    set -e\n    bootc switch x\n",
        '[private]\nnew A="b" C="d":\n    @firewall-cmd --permanent --add-service=ipp\n',
        "@new: bios\n    /usr/libexec/secureblue/set_cups.py on\n",
        "new:\n    rpm-ostree \\\n      override remove x\n",
    ],
)
def test_a_new_recipe_that_breaks_a_promise_stops_the_build(recipe, base, lead):
    (base / TOGGLES).write_text((base / TOGGLES).read_text() + "\n" + recipe)
    before = (base / TOGGLES).read_text()
    good, said = lead()
    assert not good and "new in /usr/share/bluebuild" in said
    assert (base / TOGGLES).read_text() == before


@pytest.mark.parametrize(
    "recipe",
    ["new:\n    rpm-ostree status\n", "x := 'rpm-ostree install'\n", "new:\n    firewall-cmd --list-all\n"],
)
def test_one_that_only_looks_stays(recipe, base, lead):
    (base / TOGGLES).write_text((base / TOGGLES).read_text() + "\n" + recipe)
    assert lead()[0] and recipe in (base / TOGGLES).read_text()


@pytest.mark.parametrize("name", INSTEAD)
def test_what_is_said_can_be_read_by_a_shell(name):
    text = recipes.in_place_of(name, INSTEAD[name])
    assert recipes.recipes(text) == [(name, 0, len(text))] and "{{" not in text
    assert shutil.which("sh")
