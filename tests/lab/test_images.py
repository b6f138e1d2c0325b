"""Images without a container engine: the same bytes each time, and a digest for each change."""

import gzip
import hashlib
import io
import json
import tarfile

import pytest

from veilor.lab import images
from veilor.lab.verdict import LabFault


@pytest.fixture
def base(tmp_path):
    return layout_of(tmp_path / "base", gzip.compress(b"layer", mtime=0))


def layout_of(layout, packed_layer, kind="l"):
    """A layout with one image of one layer."""
    (layout / "blobs/sha256").mkdir(parents=True)
    layer = images.write_blob(layout, packed_layer)
    empty = {"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}}
    config = images.write_blob(layout, json.dumps(empty).encode())
    manifest = {
        "schemaVersion": 2,
        "config": {"mediaType": "c", **config},
        "layers": [{"mediaType": kind, **layer}],
    }
    top = images.write_blob(layout, json.dumps(manifest).encode())
    (layout / "index.json").write_text(json.dumps({"manifests": [top]}))
    return layout


def tree(folder, text="one"):
    (folder / "usr/bin").mkdir(parents=True)
    (folder / "usr/bin/tool").write_text(text)
    (folder / "usr/bin/tool").chmod(0o755)
    (folder / "usr/bin/other").symlink_to("tool")
    return folder


def test_the_same_inputs_give_the_same_digest_in_another_folder(tmp_path, base):
    digests = []
    for name in ("a", "b"):
        layers = [
            ("tree", images.tree_layer(tree(tmp_path / f"tree-{name}"))),
            ("release", images.release_layer("1")),
        ]
        digests.append(images.add_layers(base, tmp_path / name, layers, "44.1"))
    assert digests[0] == digests[1]
    changed = [("tree", images.tree_layer(tree(tmp_path / "tree-c", "two")))]
    assert images.add_layers(base, tmp_path / "c", changed, "44.1") != digests[0]


def test_what_is_written_is_a_whole_image(tmp_path, base):
    digest = images.add_layers(
        base,
        tmp_path / "made",
        [("tree", images.tree_layer(tree(tmp_path / "tree")))],
        "44.7",
        {"extra": "yes"},
    )
    manifest, config, found = images.read_manifest(tmp_path / "made")
    assert found == digest and len(manifest["layers"]) == 2 == len(config["rootfs"]["diff_ids"])
    assert (
        config["config"]["Labels"]["org.opencontainers.image.version"] == "44.7"
        and config["config"]["Labels"]["extra"] == "yes"
    )
    for descriptor in [manifest["config"], *manifest["layers"]]:
        data = images.blob_path(tmp_path / "made", descriptor["digest"]).read_bytes()
        assert (
            "sha256:" + hashlib.sha256(data).hexdigest() == descriptor["digest"]
            and len(data) == descriptor["size"]
        )
    last = gzip.decompress(images.blob_path(tmp_path / "made", manifest["layers"][-1]["digest"]).read_bytes())
    assert "sha256:" + hashlib.sha256(last).hexdigest() == config["rootfs"]["diff_ids"][-1]
    with tarfile.open(fileobj=io.BytesIO(last)) as tar:
        tool = tar.getmember("usr/bin/tool")
        assert (tool.mode, tool.uid, tool.uname) == (0o755, 0, "root") and tar.getmember(
            "usr/bin/other"
        ).linkname == "tool"


def test_releases_differ_and_do_not_compress():
    assert images.release_layer("1") != images.release_layer("2")
    assert len(gzip.compress(images.release_layer("1"))) > 990_000


@pytest.mark.parametrize("index", ["", "{}", '{"manifests": []}', '{"manifests": [{"digest": "sha256:0"}]}'])
def test_what_is_no_layout_is_said_in_a_line(tmp_path, index):
    (tmp_path / "index.json").write_text(index)
    with pytest.raises(LabFault, match="veilor lab base"):
        images.read_manifest(tmp_path)


def packed(*names):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in names:
            tar.addfile(tarfile.TarInfo(name))
    return out.getvalue()


WANTED = {"bootc": "usr/bin/bootc", "kernel": "usr/lib/modules/*/vmlinuz"}


def test_what_a_base_lacks_is_named(tmp_path):
    first = layout_of(tmp_path / "a", gzip.compress(packed("./usr/bin/bootc"), mtime=0))
    assert images.missing_paths(first, WANTED) == ["kernel"]
    images.add_layers(first, tmp_path / "b", [("kernel", packed("usr/lib/modules/6.12/vmlinuz"))], "1")
    assert images.missing_paths(tmp_path / "b", WANTED) == []
    assert images.missing_paths(layout_of(tmp_path / "c", packed("etc/usr/bin/bootc")), WANTED) == [
        "bootc",
        "kernel",
    ]


def test_layers_that_cannot_be_read(tmp_path):
    assert images.missing_paths(layout_of(tmp_path / "a", b"?", "l+zstd"), WANTED) == [], (
        "unseen is not missing"
    )
    with pytest.raises(LabFault, match="fetch the image again"):
        images.missing_paths(layout_of(tmp_path / "b", gzip.compress(packed("usr/bin/bootc"))[:-20]), WANTED)
