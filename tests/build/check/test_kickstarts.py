"""Kickstarts and what is made from them, spoiled: the check says what is wrong, in which file and line."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

import pytest

from veilor.build import image_builder
from veilor.build.check.kickstarts import check_installer_iso, check_kickstarts
from veilor.build.errors import BuildError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def clone(tmp_path):
    """The kickstarts in a repository's place, to be spoiled."""
    shutil.copytree(ROOT / "kickstart", tmp_path / "kickstart")
    for name in (image_builder.FILE, "product.toml"):
        shutil.copy(ROOT / name, tmp_path)
    return tmp_path


def spoil(path, old, new):
    text = path.read_text()
    assert old in text, "the case has nothing to spoil any more"
    path.write_text(text.replace(old, new, 1))
    return next(
        number
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if line not in text.splitlines()
    )


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("install.ks", "rootpw --lock", "rootpw --lokc"),
        ("snippets/storage.ks", "\nreqpart\n", "\nreqpart --nonsense\n"),
        ("veilor-os.ks", "selinux --enforcing", "selinux --enforced"),
    ],
)
def test_a_line_that_fedoras_parser_refuses(clone, name, old, new):
    line = spoil(clone / "kickstart" / name, old, new)
    assert any((one.path, one.line) == (f"kickstart/{name}", line) for one in check_kickstarts(clone, None))


def test_a_broken_rule_names_the_kickstart(clone):
    spoil(clone / "kickstart/snippets/storage.ks", "--grow --encrypted", "--grow")
    assert {one.path for one in check_kickstarts(clone, None)} == {
        "kickstart/install.ks",
        "kickstart/veilor-os.ks",
    }


def test_the_iso_of_image_builder_says_the_same(clone):
    said = tomllib.loads((clone / image_builder.FILE).read_text())
    body = said["customizations"]["installer"]["kickstart"]["contents"]
    assert list(said["customizations"]) == ["installer"] and "ostreecontainer" not in body.split("%pre")[0]
    assert body == image_builder.kickstart_body(ROOT) and check_installer_iso(clone, None) == []


@pytest.mark.parametrize("spoiled", ["kickstart/install.ks", image_builder.FILE])
def test_a_difference_is_found_on_either_side(clone, spoiled):
    spoil(clone / spoiled, "timezone --utc UTC", "timezone UTC")
    (found,) = check_installer_iso(clone, None)
    line = next(
        n
        for n, text in enumerate((clone / image_builder.FILE).read_text().splitlines(), 1)
        if text.startswith("timezone")
    )
    assert (found.path, found.line) == (image_builder.FILE, line)


def test_no_toml_and_no_file(clone):
    spoil(clone / image_builder.FILE, "contents =", "contents")
    assert check_installer_iso(clone, None)[0].line > 1
    (clone / image_builder.FILE).unlink()
    assert "make docs" in check_installer_iso(clone, None)[0].text


def test_what_image_builder_could_not_take(clone):
    spoil(clone / "kickstart/snippets/leave_notes.py", "Never fails.", "Never'''fails.")
    with pytest.raises(BuildError, match="would end the text"):
        image_builder.render(clone)
