"""The desktop tree, and the staged tree whose look the tests read."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from veilor.lab.cache import cache_root
from veilor.lab.tools import Tools

NAMED = "VEILOR_TEST_DESKTOP"


@pytest.fixture(scope="module")
def desktop():
    """The desktop tree: $VEILOR_TEST_DESKTOP, or the newest in the lab's cache; without one, NOT RUN."""
    found = (
        Path(os.environ[NAMED])
        if NAMED in os.environ
        else max(cache_root().glob("desktop-*/desktop"), key=lambda tree: tree.stat().st_mtime, default=None)
    )
    if not found or not (found / "usr/bin/plasmashell").exists() or not shutil.which("bwrap"):
        pytest.skip(
            f"NOT RUN: needs bubblewrap and the desktop tree; `veilor pictures` makes it, or set {NAMED}=DIR"
        )
    return Tools(found)


@pytest.fixture(scope="module")
def tree(staged):
    return staged
