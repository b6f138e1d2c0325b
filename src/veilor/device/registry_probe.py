"""Asks the registry one harmless question (GET /v2/) to learn what stands between this machine and it.

A module of its own because it needs TLS and HTTP: a system whose Python lacks them still updates, and
`network.probe` then answers "unknown".
"""

import http.client
import ssl
import threading
from urllib.parse import urlsplit

from veilor.device import network
from veilor.device.network import Reachability
from veilor.device.run import at

STEP_LIMIT = 8.0  # seconds for each wait: to connect, for the handshake, for a part of the answer
TOTAL_LIMIT = 30.0  # seconds for everything together, name resolution included
# X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL's x509_vfy.h
OUT_OF_DATE = (9, 10)
NETWORK_AUTHENTICATION_REQUIRED = 511  # RFC 6585: sent by who stands in between, never by a site itself


def examine(registry: str) -> Reachability:
    """What stands between this machine and REGISTRY ("HOST" or "HOST:PORT").

    Takes at most TOTAL_LIMIT seconds. Whoever drips an answer byte by byte, or a resolver that never ends, is
    left to a thread that dies with the program, and counts as "nothing".
    """
    found = [Reachability.NOTHING]
    worker = threading.Thread(target=lambda: found.append(_ask(registry)), daemon=True)
    worker.start()
    worker.join(TOTAL_LIMIT)
    return found[-1]


def _ask(registry: str) -> Reachability:
    try:
        host = urlsplit(f"//{registry}").hostname or registry
    except ValueError:
        return Reachability.NOTHING
    return _ask_over_tls(registry, host) or _ask_over_plain_http(host)


def _ask_over_tls(registry: str, host: str) -> Reachability | None:
    """What answers at REGISTRY over TLS; None when no handshake takes place at all."""
    try:
        connection = http.client.HTTPSConnection(registry, timeout=STEP_LIMIT, context=_tls_context(registry))
        connection.connect()
    except ssl.SSLCertVerificationError as error:
        return Reachability.CLOCK if error.verify_code in OUT_OF_DATE else Reachability.INTERCEPTED
    except (OSError, ValueError, http.client.HTTPException):
        return None
    try:
        return judge_verified(_get(connection), host)
    except (OSError, ValueError, http.client.HTTPException):
        return Reachability.ANSWERS  # its certificate was genuine, so it is the registry that breaks off


def _ask_over_plain_http(host: str) -> Reachability:
    """What answers at HOST without TLS, where a login page shows itself."""
    try:
        return judge_plain(
            _get(http.client.HTTPConnection(host, network.PLAIN_PORT, timeout=STEP_LIMIT)), host
        )
    except (OSError, ValueError, http.client.HTTPException):
        return Reachability.NOTHING


def judge_verified(answer: http.client.HTTPResponse, host: str) -> Reachability:
    """What an ANSWER means that came over TLS with a genuine certificate for HOST.

    A login page has no such certificate, so who answers is the registry, what its operator put before it, or
    a gateway whose own authority this machine was made to trust. Only the last one has a login page to show:
    a page in place of the API, a redirection to another host, or status 511. An error status is none of
    these, with or without the registry's header, which what stands before a registry does not send.
    """
    if (answer.getheader("Docker-Distribution-Api-Version") or "").startswith("registry/2"):
        return Reachability.ANSWERS
    if answer.status == NETWORK_AUTHENTICATION_REQUIRED:
        return Reachability.PORTAL
    if answer.status >= 400:
        return Reachability.ANSWERS
    if answer.status >= 300 and _redirection_host(answer) in (None, host):
        return Reachability.ANSWERS
    return Reachability.PORTAL


def judge_plain(answer: http.client.HTTPResponse, host: str) -> Reachability:
    """What an ANSWER to plain HTTP means when TLS with HOST did not come about: anybody can have sent it.

    A login page shows a page, redirects elsewhere or within itself, or says 511. The registry itself
    redirects to HTTPS at its own name alone. After that, or an error, TLS still does not get through.
    """
    if answer.status == NETWORK_AUTHENTICATION_REQUIRED:
        return Reachability.PORTAL
    if answer.status >= 400:
        return Reachability.NOTHING
    if answer.status >= 300 and _redirection_host(answer) == host:
        return Reachability.NOTHING
    return Reachability.PORTAL


def _get(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    """Status and headers of the answer to GET /v2/. Raises OSError and HTTPException."""
    try:
        connection.request("GET", "/v2/", headers={"User-Agent": "veilor-os"})
        return connection.getresponse()
    finally:
        connection.close()


def _redirection_host(answer: http.client.HTTPResponse) -> str | None:
    """The host that a redirection leads to: None when it names none, an empty one when it cannot be read."""
    try:
        return urlsplit(answer.getheader("Location") or "").hostname
    except ValueError:
        return ""


def _tls_context(registry: str) -> ssl.SSLContext:
    """The system's authorities, and those for REGISTRY in /etc/containers/certs.d, as skopeo and bootc use.

    Without the strict form of check that Python 3.13 turns on by itself: skopeo takes a private authority
    without it as well.
    """
    context = ssl.create_default_context()
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    for extra in at(f"/etc/containers/certs.d/{registry}").glob("*.crt"):
        context.load_verify_locations(extra)
    return context
