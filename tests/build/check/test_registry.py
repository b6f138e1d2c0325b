"""The walk over the checks, and `veilor check` on this repository."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from veilor import cli
from veilor.build.check import registry
from veilor.build.check.finding import CannotRun, Finding, Notice, run_tool

ROOT = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize(("name", "check"), registry.CHECKS, ids=[name for name, _ in registry.CHECKS])
def test_this_repository_passes(name, check, tools):
    (result,) = registry.walk(ROOT, tools.run, [(name, check)])
    if result.not_run:
        pytest.skip(f"NOT RUN: {result.not_run}")
    assert not [str(one) for one in result.wrong(release=False)]


def unable(root, run):
    return run_tool(run, ["secilc"], [root])


CASES = {
    "passes": (lambda root, run: [], 0, 0, "passed   passes\n"),
    "finds": (
        lambda root, run: [Finding("a", 3, "is\nwrong")],
        1,
        1,
        "a:3: is wrong\nFAILED   finds: what stands above\n",
    ),
    "knows": (
        lambda root, run: [Notice("a", 0, "unfinished")],
        0,
        1,
        "a:0: unfinished (known; a release refuses it)\npassed   knows\n",
    ),
    "cannot": (
        unable,
        4,
        4,
        "NOT RUN  cannot: secilc is in the tools tree, which is not there; `veilor lab tools` makes it\n",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_a_check_says_becomes_lines_and_a_code(name, monkeypatch, capsys):
    check, code, release, text = CASES[name]
    monkeypatch.setattr(registry.walk, "__defaults__", ([(name, check)],))
    monkeypatch.setattr(cli, "runner", lambda args: None)
    assert cli.main(["check"]) == code
    *lines, last = capsys.readouterr().out.splitlines(keepends=True)
    assert "".join(lines) == text
    assert last == f"veilor check: 1 checks, {int(code == 1)} failed, {int(code == 4)} could not be run\n"
    assert cli.main(["check", "--release"]) == release


def test_one_check_that_cannot_run_does_not_hide_what_another_found(monkeypatch, capsys):
    monkeypatch.setattr(registry.walk, "__defaults__", ([("cannot", unable), ("finds", CASES["finds"][0])],))
    monkeypatch.setattr(cli, "runner", lambda args: None)
    assert cli.main(["check"]) == 1
    assert "NOT RUN" in capsys.readouterr().out


def test_a_tree_without_the_program_is_no_pass(tools):
    with pytest.raises(CannotRun, match="has no no-such-program"):
        run_tool(tools.run, ["no-such-program"], [])


@pytest.fixture
def clone(tmp_path):
    """The parts of this repository that the three oldest checks read, to be spoilt."""
    for part in ("overlay", "src", "bluebuild/keys", "kickstart", "docs", "threats", "scenarios", "artwork"):
        shutil.copytree(
            ROOT / part, tmp_path / part, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copyfile(ROOT / "product.toml", tmp_path / "product.toml")
    return tmp_path


@pytest.mark.parametrize(
    ("path", "text", "check"),
    [
        ("docs/VERIFIED.md", "all is verified\n", "generated pages"),
        ("product.toml", "", "staged tree"),
        ("bluebuild/keys/veilor-image-b.pub", "no key\n", "staged tree"),
        ("overlay/usr/lib/os-release", "NAME=x\n", "staged tree"),
        ("kickstart/install.ks", "autopart\nnonsense\n", "kickstarts by pykickstart"),
    ],
)
def test_it_says_what_is_wrong_and_where(path, text, check, clone):
    (clone / path).write_text(text)
    (result,) = registry.walk(clone, None, [pair for pair in registry.CHECKS if pair[0] == check])
    assert result.findings and path.startswith(result.findings[0].path), result
