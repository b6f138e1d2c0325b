"""Time as a guest had it: on a busy host a slow guest must not be taken for a silent one."""

from __future__ import annotations

import time
from pathlib import Path

POLL_SECONDS = 1.0  # between two looks at a clock while waiting
SLOWEST_RATE = 0.25  # of real time: however busy the host is, a limit is reached after four times as long


def process_tree(pid: int) -> list[int]:
    """PID and all that it started, from /proc; without those that have ended."""
    found, rest = [], [pid]
    while rest:
        parent = rest.pop()
        found.append(parent)
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text()
        except OSError:
            continue
        rest += map(int, children.split())
    return found


def seconds_kept_waiting(pid: int) -> float:
    """Seconds for which a thread of PID, or of what it started, has waited for a processor of the host.

    It is the thread that waited longest. The second number of schedstat, in ns
    (Documentation/scheduler/sched-stats.rst of Linux); 0 where the kernel keeps none.
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
