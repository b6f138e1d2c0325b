"""Where the tests find real tools, and a small source tree to stage."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
NAMED = "VEILOR_TEST_TOOLS"


def cached() -> list[Path]:
    from veilor.lab.rehearse import cache_dir

    return sorted(cache_dir().glob("tools-*/tools"))


@pytest.fixture(scope="session")
def tools():
    """The tools tree: $VEILOR_TEST_TOOLS, or the one that a rehearsal has cached. Without one the test does not run."""
    from veilor.lab.tools import Tools

    found = [Path(os.environ[NAMED])] if NAMED in os.environ else cached()
    if not found or not (found[0] / "usr/bin/skopeo").exists() or not shutil.which("bwrap"):
        pytest.skip("NOT RUN: needs bubblewrap and the tools tree; `make rehearse` makes it, or set VEILOR_TEST_TOOLS=DIR")
    return Tools(found[0])


@pytest.fixture
def source(tmp_path):
    """A clone in small: the real product.toml, code and keys, and an overlay of a few telling files."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "src/veilor", root / "src/veilor", ignore=shutil.ignore_patterns("lab", "build"))
    shutil.copytree(ROOT / "bluebuild/keys", root / "bluebuild/keys")
    shutil.copyfile(ROOT / "product.toml", root / "product.toml")
    wants = root / "overlay/usr/lib/systemd/system/multi-user.target.wants"
    wants.mkdir(parents=True)
    (wants.parent / "veilor-x.service").write_text("[Service]\n")
    (wants / "veilor-x.service").symlink_to("../veilor-x.service")
    program = root / "overlay/usr/bin/veilor-x"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return root
