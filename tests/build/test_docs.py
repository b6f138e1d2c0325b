"""Generated pages say what their data say."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from veilor.build import docs
from veilor.build.errors import BuildError
from veilor.build.threats import results_page

ROOT = Path(__file__).resolve().parents[2]


def copy_of_the_data(root: Path) -> None:
    """What the pages are made of, and the pages that hold more than that, in ROOT."""
    for name in ("product.toml", docs.STAND_INS, docs.VERIFIED, docs.DECISIONS, results_page.PAGE):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, root / name)
    for name in ("threats", "docs/decisions"):
        shutil.copytree(ROOT / name, root / name)


def test_the_committed_page_names_every_stand_in():
    docs.check_pages(ROOT)


def test_a_new_stand_in_makes_the_page_stale_until_it_is_written_anew(tmp_path):
    copy_of_the_data(tmp_path)
    with (tmp_path / docs.STAND_INS).open("a") as data:
        data.write(
            '[[stand_in]]\nid="x"\ntitle="A|B"\nstands_for="s"\nwhy="w"\nreplaced_by="r"\ncommand=""\n'
        )
    with pytest.raises(BuildError, match="make docs"):
        docs.check_pages(tmp_path)
    docs.write_pages(tmp_path)
    docs.check_pages(tmp_path)
    assert (tmp_path / docs.VERIFIED).read_text().endswith("| A\\|B | s | w | r |\n")


def test_what_was_seen_on_a_real_part_is_said_in_its_row_and_nowhere_else(tmp_path):
    data = tmp_path / docs.STAND_INS
    data.parent.mkdir(parents=True)
    shutil.copy(ROOT / "product.toml", tmp_path)
    row = '[[stand_in]]\nid="x"\ntitle="t"\nstands_for="s"\nwhy="w"\nreplaced_by="r"\ncommand=""\n'
    data.write_text(row)
    assert docs.NONE in docs.verified_page(tmp_path) and docs.SOME not in docs.verified_page(tmp_path)
    data.write_text(row + 'seen="1 May: all of it"\n' + row.replace("x", "y"))
    page = docs.verified_page(tmp_path)
    assert docs.SOME in page and docs.NONE not in page
    assert page.endswith("| t | s | w | r. **Seen: 1 May: all of it** |\n| t | s | w | r |\n")


def test_a_new_decision_is_missed_in_the_list_until_it_is_written_anew(tmp_path):
    copy_of_the_data(tmp_path)
    docs.write_pages(tmp_path)
    (tmp_path / "docs/decisions/0999-new.md").write_text("# Something else\n\n**Decision.** …\n")
    with pytest.raises(BuildError, match="docs/DECISIONS.md is out of date: run `make docs`"):
        docs.check_pages(tmp_path)
    docs.write_pages(tmp_path)
    docs.check_pages(tmp_path)
    assert "- [0999](decisions/0999-new.md): Something else\n" in (tmp_path / docs.DECISIONS).read_text()
    (tmp_path / docs.DECISIONS).write_text("# Decisions\n")
    with pytest.raises(BuildError, match="list of records"):
        docs.write_pages(tmp_path)


def test_two_decisions_with_one_number_are_told(tmp_path):
    copy_of_the_data(tmp_path)
    (tmp_path / "docs/decisions/0001-other.md").write_text("# Another\n")
    with pytest.raises(BuildError, match="0001-other.md and 0001-trust.md share a number"):
        docs.decisions_page(tmp_path)


def test_each_stale_page_is_named_with_its_first_differing_line(tmp_path):
    copy_of_the_data(tmp_path)
    docs.write_pages(tmp_path)
    assert docs.stale_pages(tmp_path) == []
    verified, decisions = tmp_path / docs.VERIFIED, tmp_path / docs.DECISIONS
    lines = verified.read_text().splitlines(keepends=True)
    verified.write_text("".join([*lines[:6], "something else\n", *lines[7:]]))
    decisions.write_text(decisions.read_text().replace("- [0002]", "- [0003]", 1))
    last = next(path for path in docs.PAGES if path not in (docs.VERIFIED, docs.DECISIONS))
    (tmp_path / last).unlink()
    found = {page.path: page for page in docs.stale_pages(tmp_path)}
    assert found[docs.VERIFIED].line == 7
    line = found[docs.DECISIONS].line
    assert decisions.read_text().splitlines()[line - 1].startswith("- [0003]")
    assert found[last].advice == f"{last} is missing: run `make docs` and commit it"
    assert found[docs.VERIFIED].advice == f"{docs.VERIFIED} is out of date: run `make docs` and commit it"
