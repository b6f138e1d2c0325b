"""What the machine remembers, as two JSON files under /var/lib/veilor that outlive updates and rollbacks.

state.json   {"schema": 1, "channel": {"sequence", "digest", "version", "expires", "when"}, "held_back": {DIGEST:
             {"version", "cause", "reason", "when"}}, "look": {"when", "failed", "turn", "finding", "since"}}:
             the newest statement seen; images not to be staged by themselves until a newer one is announced
             (cause: "rolled back" or "health"); the timer's last look, with what has kept the update from
             being fetched, and since when.
health.json  see health.py.

Every write is atomic and on the disk before it returns. Fields that are not known are kept: a newer release
may have written them, and may read them again. A file that cannot be read is put aside as NAME.damaged, and
memory starts anew.
"""  # noqa: E501

import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

from veilor.core.outcome import Code
from veilor.core.statement import Statement
from veilor.device.run import DeviceError, at

STATE = "/var/lib/veilor/state.json"
HEALTH = "/var/lib/veilor/health.json"
RUN = "/run/veilor"


def format_time(moment: datetime) -> str:
    """MOMENT as records and statements have it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime | None:
    """The time that TEXT of a record or of bootc means; None when it means none."""
    try:
        found = datetime.fromisoformat(text)
        return found if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, TypeError):
        return None


def format_now() -> str:
    """The time for a record."""
    return format_time(datetime.now(UTC))


def read_record(path: str) -> dict:
    """The record at PATH; an empty one when there is none."""
    file = at(path)
    try:
        data = json.loads(file.read_bytes())
        if not isinstance(data, dict):
            raise ValueError("not an object")
        return data
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        print(
            f"veilor: {file} cannot be read ({error}); it is put aside as {file.name}.damaged",
            file=sys.stderr,
        )
        with contextlib.suppress(OSError):
            file.replace(file.with_name(file.name + ".damaged"))
        return {}


def get_dict(data: dict, key: str) -> dict:
    """The object under KEY of DATA; a new one is put there when there is none."""
    if not isinstance(data.get(key), dict):
        data[key] = {}
    return data[key]


def get_list(data: dict, key: str) -> list:
    """The list under KEY of DATA; an empty one when there is none."""
    return data[key] if isinstance(data.get(key), list) else []


@contextlib.contextmanager
def edit_record(path: str) -> Iterator[dict]:
    """The record at PATH to change: written when the block ends well. Two programs never edit at the same
    time.
    """
    with _locked("state.lock", wait=30):
        data = read_record(path)
        before = json.dumps(data, sort_keys=True)
        yield data
        if json.dumps(data, sort_keys=True) != before:
            write_record(path, {"schema": 1, **data})


def write_record(path: str, data: dict) -> None:
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
        ) from None


@contextlib.contextmanager
def _locked(name: str, wait: float) -> Iterator[None]:
    file = at(f"{RUN}/{name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        lock = file.open("a")
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
                        "Another veilor program is at work",
                        "two at once would disturb each other",
                        "wait until it has ended, then try again",
                        Code.LATER,
                    ) from None
                time.sleep(0.2)
        yield


def exclusive_lock(wait: float = 5):
    """Hold the lock of all programs that change deployments. Raises
    DeviceError (LATER) after WAIT seconds.
    """
    return _locked("lock", wait)


def newest_statement_seen() -> tuple[int | None, str | None]:
    """Sequence number and digest of the newest statement ever verified here."""
    channel = get_dict(read_record(STATE), "channel")
    number, digest = channel.get("sequence"), channel.get("digest")
    fine = isinstance(number, int) and not isinstance(number, bool)
    return (number if fine else None), (digest if isinstance(digest, str) else None)


def record_statement(statement: Statement) -> None:
    """Record a verified STATEMENT as seen. A newer one that announces something
    else ends what was held back.
    """
    with edit_record(STATE) as data:
        channel, number = get_dict(data, "channel"), newest_statement_seen()[0]
        if number is not None and statement.sequence <= number:
            return
        channel |= {
            "sequence": statement.sequence,
            "digest": statement.digest,
            "version": statement.version,
            "expires": format_time(statement.expires),
            "when": format_now(),
        }
        held = get_dict(data, "held_back")
        for digest in [digest for digest in held if digest != statement.digest]:
            del held[digest]


def known_until() -> datetime | None:
    """When the newest statement ever seen runs out."""
    return parse_time(get_dict(read_record(STATE), "channel").get("expires"))


def hold_back(digest: str, version: str, cause: str, reason: str) -> None:
    """Do not stage DIGEST by itself until something newer is announced. REASON: a sentence for the person."""
    with edit_record(STATE) as data:
        get_dict(data, "held_back")[digest] = {
            "version": version,
            "cause": cause,
            "reason": reason,
            "when": format_now(),
        }


def stop_holding_back(digest: str) -> None:
    """DIGEST may be staged again."""
    with edit_record(STATE) as data:
        get_dict(data, "held_back").pop(digest, None)


def held_back() -> dict[str, dict]:
    """What is held back, by digest."""
    return {
        digest: entry
        for digest, entry in get_dict(read_record(STATE), "held_back").items()
        if isinstance(entry, dict)
    }
