"""The lab's registry: Debian's docker-registry on a loopback port, with TLS by a CA made for this run.

Guests reach it under the product's own registry name; the host pushes to it on 127.0.0.1. Its access log
tells how many bytes each pull took.
"""

from __future__ import annotations

import contextlib
import datetime
import http.server
import ipaddress
import json
import socket
import ssl
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault


def make_authority(folder: Path, name: str) -> None:
    """Write server.crt and server.key for NAME and 127.0.0.1 into FOLDER, and ../trust/ca.crt.

    They are valid for a year from yesterday on.
    """
    folder.mkdir(parents=True, exist_ok=True)
    now = datetime.datetime.now(datetime.UTC)

    def certificate(
        subject: str,
        issuer: str,
        key: ec.EllipticCurvePrivateKey,
        signer: ec.EllipticCurvePrivateKey,
        extensions: list[tuple[x509.ExtensionType, bool]],
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=365))
        )
        for extension, critical in extensions:
            builder = builder.add_extension(extension, critical)
        return builder.sign(signer, hashes.SHA256())

    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    ca = certificate(
        "veilor lab CA", "veilor lab CA", ca_key, ca_key, [(x509.BasicConstraints(True, 0), True)]
    )
    names = x509.SubjectAlternativeName(
        [x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    )
    leaf = certificate(
        name, "veilor lab CA", key, ca_key, [(x509.BasicConstraints(False, None), True), (names, False)]
    )
    (folder.parent / "trust").mkdir(exist_ok=True)
    (folder.parent / "trust/ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    (folder / "server.crt").write_bytes(leaf.public_bytes(serialization.Encoding.PEM))
    (folder / "server.key").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )


@dataclass(frozen=True)
class Request:
    """One line of the access log; SIZE are the bytes of the answer's body, AGENT who asked."""

    method: str
    path: str
    status: int
    size: int
    agent: str


class ErrorServer(http.server.ThreadingHTTPServer):
    """An HTTPS server on loopback PORT that answers every request with the error STATUS.

    It sends no header that says what it is. TLS_FOLDER has its server.crt and server.key; `asked` are the
    paths of the requests so far. Raises OSError while the port is taken.
    """

    def __init__(self, port: int, tls_folder: Path, status: int) -> None:
        asked: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self) -> None:
                asked.append(self.path)
                body = b"try again later\n"
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_GET = do_HEAD = do_POST = do_PUT = answer

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: `asked` is the log."""

        super().__init__(("127.0.0.1", port), Handler)
        self.asked = asked
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tls_folder / "server.crt", tls_folder / "server.key")
        # Each handshake is then made in the thread that answers it, so that none holds up the others.
        self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that broke off, as one does that refuses the certificate."""


class Registry:
    """A registry over the store in FOLDER. `start`, then `port`; always `stop`."""

    def __init__(self, tools: Tools, folder: Path, name: str) -> None:
        self.tools, self.folder, self.name = tools, folder, name
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        if not (folder / "tls/server.key").exists():
            make_authority(folder / "tls", name)
        (folder / "store").mkdir(parents=True, exist_ok=True)

    @property
    def ca(self) -> Path:
        """The certificate of its authority."""
        return self.folder / "trust/ca.crt"

    @property
    def log(self) -> Path:
        """Its output, with the access log."""
        return self.folder / "access.log"

    def start(self) -> Registry:
        """Start serving on a free loopback port; tried again on another when somebody took it in between.

        Raises LabFault when it does not come up.
        """
        for _ in range(5):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
            if self._serve():
                return self
        raise LabFault(f"the lab's registry did not start: {self.log.read_text(errors='replace')[-300:]}")

    def _serve(self) -> bool:
        """Start the server on `port`; whether it answers. One that does not is stopped again."""
        config = self.folder / "config.yml"
        tls = {"certificate": f"{self.folder}/tls/server.crt", "key": f"{self.folder}/tls/server.key"}
        storage = {
            "filesystem": {"rootdirectory": f"{self.folder}/store"},
            "delete": {"enabled": True},
        }
        settings = {
            "version": 0.1,
            "log": {"formatter": "json", "accesslog": {"disabled": True}, "level": "info"},
            "storage": storage,
            "http": {"addr": f"127.0.0.1:{self.port}", "secret": "lab", "tls": tls},
        }
        config.write_text(json.dumps(settings))
        self.process = self.tools.start(
            ["docker-registry", "serve", str(config)],
            binds=[self.folder],
            env={"OTEL_TRACES_EXPORTER": "none"},
            log=self.log,
        )
        if self._wait_until_it_answers(self.process):
            return True
        self.stop()
        return False

    @contextlib.contextmanager
    def replaced_by_error(self, status: int = 503, *, genuine: bool = True) -> Iterator[list[str]]:
        """Meanwhile every request to the registry's port is answered with the error STATUS.

        So does a proxy that stands before a registry which is down: without the registry's own header, and,
        if GENUINE, over the registry's certificate; else over one for the same name by a stranger's
        authority. Yields the paths that are asked for, as they come in. Raises LabFault when the registry
        does not come back.
        """
        folder = self.folder / "tls" if genuine else self.folder / "stranger/tls"
        if not folder.exists():
            make_authority(folder, self.name)
        self.stop()
        server = self._take_port(folder, status)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield server.asked
        finally:
            server.shutdown()
            server.server_close()
            thread.join(10)
            if not self._serve():
                raise LabFault(f"the lab's registry did not come back: {self.log.read_text()[-300:]}")

    def _take_port(self, tls_folder: Path, status: int) -> ErrorServer:
        """An ErrorServer on the registry's port, which the ended process gives free only after a moment."""
        for _ in range(100):
            with contextlib.suppress(OSError):
                return ErrorServer(self.port, tls_folder, status)
            time.sleep(0.1)
        raise LabFault(f"the port {self.port} of the lab's registry stays taken after its end")

    def _wait_until_it_answers(self, process: subprocess.Popen[bytes]) -> bool:
        context = ssl.create_default_context(cafile=str(self.ca))
        for _ in range(100):
            if process.poll() is not None:
                return False
            try:
                with urllib.request.urlopen(f"https://127.0.0.1:{self.port}/v2/", timeout=5, context=context):
                    return True
            except OSError:
                time.sleep(0.1)
        return False

    def log_position(self) -> int:
        """The end of the access log now, for `requests`."""
        return self.log.stat().st_size if self.log.exists() else 0

    def requests(self, since: int = 0) -> list[Request]:
        """The guest's requests that were answered since SINCE (a `log_position`), in order."""
        found = []
        with self.log.open("rb") as log:
            log.seek(since)
            for line in log:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if "http.response.status" in entry and entry.get("http.request.host", "") == self.name:
                    found.append(
                        Request(
                            entry["http.request.method"],
                            entry["http.request.uri"],
                            entry["http.response.status"],
                            int(entry.get("http.response.written", 0)),
                            entry.get("http.request.useragent", ""),
                        )
                    )
        return found

    def push(self, layout: Path, repository: str, tag: str) -> str:
        """Push the OCI layout folder LAYOUT as REPOSITORY:TAG; the manifest's digest."""
        auth = [
            "--insecure-policy",
            "copy",
            "--quiet",
            "--preserve-digests",
            f"--dest-cert-dir={self.folder}/trust",
        ]
        digest_file = self.folder / "pushed"
        self.tools.run(
            [
                "skopeo",
                *auth,
                f"--digestfile={digest_file}",
                f"oci:{layout}",
                f"docker://127.0.0.1:{self.port}/{repository}:{tag}",
            ],
            binds=[layout, self.folder],
            timeout=600,
        )
        return digest_file.read_text().strip()

    def digest(self, repository: str, tag: str) -> str:
        """The manifest digest of REPOSITORY:TAG."""
        reference = f"docker://127.0.0.1:{self.port}/{repository}:{tag}"
        argv = [
            "skopeo",
            "inspect",
            f"--cert-dir={self.folder}/trust",
            "--format={{.Digest}}",
            "--no-tags",
            reference,
        ]
        done = self.tools.run(argv, binds=[self.folder], timeout=60)
        return done.stdout.decode().strip()

    def stop(self) -> None:
        """End the server. Safe to call twice."""
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait(30)
        self.process = None
