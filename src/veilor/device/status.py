"""veilor-status: what runs, what comes next, how it was verified, and what happened on the way."""

from datetime import UTC, datetime

from veilor.core.host import Entry, Host
from veilor.core.image import short
from veilor.core.outcome import Code, Outcome
from veilor.core.statement import stale_words
from veilor.device import bootc, channel, state, tell
from veilor.device.firstboot import STAMP


def verification(entry: Entry, reference: str) -> str:
    """How ENTRY was verified, from what bootc recorded of the fetch, never from the words of the reference alone."""
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
    return "from the future (see whether the clock is right)" if days < 0 else f"{days} day{'s' * (days != 1)} old"


def as_dict(entry: Entry | None, reference: str) -> dict | None:
    """ENTRY for --json."""
    return entry and {
        "version": entry.version, "digest": entry.digest, "reference": entry.reference, "timestamp": entry.timestamp,
        "verified": entry.follows(reference), "verification": verification(entry, reference), "pinned": entry.pinned,
        "locked": entry.locked, "incompatible": entry.incompatible,
    }


def lines(host: Host, reference: str, now: datetime) -> list[str]:
    """A line for each deployment."""
    parts = [("runs now", host.booted), ("staged", host.staged), ("kept", host.rollback), *(("also kept", other) for other in host.others)]
    said = []
    for title, entry in parts:
        if entry:
            notes = [verification(entry, reference), age(entry.timestamp, now)]
            notes += ["pinned"] * entry.pinned + ["layered packages"] * entry.incompatible
            notes += ["downloaded, kept from booting"] * entry.locked + ["boots next"] * (entry is host.next and entry is not host.booted)
            said.append(f"{title + ':':11} {entry.title} ({short(entry.digest)}), {', '.join(notes)}")
    return said


def report(args) -> Outcome:
    """The whole program, as asked by ARGS."""
    facts = channel.product()
    host = bootc.status()
    reference, now = facts.image_ref, datetime.now(UTC)
    if host.booted is None:
        return Outcome(Code.UNFIT, "This system is not one that is replaced as a whole", "there is nothing to say about versions of it")
    back, held, known = state.part(state.read(state.HEALTH), "return"), state.held_back(), state.part(state.read(state.STATE), "channel")
    reason = back.get("reason")
    problems, late = channel.trust_problems(facts), channel.stale()
    if not args.json:
        said = [f"{facts.pretty_name}, follows {reference}", *lines(host, reference, now)]
        said += [f"held back:  {entry.get('version')} ({short(digest)}): {entry.get('reason')}" for digest, entry in held.items()]
        said += [f"went back:  on {back.get('when')}: {reason}"] * bool(reason)
        said += [f"heard of:   {known.get('version')}, statement {known.get('sequence')}, on {known.get('when')}"] * bool(known)
        said += ["first boot: not done yet"] * (not state.read(STAMP))
        said += [f"beware:     {stale_words(late)}"] if late else []
        said += [f"problem:    {problem}" for problem in problems]
        print("\n".join(said))
    where = "the next restart boots the same" if host.next is host.booted else f"the next restart boots {host.next.title}"
    return Outcome(Code.DONE, f"This machine runs {host.booted.title}, {verification(host.booted, reference)}; {where}", facts={
        **{part: as_dict(getattr(host, part), reference) for part in ("booted", "staged", "rollback")},
        "others": [as_dict(other, reference) for other in host.others], "rollback_queued": host.rollback_queued,
        "next_boot": host.next.digest, "follows": reference,
        "automatic_return": reason and {
            "when": back.get("when"), "reason": reason, "version": state.part(back, "target").get("version")},
        "held_back": held, "channel": known or None, "first_boot_done": bool(state.read(STAMP)),
        "stale_days": late and late.days, "problems": problems})


def make_parser():
    """The command line of veilor-status."""
    return tell.parser("veilor-status", "Says what runs, what boots next and how each was verified.", Code.UNFIT)


def main(argv: list[str]) -> int:
    """The program veilor-status."""
    return tell.conclude(make_parser(), argv, report)
