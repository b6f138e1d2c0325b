"""What the front says: bootc's status document, texts and progress lines. Nothing here touches the system."""

from __future__ import annotations

import json
import os
import stat
from collections import namedtuple
from dataclasses import dataclass
from datetime import UTC, datetime


class Failure(Exception):
    """An expected failure; its text is what bootc says after `error: `."""


@dataclass(frozen=True)
class Image:
    """A container image in the repository. ORIGIN: its reference as an origin file writes it; CONFIG,
    MANIFEST: OCI JSON.
    """

    origin: str
    digest: str
    config: dict
    manifest: dict

    @property
    def version(self) -> str | None:
        labels = (self.config.get("config") or {}).get("Labels") or {}
        return labels.get("org.opencontainers.image.version") or labels.get("version")

    @property
    def layers(self) -> dict[str, int]:
        """Compressed bytes of each layer, by digest."""
        return {layer["digest"]: layer["size"] for layer in self.manifest.get("layers", ())}


# One deployment. cached: the newer image last seen; locked: downloaded only; handle: what the system side
# finds it by.
Entry = namedtuple(
    "Entry",
    "checksum serial stateroot image cached pinned locked handle",
    defaults=(None, None, False, False, None),
)
# All deployments by the part they play. rollback_queued: the rollback one comes before the booted one.
Deployments = namedtuple(
    "Deployments", "staged booted rollback others rollback_queued", defaults=(None, None, None, (), False)
)


def followed(deployments: Deployments) -> Image | None:
    """The image that upgrades follow: the staged one's, else the booted one's."""
    return next(
        (entry.image for entry in (deployments.staged, deployments.booted) if entry and entry.image), None
    )


def parse_origin(origin: str) -> dict:
    """An origin's container reference as status writes it. No `signature` key: nothing is verified."""
    scheme, _, rest = origin.partition(":")
    if scheme not in ("ostree-image-signed", "ostree-unverified-image", "ostree-unverified-registry"):
        raise Failure(f"Invalid image reference: {origin}")
    transport, name = ("registry", rest) if scheme.endswith("-registry") else rest.split(":", 1)
    if transport == "docker":
        transport, name = "registry", name.removeprefix("//")
    return {"image": name, "transport": transport} | (
        {"signature": "containerPolicy"} if scheme == "ostree-image-signed" else {}
    )


def storage_name(origin: str) -> str:
    """The name under which the repository keeps the image of ORIGIN, e.g. `docker://ghcr.io/a/b:44`."""
    reference = parse_origin(origin)
    return (
        "docker://" if reference["transport"] == "registry" else reference["transport"] + ":"
    ) + reference["image"]


def escape_ref(name: str) -> str:
    """NAME with all that an ostree ref may not hold written as `_HEX_`, as ostree-ext does."""
    out, after_alnum = "", False
    for index, char in enumerate(name):
        alnum = char.isascii() and char.isalnum()
        if alnum or char == "-" or (char == "/" and after_alnum and index + 1 < len(name)):
            out += char
        else:
            out += "__" if char == "_" else f"_{ord(char):02X}_"
        after_alnum = alnum
    return out


def utc(created: str | None) -> str | None:
    """An RFC 3339 time in UTC with a Z, or None for a missing or unreadable one."""
    try:
        return datetime.fromisoformat(created or "").astimezone(UTC).isoformat().replace("+00:00", "Z")
    except ValueError:
        return None


def image_status(image: Image | None, origin: str) -> dict | None:
    """An image as status shows it under the reference ORIGIN."""
    return image and {
        "image": parse_origin(origin),
        "version": image.version,
        "timestamp": utc(image.config.get("created")),
        "imageDigest": image.digest,
        "architecture": image.config.get("architecture", ""),
    }


def boot_entry(entry: Entry | None) -> dict | None:
    """A deployment as status shows it."""
    return entry and {
        "image": image_status(entry.image, entry.image.origin if entry.image else ""),
        "cachedUpdate": image_status(entry.cached, entry.image.origin if entry.image else ""),
        "ostree": {"stateroot": entry.stateroot, "checksum": entry.checksum, "deploySerial": entry.serial},
        "store": "ostreeContainer" if entry.image else None,
        "pinned": entry.pinned,
        "downloadOnly": entry.locked,
        "incompatible": False,
        "softRebootCapable": False,
        "composefs": None,
    }


def host(now: Deployments) -> dict:
    """The whole status document (schema host-v1)."""
    spec, others = followed(now), [boot_entry(entry) for entry in now.others]
    return {
        "apiVersion": "org.containers.bootc/v1",
        "kind": "BootcHost",
        "metadata": {"name": "host"},
        "spec": {
            "image": spec and parse_origin(spec.origin),
            "bootOrder": "rollback" if now.rollback_queued else "default",
        },
        "status": {
            "staged": boot_entry(now.staged),
            "booted": boot_entry(now.booted),
            "rollback": boot_entry(now.rollback),
            "rollbackQueued": now.rollback_queued,
            "type": "bootcHost" if now.booted else None,
            "usrOverlay": None,
            "readOnly": False,
        }
        | ({"otherDeployments": others} if others else {}),
    }


def format_size(size: float) -> str:
    """SIZE bytes as GLib writes them: decimal units, a no-break space before them."""
    if size < 1000:
        return f"{size}\N{NO-BREAK SPACE}{'byte' if size == 1 else 'bytes'}"
    power = min((len(str(int(size))) - 1) // 3, 4)
    return f"{size / 1000**power:.1f}\N{NO-BREAK SPACE}{' kMGT'[power]}B"


def describe(image: Image) -> str:
    """The lines that name a version and digest, after `Queued for next boot` or `Update available for`."""
    return (f"  Version: {image.version}\n" if image.version else "") + f"  Digest: {image.digest}"


def layer_diff(old: Image, new: Image) -> str:
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
    """Kernel arguments OPTIONS, less those that only the OLD image asked for, plus those that only the NEW
    one asks for.
    """
    return [arg for arg in options if arg not in old or arg in new] + [arg for arg in new if arg not in old]


class Progress:
    """Progress lines (schema progress-v0) on a pipe, or nothing when FD is None. No line before something is
    done.
    """

    def __init__(self, fd: int | None) -> None:
        self.fd, self.started = fd, False
        if fd is not None and not stat.S_ISFIFO(os.fstat(fd).st_mode):
            raise Failure("not a pipe")

    def write(
        self,
        kind: str,
        task: str,
        title: str,
        name: str,
        done: int,
        total: int,
        cached: int,
        subtasks: list,
        **more: int,
    ) -> None:
        """One event of KIND about image NAME."""
        start = [] if self.started else [{"type": "Start", "version": "0.1.0"}]
        event = {
            "type": kind,
            "task": task,
            "description": title,
            "id": name,
            "stepsCached": cached,
            "steps": done,
            "stepsTotal": total,
            "subtasks": subtasks,
            **more,
        }
        try:
            for line in [*start, event] if self.fd is not None else ():
                os.write(self.fd, json.dumps(line).encode() + b"\n")
            self.started = True
        except BrokenPipeError:
            self.fd = None  # nobody listens any more; the work goes on

    def pulling(self, name: str, layers: dict[str, int], fetched: set[str], cached: dict[str, int]) -> None:
        """LAYERS to pull (bytes by digest), those of them FETCHED, and the layers CACHED before."""
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
        self.write(
            "ProgressBytes",
            "pulling",
            f"Pulling Image: {name}",
            name,
            len(here),
            len(layers),
            len(cached),
            subtasks,
            bytes=sum(here.values()),
            bytesTotal=sum(layers.values()),
            bytesCached=sum(cached.values()),
        )

    def importing(self, name: str, done: bool) -> None:
        """The layers of image NAME become one commit."""
        subtask = {
            "subtask": "importing",
            "id": "importing",
            "description": "Importing Image",
            "completed": done,
        }
        self.write("ProgressSteps", "importing", "Importing Image", name, int(done), 1, 0, [subtask])

    def staging(self, name: str, done: int) -> None:
        """DONE of the three steps of staging image NAME: merging, deploying (there are no bound images),
        removing old images.
        """
        tasks = (
            ("merging", "fetching", "Merging Image", 1),
            ("deploying", "deploying", "Deploying Image", 2),
            ("bound_images", "bound_images", "Pulling Bound Images", 2),
            ("cleanup", "cleanup", "Removing old images", 3),
        )
        subtasks = [
            {"subtask": sub, "id": key, "description": title, "completed": done >= step}
            for sub, key, title, step in tasks
        ]
        self.write(
            "ProgressSteps", "staging", "Deploying Image", name, done, 3, 0, subtasks[: (1, 2, 4, 4)[done]]
        )
