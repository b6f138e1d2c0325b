"""When a machine takes its turn in the statement's rollout window, and how often it asks for news.

Nobody keeps a list of machines. Each finds its own position in the window from its id and the version, so
that the same machine is early with one version and late with another, and a bad release meets only those
whose turn came before it was withdrawn.
"""

import hashlib
from datetime import datetime, timedelta

from veilor.core.statement import Statement

# Setting: which part of the window the machine's position is in.
SETTINGS = {"early": (0.0, 0.1), "normal": (0.0, 1.0), "late": (0.9, 1.0)}
CLOCK_SLACK = timedelta(days=1)  # a clock that is wrong by less disturbs nothing
ASK_EVERY = timedelta(hours=20)
ASK_RARELY = timedelta(hours=12)  # after failures that have lasted for days
ASK_AGAIN = timedelta(hours=1)  # after an attempt that failed
SECOND = timedelta(hours=8)  # over which those who slept through their turn are spread
LATECOMERS = timedelta(days=1)  # after the window, in which this still matters
# a machine that is awake acts within this time of its turn: the timer's step and a little
AT_ONCE = timedelta(minutes=25)


def window_position(machine_id: str, version: str, setting: str = "normal") -> float:
    """Where the machine MACHINE_ID stands in the window of VERSION, from 0 to 1."""
    number = int.from_bytes(hashlib.sha256(f"{machine_id}\n{version}".encode()).digest()[:8], "big") / 2**64
    first, last = SETTINGS[setting]
    return first + (last - first) * number


def turn(statement: Statement, machine_id: str, setting: str = "normal") -> datetime:
    """When the machine may take what STATEMENT announces."""
    return statement.rollout_start + timedelta(
        hours=statement.rollout_hours * window_position(machine_id, statement.version, setting)
    )


def second_turn(
    statement: Statement, machine_id: str, setting: str, clock: datetime, known: datetime | None
) -> datetime | None:
    """The second turn of a machine that slept through its first, while it is to come; else None.

    It is for runs of the timer, with nobody at the machine. Without it all who slept would come at once in
    the morning: benchmarks/rollout.py. KNOWN: the turn noted before, which is the second when it is later
    than the first; there is no third.
    """
    due = turn(statement, machine_id, setting)
    if known and due < known <= clock + SECOND:
        return known if clock < known else None
    over = statement.rollout_start + timedelta(hours=statement.rollout_hours) + LATECOMERS
    if not statement.rollout_hours:
        return None
    if not due + AT_ONCE < clock < over:
        return None
    return clock + SECOND * window_position(machine_id, f"{statement.version} again")


def waits(statement: Statement, machine_id: str, setting: str, clock: datetime) -> datetime | None:
    """The machine's turn when that is still to come, else None.

    What was issued cannot lie in the future: a CLOCK a little behind that time is taken for it, and one that
    is far behind cannot tell when its turn is, so it doesn't wait (it might for ever).
    """
    if clock < statement.issued - CLOCK_SLACK:
        return None
    due = turn(statement, machine_id, setting)
    return due if max(clock, statement.issued) < due else None


def time_to_ask(
    asked: datetime | None,
    failed: bool,
    due: datetime | None,
    clock: datetime,
    since: datetime | None = None,
) -> bool:
    """Whether the timer's run at CLOCK should ask the channel for news.

    ASKED: when it did so last, None for never. FAILED: whether that failed. DUE: the turn that was noted.
    SINCE: when the failures began, without a break; the longer they last, the rarer it is asked.
    """
    if asked is None:
        return True
    if asked > clock:  # the clock was set back
        return True
    if due is not None and asked < due <= clock:
        return True
    if not failed:
        return clock - asked >= ASK_EVERY
    wait = ASK_AGAIN
    if since is not None:  # what has lasted for days will not end within the hour
        wait = min(max(ASK_AGAIN, (asked - since) / 3), ASK_RARELY)
    return clock - asked >= wait
