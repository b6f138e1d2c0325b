"""What the network looks like from here: whether there is any, whether it is metered, and what stands between
this machine and the registry.
"""

import enum
import json
import os

from veilor.device.run import PROXIES, DeviceError, at, run

PLAIN_PORT = 80  # of plain HTTP; tests put another here
NETWORKMANAGER = [
    "org.freedesktop.NetworkManager",
    "/org/freedesktop/NetworkManager",
    "org.freedesktop.NetworkManager",
]
METERED = (1, 3)  # NMMetered: 0 unknown, 1 yes, 2 no, 3 guessed yes, 4 guessed no


class Reachability(enum.StrEnum):
    """What stands between this machine and the registry, as `probe` found it and --json says it.

    OFFLINE: no route leads beyond this machine.
    PORTAL: a login page answers in the registry's place.
    INTERCEPTED: who answers has no genuine certificate for the registry's name.
    CLOCK: the certificate is genuine, but not valid at this machine's time.
    ANSWERS: the registry, or what its operator put before it, answers, but not with what was asked for: it is
    busy, broken, or wants less to be asked of it (502, 503, 504, 429 and other error statuses).
    NOTHING: nobody answers over TLS, and no login page shows itself.
    UNKNOWN: it was not asked: a proxy is set, which answers in everybody's place, or Python lacks TLS.
    """

    OFFLINE = "offline"
    PORTAL = "portal"
    INTERCEPTED = "intercepted"
    CLOCK = "clock"
    ANSWERS = "answers"
    NOTHING = "nothing"
    UNKNOWN = "unknown"


# What is said when the registry does not answer, by what `probe` found: what it means, what to do.
EXPLAINED: dict[str, tuple[str, str]] = {
    Reachability.OFFLINE: ("this machine is not connected to a network", "connect it"),
    Reachability.PORTAL: (
        "a login page stands between this machine and the registry",
        "open a web browser and log in to the network",
    ),
    Reachability.INTERCEPTED: (
        "something else answers in the registry's place: a network's login page, or somebody who reads along",
        "log in to the network with a web browser, or use another network",
    ),
    Reachability.CLOCK: (
        "the registry's certificate is not valid at this machine's time, so the clock is most likely wrong",
        "set the clock: `timedatectl` shows it",
    ),
    Reachability.ANSWERS: (
        "the registry is there but did not give what was asked for",
        "wait; it is tried again",
    ),
    Reachability.NOTHING: (
        "the registry cannot be reached from this network",
        "see whether other sites work",
    ),
    Reachability.UNKNOWN: ("the registry cannot be reached", "see whether there is a network"),
}


def connected() -> bool:
    """Whether any route leads beyond this machine and its links; True when that cannot be told.

    A registry may be in the local network, so a missing default route alone says nothing.
    """
    try:
        ipv4 = at("/proc/net/route").read_text().splitlines()[1:]  # the first line names the columns
        ipv6 = at("/proc/net/ipv6_route").read_text().splitlines()
        return any(map(_leads_out_ipv4, ipv4)) or any(map(_leads_out_ipv6, ipv6))
    except (OSError, ValueError, LookupError):
        return True


def _leads_out_ipv4(line: str) -> bool:
    """Whether a LINE of /proc/net/route, which begins with the interface, is a route beyond this machine."""
    return line.split()[0] != "lo"


def _leads_out_ipv6(line: str) -> bool:
    """Whether a LINE of /proc/net/ipv6_route, destination first and interface last, leads beyond the link."""
    fields = line.split()
    if fields[9] == "lo":
        return False
    # Every interface has routes to fe80 (its link) and ff (multicast), also one with nobody at the other end.
    return not fields[0].startswith(("fe80", "ff"))


def metered() -> bool:
    """Whether NetworkManager calls the connection metered; False when it does not answer."""
    question = ["busctl", "--system", "--auto-start=no", "--timeout=5", "--json=short", "get-property"]
    try:
        done = run([*question, *NETWORKMANAGER, "Metered"], timeout=15)
        return done.code == 0 and json.loads(done.out)["data"] in METERED
    except (DeviceError, ValueError, RecursionError, LookupError, TypeError):
        return False


def probe(registry: str) -> Reachability:
    """What stands between this machine and REGISTRY ("HOST" or "HOST:PORT"); takes half a minute at most.

    It only chooses the words for the person (EXPLAINED): nothing is trusted because of it.
    """
    if not connected():
        return Reachability.OFFLINE
    if any(name in os.environ for name in PROXIES):
        return Reachability.UNKNOWN
    try:
        from veilor.device import registry_probe
    except ImportError:
        return Reachability.UNKNOWN
    return registry_probe.examine(registry)
