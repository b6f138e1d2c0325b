"""Where the tests find real tools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NAMED = "VEILOR_TEST_TOOLS"


@pytest.fixture(scope="session")
def tools():
    """The tools tree: $VEILOR_TEST_TOOLS, or the newest in the lab's cache. Without one the test does not run."""
    from veilor.lab.rehearse import cache_dir
    from veilor.lab.tools import Tools

    if NAMED in os.environ:
        found = Path(os.environ[NAMED])
    else:
        found = max(cache_dir().glob("tools-*/tools"), key=lambda tree: tree.stat().st_mtime, default=None)
    if not found or not (found / "usr/bin/skopeo").exists() or not shutil.which("bwrap"):
        pytest.skip(f"NOT RUN: needs bubblewrap and the tools tree; `veilor lab tools` makes it, or set {NAMED}=DIR")
    return Tools(found)
