"""Login pages, wrong clocks and real registries, told apart by a probe of servers on this computer."""

from __future__ import annotations

import datetime
import http.server
import socketserver
import ssl
import threading
import time

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from veilor.device import network, registry_probe

PROBE = network.probe  # the machine fixture puts another in its place
NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


def certificate(folder, name, first, last, issuer=None):
    """Key and certificate of 127.0.0.1 (or an authority) good from FIRST to LAST days from now; the
    certificate's path.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    by, signer = issuer or (subject, key)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(by)
        .public_key(key.public_key())
        .serial_number(7)
    )
    made = made.not_valid_before(NOW + first * DAY).not_valid_after(NOW + last * DAY)
    if issuer:
        import ipaddress

        made = made.add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
    else:
        made = made.add_extension(x509.BasicConstraints(True, None), True)
    done = made.sign(signer, hashes.SHA256())
    path = folder / f"{name}.crt"
    plain = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    path.write_bytes(done.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.both").write_bytes(done.public_bytes(serialization.Encoding.PEM) + pem)
    return path, (subject, key)


@pytest.fixture
def serve(machine, monkeypatch, tmp_path):
    """serve(status, headers, tls="server"|None) -> "127.0.0.1:PORT" of an HTTP server that answers so until
    the test ends.
    """
    running = []

    def start(status, headers, tls=None):
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                asked.append(self.path)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *args):
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(tmp_path / f"{tls}.both")
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.handle_error = lambda *args: None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return f"127.0.0.1:{server.server_address[1]}"

    asked = []
    start.asked = asked
    path, authority = certificate(tmp_path, "authority", -9, 9)
    for name, first, last in (("good", -1, 9), ("expired", -9, -1), ("future", 1, 9)):
        certificate(tmp_path, name, first, last, authority)
    certificate(tmp_path, "stranger", -1, 9, (authority[0], ec.generate_private_key(ec.SECP256R1())))

    def trust(registry):
        machine.put(f"etc/containers/certs.d/{registry}/ca.crt", path.read_text())
        return registry

    start.trust = trust
    for name in ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(network, "PLAIN_PORT", 1)  # nobody is there
    yield start
    for server in running:
        server.shutdown()
        server.server_close()


REGISTRY = {"Docker-Distribution-Api-Version": "registry/2.0"}


@pytest.mark.parametrize(
    ("tls", "status", "headers", "found"),
    [
        ("good", 200, REGISTRY, "answers"),
        ("good", 401, REGISTRY, "answers"),
        ("good", 503, REGISTRY, "answers"),
        ("good", 200, {}, "portal"),
        ("good", 302, {"Location": "https://login.example/"}, "portal"),
        ("expired", 401, REGISTRY, "clock"),
        ("future", 401, REGISTRY, "clock"),
        ("stranger", 200, {}, "intercepted"),
        # Error statuses of what stands before a registry, which knows nothing of the registry's header.
        ("good", 500, {}, "answers"),
        ("good", 502, {}, "answers"),
        ("good", 503, {"Content-Type": "text/html", "Retry-After": "120"}, "answers"),
        ("good", 504, {}, "answers"),
        ("good", 400, {}, "answers"),
        ("good", 401, {"WWW-Authenticate": "Bearer realm=x"}, "answers"),
        ("good", 403, {}, "answers"),
        ("good", 404, {}, "answers"),
        ("good", 429, {"Retry-After": "60"}, "answers"),
        ("good", 502, REGISTRY, "answers"),
        ("good", 504, REGISTRY, "answers"),
        ("good", 429, REGISTRY, "answers"),
        # What only somebody whose authority this machine trusts can send: an inspecting gateway.
        ("good", 511, {}, "portal"),
        ("good", 200, {"Content-Type": "text/html"}, "portal"),
        ("good", 200, {"Docker-Distribution-Api-Version": "1"}, "portal"),
        ("good", 307, {"Location": "http://[bad"}, "portal"),
        ("good", 307, {"Location": "https://login.example/v2/"}, "portal"),
        # A redirection within the registry's own name.
        ("good", 308, {"Location": "/v2/else/"}, "answers"),
        ("good", 301, {"Location": "https://127.0.0.1/v2/"}, "answers"),
        ("good", 302, {}, "answers"),
        # The certificate is judged before any answer, whatever that would be.
        ("expired", 503, {}, "clock"),
        ("future", 511, {}, "clock"),
        ("stranger", 503, {}, "intercepted"),
        ("stranger", 302, {"Location": "https://login.example/"}, "intercepted"),
    ],
)
def test_what_answers_by_tls(serve, tls, status, headers, found):
    assert PROBE(serve.trust(serve(status, headers, tls))) == found
    assert serve.asked == ([] if found in ("clock", "intercepted") else ["/v2/"])


def test_an_authority_that_nobody_trusts_is_no_registry(serve):
    assert PROBE(serve(401, REGISTRY, "good")) == "intercepted"


@pytest.mark.parametrize(
    ("status", "headers", "found"),
    [
        (302, {"Location": "http://login.example/?back=x"}, "portal"),
        (200, {}, "portal"),
        (511, {}, "portal"),
        (301, {"Location": "https://127.0.0.1/v2/"}, "nothing"),
        (404, {}, "nothing"),
        (302, {"Location": "http://[bad"}, "portal"),
        (302, {"Location": "/login"}, "portal"),
        (302, {}, "portal"),
        (503, {}, "nothing"),
        (429, REGISTRY, "nothing"),
        (401, {}, "nothing"),
    ],
)
def test_what_answers_by_plain_http_when_tls_is_blocked(serve, monkeypatch, status, headers, found):
    monkeypatch.setattr(network, "PLAIN_PORT", int(serve(status, headers).rpartition(":")[2]))
    assert PROBE("127.0.0.1:1") == found


@pytest.fixture
def serve_raw(serve, tmp_path):
    """serve_raw(after_handshake, tls=True) -> "127.0.0.1:PORT" that gives each connection to it."""
    running = []

    def start(after_handshake, tls=True):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(tmp_path / "good.both")

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with (
                    context.wrap_socket(self.request, server_side=True) if tls else self.request as connection
                ):
                    after_handshake(connection)

        server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads, server.block_on_close = True, False
        server.handle_error = lambda *args: None
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return serve.trust(f"127.0.0.1:{server.server_address[1]}")

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize("said", [b"", b"no HTTP at all\r\n\r\n", b"HTTP/1.1 999999 x\r\n\r\n"])
def test_a_registry_that_was_verified_and_then_breaks_off_answers(serve_raw, said):
    def answer(connection):
        connection.recv(4096)
        connection.sendall(said)

    assert PROBE(serve_raw(answer)) == "answers"


@pytest.mark.parametrize("tls", [True, False])
def test_an_answer_that_never_ends_is_not_waited_for(serve_raw, monkeypatch, tls):
    over = threading.Event()

    def drip(connection):
        connection.recv(4096)
        while not over.wait(0.05):
            connection.sendall(b"H")

    monkeypatch.setattr(registry_probe, "TOTAL_LIMIT", 0.5)
    registry = serve_raw(drip, tls)
    monkeypatch.setattr(network, "PLAIN_PORT", int(registry.rpartition(":")[2]))
    began = time.monotonic()
    assert PROBE(registry) == "nothing"
    over.set()
    assert time.monotonic() - began < 5


def test_nobody_there(serve):
    assert PROBE("127.0.0.1:1") == "nothing"


def test_a_login_page_that_speaks_plain_http_on_the_registrys_port(serve, monkeypatch):
    portal = serve(302, {"Location": "http://login.example/"})
    monkeypatch.setattr(network, "PLAIN_PORT", int(portal.rpartition(":")[2]))
    assert PROBE(portal) == "portal"


def test_without_a_network_or_with_a_proxy_nobody_is_asked(serve, machine, monkeypatch):
    registry = serve.trust(serve(200, REGISTRY, "good"))
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    assert PROBE(registry) == "unknown" and not serve.asked
    machine.put("proc/net/route", "Iface Destination\n")
    machine.put("proc/net/ipv6_route", "")
    assert PROBE(registry) == "offline" and not serve.asked


@pytest.mark.parametrize(
    ("between", "words"),
    [
        ("portal", "login page"),
        ("intercepted", "in the registry's place"),
        ("clock", "clock is most likely wrong"),
        ("answers", "is there"),
        ("nothing", "cannot be reached"),
        ("offline", "not connected"),
        ("unknown", "see whether there is a network"),
    ],
)
def test_what_the_person_reads(machine, monkeypatch, between, words):
    machine.deployments(machine.entry("44.1"))
    machine.change("channel", error="error pinging docker registry ghcr.io: x")
    monkeypatch.setattr(network, "probe", lambda registry: between)
    done = machine.program("update", "--json")
    assert (
        done.code == 3 and words in done.data["means"] + done.data["next"] and done.data["network"] == between
    )


def test_every_answer_has_words():
    assert set(network.EXPLAINED) == {
        "offline",
        "portal",
        "intercepted",
        "clock",
        "answers",
        "nothing",
        "unknown",
    }
