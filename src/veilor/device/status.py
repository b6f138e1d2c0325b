"""veilor-status: what runs, what comes next, how it was verified, and what happened on the way."""

import argparse
from datetime import UTC, datetime, timedelta
from typing import Any

from veilor.core.host import POLICY, Entry
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome, plain
from veilor.core.statement import stale_words
from veilor.device import ask, bootc, channel, clock, health, health_record, shown, state, tell
from veilor.device.firstboot import STAMP


def verification(entry: Entry, reference: str) -> str:
    """How ENTRY was verified, from what bootc recorded of the fetch, never from the reference alone."""
    if entry.reference is None:
        return "unverified: not made from a container image"
    if entry.follows(reference):
        return "verified by policy"
    if entry.signature == POLICY:
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
    if days < 0:
        return "from the future (see whether the clock is right)"
    return f"{days} day{'s' * (days != 1)} old"


def entry_facts(entry: Entry, reference: str, boots_next: bool, withdrawn: bool) -> dict[str, Any]:
    """ENTRY for --json."""
    return {
        "version": entry.version,
        "digest": entry.digest,
        "reference": entry.reference,
        "timestamp": entry.timestamp,
        "verified": entry.follows(reference),
        "verification": verification(entry, reference),
        "pinned": entry.pinned,
        "locked": entry.locked,
        "incompatible": entry.incompatible,
        "boots_next": boots_next,
        "withdrawn": withdrawn,
    }


def line(title: str, entry: dict[str, Any], now: datetime) -> str:
    """One deployment, as `entry_facts` gives it, for people."""
    notes = [entry["verification"], age(entry["timestamp"], now)]
    notes += ["pinned"] * entry["pinned"] + ["layered packages"] * entry["incompatible"]
    notes += ["withdrawn by its makers"] * entry["withdrawn"]
    notes += ["downloaded, kept from booting"] * entry["locked"] + ["boots next"] * entry["boots_next"]
    return (
        f"{title + ':':11} {entry['version'] or short(entry['digest'])} ({short(entry['digest'])}), "
        f"{', '.join(notes)}"
    )


def text(facts: dict[str, Any], now: datetime) -> str:
    """FACTS of `gather` for people."""
    entries = [
        ("runs now", facts["booted"]),
        ("staged", facts["staged"]),
        ("kept", facts["rollback"]),
        *(("also kept", other) for other in facts["others"]),
    ]
    back, known, late = facts["automatic_return"], facts["channel"], facts["stale_days"]
    said = [f"{facts['product']}, follows {facts['follows']}"]
    said += [line(title, entry, now) for title, entry in entries if entry]
    for digest, held in facts["held_back"].items():
        said.append(f"held back:  {held.get('version')} ({short(digest)}): {held.get('reason')}")
    if facts["missed"]:
        said.append(f"not placed: {facts['missed']}")
    if back:
        said.append(f"went back:  on {back.get('when')}: {back.get('reason')}")
    if known:
        said.append(
            f"heard of:   {known.get('version')}, statement {known.get('sequence')}, on {known.get('when')}"
        )
    if not facts["first_boot_done"]:
        said.append("first boot: not done yet")
    if facts["clock_synchronised"] is False:
        said.append(f"beware:     {clock.NOT_SET}")
    if late is not None:
        said.append(f"beware:     {stale_words(timedelta(days=late))}")
    said += [f"problem:    {problem}" for problem in facts["problems"]]
    return "\n".join(map(plain, said))


def gather() -> Outcome:
    """All there is to say, as facts. Raises DeviceError."""
    product = channel.product()
    host = bootc.status()
    booted, following, reference = host.booted, host.next, product.image_ref
    if booted is None or following is None:
        return Outcome(
            Code.UNFIT,
            "This system is not one that is replaced as a whole",
            "there is nothing to say about versions of it",
        )
    runs = f"{booted.title}, {verification(booted, reference)}"
    boots = "the same" if following is booted else following.title
    withdrawn = state.withdrawn()

    def facts_of(entry: Entry | None) -> dict[str, Any] | None:
        if entry is None:
            return None
        boots_next = entry is following and entry is not booted
        return entry_facts(entry, reference, boots_next, entry.digest in withdrawn)

    record, late = health_record.read(), channel.stale()
    back = record.back
    returned = None
    if back and back.reason:
        returned = {
            "when": back.trial.when,
            "reason": back.reason,
            "version": back.trial.target.version,
        }
    return Outcome(
        Code.DONE,
        f"This machine runs {runs}; the next restart boots {boots}",
        facts={
            "booted": facts_of(booted),
            "staged": facts_of(host.staged),
            "rollback": facts_of(host.rollback),
            "others": [facts_of(other) for other in host.others],
            "rollback_queued": host.rollback_queued,
            "next_boot": following.digest,
            "follows": reference,
            "product": product.pretty_name,
            "automatic_return": returned,
            "missed": health.explain_missed(record.missed).line() if record.missed else None,
            "held_back": {digest: held.to_dict() for digest, held in state.held_back().items()},
            "channel": state.channel_record(state.read_record(state.STATE), product.tag) or None,
            "first_boot_done": bool(state.read_record(STAMP)),
            "stale_days": late and late.days,
            "clock_synchronised": clock.is_synchronised(),
            "problems": channel.trust_problems(product),
        },
    )


def report(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS."""
    outcome = gather() if ask.is_root() else ask.do_by_unit("veilor-status", args)
    if outcome.code is Code.DONE and args.claims:
        outcome = shown.report(channel.product(), outcome.facts)
    if outcome.code is Code.DONE and not args.json:
        print(shown.text(outcome.facts) if args.claims else text(outcome.facts, datetime.now(UTC)))
    return outcome


def make_parser() -> argparse.ArgumentParser:
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
