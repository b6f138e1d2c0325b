"""Signing: which command lines cosign gets, and that a signature counts only
when it says the right things.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from veilor.build import sign
from veilor.build.errors import BuildError

DIGEST = "sha256:" + "ab" * 32
IDENTITY = "ghcr.io/veilor/veilor-os"
REF = f"registry.test/veilor/veilor-os@{DIGEST}"


class FakeTools:
    """Answers as cosign and skopeo would, with a registry in memory, and remembers every command line."""

    def __init__(self, cosign_help: bytes = b"--tlog-upload=true", loses_signatures: bool = False) -> None:
        self.private = ec.generate_private_key(ec.SECP256R1())
        self.public = self.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        self.help, self.loses, self.calls, self.signatures, self.environments = (
            cosign_help,
            loses_signatures,
            [],
            [],
            [],
        )

    def sign(self, identity: str, digest: str) -> None:
        said = {"identity": {"docker-reference": identity}, "image": {"docker-manifest-digest": digest}}
        payload = json.dumps({"critical": said}).encode()
        self.signatures.append(
            (payload, base64.b64encode(self.private.sign(payload, ec.ECDSA(SHA256()))).decode())
        )

    def __call__(self, argv, *, binds=(), env=None, timeout, stdin=None, check=True):
        self.calls.append(argv)
        self.environments.append(env)
        code, out = 0, b""
        if argv[:2] == ["cosign", "public-key"]:
            out = self.public
        elif argv == ["cosign", "sign", "--help"]:
            out = self.help
        elif argv[:2] == ["cosign", "sign"] and not self.loses:
            identity = next(a.split("=")[1] for a in argv if a.startswith("--sign-container-identity="))
            self.sign(identity, argv[-1].split("@")[1])
        elif argv[0] == "skopeo":
            code = 0 if self.signatures else 2
            folder = Path(argv[-1].removeprefix("dir:"))
            layers = []
            for number, (payload, signature) in enumerate(self.signatures):
                folder.mkdir(exist_ok=True)
                (folder / f"{number}").write_bytes(payload)
                layers.append(
                    {
                        "digest": f"sha256:{number}",
                        "annotations": {"dev.cosignproject.cosign/signature": signature},
                    }
                )
            if layers:
                (folder / "manifest.json").write_text(json.dumps({"layers": layers}))
        return SimpleNamespace(returncode=code, stdout=out, stderr=b"")

    @property
    def signings(self) -> list[list[str]]:
        return [argv for argv in self.calls if argv[:2] == ["cosign", "sign"] and argv[-1] != "--help"]


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "cosign.key"
    path.write_text("locked")
    return path


def test_signs_by_digest_without_a_log_under_the_given_identity(key, tmp_path):
    tools = FakeTools()
    assert sign.sign_image(REF, key, identity=IDENTITY, run=tools, ca=tmp_path / "ca.crt") is True
    assert tools.signings == [
        [
            "cosign",
            "sign",
            "--yes",
            "--key",
            str(key),
            "--tlog-upload=false",
            f"--sign-container-identity={IDENTITY}",
            REF,
        ]
    ]
    assert tools.environments[-1]["SSL_CERT_FILE"] == str(tmp_path / "ca.crt")


def test_asks_a_newer_cosign_for_the_format_that_machines_read(key):
    tools = FakeTools(b"--new-bundle-format=true: ... --use-signing-config=true: ...")
    sign.sign_image(REF, key, identity=IDENTITY, run=tools)
    assert {"--new-bundle-format=false", "--use-signing-config=false"} <= set(tools.signings[0])


def test_signing_twice_writes_one_signature(key):
    tools = FakeTools()
    sign.sign_image(REF, key, identity=IDENTITY, run=tools)
    assert sign.sign_image(REF, key, identity=IDENTITY, run=tools) is False
    assert len(tools.signings) == 1


@pytest.mark.parametrize(
    ("identity", "digest"), [("ghcr.io/somebody/else", DIGEST), (IDENTITY, "sha256:" + "cd" * 32)]
)
def test_a_signature_for_something_else_does_not_count(key, identity, digest):
    tools = FakeTools()
    tools.sign(identity, digest)
    assert sign.sign_image(REF, key, identity=IDENTITY, run=tools) is True
    assert len(tools.signings) == 1


def test_a_signature_by_another_key_does_not_count(key):
    tools, stranger = FakeTools(), FakeTools()
    stranger.sign(IDENTITY, DIGEST)
    tools.signatures = stranger.signatures
    assert sign.sign_image(REF, key, identity=IDENTITY, run=tools) is True


def test_says_so_when_machines_would_not_find_the_signature(key):
    with pytest.raises(BuildError, match="will not find"):
        sign.sign_image(REF, key, identity=IDENTITY, run=FakeTools(loses_signatures=True))


@pytest.mark.parametrize(
    "ref",
    ["ghcr.io/veilor/veilor-os:44", "ghcr.io/veilor/veilor-os", f"ghcr.io/a@{DIGEST}0", f"-x@{DIGEST[:-1]}"],
)
def test_a_tag_is_never_signed(ref, key):
    tools = FakeTools()
    with pytest.raises(BuildError, match="names no digest"):
        sign.sign_image(ref, key, identity=IDENTITY, run=tools)
    assert not tools.calls


def test_a_missing_key_is_one_line(tmp_path):
    with pytest.raises(BuildError, match="nothing was signed"):
        sign.sign_image(REF, tmp_path / "none.key", identity=IDENTITY, run=FakeTools())


def test_half_a_key_pair_is_not_completed_by_a_new_one(key):
    with pytest.raises(BuildError, match="half a key pair"):
        sign.generate_keys(key.parent, FakeTools())
