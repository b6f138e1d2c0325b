"""The overlay laid out as on a machine, and the tools tree's programs to read it with."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def machine(tmp_path):
    """A copy of the overlay as a machine's root, for a test to change."""
    root = tmp_path / "root"
    shutil.copytree(ROOT / "overlay", root, symlinks=True)
    return root


@pytest.fixture
def run(tools, tmp_path):
    """Run a shell line in the tools tree, with the test's folder in it and no network but its own; code, both
    outputs as text.
    """

    own = ["unshare", "--mount", "--net"]
    if tools.run([*own, "true"], timeout=60, check=False).returncode:
        pytest.skip("NOT RUN: needs root, for namespaces in which a program may mount and listen")

    def go(line: str, timeout: float = 60):
        done = tools.run([*own, "sh", "-c", line], binds=[tmp_path], timeout=timeout, check=False)
        return done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")

    return go
