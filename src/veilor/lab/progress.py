"""The progress of a rehearsal's phases, as lines on the terminal."""

from __future__ import annotations

import sys
import threading
import time
from typing import TextIO

from veilor.lab.report import clean_text, format_count
from veilor.lab.result import PhaseResult
from veilor.lab.verdict import Verdict


class PhaseProgress:
    """Prints a line when a phase begins and one when it ends.

    On a terminal a bar counts the seconds in between.
    """

    def __init__(self, total: int, out: TextIO | None = None) -> None:
        self.total, self.out = total, out or sys.stderr
        self._live = self.out.isatty()
        self._begun: tuple[int, str, float] | None = None
        self._lock = threading.Lock()
        self._end = threading.Event()
        if self._live:
            threading.Thread(target=self._tick, daemon=True).start()

    def start(self, index: int, title: str) -> None:
        """Say that phase INDEX (from 0) with TITLE begins."""
        with self._lock:
            self._begun = (index, title, time.monotonic())
            if not self._live:
                self._print(f"[{index + 1}/{self.total}] {title} …")

    def done(self, index: int, result: PhaseResult) -> None:
        """Say that phase INDEX (from 0) ended with RESULT."""
        line = f"[{index + 1}/{self.total}] {result.title} … {result.verdict}"
        if result.seconds:
            line += (
                f" {result.seconds:.0f} s, "
                f"{format_count(result.boots, 'boot')}{', at the second try' if result.retried else ''}"
            )
        if result.verdict is not Verdict.PASS:
            line += f"\n      {clean_text(result.reason)}"
        with self._lock:
            self._begun = None
            self._print(line)

    def print_line(self, line: str) -> None:
        """Print LINE, which the person should know now, below the phase's own."""
        with self._lock:
            self._print(f"      {line}")

    def close(self) -> None:
        """End the bar and clear its line."""
        self._end.set()
        with self._lock:
            self._begun = None
            if self._live:
                self.out.write("\r\x1b[K")
                self.out.flush()

    def _print(self, line: str) -> None:
        print(f"\r\x1b[K{line}" if self._live else line, file=self.out, flush=True)

    def _tick(self) -> None:
        while not self._end.wait(1):
            with self._lock:
                if self._begun:
                    index, title, began = self._begun
                    bar = "━" * index + "╺" + "·" * (self.total - index - 1)
                    self.out.write(
                        f"\r\x1b[K[{index + 1}/{self.total}] {bar} {title[:50]} … "
                        f"{time.monotonic() - began:.0f} s"
                    )
                    self.out.flush()
