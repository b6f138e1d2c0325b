"""What every look at the machine returns, and how it reads files. Nothing in this folder ever writes."""

from dataclasses import dataclass

from veilor.core.claims import Status
from veilor.device.run import at


@dataclass(frozen=True)
class Finding:
    """What a look came to, and the reason in words for the person."""

    status: Status
    reason: str


class Unseen(Exception):
    """It cannot be seen; the text says why. Comes out as UNKNOWN, never as good."""


def judge(good: bool, seen: str) -> Finding:
    """PASS or FAIL with what was SEEN."""
    return Finding(Status.PASS if good else Status.FAIL, seen)


def not_applicable(reason: str) -> Finding:
    """This machine has nothing that the check is about."""
    return Finding(Status.NOT_APPLICABLE, reason)


def content(path: str) -> bytes | None:
    """What the file at PATH holds; None when there is no such file. Raises Unseen when it may not be read."""
    try:
        return at(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise Unseen(f"only root may read {path}") from None
    except OSError as error:
        raise Unseen(f"{path} cannot be read ({error.strerror})") from None


def read(path: str) -> str | None:
    """The text of the file at PATH, stripped; None and Unseen as for `content`."""
    found = content(path)
    return None if found is None else found.decode(errors="replace").strip()
