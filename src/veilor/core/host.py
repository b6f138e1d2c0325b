"""What `bootc status --format=json --format-version=1` says, as far as the product uses it."""

import enum
import json
from dataclasses import dataclass
from typing import Any, TypeVar

from veilor.core.image import is_digest, short

POLICY = "containerPolicy"
T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """One deployment. `reference` and `digest` are None for one that is not made from a container image.

    `signature` is containerPolicy, insecure, ostreeRemote, or None: never verified. `locked`: downloaded, but
    kept from booting. `timestamp`: RFC 3339 as bootc prints it. `deployment`: checksum and serial, which no
    two deployments share.
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
        """Checksum and serial."""
        return self.checksum, self.serial

    @property
    def title(self) -> str:
        """Version, or the digest or ostree's checksum where there is none, for a sentence."""
        return self.version or short(self.digest or self.checksum)

    def follows(self, reference: str) -> bool:
        """Whether this is REFERENCE from its registry, fetched under the container policy."""
        if self.reference != reference:
            return False
        if self.transport != "registry":  # a local copy under the same name was fetched from nowhere
            return False
        return self.signature == POLICY


@dataclass(frozen=True)
class Host:
    """All deployments. `booted` is None on a system that bootc does not manage."""

    booted: Entry | None
    staged: Entry | None
    rollback: Entry | None
    others: tuple[Entry, ...]
    rollback_queued: bool

    @property
    def running(self) -> Entry:
        """What is booted, for code that works only where bootc manages the system. Raises LookupError."""
        if self.booted is None:
            raise LookupError("no deployment is booted")
        return self.booted

    @property
    def next(self) -> Entry | None:
        """What the next restart boots."""
        if self.staged and not self.staged.locked:
            return self.staged
        return self.rollback if self.rollback_queued else self.booted

    @property
    def kept(self) -> int:
        """How many deployments an update leaves where they are: what runs, and what is pinned."""
        rest = [entry for entry in (self.rollback, *self.others) if entry is not None]
        return 1 + sum(entry.pinned for entry in rest)


UNMANAGED = Host(None, None, None, (), False)  # a system that bootc does not manage


class ImageState(enum.StrEnum):
    """How a machine stands towards the image that it should follow."""

    PACKAGE = "package"  # no deployments at all
    LAYERED = "layered"  # packages put on top, or not made from a container image
    FOREIGN = "foreign"  # follows another image
    OTHERS_STAGED = "others-staged"  # something that is not ours waits for the next boot
    UNVERIFIED = "unverified"  # as the installer or somebody wrote it
    OURS = "ours"


def image_state(host: Host, reference: str) -> ImageState:
    """How the machine with the deployments HOST stands towards REFERENCE, the image it should follow."""
    booted, staged = host.booted, host.staged
    if booted is None:
        return ImageState.PACKAGE
    if booted.incompatible:  # an update would silently drop the packages on top
        return ImageState.LAYERED
    if booted.reference is None:
        return ImageState.LAYERED
    if booted.transport == "registry" and booted.reference != reference:
        return ImageState.FOREIGN
    if staged and not staged.follows(reference):
        return ImageState.OTHERS_STAGED
    if booted.follows(reference):
        return ImageState.OURS
    return ImageState.UNVERIFIED


def _field(data: dict[str, Any], key: str, kind: type[T], where: str) -> T | None:
    """The value of KEY, None where it is absent or null. Raises ValueError when it is not of KIND."""
    value = data.get(key)
    if value is None:
        return None
    # to Python true is a number, to bootc it is not
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}: {key} is not what it should be")
    return value


def _signature(name: dict[str, Any], where: str) -> str | None:
    """How the image was verified: bootc writes a word, or an object with that word as its only key."""
    signature = name.get("signature")
    if isinstance(signature, dict):
        signature = next(iter(signature), None)
    if signature is not None and not isinstance(signature, str):
        raise ValueError(f"{where}: signature is not what it should be")
    return signature


def _entry(data: object, where: str) -> Entry | None:
    if data is None:
        return None
    if not isinstance(data, dict):
        raise ValueError(f"{where} is not an object")
    image = _field(data, "image", dict, where) or {}
    name = _field(image, "image", dict, where) or {}
    ostree = _field(data, "ostree", dict, where) or {}
    digest = _field(image, "imageDigest", str, where)
    if not is_digest(digest):  # another system's may be made by an algorithm that is not known here
        digest = None
    version = _field(image, "version", str, where)
    if version is not None:  # it comes from a registry, and must not move a terminal's cursor
        version = "".join(filter(str.isprintable, version))
    return Entry(
        reference=_field(name, "image", str, where),
        transport=_field(name, "transport", str, where),
        signature=_signature(name, where),
        digest=digest,
        version=version,
        timestamp=_field(image, "timestamp", str, where),
        pinned=bool(_field(data, "pinned", bool, where)),
        locked=bool(_field(data, "downloadOnly", bool, where)),
        incompatible=bool(_field(data, "incompatible", bool, where)),
        checksum=_field(ostree, "checksum", str, where),
        serial=_field(ostree, "deploySerial", int, where) or 0,
    )


def parse(text: str) -> Host:
    """The host that TEXT describes; unknown fields are passed over. Raises ValueError."""
    try:
        data = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(data, dict) or data.get("kind") != "BootcHost":
        raise ValueError("not a status document of bootc")
    status = data.get("status")
    if not isinstance(status, dict):
        raise ValueError("not a status document of bootc")
    others = [
        _entry(other, "otherDeployments")
        for other in _field(status, "otherDeployments", list, "status") or []
    ]
    return Host(
        booted=_entry(status.get("booted"), "booted"),
        staged=_entry(status.get("staged"), "staged"),
        rollback=_entry(status.get("rollback"), "rollback"),
        others=tuple(other for other in others if other is not None),
        rollback_queued=bool(_field(status, "rollbackQueued", bool, "status")),
    )
