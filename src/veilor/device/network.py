"""What the network looks like from here: whether there is any, and what stands between this machine and the
registry.
"""

import json
import os
from urllib.parse import urlsplit

from veilor.device.run import PROXIES, DeviceError, at, run

PATIENCE = 8.0  # seconds for each question to the registry
PLAIN_PORT = 80  # tests put another here
NETWORKMANAGER = [
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
]
METERED = (1, 3)  # NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no
# What is said when the registry does not answer, by what `probe` found: what it means, what to do.
EXPLAINED = {
    "offline": ("this machine is not connected to a network", "connect it"),
    "portal": (
        "a login page stands between this machine and the registry",
        "open a web browser and log in to the network",
    ),
    "intercepted": (
        "something else answers in the registry's place: a network's login page, or somebody who reads along",
        "log in to the network with a web browser, or use another network",
    ),
    "clock": (
        "the registry's certificate is not valid at this machine's time, so the clock is most likely wrong",
        "set the clock: `timedatectl` shows it",
    ),
    "answers": ("the registry is there but did not give what was asked for", "wait; it is tried again"),
    "nothing": ("the registry cannot be reached from this network", "see whether other sites work"),
    "unknown": ("the registry cannot be reached", "see whether there is a network"),
}


def connected() -> bool:
    """Whether there is any route at all beyond this machine and its links; when that cannot be told, yes.

    A registry may be in the local network, so a missing default route alone says nothing.
    """
    try:
        ipv4 = [line.split()[0] for line in at("/proc/net/route").read_text().splitlines()[1:]]
        ipv6 = [line.split() for line in at("/proc/net/ipv6_route").read_text().splitlines()]
        # fe80, ff: every interface has these, also one with nobody at the other end.
        return any(name != "lo" for name in ipv4) or any(
            words[9] != "lo" and not words[0].startswith(("fe80", "ff")) for words in ipv6
        )
    except (OSError, ValueError, LookupError):
        return True


def metered() -> bool:
    """Whether NetworkManager calls the connection metered; without one that answers, no."""
    try:
        done = run(
            [
                "busctl",
                "--system",
                "--auto-start=no",
                "--timeout=5",
                "--json=short",
                "get-property",
                *NETWORKMANAGER,
                "Metered",
            ],
            timeout=15,
        )
        return not done.code and json.loads(done.out)["data"] in METERED
    except (DeviceError, ValueError, RecursionError, LookupError, TypeError):
        return False


def probe(registry: str) -> str:
    """What stands between this machine and REGISTRY (HOST or HOST:PORT): a key of EXPLAINED.

    A registry answers /v2/ with a header of its own, after a handshake that says whether the certificate is
    genuine and whether its dates fit this machine's clock. A network's login page can do neither, and answers
    plain HTTP by a page of its own or a redirection elsewhere. Only for the words to a person: nothing is
    trusted because of it.
    """
    if not connected():
        return "offline"
    if any(name in os.environ for name in PROXIES):
        return "unknown"  # a proxy answers in the place of everybody
    try:
        import http.client  # a system without them (as slim as the rehearsal's) still updates
        import ssl
    except ImportError:
        return "unknown"

    def ask(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
        try:
            connection.request("GET", "/v2/", headers={"User-Agent": "veilor-os"})
            return connection.getresponse()
        finally:
            connection.close()

    try:
        context = ssl.create_default_context()
        context.verify_flags &= (
            ~ssl.VERIFY_X509_STRICT
        )  # which Python 3.13 has by itself: skopeo takes a private CA without it as well
        for extra in at(f"/etc/containers/certs.d/{registry}").glob("*.crt"):  # as skopeo and bootc do
            context.load_verify_locations(extra)
        answer = ask(http.client.HTTPSConnection(registry, timeout=PATIENCE, context=context))
        return (
            "answers"
            if (answer.getheader("Docker-Distribution-Api-Version") or "").startswith("registry/2")
            else "portal"
        )
    except ssl.SSLCertVerificationError as error:
        # X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED of OpenSSL's x509_vfy.h
        return "clock" if error.verify_code in (9, 10) else "intercepted"
    except (OSError, ValueError, http.client.HTTPException):
        pass
    host = registry.rpartition(":")[0] or registry
    try:
        answer = ask(http.client.HTTPConnection(host, PLAIN_PORT, timeout=PATIENCE))
    except (OSError, ValueError, http.client.HTTPException):
        return "nothing"
    if 300 <= answer.status < 400:
        try:
            return "nothing" if urlsplit(answer.getheader("Location") or "").hostname == host else "portal"
        except ValueError:
            return "portal"
    return "portal" if answer.status < 300 or answer.status == 511 else "nothing"
