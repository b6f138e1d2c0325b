"""Time as a guest had it: a host that is busy with other things must not make a slow guest look like a silent
one.
"""

from __future__ import annotations

import time
from pathlib import Path

POLL_SECONDS = 1.0  # seconds between two looks at a clock while waiting
SLOWEST_RATE = 0.25  # of real time: however busy the host is, a limit is reached after four times as long


def process_tree(pid: int) -> list[int]:
    """PID and all that it started, from /proc; without those that have ended."""
    found, rest = [], [pid]
    while rest:
        found.append(rest.pop())
        try:
            rest += [
                int(child)
                for child in Path(f"/proc/{found[-1]}/task/{found[-1]}/children").read_text().split()
            ]
        except OSError:
            continue
    return found


def seconds_kept_waiting(pid: int) -> float:
    """Seconds for which the busiest thread of PID and of what it started has waited for a processor of the
    host.

    The second number of schedstat, in ns (Documentation/scheduler/sched-stats.rst of Linux); 0 where the
    kernel keeps none.
    """
    most = 0
    for one in process_tree(pid):
        try:
            for thread in Path(f"/proc/{one}/task").iterdir():
                ran, waiting, _ = map(int, (thread / "schedstat").read_text().split())
                most = max(most, waiting)
        except (OSError, ValueError):
            continue
    return most / 1e9


class Clock:
    """Seconds from now on, less those for which process PID was kept from running by others."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.began = time.monotonic()
        self.lost = 0.0

    def __call__(self) -> float:
        passed = time.monotonic() - self.began
        self.lost = max(
            self.lost, seconds_kept_waiting(self.pid)
        )  # what a thread that has ended lost stays lost
        return max(passed - self.lost, passed * SLOWEST_RATE)
