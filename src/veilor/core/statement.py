"""The channel statement: which digest the product's tag means now. It is parsed and judged here.

Nothing here knows whether a statement is genuine. That is settled before, by fetching it under the container
policy (device/channel.py).
"""

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from veilor.core.image import is_digest

LIMIT = 64 << 10  # bytes; a statement has a few hundred
_LARGEST = 2**53  # of a sequence or an epoch: the largest number that every JSON reader keeps exactly
_MOST_WITHDRAWN = 64
_LONGEST_ROLLOUT = 24 * 365  # hours


class Refused(ValueError):
    """A statement that must not be followed, with the reason as a sentence without a full stop."""


class RefusedLate(Refused):
    """One that has run out and is not followed for that: an old one played again, or a wrong clock."""


@dataclass(frozen=True)
class Seen:
    """The newest statement that a machine has seen for a tag: its place, and the digest it announced.

    None where none was seen, or where the record does not say.
    """

    place: tuple[int, int] | None
    digest: str | None


@dataclass(frozen=True)
class Statement:
    """What the channel announces. `rollout_hours` is the length of the window that begins at `rollout_start`.

    `withdrawn`: digests that were announced before and must not be started any more. `epoch`: sequences count
    anew in each; one above the image's is believed only by the second channel key (device/channel.py).
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
    epoch: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """Epoch and sequence: of two statements, the one whose place is higher is the newer one."""
        return self.epoch, self.sequence

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
    # Of a year from 1900 to 2999: with times at the ends of what Python counts, sums overflow.
    if not re.fullmatch(r"(?:19|2[0-9])[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z", text):
        raise ValueError(f"{key} is not a time like 2026-01-01T00:00:00Z")
    try:
        return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise ValueError(f"{key} is not a time like 2026-01-01T00:00:00Z") from None


def _number(data: dict[str, Any], key: str, default: int | None = None) -> int:
    value = data.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= _LARGEST:
        raise ValueError(f"{key} is missing or not a number from 0 on")
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
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
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
        sequence=_number(data, "sequence"),
        issued=_time(data, "issued"),
        expires=_time(data, "expires"),
        rollout_start=_time(rollout, "start"),
        rollout_hours=_hours(rollout),
        withdrawn=_withdrawn(data, digest),
        epoch=_number(data, "epoch", 0),
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


def format_place(place: tuple[int, int]) -> str:
    """PLACE for a sentence: the sequence, with its epoch before it where that is not the first."""
    epoch, sequence = place
    return f"{epoch}/{sequence}" if epoch else str(sequence)


def check_sequence(statement: Statement, seen: Seen, floor: tuple[int, int]) -> None:
    """Raise Refused when STATEMENT would lead this machine back.

    That is: its place is below FLOOR or below that of the newest one SEEN, or it announces another digest at
    the place that was seen.
    """
    number = format_place(statement.place)
    if statement.place < floor:
        raise Refused(
            f"the channel statement has number {number}, older than {format_place(floor)}, which this system "
            "came with"
        )
    if seen.place is None:
        return
    if statement.place < seen.place:
        raise Refused(
            f"the channel statement has number {number}, older than {format_place(seen.place)}, which this "
            "machine has seen before"
        )
    if statement.place > seen.place or seen.digest is None:
        return
    if statement.digest != seen.digest:
        raise Refused(
            f"the channel statement has number {number} like one seen before, but announces another image"
        )


def check_late(statement: Statement, seen: Seen, version: str | None, built: datetime | None) -> None:
    """Raise RefusedLate when STATEMENT, which has run out, must not move a machine.

    It runs VERSION, BUILT at that time. Who has seen no statement cannot tell an old one from the newest, and
    none that has run out leads to what is older than what runs. The version says which is older, and the time
    where the versions cannot be compared or are the same.
    """
    if seen.place is None:
        raise RefusedLate(
            "the channel statement has run out, and this machine remembers none to compare it with"
        )
    said, runs = _version_numbers(statement.version), _version_numbers(version)
    older = built is not None and statement.issued < built
    if said and runs and said != runs:
        older = said < runs
    if older:
        raise RefusedLate(
            f"the channel statement has run out, and {statement.title} is older than {version}, which runs"
        )


def _version_numbers(version: str | None) -> list[int]:
    """VERSION as numbers that can be compared; none when it has another form."""
    if version is None or not re.fullmatch(r"[0-9]{1,12}(?:\.[0-9]{1,12})*", version):
        return []
    return [int(part) for part in version.split(".")]


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
