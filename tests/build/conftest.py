"""A small source tree to stage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from veilor.build.check import image_tree
from veilor.core.product import load

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


@pytest.fixture
def base(tmp_path):
    """A tree shaped like the base, for a script of the recipe to work on."""
    image_tree.make_base(ROOT / image_tree.SHAPE, tmp_path / "tree", load(ROOT / "product.toml").version)
    return tmp_path / "tree"


@pytest.fixture
def run_script(base):
    """Runs the recipe's script of a name on `base`: whether it ended well, and what it said."""

    def run(name: str) -> tuple[bool, str]:
        build = image_tree.Build(ROOT, base)
        failed = build.run([str(ROOT / "bluebuild/files/scripts" / name)], name)
        return failed is None, failed.text if failed else build.said

    return run
