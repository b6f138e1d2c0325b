"""Signing by cosign, in the one form that the machine's container stack can see.

containers/image reads a signature from the tag `sha256-<hex>.sig` beside the image, in the format of cosign
2. cosign 3 writes another one by default; its old format has to be asked for. No transparency log: the
machine's policy trusts keys alone, and the lab has no network.
"""

from __future__ import annotations

import base64
import json
import os
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from veilor.build.errors import BuildError

TIMEOUT = 180
BY_DIGEST = re.compile(r"[\w.:/-]+@sha256:[0-9a-f]{64}")
# What a real push takes from its caller's environment: logins, the key's password, another CA bundle.
PASSED_ON = ("COSIGN_PASSWORD", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE")
PATHS = ("DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "SSL_CERT_FILE")


def registry_setting(ca: Path | None) -> tuple[dict[str, str], list[Path]]:
    """Environment and binds for a program that talks to a registry.

    CA, a PEM file, replaces the authorities that the system trusts.
    """
    env = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    env.setdefault("COSIGN_PASSWORD", "")  # unset, cosign would ask for it on a terminal that isn't there
    if ca is not None:
        env["SSL_CERT_FILE"] = str(ca.absolute())
    return env, [Path(env[name]) for name in PATHS if name in env and Path(env[name]).exists()]


def generate_keys(folder: Path, run: Callable) -> tuple[Path, Path]:
    """Make the key pair `cosign.key` and `cosign.pub` in FOLDER, and return both paths.

    The private half is readable by its owner alone and locked by $COSIGN_PASSWORD, empty by default. A pair
    that is there already stays. Raises BuildError when one half is missing.
    """
    folder = folder.absolute()
    key, public = folder / "cosign.key", folder / "cosign.pub"
    if key.exists() != public.exists():
        raise BuildError(
            f"{folder} holds half a key pair; move it away, or complete it with `cosign public-key`"
        )
    if not key.exists():
        folder.mkdir(parents=True, exist_ok=True)
        env, binds = registry_setting(None)
        run(
            ["cosign", "generate-key-pair", f"--output-key-prefix={folder}/cosign"],
            binds=[folder, *binds],
            env=env,
            timeout=TIMEOUT,
        )
        key.chmod(0o600)
    return key, public


def sign_image(ref: str, key: Path, *, identity: str, run: Callable, ca: Path | None = None) -> bool:
    """Sign REF (REGISTRY/REPOSITORY@sha256:…) with the private KEY; False when that key had signed it before.

    IDENTITY is the repository's public name without a tag. Where the answer is False nothing is written.
    Raises BuildError on a reference without a digest, since a tag may have moved between push and signing,
    and when the signature is not found afterwards where machines look for it.
    """
    if not BY_DIGEST.fullmatch(ref):
        raise BuildError(
            f"{ref} names no digest, and only REPOSITORY@sha256:… is signed; a tag may move meanwhile"
        )
    key = key.absolute()
    if not key.is_file():
        raise BuildError(
            f"the private key {key} is not there, so nothing was signed; name another with --key"
        )
    env, binds = registry_setting(ca)
    call = {"binds": [key.parent, *binds], "env": env, "timeout": TIMEOUT}
    public = run(["cosign", "public-key", "--key", str(key)], **call).stdout
    if is_signed(ref, public, identity, run, call):
        return False
    argv = [
        "cosign",
        "sign",
        "--yes",
        "--key",
        str(key),
        "--tlog-upload=false",
        f"--sign-container-identity={identity}",
    ]
    run([*argv, *old_format(run, call), ref], **call)
    if not is_signed(ref, public, identity, run, call):
        raise BuildError(
            f"cosign says it signed {ref}, but machines will not find that; use a cosign of 2.x or 3.x"
        )
    return True


def old_format(run: Callable, call: dict, verb: str = "sign") -> list[str]:
    """The flags by which this cosign's VERB writes the format of cosign 2.

    Its help says which it has: builds of distributions call themselves "devel", so the version says nothing.
    """
    known = run(["cosign", verb, "--help"], **call)
    text = known.stdout + known.stderr
    return [
        f"{flag}=false" for flag in ("--new-bundle-format", "--use-signing-config") if flag.encode() in text
    ]


def is_signed(ref: str, public: bytes, identity: str, run: Callable, call: dict) -> bool:
    """Whether REF carries a signature by the PUBLIC key (PEM) for IDENTITY and this very digest.

    It is looked for where machines look: under the tag `sha256-<hex>.sig` of the same repository. CALL are
    the options for RUN.
    """
    repository, digest = ref.split("@")
    with tempfile.TemporaryDirectory(prefix="veilor-signature-") as scratch:
        folder = Path(scratch, "signature")
        argv = [
            "skopeo",
            "--insecure-policy",
            "copy",
            "--quiet",
            f"docker://{repository}:{digest.replace(':', '-')}.sig",
            f"dir:{folder}",
        ]
        fetched = run(argv, **(call | {"binds": [*call["binds"], Path(scratch)]}), check=False)
        if fetched.returncode:
            # No signature yet. Where the registry is out of reach, the cosign that comes next says so.
            return False
        for layer in json.loads((folder / "manifest.json").read_text())["layers"]:
            payload = (folder / layer["digest"].split(":")[1]).read_bytes()
            signature = layer.get("annotations", {}).get("dev.cosignproject.cosign/signature", "")
            if signature_holds(signature, payload, public) and payload_names(payload, identity, digest):
                return True
    return False


def signature_holds(signature: str, payload: bytes, public: bytes) -> bool:
    """Whether SIGNATURE (base64) is one of PAYLOAD by the PUBLIC key (PEM).

    cosign makes keys of an elliptic curve; by any other key nothing is signed.
    """
    try:
        key = load_pem_public_key(public)
        raw = base64.b64decode(signature)
    except ValueError:
        return False
    if not isinstance(key, EllipticCurvePublicKey):
        return False
    try:
        key.verify(raw, payload, ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


def payload_names(payload: bytes, identity: str, digest: str) -> bool:
    """Whether the signed PAYLOAD (JSON, containers-signature(5)) names both IDENTITY and DIGEST."""
    try:
        critical = json.loads(payload)["critical"]
        signed_identity = critical["identity"]["docker-reference"]
        signed_digest = critical["image"]["docker-manifest-digest"]
    except (ValueError, KeyError, TypeError):
        return False
    if signed_identity != identity:
        return False
    return signed_digest == digest
