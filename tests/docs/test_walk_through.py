"""The change that CONTRIBUTING.md leads through is green when its steps are followed to the letter."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from veilor.build.threats import rules
from veilor.build.threats.model import load_model

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
SCENARIO, FUNCTION, BEFORE = "scenarios/life.py", "second_boot", "    world.shut_down()\n"


def commands(heading: str, number: int) -> str:
    """The commands of block NUMBER below HEADING, without those of veilor and make, which take long."""
    chapter = PAGE.split(f"\n## {heading}", 1)[1].split("\n## ")[0]
    block = re.findall(r"^```\n(.*?)^```$", chapter, re.M | re.S)[number]
    return "".join(
        line for line in block.splitlines(keepends=True) if not line.startswith((".venv/", "make "))
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """What git keeps of this repository, in a repository of its own."""
    folder = tmp_path_factory.mktemp("clone")
    argv = ["git", "-C", str(ROOT), "ls-files", "-z"]
    names = subprocess.run(argv, capture_output=True, check=True, timeout=60).stdout.decode().split("\0")
    for name in filter(None, names):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(ROOT / name):
            shutil.copy2(ROOT / name, path, follow_symlinks=False)
    subprocess.run(["git", "init", "--quiet", str(folder)], check=True, timeout=60)
    subprocess.run(["git", "-C", str(folder), "add", "--all"], check=True, timeout=60)
    return folder


def bash(folder: Path, text: str) -> None:
    subprocess.run(["bash", "-euo", "pipefail", "-c", text], cwd=folder, check=True, timeout=60)


def test_the_new_file_is_named_until_its_reason_is_there(clone):
    bash(clone, commands("2. Change a file of the image", 0).split("find ")[0])
    [new] = rules.problems(clone, load_model(clone))
    assert "overlay/usr/share/veilor/hello" in new
    bash(clone, commands("2. Change a file of the image", 1))
    assert rules.problems(clone, load_model(clone)) == []


def test_the_new_check_goes_where_the_page_says_and_needs_no_formatting(clone):
    [line] = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
    assert f"`{SCENARIO}`" in PAGE and f"`{FUNCTION}`" in PAGE and f"`{BEFORE.strip()}`" in PAGE
    path = clone / SCENARIO
    head, rest = path.read_text().split(f"def {FUNCTION}(", 1)
    body, after = rest.split("\n\n\n", 1)
    assert body.endswith(BEFORE.rstrip("\n"))
    changed = body.removesuffix(BEFORE.rstrip("\n")) + line + BEFORE.rstrip("\n")
    path.write_text(f"{head}def {FUNCTION}({changed}\n\n\n{after}")
    ruff = Path(sys.executable).with_name("ruff")
    for argv in (["format", "--check"], ["check"]):
        done = subprocess.run(
            [ruff, *argv, "--no-cache", SCENARIO],
            cwd=clone,
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    said = re.search(r"^echo (\S+) >", PAGE, re.M)[1]
    assert f'"{said}\\n"' in line
