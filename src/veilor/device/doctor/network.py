"""Looks at the network: what listens, from the kernel's own tables."""

from veilor.device.doctor.observation import Observation, Unseen, judge, read_text
from veilor.device.doctor.services import call

LISTEN = "0A"  # TCP_LISTEN in the kernel's tables
UNCONNECTED = "07"  # a UDP socket that takes datagrams from anybody
FIREWALL = "org.fedoraproject.FirewallD1"


def sockets() -> list[tuple[str, str, int]]:
    """(protocol, local address in hex, port) of every socket that waits for strangers (proc_pid_net(5))."""
    found = []
    for table, state in (("tcp", LISTEN), ("tcp6", LISTEN), ("udp", UNCONNECTED), ("udp6", UNCONNECTED)):
        text = read_text(f"/proc/net/{table}")
        if text is None and table in ("tcp", "udp"):
            raise Unseen(f"/proc/net/{table} is not there")
        for line in (text or "").splitlines()[1:]:
            fields = line.split()
            if len(fields) > 3 and fields[3] == state:
                address, port = fields[1].split(":")
                found.append((table[:3], address, int(port, 16)))
    return found


def loopback(address: str) -> bool:
    """Whether the kernel's hex ADDRESS (words in the machine's byte order) can be reached from this machine
    alone.
    """
    if len(address) == 8:
        return address.endswith("7F")
    return address == "0" * 24 + "01000000" or (
        address[:24] == "0" * 16 + "FFFF0000" and address.endswith("7F")
    )


def listening(allowed: list[str]) -> Observation:
    """Nothing waits for strangers but ALLOWED, as protocol/port."""
    found = sorted({f"{kind}/{port}" for kind, address, port in sockets() if not loopback(address)})
    extra = [one for one in found if one not in allowed]
    return judge(
        not extra,
        f"waits for strangers beyond what is named: {', '.join(extra)}"
        if extra
        else f"waits for strangers: {', '.join(found) or 'nothing'}",
    )


def every_source(path: str, word: str) -> Observation:
    """In chrony's configuration at PATH each time source (server or pool) carries WORD, and there is one."""
    text = read_text(path)
    if text is None:
        return judge(False, f"{path} is missing")
    sources = [
        line.split() for line in text.splitlines() if line.split()[:1] in (["server"], ["pool"], ["peer"])
    ]
    bare = [fields[1] for fields in sources if word not in fields[2:]]
    return judge(
        bool(sources) and not bare,
        f"without {word}: {', '.join(bare)}" if bare else f"{len(sources)} sources with {word}",
    )


def says(path: str, lines: list[str]) -> Observation:
    """chrony's configuration at PATH gives each of LINES (a word and its value), and nowhere another value
    for that word.
    """
    given = [line.lower().split() for line in (read_text(path) or "").splitlines() if line.split()]
    beside = [" ".join(words) for words in given if words[0] in ("include", "confdir")]
    wrong = []
    for word, value in (line.split() for line in lines):
        found = [words[1:] for words in given if words[0] == word]
        if not found or any(one != [value] for one in found):
            wrong.append(
                f"{word} is {' and '.join(' '.join(one) or 'empty' for one in found) or 'not set'}, not "
                f"{value}"
            )
    if beside and not wrong:
        raise Unseen(f"{path} takes in what is not looked at here ({beside[0]})")
    return judge(not wrong, "; ".join(wrong) or f"{path} says {' and '.join(lines)}")


def zones(allowed: dict[str, list[str]]) -> Observation:
    """Every interface and sender for which firewalld knows a zone is in one of ALLOWED: zone to what may be
    in it, if not all.
    """
    found = call(FIREWALL, f"/{FIREWALL.replace('.', '/')}", f"{FIREWALL}.zone", "getActiveZones")
    try:
        placed = [(zone, one) for zone, kinds in found[0].items() for ones in kinds.values() for one in ones]
    except (LookupError, TypeError, AttributeError):
        raise Unseen("firewalld answered what cannot be understood") from None
    lax = [
        f"{one} in {zone}"
        for zone, one in placed
        if zone not in allowed or allowed[zone] and one not in allowed[zone]
    ]
    return judge(
        not lax,
        f"in a zone that may let more in: {', '.join(lax)}"
        if lax
        else f"nothing is in another zone than {' or '.join(allowed)}",
    )
