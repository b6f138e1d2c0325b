"""What the front writes: bootc's status document, texts and progress events. It does not touch the system."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

SIGNED, UNVERIFIED = "ostree-image-signed", "ostree-unverified-image"
SCHEMES = (SIGNED, UNVERIFIED, "ostree-unverified-registry")


class Failure(Exception):
    """An expected failure; its text is what bootc says after `error: `."""


@dataclass(frozen=True)
class Image:
    """A container image in the repository.

    `origin` is its reference as an origin file has it, `config` and `manifest` are OCI JSON.
    """

    origin: str
    digest: str
    config: dict[str, Any]
    manifest: dict[str, Any]

    @property
    def version(self) -> str | None:
        """The image's version by its labels."""
        labels = (self.config.get("config") or {}).get("Labels") or {}
        return labels.get("org.opencontainers.image.version") or labels.get("version")

    @property
    def layers(self) -> dict[str, int]:
        """Compressed bytes of each layer, by digest."""
        return {layer["digest"]: layer["size"] for layer in self.manifest.get("layers", ())}


@dataclass(frozen=True)
class Deployment:
    """One deployment, with the image that it was made from, if it was made from one.

    `cached_update` is the newer image last seen, `download_only` that it waits for no boot yet, and `handle`
    the system side's own object.
    """

    checksum: str
    serial: int
    stateroot: str
    image: Image | None = None
    cached_update: Image | None = None
    pinned: bool = False
    download_only: bool = False
    handle: Any = None


@dataclass(frozen=True)
class Deployments:
    """All deployments by the part they play.

    `rollback_queued` says that the rollback deployment comes before the booted one in the boot order.
    """

    staged: Deployment | None = None
    booted: Deployment | None = None
    rollback: Deployment | None = None
    others: tuple[Deployment, ...] = ()
    rollback_queued: bool = False


def followed_image(deployments: Deployments) -> Image | None:
    """The image whose reference upgrades follow: the staged deployment's, else the booted one's."""
    for deployment in (deployments.staged, deployments.booted):
        if deployment and deployment.image:
            return deployment.image
    return None


def parse_origin(origin: str) -> dict[str, str]:
    """The container reference ORIGIN of an origin file as the status document has it.

    Without the key `signature` nothing is verified. Raises Failure for a scheme that is none of ostree-ext's.
    """
    scheme, _, rest = origin.partition(":")
    if scheme not in SCHEMES:
        raise Failure(f"Invalid image reference: {origin}")
    transport, name = ("registry", rest) if scheme.endswith("-registry") else rest.split(":", 1)
    if transport == "docker":
        transport, name = "registry", name.removeprefix("//")
    reference = {"image": name, "transport": transport}
    if scheme == SIGNED:
        reference["signature"] = "containerPolicy"
    return reference


def storage_name(origin: str) -> str:
    """The name under which the repository keeps the image of ORIGIN, e.g. `docker://ghcr.io/a/b:44`."""
    reference = parse_origin(origin)
    prefix = "docker://" if reference["transport"] == "registry" else reference["transport"] + ":"
    return prefix + reference["image"]


def escape_ref(name: str) -> str:
    """NAME as an ostree ref: what a ref may not hold is written as `_HEX_`, as ostree-ext does."""
    out, after_alnum = "", False
    for index, char in enumerate(name):
        alnum = char.isascii() and char.isalnum()
        inner_slash = char == "/" and after_alnum and index + 1 < len(name)
        if alnum or char == "-" or inner_slash:
            out += char
        else:
            out += "__" if char == "_" else f"_{ord(char):02X}_"
        after_alnum = alnum
    return out


def format_utc(created: str | None) -> str | None:
    """The RFC 3339 time CREATED in UTC with a Z, or None for a missing or unreadable one."""
    try:
        return datetime.fromisoformat(created or "").astimezone(UTC).isoformat().replace("+00:00", "Z")
    except ValueError:
        return None


def image_status(image: Image | None, origin: str) -> dict[str, Any] | None:
    """IMAGE as the status document has it, under the reference ORIGIN."""
    if image is None:
        return None
    return {
        "image": parse_origin(origin),
        "version": image.version,
        "timestamp": format_utc(image.config.get("created")),
        "imageDigest": image.digest,
        "architecture": image.config.get("architecture", ""),
    }


def boot_entry(deployment: Deployment | None) -> dict[str, Any] | None:
    """DEPLOYMENT as the status document has it (`BootEntry` in the schema)."""
    if deployment is None:
        return None
    origin = deployment.image.origin if deployment.image else ""
    return {
        "image": image_status(deployment.image, origin),
        "cachedUpdate": image_status(deployment.cached_update, origin),
        "ostree": {
            "stateroot": deployment.stateroot,
            "checksum": deployment.checksum,
            "deploySerial": deployment.serial,
        },
        "store": "ostreeContainer" if deployment.image else None,
        "pinned": deployment.pinned,
        "downloadOnly": deployment.download_only,
        "incompatible": False,
        "softRebootCapable": False,
        "composefs": None,
    }


def status_document(now: Deployments) -> dict[str, Any]:
    """The whole document that `bootc status --format=json` prints (schema host-v1)."""
    followed = followed_image(now)
    status: dict[str, Any] = {
        "staged": boot_entry(now.staged),
        "booted": boot_entry(now.booted),
        "rollback": boot_entry(now.rollback),
        "rollbackQueued": now.rollback_queued,
        "type": "bootcHost" if now.booted else None,
        "usrOverlay": None,
        "readOnly": False,
    }
    if now.others:
        status["otherDeployments"] = [boot_entry(deployment) for deployment in now.others]
    return {
        "apiVersion": "org.containers.bootc/v1",
        "kind": "BootcHost",
        "metadata": {"name": "host"},
        "spec": {
            "image": parse_origin(followed.origin) if followed else None,
            "bootOrder": "rollback" if now.rollback_queued else "default",
        },
        "status": status,
    }


def format_size(size: float) -> str:
    """SIZE bytes as GLib writes them: decimal units, a no-break space before them."""
    if size < 1000:
        return f"{size}\N{NO-BREAK SPACE}{'byte' if size == 1 else 'bytes'}"
    power = min((len(str(int(size))) - 1) // 3, 4)
    return f"{size / 1000**power:.1f}\N{NO-BREAK SPACE}{' kMGT'[power]}B"


def describe_image(image: Image) -> str:
    """The lines that name a version and digest, after `Queued for next boot` or `Update available for`."""
    version = f"  Version: {image.version}\n" if image.version else ""
    return f"{version}  Digest: {image.digest}"


def describe_layer_changes(old: Image, new: Image) -> str:
    """How the layers of NEW differ from those of OLD, in three lines."""
    removed = {digest: size for digest, size in old.layers.items() if digest not in new.layers}
    added = {digest: size for digest, size in new.layers.items() if digest not in old.layers}
    rows = (
        ("Total new layers: ", new.layers),
        ("Removed layers:   ", removed),
        ("Added layers:     ", added),
    )
    return "\n".join(
        f"{title}{len(layers):<4}  Size: {format_size(sum(layers.values()))}" for title, layers in rows
    )


def merge_kargs(options: list[str], old: list[str], new: list[str]) -> list[str]:
    """The kernel arguments OPTIONS of a machine, changed by what differs between two images.

    Arguments that only the OLD image asks for go, those that only the NEW one asks for are appended.
    """
    kept = [arg for arg in options if arg not in old or arg in new]
    return kept + [arg for arg in new if arg not in old]


class ProgressEvents:
    """Writes progress events (schema progress-v0) to a pipe; with FD None it writes nothing.

    The first event is preceded by a Start. Nothing at all is written where nothing is done.
    """

    def __init__(self, fd: int | None) -> None:
        if fd is not None and not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise Failure("not a pipe")
        self.fd = fd
        self.started = False

    def write_line(self, event: dict[str, Any]) -> None:
        """Write EVENT, a Start before the first. A reader that went away ends the events, not the work."""
        if self.fd is None:
            return
        lines = [event] if self.started else [{"type": "Start", "version": "0.1.0"}, event]
        try:
            for line in lines:
                os.write(self.fd, json.dumps(line).encode() + b"\n")
            self.started = True
        except BrokenPipeError:
            self.fd = None

    def write_pulling(
        self, name: str, layers: dict[str, int], fetched: set[str], cached: dict[str, int]
    ) -> None:
        """How far the pull of image NAME is.

        LAYERS are those to pull and CACHED those that were there before (bytes by digest); FETCHED are the
        digests of LAYERS that have come.
        """
        here = {
            digest.removeprefix("sha256:")[:21]: size for digest, size in layers.items() if digest in fetched
        }
        subtasks = [
            {
                "subtask": "layer",
                "id": short,
                "description": f"layer: {short}",
                "bytesCached": 0,
                "bytes": size,
                "bytesTotal": size,
            }
            for short, size in here.items()
        ]
        self.write_line(
            {
                "type": "ProgressBytes",
                "task": "pulling",
                "description": f"Pulling Image: {name}",
                "id": name,
                "stepsCached": len(cached),
                "steps": len(here),
                "stepsTotal": len(layers),
                "subtasks": subtasks,
                "bytes": sum(here.values()),
                "bytesTotal": sum(layers.values()),
                "bytesCached": sum(cached.values()),
            }
        )

    def write_steps(
        self, task: str, title: str, name: str, done: int, total: int, subtasks: list[dict[str, Any]]
    ) -> None:
        """DONE of the TOTAL steps of TASK on image NAME."""
        self.write_line(
            {
                "type": "ProgressSteps",
                "task": task,
                "description": title,
                "id": name,
                "stepsCached": 0,
                "steps": done,
                "stepsTotal": total,
                "subtasks": subtasks,
            }
        )

    def write_importing(self, name: str, done: bool) -> None:
        """The layers of image NAME become one commit."""
        subtask = {
            "subtask": "importing",
            "id": "importing",
            "description": "Importing Image",
            "completed": done,
        }
        self.write_steps("importing", "Importing Image", name, int(done), 1, [subtask])

    def write_staging(self, name: str, done: int) -> None:
        """DONE of the three steps of staging image NAME: merging, deploying, removing old images.

        bootc's fourth part, bound images, is reported with deploying: veilor-os has none.
        """
        tasks = (
            ("merging", "fetching", "Merging Image", 1),
            ("deploying", "deploying", "Deploying Image", 2),
            ("bound_images", "bound_images", "Pulling Bound Images", 2),
            ("cleanup", "cleanup", "Removing old images", 3),
        )
        subtasks = [
            {"subtask": task, "id": key, "description": title, "completed": done >= step}
            for task, key, title, step in tasks
        ]
        shown = (1, 2, 4, 4)[done]  # those that bootc has begun by then
        self.write_steps("staging", "Deploying Image", name, done, 3, subtasks[:shown])
