"""Run as `unshare --net --mount`: bluebuild writes the Containerfile while ghcr.io is a loopback registry
with a stand-in base.

Arguments: tools tree, scratch folder, folder to start in, recipe, where the Containerfile goes. Prints the
base's digest.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

from veilor.core.product import load
from veilor.lab.images import write_blob
from veilor.lab.registry import Registry
from veilor.lab.tools import Tools

ROOT = Path(__file__).resolve().parents[2]


def relay(source: socket.socket, dest: socket.socket) -> None:
    """Copy bytes from SOURCE to DEST until one of them ends."""
    try:
        while data := source.recv(65536):
            dest.sendall(data)
        dest.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def serve(server: socket.socket, port: int) -> None:
    """Lead every connection of SERVER to the loopback PORT."""
    while True:
        one, _ = server.accept()
        other = socket.create_connection(("127.0.0.1", port))
        for pair in ((one, other), (other, one)):
            threading.Thread(target=relay, args=pair, daemon=True).start()


def write_base(layout: Path, version: str) -> str:
    """An image without content that says its version, as the base does; its digest."""

    def pack(value) -> bytes:
        return json.dumps(value).encode()

    (layout / "blobs/sha256").mkdir(parents=True)
    config = write_blob(
        layout,
        pack(
            {
                "architecture": "amd64",
                "os": "linux",
                "rootfs": {"type": "layers", "diff_ids": []},
                "config": {"Labels": {"org.opencontainers.image.version": version}},
            }
        ),
    )
    kind = "application/vnd.oci.image.manifest.v1+json"
    manifest = write_blob(
        layout,
        pack(
            {
                "schemaVersion": 2,
                "mediaType": kind,
                "layers": [],
                "config": {**config, "mediaType": "application/vnd.oci.image.config.v1+json"},
            }
        ),
    )
    (layout / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    (layout / "index.json").write_bytes(
        pack({"schemaVersion": 2, "manifests": [{**manifest, "mediaType": kind}]})
    )
    return manifest["digest"]


def main(tools_root: Path, scratch: Path, cwd: Path, recipe: str, out: Path) -> int:
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True, timeout=30)
    (scratch / "hosts").write_text("127.0.0.1 localhost ghcr.io\n")
    subprocess.run(["mount", "--bind", scratch / "hosts", "/etc/hosts"], check=True, timeout=30)
    product, tools = load(ROOT / "product.toml"), Tools(tools_root)
    digest = write_base(scratch / "base", f"{product.version}.20260630.0")
    registry = Registry(tools, scratch / "registry", product.registry).start()
    try:
        threading.Thread(
            target=serve, args=(socket.create_server(("127.0.0.1", 443)), registry.port), daemon=True
        ).start()
        name = f"{product.base_image.removeprefix(product.registry + '/')}:{product.base_tag}"
        tools.run(
            [
                "skopeo",
                "--insecure-policy",
                "copy",
                "--quiet",
                "--preserve-digests",
                f"oci:{scratch}/base",
                f"docker://127.0.0.1:{registry.port}/{name}",
            ],
            binds=[scratch],
            env={"SSL_CERT_FILE": str(registry.ca)},
            timeout=60,
        )
        env = {
            "PATH": f"{ROOT}/stand-ins/image/engine:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "HOME": str(scratch),
            "SSL_CERT_FILE": str(registry.ca),
            "NO_COLOR": "1",
        }
        done = subprocess.run(
            ["bluebuild", "generate", "--skip-validation", "--output", out, recipe],
            cwd=cwd,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=sys.stderr,
            timeout=120,
            check=False,
        )
    finally:
        registry.stop()
    print(digest)
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4], Path(sys.argv[5])))
