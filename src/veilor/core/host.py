"""What `bootc status --format=json --format-version=1` says, as far as the product uses it."""

import json
from dataclasses import dataclass

from veilor.core.image import is_digest, short

POLICY = "containerPolicy"


@dataclass(frozen=True)
class Entry:
    """One deployment. `reference` and `digest` are None for one that is not made from a container image.

    `signature` is containerPolicy, insecure, ostreeRemote, or None: never verified. `locked`: downloaded, but
    kept from booting. `timestamp`: RFC 3339 as written. `deployment`: checksum and serial, which no two
    deployments share.
    """

    reference: str | None
    transport: str | None
    signature: str | None
    digest: str | None
    version: str | None
    timestamp: str | None
    pinned: bool
    locked: bool
    incompatible: bool
    checksum: str | None
    serial: int

    @property
    def deployment(self) -> tuple[str | None, int]:
        return self.checksum, self.serial

    @property
    def title(self) -> str:
        """Version, or the digest or ostree's checksum where there is none, for a sentence."""
        return self.version or short(self.digest or self.checksum)

    def follows(self, reference: str) -> bool:
        """Whether this is REFERENCE from its registry, fetched under the container policy."""
        return self.reference == reference and self.transport == "registry" and self.signature == POLICY


@dataclass(frozen=True)
class Host:
    """All deployments. `booted` is None on a system that bootc does not manage."""

    booted: Entry | None
    staged: Entry | None
    rollback: Entry | None
    others: tuple[Entry, ...]
    rollback_queued: bool

    @property
    def next(self) -> Entry | None:
        """What the next restart boots."""
        if self.staged and not self.staged.locked:
            return self.staged
        return self.rollback if self.rollback_queued else self.booted


def _typed(data: dict, key: str, kind: type, where: str):
    value = data.get(key)
    if value is not None and (not isinstance(value, kind) or (kind is int and isinstance(value, bool))):
        raise ValueError(f"{where}: {key} is not what it should be")
    return value


def _entry(data: object, where: str) -> Entry | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not an object")
    image = _typed(data, "image", dict, where) or {}
    name = _typed(image, "image", dict, where) or {}
    ostree = _typed(data, "ostree", dict, where) or {}
    signature = name.get("signature")
    if isinstance(signature, dict):
        signature = next(iter(signature), None)
    if signature is not None and not isinstance(signature, str):
        raise ValueError(f"{where}: signature is not what it should be")
    digest, version = _typed(image, "imageDigest", str, where), _typed(image, "version", str, where)
    if digest is not None and not is_digest(digest):
        raise ValueError(f"{where}: {digest[:80]!r} is not a digest")
    return Entry(
        reference=_typed(name, "image", str, where),
        transport=_typed(name, "transport", str, where),
        signature=signature,
        digest=digest,
        version=version and "".join(filter(str.isprintable, version)),
        timestamp=_typed(image, "timestamp", str, where),
        pinned=bool(_typed(data, "pinned", bool, where)),
        locked=bool(_typed(data, "downloadOnly", bool, where)),
        incompatible=bool(_typed(data, "incompatible", bool, where)),
        checksum=_typed(ostree, "checksum", str, where),
        serial=_typed(ostree, "deploySerial", int, where) or 0,
    )


def parse(text: str) -> Host:
    """The host that TEXT describes; unknown fields are passed over. Raises ValueError."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if (
        not isinstance(data, dict)
        or data.get("kind") != "BootcHost"
        or not isinstance(data.get("status"), dict)
    ):
        raise ValueError("not a status document of bootc")
    status = data["status"]
    others = _typed(status, "otherDeployments", list, "status") or []
    return Host(
        **{part: _entry(status.get(part), part) for part in ("booted", "staged", "rollback")},
        others=tuple(filter(None, (_entry(other, "otherDeployments") for other in others))),
        rollback_queued=bool(_typed(status, "rollbackQueued", bool, "status")),
    )


def image_state(host: Host, reference: str) -> str:
    """Where a machine stands towards REFERENCE, the image it should follow:

    package (no deployments at all), layered (packages put on top, or no container image), foreign (follows
    another image), others-staged (something else waits for the next boot), unverified (as the installer or
    somebody wrote it), ours.
    """
    booted, staged = host.booted, host.staged
    if booted is None:
        return "package"
    if booted.incompatible or booted.reference is None:
        return "layered"
    if booted.transport == "registry" and booted.reference != reference:
        return "foreign"
    if staged and not staged.follows(reference):
        return "others-staged"
    return "ours" if booted.follows(reference) else "unverified"
