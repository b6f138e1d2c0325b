"""The command reference says what the programs' parsers say, all of it."""

from __future__ import annotations

import argparse
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def load():
    spec = importlib.util.spec_from_file_location("veilor_docs_commands", ROOT / "docs/commands.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


commands = load()


def test_the_committed_pages_are_not_stale():
    assert commands.stale() == [], "write them anew with `make docs`"


@pytest.mark.parametrize("name", commands.PAGES)
def test_a_page_that_lost_a_word_or_is_missing_is_noticed(tmp_path, name):
    for page, make in commands.PAGES.items():
        (tmp_path / page).write_text(make())
    assert commands.stale(tmp_path) == []
    text = (tmp_path / name).read_text()
    (tmp_path / name).write_text(
        text.replace("--help", "").replace("exit code", "code", 1).replace("Exit codes", "Codes", 1)
    )
    assert commands.stale(tmp_path) == [name]
    (tmp_path / name).unlink()
    assert commands.stale(tmp_path) == [name]


def test_a_table_of_findings_that_says_something_else_is_noticed(tmp_path):
    for page, make in commands.PAGES.items():
        (tmp_path / page).write_text(make())
    assert commands.stale(tmp_path) == []
    page = tmp_path / "COMMANDS.md"
    assert "\n  metered    ask      goes on     3  NetworkManager says" in page.read_text()
    page.write_text(page.read_text().replace("\n  metered ", "\n  meters  "))
    assert commands.stale(tmp_path) == ["COMMANDS.md"]
    page.write_text("# nothing\n")
    assert commands.stale(tmp_path) == ["COMMANDS.md"]


def test_each_launcher_on_the_machine_has_its_chapter():
    launchers = {path.name for path in (ROOT / "overlay/usr/bin").glob("veilor-*")}
    assert launchers and launchers <= set(re.findall(r"^## (veilor-\S+)$", commands.machine_page(), re.M))


@pytest.mark.parametrize(
    "parsers, page",
    [
        (commands.machine_parsers, commands.machine_page),
        (commands.developer_parsers, commands.developer_page),
    ],
)
def test_every_argument_is_told_with_its_help(parsers, page):
    text = page()
    for parser in parsers():
        chapter = text.partition(f"\n## {parser.prog}\n")[2].partition("\n## ")[0]
        for action in parser._actions:
            if not isinstance(action, argparse._HelpAction):
                assert all(option in chapter for option in action.option_strings), (parser.prog, action)
                assert " ".join((action.help or "").replace("|", "\\|").split()) in chapter, (
                    parser.prog,
                    action,
                )


def test_usage_shows_what_excludes_what_and_what_must_be_given():
    parser = argparse.ArgumentParser(prog="p")
    parser.add_argument("where", metavar="DIR")
    parser.add_argument("what", nargs="?", choices=["a", "b"])
    parser.add_argument("more", nargs="*", metavar="FILE")
    parser.add_argument("--key", required=True)
    rivals = parser.add_mutually_exclusive_group()
    rivals.add_argument("--one", action="store_true")
    rivals.add_argument("--two", type=int, metavar="N")
    assert commands.usage(parser) == "p --key KEY [--one | --two N] DIR [a|b] [FILE …]"
    assert "| `[a\\|b]` |" in commands.section(
        argparse.ArgumentParser(prog="q", description="x", parents=[parser], add_help=False)
    )


def test_what_else_a_help_says_stands_before_the_exit_codes():
    epilog = "what holds it up:\n  10 things\n\nexit codes:\n  0    done\n  4    refused\n"
    parser = argparse.ArgumentParser(prog="p", description="x", epilog=epilog)
    assert commands.exit_codes(parser) == {0: "done", 4: "refused"}
    assert "what holds it up:\n  10 things\n```" in commands.section(
        parser
    ) and "refused" not in commands.section(parser)


def test_a_group_of_verbs_is_told_verb_by_verb():
    assert {"veilor lab base", "veilor lab clean", "veilor stage"} <= {
        one.prog for one in commands.developer_parsers()
    }
