"""Where the tests find real tools, and what they share."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

NAMED = "VEILOR_TEST_TOOLS"
ROOT = Path(__file__).resolve().parents[1]


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


@pytest.fixture(scope="session")
def once(tmp_path_factory) -> Callable[[str, Callable[[Path], object]], Path]:
    """`once(name, make)`: the folder that MAKE(folder) fills, for the whole run. The first process that asks
    has it made, the others wait for it. It is only to be read.
    """
    from veilor.lab.cache import locked

    shared = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        shared = shared.parent  # each worker has a folder of its own in this one

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / f"once-{name}" / name, shared / f"once-{name}" / "done"
        with locked(shared / f"once-{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder.parent, ignore_errors=True)  # what a failed attempt left
                folder.parent.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def staged(once) -> Path:
    """The tree staged from this repository, only to be read."""
    from veilor.build.stage import stage

    return once("staged", lambda folder: stage(ROOT, folder))
