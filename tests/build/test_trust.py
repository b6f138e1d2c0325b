"""Signatures and statement against the shipped policy, with real skopeo, cosign and registry.

The policy is the one that `stage` writes. Two things differ from a machine: the folder of the keys, and that
the registry's name is led to a loopback port by registries.conf. The policy does not see that, but
registries.d does.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest

from veilor import cli
from veilor.build import channel, sign
from veilor.build.errors import BuildError
from veilor.build.gate import pass_gate
from veilor.build.readiness import placeholder_keys
from veilor.build.renew import fetch_statement, floor_of, renew
from veilor.build.stage import stage
from veilor.core import policy
from veilor.core.product import load
from veilor.lab.registry import Registry

ROOT = Path(__file__).resolve().parents[2]
IMAGE, CHANNEL = "veilor/veilor-os", "veilor/veilor-os-channel"


class Bench:
    """A registry, five key pairs, and a stand-in machine that pulls under the shipped policy."""

    def __init__(self, folder: Path, tools, registry: Registry) -> None:
        self.folder, self.tools, self.registry = folder, tools, registry
        self.product = load(ROOT / "product.toml")
        self.keys, public = {}, folder / "public"
        public.mkdir()
        for name in ("image-a", "image-b", "channel-a", "channel-b", "stranger"):
            self.keys[name], pub = sign.generate_keys(folder / name, tools.run)
            shutil.copyfile(pub, public / f"veilor-{name}.pub")
        tree = stage(ROOT, folder / "tree", public)
        self.policy, self.registries_d = folder / "policy.json", tree / "etc/containers/registries.d"
        shipped = (tree / "etc/containers/policy.json").read_text()
        self.policy.write_text(
            shipped.replace("/usr/share/pki/containers", str(tree / "usr/share/pki/containers"))
        )
        shipped = (self.registries_d / "veilor.yaml").read_text()
        (self.registries_d / "veilor.yaml").write_text(
            shipped.replace("ghcr.io", f"127.0.0.1:{registry.port}")
        )
        (folder / "registries.conf").write_text(
            f'[[registry]]\nprefix = "ghcr.io"\nlocation = "127.0.0.1:{registry.port}"\n'
        )

    def run(self, argv, **call):
        """The tools tree's `run`, with the lookaside configuration that a command stages led to the loopback
        port.
        """
        for flag in argv:
            if flag.startswith("--registries.d="):
                staged = Path(flag.split("=", 1)[1], "veilor.yaml")
                staged.write_text(staged.read_text().replace("ghcr.io", f"127.0.0.1:{self.registry.port}"))
        return self.tools.run(argv, **call)

    def push(self, content: bytes, repository: str = IMAGE) -> str:
        """Push an image that is just a statement-like blob with CONTENT, unsigned; its digest."""
        layout = self.folder / "layouts" / hashlib.sha256(content + repository.encode()).hexdigest()
        digest = channel.write_layout({"content": content.decode()}, layout)
        self.tools.run(
            [
                "skopeo",
                "--insecure-policy",
                "copy",
                "--quiet",
                "--preserve-digests",
                f"oci:{layout}",
                f"docker://127.0.0.1:{self.registry.port}/{repository}@{digest}",
            ],
            binds=[self.folder],
            env=self.env,
            timeout=60,
        )
        return digest

    def sign(self, digest: str, key: str, repository: str = IMAGE, identity: str | None = None) -> bool:
        return sign.sign_image(
            f"127.0.0.1:{self.registry.port}/{repository}@{digest}",
            self.keys[key],
            identity=identity or f"ghcr.io/{repository}",
            run=self.tools.run,
            ca=self.registry.ca,
        )

    @property
    def env(self) -> dict[str, str]:
        return {"SSL_CERT_FILE": str(self.registry.ca)}

    def pull(self, reference: str, dest: Path, rules: Path | None = None) -> str:
        """Pull ghcr.io/REFERENCE as a machine would, or under RULES; what skopeo said against it."""
        done = self.tools.run(
            [
                "skopeo",
                f"--policy={rules or self.policy}",
                f"--registries.d={self.registries_d}",
                f"--registries-conf={self.folder}/registries.conf",
                "copy",
                "--quiet",
                f"docker://ghcr.io/{reference}",
                f"dir:{dest}",
            ],
            binds=[self.folder, dest.parent],
            env=self.env,
            timeout=60,
            check=False,
        )
        said = done.stderr.decode()
        assert bool(said) == bool(done.returncode), said
        return said


@pytest.fixture(scope="module")
def bench(tools, tmp_path_factory):
    folder = tmp_path_factory.mktemp("trust")
    registry = Registry(tools, folder / "registry", "ghcr.io").start()
    try:
        yield Bench(folder, tools, registry)
    finally:
        registry.stop()


@pytest.mark.parametrize("key", ["image-a", "image-b"])
def test_an_image_signed_by_either_slot_is_taken(bench, tmp_path, key):
    digest = bench.push(key.encode())
    assert bench.sign(digest, key) is True
    assert bench.sign(digest, key) is False
    assert bench.pull(f"{IMAGE}@{digest}", tmp_path / "out") == ""


def test_an_unsigned_image_is_refused(bench, tmp_path):
    assert "no signature exists" in bench.pull(f"{IMAGE}@{bench.push(b'unsigned')}", tmp_path / "out")


@pytest.mark.parametrize("key", ["stranger", "channel-a"])
def test_an_image_signed_by_a_key_for_something_else_is_refused(bench, tmp_path, key):
    digest = bench.push(b"by " + key.encode())
    bench.sign(digest, key)
    assert "cryptographic signature verification failed" in bench.pull(f"{IMAGE}@{digest}", tmp_path / "out")


def test_a_signature_in_another_repositorys_name_is_refused(bench, tmp_path):
    digest = bench.push(b"other name")
    bench.sign(digest, "image-a", identity="ghcr.io/veilor/other")
    assert "is not accepted" in bench.pull(f"{IMAGE}@{digest}", tmp_path / "out")


def test_any_other_repository_is_refused(bench, tmp_path):
    digest = bench.push(b"elsewhere", "veilor/other")
    bench.sign(digest, "image-a", "veilor/other")
    assert "is rejected by policy" in bench.pull(f"veilor/other@{digest}", tmp_path / "out")


def announce(bench, key: str, sequence: int, epoch: int = 0) -> dict:
    said = channel.make_statement(
        bench.product,
        digest="sha256:" + "ab" * 32,
        version="44.20260101.1",
        sequence=sequence,
        issued=int(time.time()),
        withdrawn=["sha256:" + "cd" * 32],
        epoch=epoch,
    )
    channel.publish(
        said,
        f"127.0.0.1:{bench.registry.port}/{CHANNEL}",
        bench.product.tag,
        bench.keys[key],
        identity=f"ghcr.io/{CHANNEL}",
        run=bench.tools.run,
        ca=bench.registry.ca,
        work=bench.folder,
    )
    return said


def fetched(folder: Path) -> dict:
    layer = json.loads((folder / "manifest.json").read_text())["layers"][0]
    return json.loads((folder / layer["digest"].removeprefix("sha256:")).read_text())


def test_the_statement_arrives_and_a_newer_one_takes_its_place(bench, tmp_path):
    for sequence, key in ((1, "channel-a"), (2, "channel-b")):
        said = announce(bench, key, sequence)
        assert bench.pull(f"{CHANNEL}:{bench.product.tag}", tmp_path / str(sequence)) == ""
        assert fetched(tmp_path / str(sequence)) == said


def test_the_rules_for_a_new_epoch_take_the_second_channel_key_alone(bench, tmp_path):
    """As a machine renders them; only the folder of the keys is another."""
    rules = tmp_path / "rules.json"
    text = policy.render(replace(bench.product, channel_keys=bench.product.channel_keys[1:]))
    rules.write_text(
        text.replace("/usr/share/pki/containers", f"{bench.folder}/tree/usr/share/pki/containers")
    )
    for key, taken in (("channel-a", False), ("channel-b", True), ("image-b", False), ("stranger", False)):
        said = announce(bench, key, 1, epoch=1)
        refused = bench.pull(f"{CHANNEL}:{bench.product.tag}", tmp_path / key, rules)
        assert not refused if taken else "signature verification failed" in refused
        assert not taken or fetched(tmp_path / key) == said


def test_a_statement_signed_by_the_image_key_is_refused(bench, tmp_path):
    announce(bench, "image-a", 3)
    refused = bench.pull(f"{CHANNEL}:{bench.product.tag}", tmp_path / "out")
    assert "cryptographic signature verification failed" in refused


# The gate, and the statement issued anew: asked of skopeo under the shipped policy, from the same registry.


def gate(bench, reference: str) -> str:
    """What the gate says against ghcr.io/REFERENCE, or nothing."""
    try:
        pass_gate(
            ROOT,
            f"ghcr.io/{reference}",
            run=bench.run,
            keys_dir=bench.folder / "public",
            ca=bench.registry.ca,
            registries_conf=bench.folder / "registries.conf",
            work=bench.folder,
        )
    except BuildError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("key", ["image-a", "image-b"])
def test_the_gate_lets_a_signed_image_through(bench, key):
    digest = bench.push(b"gate " + key.encode())
    bench.sign(digest, key)
    assert gate(bench, f"{IMAGE}@{digest}") == ""


@pytest.mark.parametrize(
    ("key", "identity", "text"),
    [
        (None, None, "no signature exists"),
        ("stranger", None, "signature verification failed"),
        ("channel-a", None, "signature verification failed"),
        ("image-a", "ghcr.io/veilor/other", "is not accepted"),
    ],
)
def test_the_gate_holds_what_machines_would_refuse(bench, key, identity, text):
    digest = bench.push(f"held {key} {identity}".encode())
    if key:
        bench.sign(digest, key, identity=identity)
    said = gate(bench, f"{IMAGE}@{digest}")
    assert text in said and "the tag must not move" in said and "\n" not in said


def test_the_gate_asks_for_a_digest_and_our_repository(bench):
    assert "names no digest" in gate(bench, f"{IMAGE}:{bench.product.tag}")
    assert "machines follow no other repository" in gate(bench, "veilor/other@sha256:" + "0" * 64)


def test_the_gate_and_every_release_command_refuse_the_placeholders(bench, capsys):
    with pytest.raises(BuildError, match="placeholders"):
        pass_gate(ROOT, f"ghcr.io/{IMAGE}@sha256:{'0' * 64}", run=bench.tools.run)
    for line in (
        ["sign", "x@sha256:0", "--key", "k"],
        ["channel", "--renew", "--key", "k"],
        ["gate", "x"],
        ["iso", "--medium", "m", "--layout", "l", "--out", "o"],
    ):
        assert cli.main(line) == 1
        assert "placeholders" in capsys.readouterr().err


def test_own_keys_are_no_placeholders_and_one_placeholder_is_enough(bench, tmp_path):
    assert placeholder_keys(bench.folder / "public", bench.product) == []
    mixed = shutil.copytree(bench.folder / "public", tmp_path / "mixed")
    shutil.copyfile(ROOT / "bluebuild/keys/veilor-channel-b.pub", mixed / "veilor-channel-b.pub")
    assert placeholder_keys(mixed, bench.product) == ["veilor-channel-b.pub"]


def test_a_statement_issued_anew_says_the_same_under_a_higher_number(bench):
    before = announce(bench, "channel-a", 7, epoch=2)
    present = fetch_statement(
        ROOT,
        run=bench.run,
        keys_dir=bench.folder / "public",
        ca=bench.registry.ca,
        registries_conf=bench.folder / "registries.conf",
        work=bench.folder,
    )
    said = renew(bench.product, present, int(time.time()) + 3600, 14)
    assert said["sequence"] == 8
    kept = ("digest", "version", "tag", "repository", "rollout", "withdrawn", "epoch")
    assert [said[key] for key in kept] == [before[key] for key in kept]
    assert said["expires"] > before["expires"]
    # and as an image's floor: of its own epoch, from the beginning of a later one, never of a thief's
    assert floor_of(replace(bench.product, epoch=2), present) == 7
    assert floor_of(replace(bench.product, epoch=3), present) == 0
    with pytest.raises(BuildError, match="raise \\[keys\\] epoch"):
        floor_of(bench.product, present)


def test_a_statement_that_machines_refuse_is_not_issued_anew(bench):
    announce(bench, "image-a", 9)
    with pytest.raises(BuildError, match="announce by hand"):
        fetch_statement(
            ROOT,
            run=bench.run,
            keys_dir=bench.folder / "public",
            ca=bench.registry.ca,
            registries_conf=bench.folder / "registries.conf",
            work=bench.folder,
        )
