"""What was shown travels with an image: attached by the gate, signed by the real cosign, fetched under the
shipped policy.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from veilor.build import attest
from veilor.build.errors import BuildError
from veilor.build.gate import pass_gate
from veilor.build.stage import stage, tree_digest
from veilor.build.threats.model import load_model
from veilor.build.threats.results import NegativeControl, Result, snapshot
from veilor.core import claims
from veilor.device import shown
from veilor.lab import images

sys.path.insert(0, str(Path(__file__).parent))
from test_trust import IMAGE, ROOT, bench  # noqa: F401

CONTEXTS = "etc/selinux/targeted/contexts/files/file_contexts"
BRAVE = "/usr/lib/opt/brave\\.com/brave/brave\t--\tsystem_u:object_r:brave_exec_t:s0\n"
OF_THE_BASE = {
    f"usr/{CONTEXTS}": BRAVE,
    "etc/ld.so.preload": "libhardened_malloc.so\n",
    "usr/etc/selinux/config": "SELINUX=enforcing\n",
    "usr/lib/ostree/prepare-root.conf": "[composefs]\nenabled = true\n",
    "usr/bin/gone": "x",
    "usr/gone/in": "x",
    "usr/lib64/libhardened_malloc.so": "x",
    "usr/lib64/glibc-hwcaps/x86-64-v3/libhardened_malloc-light.so": "x",
    "sysroot/ostree/repo/objects/00/11.file": "x",
}  # as the base was published, with the bit on what it has since replaced
BITS = ("libhardened_malloc", "11.file", "setuid")  # words in the names of files with the set-user-ID bit


def layer(files: dict[str, str], links: dict[str, str] | None = None) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o4755 if any(word in name for word in BITS) else 0o644
            tar.addfile(member, io.BytesIO(text.encode()))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    return out.getvalue()


def write(folder: Path, layers: list[tuple[str, bytes]]) -> tuple[Path, str]:
    """An OCI layout with LAYERS, and its digest."""
    base = folder / "base"
    config = images.write_blob(
        base, b'{"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}'
    )
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **config},
        "layers": [],
    }
    top = {"mediaType": manifest["mediaType"], **images.write_blob(base, json.dumps(manifest).encode())}
    (base / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [top]}))
    return folder / "image", images.add_layers(base, folder / "image", layers, "44")


@pytest.fixture
def released(bench, tmp_path):  # noqa: F811  # noqa: F811
    """Push and sign an image of OF_THE_BASE (changed by WITH) and our staged tree, and let the gate attach to
    it: (digest, counts).
    """

    def go(**with_):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        tree = stage(ROOT, folder / "tree", bench.folder / "public")
        more = layer(
            {"usr/bin/.wh.gone": "", "usr/gone/.wh..wh..opq": "", "usr/lib/one": "x"},
            {"usr/lib/two": "usr/lib/one"},
        )
        layout, digest = write(
            folder, [("base", layer(OF_THE_BASE | with_)), ("tree", images.tree_layer(tree)), ("more", more)]
        )
        bench.registry.push(layout, IMAGE, "candidate")
        bench.sign(digest, "image-a")
        counts = pass_gate(
            ROOT,
            f"ghcr.io/{IMAGE}@{digest}",
            run=bench.run,
            keys_dir=bench.folder / "public",
            ca=bench.registry.ca,
            registries_conf=bench.folder / "registries.conf",
            work=bench.folder,
            then=lambda image: attest.attach(
                ROOT,
                f"127.0.0.1:{bench.registry.port}/{IMAGE}@{digest}",
                image,
                key=bench.keys["image-a"],
                run=bench.tools.run,
                ca=bench.registry.ca,
            ),
        )
        return digest, counts

    return go


@pytest.fixture
def recorded(monkeypatch):
    """Results as a rehearsal of this very tree would have left them; one is of another tree, one stale."""
    said = snapshot(ROOT)
    run = {claim.id: claim.attack[0].run for claim in load_model(ROOT).claims if claim.attack}
    shown = Result(
        "",
        "attack",
        run["local.ptrace"],
        verdict="PASS",
        when="2099-01-01",
        base="x",
        stand_ins=("base-system",),
        passed=(1, 1),
        tree=said["tree"],
    )
    rows = [
        replace(shown, claim=name, run=run[name], proof=said["proofs"][f"{name} attack {run[name]}"])
        for name in ("local.ptrace", "local.links", "local.modules", "local.less-kernel")
    ]
    rows[0] = replace(rows[0], fails=NegativeControl("phase", "PASS", "2099-01-01", rows[0].proof))
    rows[1] = replace(rows[1], verdict="OS_FAULT")
    rows[2] = replace(rows[2], tree="sha256:" + "0" * 64)
    rows[3] = replace(rows[3], proof="stale")
    monkeypatch.setattr(attest, "load_results", lambda root: rows)
    return said["tree"]


def test_what_was_shown_of_an_image_and_of_its_tree_stands_apart_and_arrives_verified(
    bench,  # noqa: F811
    released,
    recorded,
    tmp_path,
):
    digest, counts = released()
    of_image = {claim.id for claim in load_model(ROOT).claims if attest.of_image(claim)} - {
        "laptop.encrypted",
        "laptop.no-second-copy",
    }
    assert (
        counts
        == f"; attached: {len(of_image)} claims shown on this very image, 2 results of rehearsals of its tree"
    )
    reference = f"{IMAGE}:{digest.replace(':', '-')}.att"
    assert bench.pull(reference, tmp_path / "att") == "", "a machine fetches it under its own policy"
    said = shown.read_statements(str(tmp_path / "att"))
    here, elsewhere = shown.results_about(said, digest), shown.results_about(said, recorded)
    assert {one.claim for one in here} == of_image and {one.layer for one in here} == {"image"}
    assert [(one.claim, one.verdict, one.stand_ins) for one in elsewhere] == [
        ("local.ptrace", "PASS", ("base-system",)),
        ("local.links", "OS_FAULT", ("base-system",)),
    ]
    (of_tree,) = [one for one in said if one["subject"][0]["digest"]["sha256"] == recorded[7:]]
    assert [row["seen_to_fail"] for row in of_tree["predicate"]["results"]] == [True, False]
    assert shown.results_about(said, "sha256:" + "1" * 64) == []
    argv = [
        "cosign",
        "verify-attestation",
        "--key",
        str(bench.folder / "public/veilor-image-a.pub"),
        "--type",
        claims.PREDICATE,
        "--insecure-ignore-tlog=true",
        f"127.0.0.1:{bench.registry.port}/{IMAGE}@{digest}",
    ]
    done = bench.tools.run(argv, binds=[bench.folder], env=bench.env, timeout=60)
    payload = json.loads(base64.b64decode(json.loads(done.stdout.splitlines()[0])["payload"]))
    assert payload["subject"][0]["digest"]["sha256"] == digest[7:], (
        "cosign's own verification finds what was shown of the image"
    )
    assert released()[1] == counts, "again, and it takes the place of what was there"
    assert (
        bench.pull(reference, tmp_path / "again") == ""
        and len(shown.read_statements(str(tmp_path / "again"))) == 2
    )


def test_what_a_stranger_attaches_is_refused(bench, released, recorded, tmp_path):  # noqa: F811
    digest, _ = released()
    (bench.folder / "lie.json").write_text('{"results": []}')
    argv = [
        "cosign",
        "attest",
        "--yes",
        "--key",
        str(bench.keys["stranger"]),
        "--type",
        claims.PREDICATE,
        "--tlog-upload=false",
        "--predicate",
        str(bench.folder / "lie.json"),
        f"127.0.0.1:{bench.registry.port}/{IMAGE}@{digest}",
    ]
    bench.tools.run(argv, binds=[bench.folder], env={**bench.env, "COSIGN_PASSWORD": ""}, timeout=60)
    assert "no signature exists" in bench.pull(f"{IMAGE}:{digest.replace(':', '-')}.att", tmp_path / "out")


def test_what_is_looked_for_of_braves_domain_is_what_our_module_makes(tmp_path, tools):
    shutil.copytree(ROOT / "bluebuild/files/selinux", tmp_path, dirs_exist_ok=True)
    shutil.copy(ROOT / "stand-ins/image/base.cil", tmp_path)
    made = [str(tmp_path / name) for name in ("base.cil", "veilor_brave.cil")]
    tools.run(
        ["secilc", "--output=/dev/null", f"--filecontext={tmp_path}/made", *made],
        binds=[tmp_path],
        timeout=60,
    )
    assert (tmp_path / "made").read_text() == BRAVE


@pytest.mark.parametrize(
    ("path", "text", "claim"),
    [
        ("usr/etc/selinux/config", "SELINUX=permissive\n", "local.userns"),
        (f"usr/{CONTEXTS}", "", "browser.sandbox"),
        ("usr/lib64/setuid.so", "x", "local.setuid"),
        ("usr/lib64/libhardened_malloc/setuid.so", "x", "local.setuid"),
    ],
)
def test_of_an_image_that_does_not_keep_its_claims_nothing_is_attached(bench, released, path, text, claim):  # noqa: F811
    with pytest.raises(BuildError, match=f"does not keep {claim}"):
        released(**{path: text})


def test_layers_are_laid_out_as_on_a_machine(tmp_path, tools):
    image = tmp_path / "dir"
    image.mkdir()
    names = []
    ours = {
        "etc/selinux/config": "SELINUX=ours\n",
        "usr/bin/.wh.gone": "",
        "usr/gone/.wh..wh..opq": "",
        "usr/gone/new": "y",
    }
    for number, data in enumerate((layer(OF_THE_BASE), layer(ours, {"usr/gone/same": "usr/gone/new"}))):
        (image / f"{number}").write_bytes(data)
        names.append({"digest": f"sha256:{number}", "mediaType": "application/vnd.oci.image.layer.v1.tar"})
    (image / "manifest.json").write_text(json.dumps({"layers": names}))
    files = attest.unpack(image, tmp_path / "files", tools.run)
    assert (files / "etc/selinux/config").read_text() == "SELINUX=ours\n" and (
        files / "etc/ld.so.preload"
    ).exists()
    assert not (files / "usr/bin/gone").exists() and sorted(
        path.name for path in (files / "usr/gone").iterdir()
    ) == ["new", "same"]
    assert (files / "usr/gone/same").read_text() == "y"


@pytest.mark.parametrize("name", ["../out", "link/out"])
def test_a_layer_that_would_write_elsewhere_is_refused(tmp_path, tools, name):
    image, out = tmp_path / "dir", io.BytesIO()
    image.mkdir()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, str(tmp_path)
        tar.addfile(link)
        tar.addfile(tarfile.TarInfo(name))
    (image / "0").write_bytes(out.getvalue())
    (image / "manifest.json").write_text(
        json.dumps({"layers": [{"digest": "sha256:0", "mediaType": "x.tar"}]})
    )
    with pytest.raises(BuildError, match="outside"):
        attest.unpack(image, tmp_path / "files", tools.run)
    assert not (tmp_path / "out").exists()


def test_keys_and_floor_are_no_part_of_what_a_tree_is(tmp_path, bench):  # noqa: F811
    plain, other = stage(ROOT, tmp_path / "a"), stage(ROOT, tmp_path / "b", bench.folder / "public", 7)
    assert tree_digest(plain) == tree_digest(other) == (plain / shown.TREE.lstrip("/")).read_text().strip()
    (other / "etc/chrony.conf").write_text("server example.org\n")
    assert tree_digest(plain) != tree_digest(other)
