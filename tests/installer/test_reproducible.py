"""Same base, keys and epoch, another clone in another folder: staged tree, layers and ISO come out the same
to the byte.
"""

import gzip
import hashlib
import json
import os
import shutil
from pathlib import Path

from veilor.build.iso import build_iso
from veilor.build.stage import stage
from veilor.lab import images

ROOT = Path(__file__).resolve().parents[2]


def base_in(folder):
    """A small base image; its layer stands for the base's own, which come from its digest."""
    (folder / "blobs/sha256").mkdir(parents=True)
    layer = images.write_blob(folder, gzip.compress(b"base", mtime=0))
    config = images.write_blob(
        folder, json.dumps({"os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}).encode()
    )
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": "c", **config},
        "layers": [{"mediaType": "l", **layer}],
    }
    (folder / "index.json").write_text(
        json.dumps({"manifests": [images.write_blob(folder, json.dumps(manifest).encode())]})
    )
    return folder


def made_in(folder, medium, run, change=None):
    """Digest of the image and SHA-256 of the ISO, made in FOLDER from a clone of its own."""
    clone = folder / "clone"
    for part in ("overlay", "src", "kickstart", "bluebuild", "threats", "artwork"):
        shutil.copytree(ROOT / part, clone / part, symlinks=True)
    shutil.copyfile(ROOT / "product.toml", clone / "product.toml")
    if change:
        change(clone)
    layers = [
        ("veilor-os", images.tree_layer(stage(clone, folder / "tree"))),
        ("release", images.release_layer("44.1")),
    ]
    digest = images.add_layers(base_in(folder / "base"), folder / "layout", layers, "44.1")
    iso = build_iso(medium, folder / "layout", clone / "kickstart/install.ks", folder / "veilor.iso", run=run)
    return digest, hashlib.sha256(iso.read_bytes()).hexdigest()


def test_image_and_iso_are_the_same_in_another_folder(medium, run, tmp_path):
    first = made_in(tmp_path / "a", medium, run)
    before = os.umask(0o077)
    try:
        assert made_in(tmp_path / "another folder", medium, run) == first
    finally:
        os.umask(before)


def test_and_differ_with_one_bit_of_the_overlay(medium, run, tmp_path):
    def change(clone):
        path = clone / "overlay/usr/bin/veilor-status"
        path.chmod(0o644)

    assert all(
        map(str.__ne__, made_in(tmp_path / "a", medium, run), made_in(tmp_path / "b", medium, run, change))
    )
