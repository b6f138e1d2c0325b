"""The base that releases stand on: verified by signature and provenance, then pinned by digest."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.readiness import DIGEST, PIN, read_pin
from veilor.build.sign import TIMEOUT, registry_setting
from veilor.core.product import load


@dataclass(frozen=True)
class OfferedBase:
    """What the base's tag means now: the digest, and the version that the image gives itself."""

    digest: str
    version: str


def verify_base(
    root: Path, digest: str, *, run: Callable, provenance: Callable, ca: Path | None = None
) -> str:
    """Verify the base at DIGEST and return its reference by digest.

    It has to be signed by the key that the pin names, and built from the source it names. RUN runs cosign;
    PROVENANCE runs slsa-verifier, which is no part of the tools tree. Raises BuildError when the key is
    missing; the error of either program comes through.
    """
    pin = read_pin(root)
    ref = f"{load(root / 'product.toml').base_image}@{digest}"
    key = root / "bluebuild" / pin.key
    if not key.is_file():
        raise BuildError(
            f"bluebuild/{pin.key} is not there, so the base cannot be verified; docs/RELEASING.md says "
            "where it is taken from"
        )
    env, binds = registry_setting(ca)
    run(
        ["cosign", "verify", "--key", str(key), "--insecure-ignore-tlog=true", ref],
        binds=[root, *binds],
        env=env,
        timeout=TIMEOUT,
    )
    provenance(
        ["slsa-verifier", "verify-image", ref, "--source-uri", pin.source, "--source-branch", pin.branch],
        timeout=TIMEOUT,
    )
    return ref


def pinned_base(root: Path) -> str:
    """The digest that releases build on. Raises BuildError while there is none."""
    pin = read_pin(root)
    if not pin.digest:
        raise BuildError(
            f"{PIN}: the base is not pinned yet, so no release can be built; `veilor base pin` verifies and "
            "pins it"
        )
    return pin.digest


def pin_base(root: Path, *, run: Callable, provenance: Callable, ca: Path | None = None) -> tuple[str, bool]:
    """Pin what the base's tag means now: the digest, and whether it is another than before.

    It is verified as by `verify_base` first. Raises BuildError, and leaves the pin as it was, when anything
    is wrong.
    """
    product, pin = load(root / "product.toml"), read_pin(root)
    reference = f"{product.base_image}:{pin.tag}"
    offered = ask_registry(reference, run=run, ca=ca)
    if not DIGEST.fullmatch(offered.digest):
        raise BuildError(
            f"the registry answered with {offered.digest!r:.100}, which is no digest; nothing was pinned"
        )
    if offered.version.split(".")[0] != product.version:
        raise BuildError(
            f"{reference} is version {offered.version!r}, and product.toml says {product.version}; nothing "
            "was pinned"
        )
    if offered.digest == pin.digest:
        return offered.digest, False
    verify_base(root, offered.digest, run=run, provenance=provenance, ca=ca)
    write_pin(root, offered.digest)
    return offered.digest, True


def ask_registry(reference: str, *, run: Callable, ca: Path | None) -> OfferedBase:
    """What the registry says of REFERENCE. Raises BuildError for an answer without digest or labels."""
    env, binds = registry_setting(ca)
    argv = ["skopeo", "inspect", "--no-tags", f"docker://{reference}"]
    answer = run(argv, binds=binds, env=env, timeout=TIMEOUT).stdout
    try:
        found = json.loads(answer)
        version = found["Labels"].get("org.opencontainers.image.version", "")
        return OfferedBase(digest=found["Digest"], version=version)
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BuildError(
            f"{reference} has no digest or labels, so it is no bootable image; nothing was pinned"
        ) from None


def write_pin(root: Path, digest: str) -> None:
    """Replace the digest in the pin of the clone at ROOT; every other line stays, comments too."""
    path = root / PIN
    lines = []
    for line in path.read_text().splitlines():
        lines.append(f'digest = "{digest}"' if line.startswith("digest = ") else line)
    handle, new = tempfile.mkstemp(prefix=".base.", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(new, 0o644)
    os.replace(new, path)
