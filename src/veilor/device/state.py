"""What the machine remembers, as two JSON files under /var/lib/veilor that outlive updates and rollbacks.

state.json   {"schema": 1,
             "channels": {TAG: {"epoch", "sequence", "digest", "version", "expires", "when", "withdrawn"}},
             "held_back": {DIGEST: {"version", "cause", "reason", "when"}},
             "look": {"when", "failed", "turn", "finding", "since"},
             "clock_adrift_since"}:
             the newest statement seen for each tag, and what was ever withdrawn there; images not to be
             staged by themselves until a newer one is announced; the last time that news was asked for, with
             what has kept the update from being fetched, and since when; since when no server has set the
             clock.
             An older form has one record, "channel", for whatever tag its version is of.
health.json  see health_record.py.

Every write is atomic and on the disk before it returns. Fields that are not known are kept: a newer release
may have written them, and may read them again. A file that cannot be read, or a folder in its place, is put
aside as NAME.damaged, and memory starts anew.
"""

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from veilor.core.image import is_digest
from veilor.core.outcome import Code
from veilor.core.statement import Seen, Statement
from veilor.device.run import DeviceError, at

STATE = "/var/lib/veilor/state.json"
HEALTH = "/var/lib/veilor/health.json"
RUN = "/run/veilor"
MOST_WITHDRAWN = 256  # digests that are remembered for a tag: the newest ones
YEARS = range(1970, 3000)  # of times in records: beyond them sums overflow

Record = dict[str, Any]  # a JSON object as it lies on the disk


def format_time(time: datetime) -> str:
    """TIME as records and statements have it."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """The time that TEXT of a record or of bootc means; None when it means none."""
    if not isinstance(text, str):
        return None
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    if found.year not in YEARS:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def format_now() -> str:
    """The time for a record."""
    return format_time(datetime.now(UTC))


def read_record(path: str) -> Record:
    """The record at PATH; an empty one when there is none."""
    file = at(path)
    try:
        data = json.loads(file.read_bytes())
        if not isinstance(data, dict):
            raise ValueError("not an object")
        return data
    except FileNotFoundError:
        return {}
    except (IsADirectoryError, ValueError, RecursionError) as error:
        print(
            f"veilor: {file} cannot be used ({error}); it is put aside as {file.name}.damaged",
            file=sys.stderr,
        )
        with contextlib.suppress(OSError):
            file.replace(file.with_name(file.name + ".damaged"))
        return {}
    except OSError as error:
        print(f"veilor: {file} cannot be read ({error})", file=sys.stderr)
        return {}


def get_dict(data: Record, key: str) -> Record:
    """The object under KEY of DATA; an empty one when there is none."""
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def get_list(data: Record, key: str) -> list[Any]:
    """The list under KEY of DATA; an empty one when there is none."""
    found = data.get(key)
    return found if isinstance(found, list) else []


def get_text(data: Record, key: str) -> str | None:
    """What stands under KEY of DATA as text; None only when nothing does, so that damage never means None."""
    found = data.get(key)
    return None if found is None else str(found)


@contextlib.contextmanager
def edit_record(path: str) -> Iterator[Record]:
    """The record at PATH to change: it is written when the block ends well.

    Two programs never edit at the same time.
    """
    with _locked("state.lock", wait=30):
        data = read_record(path)
        before = json.dumps(data, sort_keys=True)
        yield data
        if json.dumps(data, sort_keys=True) != before:
            write_record(path, {"schema": 1, **data})


def write_record(path: str, data: Record) -> None:
    """Replace the record at PATH. Raises DeviceError when the disk does not take it."""
    replace_file(path, json.dumps(data, indent=1, sort_keys=True).encode() + b"\n", 0o644)


def replace_file(path: str, data: bytes, mode: int) -> None:
    """Replace the file at PATH by one of MODE, on the disk before this returns. Raises DeviceError."""
    file = at(path)
    scratch = file.with_name(f".{file.name}.{os.getpid()}.tmp")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        scratch.unlink(missing_ok=True)
        with os.fdopen(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
            out.write(data)
            out.flush()
            os.fsync(out.fileno())
        scratch.replace(file)
        folder = os.open(file.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        with contextlib.suppress(OSError):
            scratch.unlink()
        raise DeviceError(
            f"{file} cannot be written ({error.strerror})",
            "it is as it was before",
            "make room on the disk, then try again",
            facts={"errno": error.errno},
        ) from None


@contextlib.contextmanager
def _locked(name: str, wait: float) -> Iterator[None]:
    file = at(f"{RUN}/{name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Who can open a lock can hold it: nobody but its owner may, whoever made the file before.
        lock = os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600), "wb")
        os.fchmod(lock.fileno(), 0o600)
    except OSError as error:
        raise DeviceError(
            f"{file} cannot be opened ({error.strerror})", "this program has to run as root", "", Code.ROOT
        ) from None
    with lock:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DeviceError(
                        "Another veilor program is running",
                        "two at once would disturb each other",
                        "wait until it has ended, then try again",
                        Code.LATER,
                        {"lock": "held"},
                    ) from None
                time.sleep(0.2)
        yield


def exclusive_lock(wait: float = 5) -> AbstractContextManager[None]:
    """Hold the lock of all programs that change deployments.

    Raises DeviceError (LATER) after WAIT seconds.
    """
    return _locked("lock", wait)


def channel_record(data: Record, tag: str) -> Record:
    """What state.json, read as DATA, has of the channel of TAG; an empty record when it has nothing."""
    older = get_dict(data, "channel")
    found = get_dict(get_dict(data, "channels"), tag)
    if not found and str(older.get("version") or tag).split(".")[0] == tag:
        return older
    return found


def newest_statement_seen(tag: str) -> Seen:
    """The newest statement for TAG that was ever verified here."""
    return _seen(channel_record(read_record(STATE), tag))


def _seen(channel: Record) -> Seen:
    sequence, digest = _count(channel, "sequence"), channel.get("digest")
    place = None if sequence is None else (_count(channel, "epoch") or 0, sequence)
    return Seen(place, digest if is_digest(digest) else None)


def _count(channel: Record, key: str) -> int | None:
    """The whole number under KEY of CHANNEL; None when there is none."""
    number = channel.get(key)
    return number if isinstance(number, int) and not isinstance(number, bool) else None


def record_statement(statement: Statement) -> None:
    """Record a verified STATEMENT as seen. An older one changes nothing.

    A newer one that announces something else ends what was held back. What was withdrawn stays so until it is
    announced again, or a new epoch begins: what a thief of the key has withdrawn ends with it.
    """
    with edit_record(STATE) as data:
        channel = channel_record(data, statement.tag)
        seen = _seen(channel).place
        if seen is not None and statement.place <= seen:
            return
        before = get_list(channel, "withdrawn") if seen and seen[0] == statement.epoch else []
        known = [one for one in (*before, *statement.withdrawn) if is_digest(one) and one != statement.digest]
        record = {
            **channel,
            "epoch": statement.epoch,
            "sequence": statement.sequence,
            "digest": statement.digest,
            "version": statement.version,
            "expires": format_time(statement.expires),
            "when": format_now(),
            "withdrawn": list(dict.fromkeys(known))[-MOST_WITHDRAWN:],
        }
        data["channels"] = {**get_dict(data, "channels"), statement.tag: record}
        if channel is get_dict(data, "channel"):
            del data["channel"]
        held = get_dict(data, "held_back")
        data["held_back"] = {digest: held[digest] for digest in held if digest == statement.digest}


def withdrawn(tag: str | None = None) -> set[str]:
    """Digests that a statement has withdrawn, for TAG or for any tag, and none has announced again since."""
    channels = get_dict(read_record(STATE), "channels")
    records = [get_dict(channels, name) for name in channels if tag in (None, name)]
    return {digest for record in records for digest in get_list(record, "withdrawn") if is_digest(digest)}


def known_until(tag: str) -> datetime | None:
    """When the newest statement ever seen for TAG runs out."""
    return parse_time(channel_record(read_record(STATE), tag).get("expires"))


@dataclass(frozen=True)
class HeldBack:
    """Why an image is not staged by itself. `cause`: "rolled back" or "health"; `reason`: a sentence.

    A field that somebody removed is None.
    """

    version: str | None
    cause: str | None
    reason: str | None
    when: str | None

    @classmethod
    def from_dict(cls, data: Record) -> "HeldBack":
        return cls(*(get_text(data, key) for key in ("version", "cause", "reason", "when")))

    def to_dict(self) -> Record:
        return {key: value for key, value in vars(self).items() if value is not None}


def hold_back(digest: str, version: str, cause: str, reason: str) -> None:
    """Do not stage DIGEST by itself until something newer is announced. REASON: a sentence for the person."""
    entry = HeldBack(version, cause, reason, format_now())
    with edit_record(STATE) as data:
        data["held_back"] = {**get_dict(data, "held_back"), digest: entry.to_dict()}


def stop_holding_back(digest: str) -> None:
    """DIGEST may be staged again."""
    with edit_record(STATE) as data:
        get_dict(data, "held_back").pop(digest, None)


def restore_held_back(held: dict[str, HeldBack]) -> None:
    """Hold back what HELD has, as it has it, and nothing else."""
    with edit_record(STATE) as data:
        data["held_back"] = {digest: one.to_dict() for digest, one in held.items()}


def held_back() -> dict[str, HeldBack]:
    """What is held back, by digest."""
    found = {}
    for digest, entry in get_dict(read_record(STATE), "held_back").items():
        if isinstance(entry, dict):
            found[digest] = HeldBack.from_dict(entry)
    return found


@dataclass(frozen=True)
class Attempt:
    """The last time that news was asked for ("look" in state.json), and what it came to.

    `turn`: this machine's turn in a rollout, where it has to wait for it. `finding`: what has kept the update
    from being fetched without a break since `since`; both None where nothing has.
    """

    when: datetime | None
    failed: bool
    turn: datetime | None
    finding: str | None
    since: datetime | None

    @classmethod
    def from_dict(cls, data: Record) -> "Attempt":
        return cls(
            when=parse_time(data.get("when")),
            failed=data.get("failed") is True,
            turn=parse_time(data.get("turn")),
            finding=get_text(data, "finding"),
            since=parse_time(data.get("since")),
        )

    def to_dict(self) -> Record:
        times = {"when": self.when, "turn": self.turn, "since": self.since}
        written = {key: format_time(time) if time else None for key, time in times.items()}
        return {**written, "failed": self.failed, "finding": self.finding}


def last_attempt() -> Attempt:
    """What is known of the last time that news was asked for; without times when that was never."""
    return Attempt.from_dict(get_dict(read_record(STATE), "look"))
