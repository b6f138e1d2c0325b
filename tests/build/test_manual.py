"""Man pages and completions say what the programs' own command lines say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from veilor.build import manual
from veilor.build.errors import BuildError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def tree(staged, tmp_path_factory):
    """A copy of its own, since programs started in it leave their bytecode there."""
    return shutil.copytree(staged, tmp_path_factory.mktemp("stage") / "tree", symlinks=True)


@pytest.fixture(scope="module")
def programs(tree):
    return manual.describe(tree)


def test_every_program_that_people_start_has_all_four(tree, programs):
    names = {path.name for path in (tree / "usr/bin").glob("veilor-*")}
    assert set(programs) == names and len(names) >= 5
    for name in names:
        for place in (
            f"usr/share/man/man8/{name}.8",
            *(place.format(name) for place in manual.COMPLETIONS.values()),
        ):
            assert (tree / place).is_file(), place
    assert not list(tree.rglob("__pycache__")), "asking them leaves nothing behind"


@pytest.mark.parametrize(
    "name",
    [
        "veilor-update",
        "veilor-firstboot-rebase",
        "veilor-rollback",
        "veilor-status",
        "veilor-usbguard-enroll",
    ],
)
def test_each_option_of_the_help_is_in_all_four(tree, name):
    start = [
        sys.executable,
        "-I",
        "-B",
        str(tree / "usr/lib/veilor/app"),
        name.removeprefix("veilor-"),
        "--help",
    ]
    said = subprocess.run(start, capture_output=True, text=True, timeout=60, check=True).stdout
    options = set(re.findall(r"^  (?:-\w, )?(--[a-z-]+)", said, re.M))
    assert {"--help", "--json"} <= options
    page = (tree / f"usr/share/man/man8/{name}.8").read_text().replace(r"\-", "-")
    shells = {shell: (tree / place.format(name)).read_text() for shell, place in manual.COMPLETIONS.items()}
    for option in options:
        assert re.search(rf"^\\fB.*{option}\b", page, re.M)
        assert (
            option in shells["bash"]
            and f"{option}[" in shells["zsh"]
            and f" -l {option[2:]} " in shells["fish"]
        )
    for code in re.findall(r"^  (\d+) {1,4}[a-z]", said, re.M):
        assert re.search(rf"^  {code} ", page[page.index(".SH EXIT STATUS") :], re.M)


def test_the_pages_are_roff_without_an_error_message(tree):
    program = "/usr/bin/groff"
    if not Path(program).exists():
        pytest.skip("NOT RUN: groff is not installed here")
    for page in sorted((tree / "usr/share/man/man8").iterdir()):
        argv = [program, "-man", "-Tutf8", "-ww", "-Kutf8", str(page)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0 and not done.stderr, done.stderr
        plain = re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
        assert page.stem in plain and "EXIT STATUS" in plain and "--json" in plain


@pytest.mark.parametrize(
    ("typed", "expected"), [("--do", ["--download-only"]), ("--n", ["--now"]), ("x", [])]
)
def test_bash_completes(tree, typed, expected):
    script = (
        f"source {tree}/usr/share/bash-completion/completions/veilor-update; "
        f"COMP_WORDS=(veilor-update {typed}); COMP_CWORD=1; "
    )
    script += '_veilor_update; printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, timeout=60, check=False)
    assert not done.stderr and done.stdout.split() == expected


def test_words_cannot_break_out_of_roff_or_a_shell():
    hostile = (manual.Option(("--x",), "it's [a] `b` \\ .end", takes=False, choices=()),)
    page = manual.man("p", manual.Program(".SH no\n'no either", "", hostile), [], "44")
    assert "\n.SH no" not in page and "\n'no" not in page and r"\e" in page
    assert manual.zsh("p", hostile).count("'") == 2 and manual.zsh("p", hostile).count("[") == 1
    assert manual.fish("p", hostile).count("'") == 2


def test_a_program_that_cannot_be_asked_is_a_failure(tree, tmp_path):
    import shutil

    shutil.copytree(tree, tmp_path / "tree", symlinks=True)
    (tmp_path / "tree/usr/lib/veilor/app/veilor/device/update.py").write_text("raise SystemExit('broken')\n")
    with pytest.raises(BuildError, match="broken"):
        manual.describe(tmp_path / "tree")
