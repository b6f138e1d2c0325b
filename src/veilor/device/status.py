"""veilor-status: what runs, what comes next, how it was verified, and what happened on the way."""

from datetime import UTC, datetime, timedelta

from veilor.core.host import Entry
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome, plain
from veilor.core.statement import stale_words
from veilor.device import ask, bootc, channel, shown, state, tell
from veilor.device.firstboot import STAMP


def verification(entry: Entry, reference: str) -> str:
    """How ENTRY was verified, from what bootc recorded of the fetch, never from the words of the reference
    alone.
    """
    if entry.reference is None:
        return "unverified: not made from a container image"
    if entry.follows(reference):
        return "verified by policy"
    if entry.signature == "containerPolicy":
        return f"verified by policy, but it follows {entry.reference}, not veilor-os"
    if entry.signature is None and entry.transport != "registry":
        return "unverified: written by the installer"
    return "unverified: not checked by the container policy"


def age(timestamp: str | None, now: datetime) -> str:
    """How long ago TIMESTAMP was, in days."""
    try:
        days = (now - datetime.fromisoformat(timestamp or "")).days
    except (ValueError, TypeError):
        return "of unknown age"
    return (
        "from the future (see whether the clock is right)"
        if days < 0
        else f"{days} day{'s' * (days != 1)} old"
    )


def as_dict(entry: Entry | None, reference: str) -> dict | None:
    """ENTRY for --json."""
    return entry and {
        "version": entry.version,
        "digest": entry.digest,
        "reference": entry.reference,
        "timestamp": entry.timestamp,
        "verified": entry.follows(reference),
        "verification": verification(entry, reference),
        "pinned": entry.pinned,
        "locked": entry.locked,
        "incompatible": entry.incompatible,
    }


def line(title: str, entry: dict, now: datetime) -> str:
    """One deployment, as `as_dict` gives it, for people."""
    notes = [entry["verification"], age(entry["timestamp"], now)]
    notes += ["pinned"] * entry["pinned"] + ["layered packages"] * entry["incompatible"]
    notes += ["downloaded, kept from booting"] * entry["locked"] + ["boots next"] * entry["boots_next"]
    return (
        f"{title + ':':11} {entry['version'] or short(entry['digest'])} ({short(entry['digest'])}), "
        f"{', '.join(notes)}"
    )


def text(facts: dict, now: datetime) -> str:
    """FACTS of a report for people."""
    parts = [
        ("runs now", facts["booted"]),
        ("staged", facts["staged"]),
        ("kept", facts["rollback"]),
        *(("also kept", other) for other in facts["others"]),
    ]
    back, known, late = facts["automatic_return"], facts["channel"], facts["stale_days"]
    said = [
        f"{facts['product']}, follows {facts['follows']}",
        *(line(title, entry, now) for title, entry in parts if entry),
    ]
    said += [
        f"held back:  {entry.get('version')} ({short(digest)}): {entry.get('reason')}"
        for digest, entry in facts["held_back"].items()
    ]
    said += [f"went back:  on {back.get('when')}: {back.get('reason')}"] if back else []
    said += (
        [f"heard of:   {known.get('version')}, statement {known.get('sequence')}, on {known.get('when')}"]
        if known
        else []
    )
    said += ["first boot: not done yet"] * (not facts["first_boot_done"])
    said += [f"beware:     {stale_words(timedelta(days=late))}"] if late is not None else []
    said += [f"problem:    {problem}" for problem in facts["problems"]]
    return "\n".join(map(plain, said))


def gather() -> Outcome:
    """All there is to say, as facts. Raises DeviceError."""
    product = channel.product()
    host = bootc.status()
    reference = product.image_ref
    if host.booted is None:
        return Outcome(
            Code.UNFIT,
            "This system is not one that is replaced as a whole",
            "there is nothing to say about versions of it",
        )
    back, known, late = (
        state.get_dict(state.read_record(state.HEALTH), "return"),
        state.get_dict(state.read_record(state.STATE), "channel"),
        channel.stale(),
    )
    where = (
        "the next restart boots the same"
        if host.next is host.booted
        else f"the next restart boots {host.next.title}"
    )

    def part(entry: Entry | None) -> dict | None:
        return entry and {
            **as_dict(entry, reference),
            "boots_next": entry is host.next and entry is not host.booted,
        }

    return Outcome(
        Code.DONE,
        f"This machine runs {host.booted.title}, {verification(host.booted, reference)}; {where}",
        facts={
            **{name: part(getattr(host, name)) for name in ("booted", "staged", "rollback")},
            "others": [part(other) for other in host.others],
            "rollback_queued": host.rollback_queued,
            "next_boot": host.next.digest,
            "follows": reference,
            "product": product.pretty_name,
            "automatic_return": back.get("reason")
            and {
                "when": back.get("when"),
                "reason": back["reason"],
                "version": state.get_dict(back, "target").get("version"),
            },
            "held_back": state.held_back(),
            "channel": known or None,
            "first_boot_done": bool(state.read_record(STAMP)),
            "stale_days": late and late.days,
            "problems": channel.trust_problems(product),
        },
    )


def report(args) -> Outcome:
    """The whole program, as asked by ARGS."""
    outcome = gather() if ask.is_root() else ask.do_by_unit("veilor-status", args)
    if outcome.code is Code.DONE and args.claims:
        outcome = shown.report(channel.product(), outcome.facts)
    if outcome.code is Code.DONE and not args.json:
        print(shown.text(outcome.facts) if args.claims else text(outcome.facts, datetime.now(UTC)))
    return outcome


def make_parser():
    """The command line of veilor-status."""
    parser = tell.parser(
        "veilor-status",
        "Says what runs, what boots next and how each was verified.",
        Code.UNFIT,
        Code.REFUSED,
    )
    parser.add_argument(
        "--claims",
        action="store_true",
        help="say which claims were shown on the image that runs, and which on a stand-in",
    )
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-status."""
    return tell.conclude(make_parser(), argv, report)
