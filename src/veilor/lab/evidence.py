"""What a rehearsal can see of a machine.

It sees it through its agent, on its console, in the registry's log and on its disk.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from veilor.lab import disk
from veilor.lab.agent import Reply
from veilor.lab.machine import Machine
from veilor.lab.registry import Registry, Request
from veilor.lab.verdict import OSFault

if TYPE_CHECKING:
    from veilor.lab.world import Settings

BLOB = re.compile(r"/blobs/(sha256:[0-9a-f]{64})")
SIGNATURE = re.compile(r"/manifests/sha256-[0-9a-f]{64}\.sig$")
PROMPT = rb"[Pp]lease enter passphrase for disk [^\r\n]{0,200}:"
COUNTED = rb"veilor-lab: veilor_counter"  # the boot loader of stand-ins/bootupctl, once a start
NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
SMALL = 64 << 10  # bytes: configurations and signatures are smaller, layers of a rehearsal are larger


def image_digest(entry: dict[str, Any] | None) -> str | None:
    """The image digest of an ENTRY (booted, staged, rollback) of bootc's status; None without one."""
    if not entry or not entry["image"]:
        return None
    digest: str | None = entry["image"]["imageDigest"]
    return digest


def signature_policy(entry: dict[str, Any] | None) -> object:
    """How bootc verifies the image of an ENTRY of its status, as bootc says it; None when it does not."""
    if not entry or not entry["image"]:
        return None
    return entry["image"]["image"].get("signature")


@dataclass(frozen=True)
class ProgramAnswer:
    """How a veilor program ended: its exit code, both outputs as text, and with --json its answer as data."""

    code: int
    text: str
    data: Any


class Evidence:
    """The questions that a phase may ask about a machine.

    Mixed into World, which has the machine, the registry, the disk and the settings.
    """

    settings: Settings
    dir: Path

    @property
    def machine(self) -> Machine:
        raise NotImplementedError

    @property
    def registry(self) -> Registry:
        raise NotImplementedError

    @property
    def disk(self) -> Path:
        raise NotImplementedError

    def bootc_status(self) -> dict[str, Any]:
        """`status` of bootc's JSON on the machine: booted, staged, rollback and others."""
        said = self.machine.run(["bootc", "status", "--format=json", "--format-version=1"], timeout=120).out
        status: dict[str, Any] = json.loads(said)["status"]
        return status

    def run_program(self, *argv: str, timeout: float = 600) -> ProgramAnswer:
        """Run a veilor program on the machine, whatever it ends with.

        Raises OSFault when it was asked for --json and answers in none.
        """
        reply = self.machine.run(list(argv), timeout=timeout, check=False)
        data = None
        if "--json" in argv:
            try:
                data = json.loads(reply.out)
            except ValueError:
                raise OSFault(
                    f"`{' '.join(argv)}` did not answer in JSON: {(reply.out + reply.err)[-300:]}"
                ) from None
        return ProgramAnswer(reply.code, reply.out + reply.err, data)

    def read_file(self, path: str) -> str:
        """The text of a file of the running machine. Raises OSFault when it cannot be read."""
        return self.machine.run(["cat", path]).out

    def write_file(self, path: str, text: str) -> None:
        """Write a file on the running machine, through to the disk, with the folders above it."""
        self.machine.run(
            ["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1" && sync', "sh", path], stdin=text.encode()
        )

    def has_path(self, path: str) -> bool:
        """Whether the running machine has PATH."""
        return self.machine.run(["test", "-e", path], check=False).code == 0

    def run_try(self, name: str, *arguments: str, nobody: bool = False, timeout: float = 900) -> str:
        """Run the try NAME of scenarios/guest/tries.py on the machine, as root or as NOBODY.

        Returns "ok", what it found, or the name of the error that stopped it.
        """
        tries = (self.settings.source / "scenarios/guest/tries.py").read_text()
        argv = [*(NOBODY if nobody else []), "python3", "-I", "-c", tries, name, *arguments]
        return self.machine.run(argv, check=False, timeout=timeout).out.strip()

    def login_notice(self) -> str:
        """What the machine tells whoever logs in."""
        return self.machine.run(["sh", "-c", "cat /run/motd.d/*veilor*"], check=False).out

    def grub_environment(self) -> dict[str, str]:
        """GRUB's saved variables."""
        listed = self.machine.run(["grub2-editenv", "/boot/grub2/grubenv", "list"]).out
        return dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)

    def wait_healthy(self) -> bool:
        """Wait until this boot is judged; whether it was called good, and no starts are counted any more."""
        units = ["veilor-boot-check.service", "veilor-boot-good.service"]

        def is_judged(reply: Reply) -> bool:
            check, good = (*reply.out.split(), "", "")[:2]
            return check == "failed" or good in ("active", "failed")

        reply = self.machine.wait_until(
            ["systemctl", "is-active", *units], is_judged, 180, "the check of this boot to end"
        )
        return reply.out.split() == ["active", "active"] and "veilor_counter" not in self.grub_environment()

    def offered_disks(self) -> dict[str, str]:
        """The disks that the installer offers: serial number to the number to type."""
        lines = re.findall(
            r"^ +(\d+)\) .*\((?:[^()]* )?(\S+)\)\s*$", self.machine.console.text(), re.MULTILINE
        )
        return {serial: number for number, serial in lines}

    def count_prompts(self) -> int:
        """How often this boot asked for a passphrase."""
        return self.machine.console.count(PROMPT)

    def layer_bytes(self, requests: list[Request]) -> int:
        """The bytes of image layers that REQUESTS fetched from the product's image repository.

        Layers are the blobs larger than SMALL.
        """
        return sum(request.size for request in self._image_requests(requests) if _fetches_layer(request))

    def signature_before_layers(self, requests: list[Request]) -> bool:
        """Whether REQUESTS fetched a signature from the image repository before the first layer.

        False when they fetched no signature or no layer at all.
        """
        signature_at = layer_at = None
        answered = [request for request in self._image_requests(requests) if request.status == 200]
        for number, request in enumerate(answered):
            if signature_at is None and SIGNATURE.search(request.path):
                signature_at = number
            if layer_at is None and _fetches_layer(request):
                layer_at = number
        if signature_at is None or layer_at is None:
            return False
        return signature_at < layer_at

    def _image_requests(self, requests: list[Request]) -> list[Request]:
        """Those of REQUESTS that read from the product's image repository."""
        prefix = f"/v2/{self.settings.product.image_repository}/"
        return [request for request in requests if request.method == "GET" and prefix in request.path]

    def digest_of_tag(self) -> str:
        """The manifest digest that the product's tag names in the registry now."""
        product = self.settings.product
        return self.registry.digest(product.image_repository, product.tag)

    def export_raw_disk(self) -> Path:
        """Write the machine's disk to a raw file, to be inspected from outside; its path."""
        return disk.convert_to_raw(self.settings.tools, self.disk, self.dir / "outside.raw")


def _fetches_layer(request: Request) -> bool:
    return bool(BLOB.search(request.path)) and request.size > SMALL
