"""What every check of the doctor returns, and how it reads files. Nothing in this package ever writes."""

from dataclasses import dataclass

from veilor.core.claims import Status
from veilor.device.run import at


@dataclass(frozen=True)
class Observation:
    """What a check saw on this machine: its status, and the reason as a sentence for the person."""

    status: Status
    reason: str


class Unseen(Exception):
    """The check could not see what it needs; the text says why. The result is UNKNOWN, never PASS."""


def judge(good: bool, seen: str) -> Observation:
    """PASS when GOOD, else FAIL, with what was SEEN as the reason."""
    return Observation(Status.PASS if good else Status.FAIL, seen)


def judge_list(bad: list[str], problem: str, otherwise: str) -> Observation:
    """FAIL with PROBLEM and what is BAD; PASS with OTHERWISE when nothing is."""
    return judge(not bad, f"{problem}: {', '.join(bad)}" if bad else otherwise)


def not_applicable(reason: str) -> Observation:
    """NOT_APPLICABLE: this machine has nothing that the check is about."""
    return Observation(Status.NOT_APPLICABLE, reason)


def read_bytes(path: str) -> bytes | None:
    """The content of the file at PATH; None when there is no such file.

    Raises Unseen when the file is there but cannot be read.
    """
    try:
        return at(path).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except PermissionError:
        raise Unseen(f"only root may read {path}") from None
    except OSError as error:
        raise Unseen(f"{path} cannot be read ({error.strerror})") from None


def read_text(path: str) -> str | None:
    """The text of the file at PATH, stripped; None when there is no such file. Raises Unseen."""
    content = read_bytes(path)
    return None if content is None else content.decode(errors="replace").strip()
