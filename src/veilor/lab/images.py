"""OCI images made of a base layout and layers of our own, with the same bytes each time.

No container engine is needed.
"""

from __future__ import annotations

import datetime
import fnmatch
import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
import zlib
from pathlib import Path
from typing import Any

from veilor.lab.debian_base import epoch
from veilor.lab.verdict import LabFault

LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def tree_layer(tree: Path) -> bytes:
    """The folder TREE as an uncompressed tar owned by root, in order, with the build's time stamp."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path in sorted(tree.rglob("*")):
            member = tar.gettarinfo(path, str(path.relative_to(tree)))
            member.uid = member.gid = 0
            member.uname = member.gname = "root"
            member.mtime = epoch()
            if member.isreg():
                with path.open("rb") as data:
                    tar.addfile(member, data)
            else:
                tar.addfile(member)
    return out.getvalue()


def read_manifest(layout: Path) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The manifest, the configuration and the manifest's digest of a layout that holds one image.

    Raises LabFault when LAYOUT is no OCI layout with one image.
    """
    try:
        entries = json.loads((layout / "index.json").read_text())["manifests"]
        if len(entries) != 1:
            raise ValueError(f"{len(entries)} images in it, want one")
        digest = entries[0]["digest"]
        manifest = json.loads(blob_path(layout, digest).read_text())
        return manifest, json.loads(blob_path(layout, manifest["config"]["digest"]).read_text()), digest
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise LabFault(
            f"{layout} is not an OCI layout with one image ({error}); make one with `veilor lab base DIR`"
        ) from None


def missing_paths(layout: Path, wanted: dict[str, str]) -> list[str]:
    """The keys of WANTED that no layer in LAYOUT has; its values are patterns of paths without leading slash.

    Layers are read until everything was found. Where one is packed in a way that Python cannot read (zstd),
    nothing is said to be lacking. Raises LabFault for a layout that is damaged.
    """
    missing = dict(wanted)
    for layer in read_manifest(layout)[0]["layers"]:
        if "zstd" in layer["mediaType"]:
            return []
        try:
            with tarfile.open(blob_path(layout, layer["digest"]), "r|*") as tar:
                for member in tar:
                    name = member.name.removeprefix("./")
                    for what in [what for what, pattern in missing.items() if fnmatch.fnmatch(name, pattern)]:
                        del missing[what]
                    if not missing:
                        return []
        except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
            raise LabFault(
                f"{layout}: layer {layer['digest']} can't be read ({error}); fetch the image again"
            ) from None
    return list(missing)


def blob_path(layout: Path, digest: str) -> Path:
    """Where LAYOUT keeps the blob DIGEST (sha256:…)."""
    return layout / "blobs" / digest.replace(":", "/", 1)


def write_blob(layout: Path, data: bytes) -> dict[str, Any]:
    """Write DATA as a blob; its descriptor's digest and size."""
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    path = blob_path(layout, digest)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return {"digest": digest, "size": len(data)}


def add_layers(
    base: Path,
    dest: Path,
    layers: list[tuple[str, bytes]],
    version: str,
    labels: dict[str, str] | None = None,
) -> str:
    """Write the image in BASE with LAYERS (name, tar bytes) on top to the new folder DEST.

    VERSION and LABELS go into its configuration and annotations. Returns the manifest's digest.
    Blobs of the base are hard links where the file system allows it. The same inputs give the same digest.
    """
    manifest, config, _ = read_manifest(base)
    (dest / "blobs/sha256").mkdir(parents=True)
    for descriptor in manifest["layers"]:
        source, target = blob_path(base, descriptor["digest"]), blob_path(dest, descriptor["digest"])
        try:
            os.link(source, target)
        except OSError:
            shutil.copyfile(source, target)
    created = datetime.datetime.fromtimestamp(epoch(), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    config["created"] = created
    for name, data in layers:
        packed = gzip.compress(data, 6, mtime=0)
        manifest["layers"].append({"mediaType": LAYER, **write_blob(dest, packed)})
        config["rootfs"]["diff_ids"].append("sha256:" + hashlib.sha256(data).hexdigest())
        config.setdefault("history", []).append({"created": created, "created_by": name, "comment": name})
    about = {
        "org.opencontainers.image.version": version,
        "org.opencontainers.image.created": created,
        **(labels or {}),
    }
    config.setdefault("config", {}).setdefault("Labels", {}).update(about)
    manifest.setdefault("annotations", {}).update(about)
    manifest["config"] |= write_blob(dest, json.dumps(config, sort_keys=True).encode())
    top = {"mediaType": manifest.get("mediaType", "application/vnd.oci.image.manifest.v1+json")}
    top |= write_blob(dest, json.dumps(manifest, sort_keys=True).encode())
    (dest / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (dest / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    digest: str = top["digest"]
    return digest


def release_layer(version: str, size: int = 1_000_000) -> bytes:
    """The tar of what alone differs from one rehearsed release to the next.

    That is its version, and SIZE bytes that don't compress.
    """
    noise = b"".join(hashlib.sha256(f"{version} {n}".encode()).digest() for n in range(size // 32 + 1))
    filler = noise[:size]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in (
            ("usr/lib/veilor/release.json", json.dumps({"version": version}).encode()),
            ("usr/share/veilor/filler", filler),
        ):
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = len(data), 0o644, epoch()
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()
