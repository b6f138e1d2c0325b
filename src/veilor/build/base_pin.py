"""The base that releases stand on: asked for by tag, verified by signature and provenance, then pinned by
digest.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.readiness import DIGEST, PIN, read_pin
from veilor.build.sign import TIMEOUT, registry_setting
from veilor.core.product import load


def verify_base(
    root: Path, digest: str, *, run: Callable, provenance: Callable, ca: Path | None = None
) -> str:
    """Verify the base at DIGEST: signed by the key that the pin names, and built from the source it names.

    RUN runs cosign; PROVENANCE runs slsa-verifier, which is no part of the tools tree. Returns the reference
    by digest. Raises BuildError when the key is missing; what either program says against the image comes
    through.
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
    """Ask the registry what the base's tag means now, verify that, and write it down. Returns the digest and
    whether it is another than before. Raises BuildError, and leaves the pin as it was, when anything is
    wrong."""
    product, pin = load(root / "product.toml"), read_pin(root)
    env, binds = registry_setting(ca)
    asked = f"{product.base_image}:{pin.tag}"
    said = run(
        ["skopeo", "inspect", "--no-tags", f"docker://{asked}"], binds=binds, env=env, timeout=TIMEOUT
    ).stdout
    try:
        found = json.loads(said)
        digest, version = found["Digest"], found["Labels"].get("org.opencontainers.image.version", "")
    except (ValueError, KeyError, AttributeError, TypeError):
        raise BuildError(
            f"{asked} has no digest or labels, so it is no bootable image; nothing was pinned"
        ) from None
    if not DIGEST.fullmatch(digest):
        raise BuildError(
            f"the registry answered with {digest!r:.100}, which is no digest; nothing was pinned"
        )
    if version.split(".")[0] != product.version:
        raise BuildError(
            f"{asked} is version {version!r}, and product.toml says {product.version}; nothing was pinned"
        )
    if digest == pin.digest:
        return digest, False
    verify_base(root, digest, run=run, provenance=provenance, ca=ca)
    path = root / PIN
    lines = [
        f'digest = "{digest}"' if line.startswith("digest = ") else line
        for line in path.read_text().splitlines()
    ]
    handle, new = tempfile.mkstemp(prefix=".base.", dir=path.parent)
    with os.fdopen(handle, "w") as file:
        file.write("\n".join(lines) + "\n")
    os.chmod(new, 0o644)
    os.replace(new, path)
    return digest, True
