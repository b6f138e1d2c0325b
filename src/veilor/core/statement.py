"""The channel statement: which digest the product's tag means now. It is parsed and judged here.

Nothing here knows whether a statement is genuine. That is settled before, by fetching it under the container
policy (device/channel.py).
"""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from veilor.core.image import is_digest

LIMIT = 64 << 10  # bytes; a statement has a few hundred
_LARGEST_SEQUENCE = 2**53  # the largest number that every JSON reader keeps exactly
_MOST_WITHDRAWN = 64
_LONGEST_ROLLOUT = 24 * 365  # hours


class Refused(ValueError):
    """A statement that must not be followed, with the reason as a sentence without a full stop."""


@dataclass(frozen=True)
class Statement:
    """What the channel announces. `rollout_hours` is the length of the window that begins at `rollout_start`.

    `withdrawn`: digests that were announced before and must not be started any more.
    """

    repository: str
    tag: str
    digest: str
    version: str
    sequence: int
    issued: datetime
    expires: datetime
    rollout_start: datetime
    rollout_hours: float
    withdrawn: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The version it announces, for a sentence."""
        return f"veilor-os {self.version}"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) != len(pairs):
        raise ValueError("a field stands twice")  # two readers could each believe another one
    return data


def _text(data: dict[str, Any], key: str, longest: int = 200) -> str:
    value = data.get(key)
    # printable: it is shown on terminals
    if not isinstance(value, str) or not 0 < len(value) <= longest or not value.isprintable():
        raise ValueError(f"{key} is missing or not plain text")
    return value


def _time(data: dict[str, Any], key: str) -> datetime:
    text = _text(data, key, 40)
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{key} is not a time like 2026-01-01T00:00:00Z") from None


def _sequence(data: dict[str, Any]) -> int:
    value = data.get("sequence")
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST_SEQUENCE:
        raise ValueError("sequence is missing or not a number from 0 on")
    return value


def _digest(data: dict[str, Any]) -> str:
    value = data.get("digest")
    if not is_digest(value):
        raise ValueError("digest is missing or not a sha256 digest")
    return value


def _rollout(data: dict[str, Any]) -> dict[str, Any]:
    value = data.get("rollout")
    if not isinstance(value, dict):
        raise ValueError("rollout is missing")
    return value


def _hours(rollout: dict[str, Any]) -> float:
    value = rollout.get("hours")
    # NaN and infinity are not within the limits either
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= _LONGEST_ROLLOUT:
        raise ValueError("rollout hours is missing or not a number of hours")
    return float(value)


def _withdrawn(data: dict[str, Any], announced: str) -> tuple[str, ...]:
    value = data.get("withdrawn", [])
    if not isinstance(value, list) or len(value) > _MOST_WITHDRAWN:
        raise ValueError("withdrawn is not a list of other digests")
    for digest in value:
        if not is_digest(digest):
            raise ValueError("withdrawn is not a list of other digests")
        if digest == announced:  # it cannot be announced and withdrawn at once
            raise ValueError("withdrawn is not a list of other digests")
    return tuple(value)


def parse(raw: bytes) -> Statement:
    """The statement in RAW; fields that are not known are passed over.

    Raises ValueError with what is wrong.
    """
    if len(raw) > LIMIT:
        raise ValueError("it is too long")
    try:
        data = json.loads(raw.decode(), object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    if not isinstance(data, dict):
        raise ValueError("it is not of schema 1")
    schema = data.get("schema")
    if schema != 1 or isinstance(schema, bool):
        raise ValueError("it is not of schema 1")
    digest, rollout = _digest(data), _rollout(data)
    found = Statement(
        repository=_text(data, "repository"),
        tag=_text(data, "tag"),
        digest=digest,
        version=_text(data, "version", 80),
        sequence=_sequence(data),
        issued=_time(data, "issued"),
        expires=_time(data, "expires"),
        rollout_start=_time(rollout, "start"),
        rollout_hours=_hours(rollout),
        withdrawn=_withdrawn(data, digest),
    )
    if found.expires <= found.issued:
        raise ValueError("it expires before it is issued")
    return found


def check_target(statement: Statement, repository: str, tag: str) -> None:
    """Raise Refused unless STATEMENT is about TAG of REPOSITORY: the same key may sign for other tags."""
    if statement.repository == repository and statement.tag == tag:
        return
    raise Refused(
        f"the channel statement is for {statement.repository}:{statement.tag}, not for {repository}:{tag}"
    )


def check_sequence(statement: Statement, seen: int | None, seen_digest: str | None, floor: int) -> None:
    """Raise Refused when STATEMENT would lead this machine back.

    That is: its number is below FLOOR or below the newest one SEEN, or it announces another digest than
    SEEN_DIGEST under the number that was seen. SEEN and SEEN_DIGEST are None where none is known.
    """
    if statement.sequence < floor:
        raise Refused(
            f"the channel statement has number {statement.sequence}, older than {floor}, which this system "
            "came with"
        )
    if seen is None:
        return
    if statement.sequence < seen:
        raise Refused(
            f"the channel statement has number {statement.sequence}, older than {seen}, which this machine "
            "has seen before"
        )
    if statement.sequence > seen or seen_digest is None:
        return
    if statement.digest != seen_digest:
        raise Refused(
            f"the channel statement has number {seen} like one seen before, but announces another image"
        )


def expired(statement: Statement, now: datetime) -> timedelta | None:
    """How long STATEMENT has been out of date at NOW, or None."""
    return now - statement.expires if now > statement.expires else None


# From how many days after its end a statement's age means what, for the person.
STALE = (
    (
        30,
        "it has most likely been without security updates since then, so look from another device whether "
        "there is a newer version",
    ),
    (
        7,
        "it may be missing security updates, so see whether its network blocks the registry and whether its "
        "clock is right",
    ),
    (0, "it may be kept from hearing of updates, or its clock is wrong"),
)
LASTING = timedelta(days=STALE[1][0])  # from this age on a person is notified also when nobody asked


def stale_words(late: timedelta) -> str:
    """What it means that the newest statement ran out LATE ago, the plainer the longer it is."""
    days = late.days
    ago = f"{days} day{'s' * (days != 1)}" if days else "less than a day"
    means = next(text for least, text in STALE if days >= least)
    return f"the channel statement ran out {ago} ago: this machine hears no news, and {means}"
