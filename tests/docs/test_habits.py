"""The files that GitHub, editors and pre-commit read say the same as the repository does elsewhere."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
HOME = tomllib.loads((ROOT / "product.toml").read_text())["urls"]["home"]
FORMS = ["bug", "feature"]


def load(name: str):
    return yaml.safe_load((ROOT / name).read_text())


def hooks_of_its_own(hooks: list[dict], makefile: str) -> list[str]:
    """The hooks that run something else than `make test` does: what it needs first, or some of its tests."""
    first = re.search(r"^test:(.*)$", makefile, re.M)[1].split()
    known = {f"make {name}" for name in first}
    tests = r"\.venv/bin/python -m pytest --quiet tests/\S+"
    return [
        hook["id"] for hook in hooks if hook["entry"] not in known and not re.fullmatch(tests, hook["entry"])
    ]


def test_a_commit_is_checked_by_the_commands_of_make_test_and_no_others():
    [repo] = load(".pre-commit-config.yaml")["repos"]
    assert repo["repo"] == "local"
    assert hooks_of_its_own(repo["hooks"], (ROOT / "Makefile").read_text()) == []
    for hook in repo["hooks"]:
        for path in re.findall(r"tests/\S+", hook["entry"]):
            assert (ROOT / path).exists()


def test_a_hook_of_its_own_is_noticed():
    makefile = "test: lint\n\t@pytest\n\ndocs: setup\n\t@black .\n"
    entries = {
        "lint": "make lint",
        "rules": ".venv/bin/python -m pytest --quiet tests/test_house_rules.py",
        "black": "black .",
        "docs": "make docs",
    }
    hooks = [{"id": name, "entry": entry} for name, entry in entries.items()]
    assert hooks_of_its_own(hooks, makefile) == ["black", "docs"]


def test_security_reports_are_led_to_a_private_form():
    private = f"{HOME}/security/advisories/new"
    links = load(".github/ISSUE_TEMPLATE/config.yml")
    assert links["blank_issues_enabled"] is False
    assert private in [link["url"] for link in links["contact_links"]]
    assert private in (ROOT / "SECURITY.md").read_text()
    assert private in (ROOT / ".github/ISSUE_TEMPLATE/bug.yml").read_text()


@pytest.mark.parametrize("name", FORMS)
def test_each_form_asks_with_a_label_and_an_id_of_its_own(name):
    form = load(f".github/ISSUE_TEMPLATE/{name}.yml")
    asked = [part for part in form["body"] if part["type"] != "markdown"]
    ids = [part["id"] for part in asked]
    assert form["name"] and form["description"] and asked
    assert len(ids) == len(set(ids)) and all(part["attributes"]["label"] for part in asked)


def test_a_bug_report_asks_for_what_the_machine_says_of_itself():
    labels = [part["attributes"].get("label", "") for part in load(".github/ISSUE_TEMPLATE/bug.yml")["body"]]
    for program in ("veilor-status", "veilor-doctor"):
        assert (ROOT / "overlay/usr/bin" / program).is_file()
        assert any(program in label for label in labels)


def test_the_pull_request_names_the_areas_that_contributing_lists():
    areas = re.findall(r"^\| `([\w-]+)` \|", (ROOT / "CONTRIBUTING.md").read_text(), re.M)
    assert len(areas) > 5
    assert ", ".join(areas) in (ROOT / ".github/pull_request_template.md").read_text()


def test_an_editor_keeps_the_formatters_line_length():
    width = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["ruff"]["line-length"]
    assert f"\nmax_line_length = {width}\n" in (ROOT / ".editorconfig").read_text()


def test_the_changelog_begins_with_what_is_not_released():
    releases = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.M)
    assert releases[0] == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+ - \d{4}-\d\d-\d\d", release) for release in releases[1:])


def test_the_page_on_the_repository_names_every_folder_at_its_top():
    argv = ["git", "-C", str(ROOT), "ls-files", "-z"]
    kept = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    folders = {name.split("/")[0] for name in kept if "/" in name}
    page = (ROOT / "docs/DEVELOP.md").read_text()
    table = page[page.index("## Folders and walls") : page.index("## The programs on the machine")]
    assert folders and [name for name in sorted(folders) if f"`{name}/" not in table] == []
