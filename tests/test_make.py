"""`make setup` on machines that lack something, and when nothing is to be done."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def make(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # As a person starts it: a make around this test would otherwise lend it flags and its level.
    environment = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")
    }
    return subprocess.run(
        ["make", "--no-print-directory", "setup", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
        timeout=120,
    )


@pytest.fixture
def clone(tmp_path):
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("python", "advice"),
    [
        ("exit 127", "install python3"),
        ("case $2 in *version_info*) exit 1;; esac", "older than 3.11"),
        ("case $2 in *ensurepip*) exit 1;; esac", "apt-get install python3-venv"),
    ],
    ids=["none", "old", "no-venv"],
)
def test_what_is_missing_is_one_line_with_the_remedy(clone, python, advice):
    fake = clone / "python"
    fake.write_text(f"#!/bin/sh\n{python}\n")
    fake.chmod(0o755)
    done = make(clone, f"PYTHON={fake}")
    told = [line for line in done.stderr.splitlines() if not line.startswith("make: ***")]
    assert done.returncode != 0 and len(told) == 1 and advice in told[0]
    assert not (clone / ".venv").exists()


def test_a_finished_environment_is_left_alone_and_a_changed_lock_is_not(clone):
    fake = clone / "python"
    fake.write_text('#!/bin/sh\nmkdir -p .venv/bin\ntest -e .venv/bin/python || cp "$0" .venv/bin/python\n')
    fake.chmod(0o755)
    first, second = (make(clone, f"PYTHON={fake}") for _ in range(2))
    assert first.returncode == second.returncode == 0, first.stderr + second.stderr
    assert "making .venv" in first.stdout and second.stdout == ""
    with (clone / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "making .venv" in make(clone, f"PYTHON={fake}").stdout
