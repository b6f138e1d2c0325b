"""What the person should know, by topic: a file in /run from which the login message and the desktop are fed.

{"schema": 1, "notices": {TOPIC: {"code", "what", "means", "next", "when", "line"}}}; `line` is all of it as
one line.
"""

from dataclasses import dataclass

from veilor.core.outcome import Outcome
from veilor.device import state
from veilor.device.state import Record, get_dict

NOTICE = "/run/veilor/notice.json"


@dataclass(frozen=True)
class Notice:
    """One thing that the person should know, as it is shown: `line`, and whether it is good news."""

    line: str
    code: int | None

    @classmethod
    def from_dict(cls, data: object) -> "Notice | None":
        """The notice that DATA describes; None when it has no line to show."""
        if not isinstance(data, dict) or not isinstance(data.get("line"), str):
            return None
        code = data.get("code")
        return cls(data["line"], code if isinstance(code, int) else None)


def to_dict(outcome: Outcome) -> Record:
    """OUTCOME as the file has it."""
    return {
        "code": int(outcome.code),
        "what": outcome.what,
        "means": outcome.means,
        "next": outcome.next,
        "when": state.format_now(),
        "line": outcome.line(),
    }


def from_record(data: Record) -> dict[str, Notice]:
    """The notices in the file's DATA by topic, without those that cannot be shown."""
    found = {}
    for topic, one in get_dict(data, "notices").items():
        notice = Notice.from_dict(one)
        if notice:
            found[topic] = notice
    return found


def read() -> dict[str, Notice]:
    """The notices that hold now, by topic."""
    return from_record(state.read_record(NOTICE))
