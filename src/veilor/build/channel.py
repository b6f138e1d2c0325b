"""The channel statement: which digest the tag means now, said by a key of its own, as a tiny OCI artefact.

The artefact is one manifest with the empty configuration and one layer, the statement's JSON. Machines fetch
it by `skopeo copy docker://… dir:…` under their policy, which checks the signature, and read the file of that
layer.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.errors import BuildError
from veilor.build.sign import TIMEOUT, registry_setting, sign_image
from veilor.core import statement as core

STATEMENT = "application/vnd.veilor.channel.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
EMPTY = "application/vnd.oci.empty.v1+json"
DAY = 86400


def timestamp(seconds: int) -> str:
    """SECONDS since 1970 as the statement writes a time: UTC, to the second."""
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_statement(
    product,
    *,
    digest: str,
    version: str,
    sequence: int,
    issued: int,
    expires: int | None = None,
    rollout_start: int | None = None,
    rollout_hours: float = 0,
    withdrawn: list[str] | None = None,
    epoch: int = 0,
) -> dict:
    """The statement that PRODUCT's tag means DIGEST (sha256:…) of VERSION.

    ISSUED, EXPIRES (two weeks later by default) and ROLLOUT_START (ISSUED by default) are seconds since
    1970; over ROLLOUT_HOURS machines follow one by one. Machines drop the digests WITHDRAWN when they have
    one of them ready. A new EPOCH, in which SEQUENCE counts anew, is believed only by the second channel key.

    Raises BuildError when machines would not accept such a statement.
    """
    said = {
        "schema": 1,
        "repository": product.image_repo,
        "tag": product.tag,
        "digest": digest,
        "version": version,
        "sequence": sequence,
        "issued": timestamp(issued),
        "expires": timestamp(issued + 14 * DAY if expires is None else expires),
        "rollout": {
            "start": timestamp(issued if rollout_start is None else rollout_start),
            "hours": rollout_hours,
        },
    }
    if epoch:
        said["epoch"] = epoch
    if withdrawn:
        said["withdrawn"] = sorted(set(withdrawn))
    try:
        core.parse(json.dumps(said).encode())
    except ValueError as error:
        raise BuildError(
            f"the statement would be refused by every machine ({error}); nothing was written"
        ) from None
    return said


def write_layout(statement: dict, folder: Path) -> str:
    """Write STATEMENT as an OCI layout into the new FOLDER; the manifest's digest.

    The same statement gives the same bytes.
    """
    blobs = folder / "blobs/sha256"
    blobs.mkdir(parents=True)

    def blob(media_type: str, data: bytes) -> dict:
        """Write DATA as a blob; its descriptor."""
        name = hashlib.sha256(data).hexdigest()
        (blobs / name).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{name}", "size": len(data)}

    def pack(value: dict) -> bytes:
        """VALUE as JSON that is the same for the same value."""
        return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()

    top = blob(
        MANIFEST,
        pack(
            {
                "schemaVersion": 2,
                "mediaType": MANIFEST,
                "artifactType": STATEMENT,
                "config": blob(EMPTY, b"{}"),
                "layers": [blob(STATEMENT, pack(statement))],
            }
        ),
    )
    (folder / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (folder / "index.json").write_bytes(pack({"schemaVersion": 2, "manifests": [top]}))
    return top["digest"]


def publish(
    statement: dict,
    repository: str,
    tag: str,
    key: Path,
    *,
    identity: str,
    run: Callable,
    ca: Path | None = None,
    work: Path | None = None,
) -> str:
    """Push STATEMENT to REPOSITORY (REGISTRY/PATH), sign it with KEY as IDENTITY, then let TAG mean it.

    The tag moves last, so that no machine ever finds it without its signature. WORK is where the
    short-lived layout is written. Returns the artefact's digest. Raises BuildError as `sign_image` does.
    """
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", tag):
        raise BuildError(f"{tag!r} is no tag a registry takes; use the product's tag")
    env, binds = registry_setting(ca)
    with tempfile.TemporaryDirectory(prefix="veilor-channel-", dir=work) as scratch:
        layout = Path(scratch).absolute() / "layout"
        digest = write_layout(statement, layout)

        def push(target: str) -> None:
            """Copy the layout to TARGET, which is `@digest` or `:tag`."""
            argv = ["skopeo", "--insecure-policy", "copy", "--quiet", "--preserve-digests"]
            run(
                [*argv, f"oci:{layout}", f"docker://{repository}{target}"],
                binds=[layout.parent, *binds],
                env=env,
                timeout=TIMEOUT,
            )

        push(f"@{digest}")
        sign_image(f"{repository}@{digest}", key, identity=identity, run=run, ca=ca)
        push(f":{tag}")
    return digest
