"""A small source tree to stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def source(tmp_path):
    """A clone in small: the real product.toml, code and keys, and an overlay of a few telling files."""
    root = tmp_path / "clone"
    shutil.copytree(ROOT / "src/veilor", root / "src/veilor", ignore=shutil.ignore_patterns("lab", "build"))
    shutil.copytree(ROOT / "bluebuild/keys", root / "bluebuild/keys")
    shutil.copytree(ROOT / "threats", root / "threats")
    shutil.copytree(ROOT / "artwork", root / "artwork")
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
