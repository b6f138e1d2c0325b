"""Where the tests find real tools."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

NAMED = "VEILOR_TEST_TOOLS"


@pytest.fixture(scope="session")
def tools():
    """The tools tree: $VEILOR_TEST_TOOLS, or the one of this package list in the lab's cache. Without one the
    test does not run.
    """
    from veilor.lab.cache import cache_root
    from veilor.lab.tools import Tools, find_tools_tree

    found = Path(os.environ[NAMED]) if NAMED in os.environ else find_tools_tree(cache_root())
    if not (found / "usr/bin/skopeo").exists() or not shutil.which("bwrap"):
        pytest.skip(
            f"NOT RUN: needs bubblewrap and the tools tree; `veilor lab tools` makes it, or set {NAMED}=DIR"
        )
    return Tools(found)
