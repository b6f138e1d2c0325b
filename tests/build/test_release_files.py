"""What the install guide has people type says yes to what a release publishes, and no to anything else."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from veilor.build.facts import fact

ROOT = Path(__file__).resolve().parents[2]
GUIDE, BUILD, PUBLISH = (
    (ROOT / name).read_text() for name in ("docs/INSTALL.md", "scripts/build-iso", "scripts/publish-iso")
)
PASSWORD = {"COSIGN_PASSWORD": ""}
ISO = fact(ROOT, "iso")


def typed(text: str, word: str) -> str:
    """The one command in TEXT that begins with WORD."""
    (found,) = re.findall(rf"^ *({word} .*)$", text, re.M)
    return found


@pytest.fixture
def release(tools, tmp_path):
    """A folder with what scripts/build-iso leaves, and the public key; runs a command of the guide there."""
    folder = tmp_path / "release"
    folder.mkdir()

    def run(command: str, check: bool = False):
        return tools.run(
            ["sh", "-c", f"cd {folder} && {command}"], binds=[folder], env=PASSWORD, timeout=120, check=check
        )

    run("cosign generate-key-pair --output-key-prefix=key && cp key.pub veilor-image-a.pub", check=True)
    run(f"head -c 5000 /dev/zero >{ISO} && sha256sum {ISO} >SHA256SUMS", check=True)
    sign = (
        typed(BUILD, "cosign sign-blob")
        .replace("build/iso/", "")
        .replace('"$key"', "key.key")
        .replace('"${old[@]}" ', "")
    )
    run(sign, check=True)
    run(typed(BUILD, "split").replace("$iso", ISO).replace("1900M", "1900"), check=True)
    run.folder = folder
    return run


def ways() -> list[str]:
    return [typed(GUIDE, "cosign verify-blob"), f"{typed(GUIDE, 'base64')} && {typed(GUIDE, 'openssl')}"]


def test_the_guide_and_the_script_verify_the_same_way():
    (verify,) = re.findall(r"^ *if (cosign verify-blob .*); then$", PUBLISH, re.M)
    plain = verify.replace('"${old[@]}" ', "").replace(
        '"../../bluebuild/keys/veilor-image-$slot.pub"', "veilor-image-a.pub"
    )
    assert plain == typed(GUIDE, "cosign verify-blob")
    assert "for slot in a b;" in PUBLISH and "`veilor-image-b.pub`" in GUIDE, (
        "both try the second key as well"
    )
    assert typed(PUBLISH, "sha256sum") == typed(GUIDE, "sha256sum")
    published = PUBLISH.rpartition("gh release create")[2]
    assert all(
        name in published and name.replace('"$iso"', ISO) in GUIDE
        for name in ('"$iso".part-', "SHA256SUMS", "SHA256SUMS.sig")
    )


def test_what_is_published_is_verified(release):
    (release.folder / ISO).unlink()
    release(re.search(r"`(cat veilor-os[^`]*)`", GUIDE)[1], check=True)
    for command in ways():
        done = release(command)
        assert done.returncode == 0 and b"Verified OK" in done.stdout + done.stderr
    assert f"{ISO}: OK".encode() in release(typed(GUIDE, "sha256sum")).stdout


@pytest.mark.parametrize(
    "harm",
    [
        f"echo >>{ISO}",
        "echo >>SHA256SUMS",
        "cosign generate-key-pair --output-key-prefix=other && cp other.pub veilor-image-a.pub",
    ],
)
def test_anything_else_is_not(release, harm):
    release(harm, check=True)
    signed, summed = (
        [release(command).returncode for command in ways()],
        release(typed(GUIDE, "sha256sum")).returncode,
    )
    assert summed != 0 if "iso" in harm else 0 not in signed


@pytest.mark.parametrize(("signer", "published"), [("a", True), ("b", True), ("c", False)])
def test_what_either_of_our_keys_signed_is_published_and_nothing_else(signer, published, tools, tmp_path):
    keys, made, programs = tmp_path / "bluebuild/keys", tmp_path / "build/iso", tmp_path / "bin"
    for folder in (keys, made, programs, tmp_path / "scripts"):
        folder.mkdir(parents=True)
    shutil.copy(ROOT / "scripts/publish-iso", tmp_path / "scripts")
    (programs / "gh").write_text(f'#!/bin/sh\necho "$*" >{tmp_path}/published\n')
    (programs / "gh").chmod(0o755)

    def run(command: str, check: bool = True):
        env = PASSWORD | {"PATH": f"{programs}:/usr/sbin:/usr/bin"}
        return tools.run(
            ["sh", "-c", f"cd {made} && {command}"], binds=[tmp_path], env=env, timeout=120, check=check
        )

    for slot in "abc":
        run(f"cosign generate-key-pair --output-key-prefix={keys}/veilor-image-{slot}")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/veilor").write_text(f"#!/bin/sh\n[ \"$*\" = 'product iso' ] && echo {ISO}\n")
    (tmp_path / ".venv/bin/veilor").chmod(0o755)
    run(f"head -c 5000 /dev/zero >{ISO} && sha256sum {ISO} >SHA256SUMS")
    run(f"split -b 1900 {ISO} {ISO}.part-")
    run(
        f"cosign sign-blob --yes --key {keys}/veilor-image-{signer}.key --tlog-upload=false "
        "--output-signature SHA256SUMS.sig SHA256SUMS"
    )
    done = run(f"{tmp_path}/scripts/publish-iso 44.1", check=False)
    assert (done.returncode == 0) == published == (tmp_path / "published").exists(), done.stderr
    assert published or b"neither image key signed" in done.stderr
