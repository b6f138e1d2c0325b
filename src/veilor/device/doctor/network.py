"""Checks of the network: what listens, who sets the clock, and which firewall zones are in use."""

from veilor.device.doctor.observation import Observation, Unseen, judge, judge_list, read_text
from veilor.device.doctor.services import call

LISTEN = "0A"  # TCP_LISTEN in the kernel's tables
UNCONNECTED = "07"  # a UDP socket that takes datagrams from anybody
# Table below /proc/net, the state of its sockets that wait for strangers, and whether every kernel has it.
TABLES = (
    ("tcp", LISTEN, True),
    ("tcp6", LISTEN, False),
    ("udp", UNCONNECTED, True),
    ("udp6", UNCONNECTED, False),
)
IPV6_LOOPBACK = "0" * 24 + "01000000"
IPV4_IN_IPV6 = "0" * 16 + "FFFF0000"
FIREWALL = "org.fedoraproject.FirewallD1"


def open_ports() -> set[str]:
    """The ports ("tcp/22") of all sockets that wait for strangers, from the kernel's tables.

    proc_pid_net(5) says what stands in them. Raises Unseen when they are not there.
    """
    found = set()
    for table, waiting, always in TABLES:
        text = read_text(f"/proc/net/{table}")
        if text is None and always:
            raise Unseen(f"/proc/net/{table} is not there")
        for line in (text or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) < 4 or fields[3] != waiting:
                continue
            address, port = fields[1].split(":")
            if not is_loopback(address):
                found.add(f"{table[:3]}/{int(port, 16)}")
    return found


def is_loopback(address: str) -> bool:
    """Whether the hex ADDRESS (words in the machine's byte order) can be reached from this machine alone."""
    if address == IPV6_LOOPBACK:
        return True
    is_ipv4 = len(address) == 8 or address.startswith(IPV4_IN_IPV6)
    return is_ipv4 and address.endswith("7F")


def listening(allowed: list[str]) -> Observation:
    """Nothing waits for strangers except ALLOWED, as protocol/port."""
    found = open_ports()
    extra = sorted(found - set(allowed))
    return judge_list(
        extra,
        "waits for strangers beyond what is named",
        f"waits for strangers: {', '.join(sorted(found)) or 'nothing'}",
    )


def every_source(path: str, word: str) -> Observation:
    """In chrony's configuration at PATH each time source carries WORD, and there is one."""
    text = read_text(path)
    if text is None:
        return judge(False, f"{path} is missing")
    directives = [line.split() for line in text.splitlines() if line.split()]
    sources = [fields for fields in directives if fields[0] in ("server", "pool", "peer")]
    if not sources:
        return judge(False, f"0 sources with {word}")
    bare = [fields[1] for fields in sources if word not in fields[2:]]
    return judge_list(bare, f"without {word}", f"{len(sources)} sources with {word}")


def says(path: str, lines: list[str]) -> Observation:
    """chrony's configuration at PATH has each of LINES (a word, its value), and no other value for a word."""
    given = [line.lower().split() for line in (read_text(path) or "").splitlines() if line.split()]
    wrong = []
    for line in lines:
        word, value = line.split()
        values = [fields[1:] for fields in given if fields[0] == word]
        if not values or any(one != [value] for one in values):
            found = " and ".join(" ".join(one) or "empty" for one in values) or "not set"
            wrong.append(f"{word} is {found}, not {value}")
    if wrong:
        return judge(False, "; ".join(wrong))
    for fields in given:
        if fields[0] in ("include", "confdir"):
            raise Unseen(f"{path} takes in what is not looked at here ({' '.join(fields)})")
    return judge(True, f"{path} says {' and '.join(lines)}")


def zones(allowed: dict[str, list[str]]) -> Observation:
    """Every interface and sender that firewalld knows is in a zone of ALLOWED.

    ALLOWED: by zone, what may be in it; an empty list allows all.
    """
    answer = call(FIREWALL, f"/{FIREWALL.replace('.', '/')}", f"{FIREWALL}.zone", "getActiveZones")
    try:
        members = [
            (zone, member)
            for zone, kinds in answer[0].items()
            for members_of_kind in kinds.values()
            for member in members_of_kind
        ]
    except (LookupError, TypeError, AttributeError):
        raise Unseen("firewalld answered what cannot be understood") from None
    lax = [f"{member} in {zone}" for zone, member in members if not _may_be_in(zone, member, allowed)]
    return judge_list(
        lax, "in a zone that may let more in", f"nothing is in another zone than {' or '.join(allowed)}"
    )


def _may_be_in(zone: str, member: str, allowed: dict[str, list[str]]) -> bool:
    """Whether MEMBER (an interface or a sender) may be in ZONE."""
    if zone not in allowed:
        return False
    return not allowed[zone] or member in allowed[zone]
