"""Login pages, wrong clocks and real registries, told apart by a probe of servers on this computer."""

from __future__ import annotations

import datetime
import http.server
import ssl
import threading

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from veilor.device import network

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
    ],
)
def test_what_answers_by_plain_http_when_tls_is_blocked(serve, monkeypatch, status, headers, found):
    monkeypatch.setattr(network, "PLAIN_PORT", int(serve(status, headers).rpartition(":")[2]))
    assert PROBE("127.0.0.1:1") == found


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
