"""What a rehearsal can see of a machine: through its agent, on its console, in the registry's log, on its
disk.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from veilor.lab import disk
from veilor.lab.registry import Request
from veilor.lab.verdict import OSFault

BLOB = re.compile(r"/blobs/(sha256:[0-9a-f]{64})")
PROMPT = rb"[Pp]lease enter passphrase for disk [^\r\n]{0,200}:"
COUNTED = rb"veilor-lab: boot_counter"  # the boot loader of stand-ins/bootupctl, once a start
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


class Evidence:
    """The questions a phase may ask. Mixed into World, whose machine, registry and settings it uses."""

    def bootc_status(self) -> dict:
        """`status` of bootc's JSON on the machine."""
        return json.loads(
            self.machine.run(["bootc", "status", "--format=json", "--format-version=1"], timeout=120).out
        )["status"]

    def run_program(self, *argv: str, timeout: float = 600) -> SimpleNamespace:
        """Run a veilor program on the machine: exit code, text and, with --json, its answer as data."""
        reply = self.machine.run(list(argv), timeout=timeout, check=False)
        data = None
        if "--json" in argv:
            try:
                data = json.loads(reply.out)
            except ValueError:
                raise OSFault(
                    f"`{' '.join(argv)}` did not answer in JSON: {(reply.out + reply.err)[-300:]}"
                ) from None
        return SimpleNamespace(code=reply.code, text=reply.out + reply.err, data=data)

    def read_file(self, path: str) -> str:
        """A file of the running machine."""
        return self.machine.run(["cat", path]).out

    def write_file(self, path: str, text: str) -> None:
        """Write a file on the running machine, through to the disk."""
        self.machine.run(
            ["sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1" && sync', "sh", path], stdin=text.encode()
        )

    def has_path(self, path: str) -> bool:
        """Whether the running machine has PATH."""
        return self.machine.run(["test", "-e", path], check=False).code == 0

    def run_try(self, name: str, *arguments: str, nobody: bool = False, timeout: float = 900) -> str:
        """What came of the try NAME of scenarios/guest/tries.py: "ok", what it found, or the name of the
        error that stopped it.
        """
        tries = (self.settings.source / "scenarios/guest/tries.py").read_text()
        argv = ["python3", "-I", "-c", tries, name, *arguments]
        return self.machine.run(
            [*(NOBODY if nobody else []), *argv], check=False, timeout=timeout
        ).out.strip()

    def login_notice(self) -> str:
        """What the machine tells whoever logs in."""
        return self.machine.run(["sh", "-c", "cat /run/motd.d/*veilor*"], check=False).out

    def grub_environment(self) -> dict[str, str]:
        """GRUB's saved variables."""
        listed = self.machine.run(["grub2-editenv", "/boot/grub2/grubenv", "list"]).out
        return dict(line.split("=", 1) for line in listed.splitlines() if "=" in line)

    def wait_healthy(self) -> bool:
        """Whether greenboot called this boot good and took the boot counter away."""
        self.machine.wait_until(
            ["systemctl", "is-active", "greenboot-healthcheck.service"],
            lambda r: r.out.strip() in ("active", "failed", "inactive"),
            180,
            "the health check to end",
        )
        saved = self.grub_environment()
        return saved.get("boot_success") == "1" and "boot_counter" not in saved

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
        """The bytes of image layers in REQUESTS: answers of blobs larger than SMALL from the product's image
        repository.
        """
        repository = self.settings.product.image_repository
        return sum(
            r.size
            for r in requests
            if r.method == "GET" and f"/v2/{repository}/" in r.path and BLOB.search(r.path) and r.size > SMALL
        )

    def signature_before_layers(self, requests: list[Request]) -> bool:
        """Whether a signature was fetched from the image repository before the first layer was (and any was
        at all).
        """
        repository = self.settings.product.image_repository
        ours = [
            r for r in requests if r.method == "GET" and f"/v2/{repository}/" in r.path and r.status == 200
        ]
        signatures = [
            n for n, r in enumerate(ours) if re.search(r"/manifests/sha256-[0-9a-f]{64}\.sig$", r.path)
        ]
        layers = [n for n, r in enumerate(ours) if BLOB.search(r.path) and r.size > SMALL]
        return bool(signatures and layers) and signatures[0] < layers[0]

    def digest_of_tag(self) -> str:
        """The manifest digest that the product's tag names in the registry now."""
        product = self.settings.product
        return self.registry.digest(product.image_repository, product.tag)

    def export_raw_disk(self) -> Path:
        """The machine's disk as a raw file, for looking at it from outside."""
        return disk.convert_to_raw(self.settings.tools, self.disk, self.dir / "outside.raw")
