"""The base's pin: written only after tag, version, signature and provenance were asked for."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.build.base_pin import pin_base, pinned_base, verify_base
from veilor.build.errors import BuildError
from veilor.build.readiness import PIN, read_pin
from veilor.core.product import load

ROOT = Path(__file__).resolve().parents[2]
DIGEST = "sha256:" + "ab" * 32
FEDORA = load(ROOT / "product.toml").version


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "bluebuild/keys").mkdir(parents=True)
    (tmp_path / "bluebuild/keys/base.pub").write_text("a key")
    for name in ("product.toml", PIN):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


class Programs:
    """Answers as skopeo, cosign and slsa-verifier; REFUSING is the one that says no."""

    def __init__(
        self, version: str = f"{FEDORA}.20260630.0", refusing: str = "", answer: dict | None = None
    ) -> None:
        self.answer = answer or {"Digest": DIGEST, "Labels": {"org.opencontainers.image.version": version}}
        self.refusing, self.asked = refusing, []

    def __call__(self, argv, **call):
        self.asked.append(argv)
        if argv[0] == self.refusing:
            raise BuildError(f"{argv[0]} ended with 1: no")
        return SimpleNamespace(stdout=json.dumps(self.answer).encode())


def test_a_base_that_everything_vouches_for_is_pinned_once(clone):
    programs = Programs()
    assert pin_base(clone, run=programs, provenance=programs) == (DIGEST, True)
    assert [argv[0] for argv in programs.asked] == ["skopeo", "cosign", "slsa-verifier"]
    assert all(any(DIGEST in word for word in argv) for argv in programs.asked[1:]), (
        "verified by digest, never by tag"
    )
    assert pinned_base(clone) == DIGEST and read_pin(clone).branch == "live"
    assert "# " in (clone / PIN).read_text()
    assert pin_base(clone, run=programs, provenance=programs) == (DIGEST, False)
    assert verify_base(clone, DIGEST, run=programs, provenance=programs).endswith(f"@{DIGEST}")


@pytest.mark.parametrize(
    ("programs", "text"),
    [
        (Programs(refusing="cosign"), "cosign ended with 1"),
        (Programs(refusing="slsa-verifier"), "slsa-verifier ended with 1"),
        (Programs(version="39.1"), f"is version '39.1', and product.toml says {FEDORA}"),
        (Programs(answer={"Digest": DIGEST}), "no digest or labels"),
        (Programs(answer={"Digest": "latest", "Labels": {}}), "is no digest"),
    ],
    ids=["signature", "provenance", "version", "labels", "digest"],
)
def test_a_base_that_something_is_wrong_with_is_not_pinned(clone, programs, text):
    before = (clone / PIN).read_text()
    with pytest.raises(BuildError, match=text):
        pin_base(clone, run=programs, provenance=programs)
    assert (clone / PIN).read_text() == before


def test_without_the_key_that_vouches_nothing_is_pinned(clone):
    (clone / "bluebuild/keys/base.pub").unlink()
    with pytest.raises(BuildError, match=r"base.pub is not there"):
        pin_base(clone, run=Programs(), provenance=Programs())


@pytest.mark.parametrize(
    ("digest", "text"),
    [("not pinned yet", "not pinned yet, so no release"), ("latest", "which is no digest")],
)
def test_what_is_no_digest_is_never_built_on(clone, digest, text):
    (clone / PIN).write_text(
        (ROOT / PIN).read_text().replace("not pinned yet", digest, 2).replace(f'# "{digest}"', "#")
    )
    with pytest.raises(BuildError, match=text):
        pinned_base(clone)
