"""A guest's serial console as bytes: kept whole, searched as it grows, checked for what must never appear.

A LUKS prompt has no newline at its end, so nothing here waits for whole lines.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from veilor.lab.clock import POLL_SECONDS

# What no boot of ours may ever say. A phase that expects one of them names it in `allowed`.
FORBIDDEN = {
    "kernel panic": rb"Kernel panic - not syncing",
    "kernel oops": rb"(?:BUG: |Oops: |general protection fault)",
    "soft lockup": rb"watchdog: BUG: soft lockup",
    "emergency mode": rb"You are in emergency mode|Entering emergency mode|Reached target "
    rb".{0,12}emergency\.target",
    "file system error": rb"EXT4-fs error|EXT4-fs \([^)]*\): error|Remounting filesystem read-only",
    "traceback": rb"Traceback \(most recent call last\)",
    "failed to mount": rb"Failed to mount ",
    "grub prompt": rb"grub(?:> |rescue> )",
}
ESCAPES = re.compile(rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b[()][A-Z0-9]|\x1b\][^\x07]*\x07|\x1b[=>78cM]|\r")


class Console:
    """Reads a QEMU serial socket in a thread, appending to LOG.

    Offsets are bytes of this boot's console; limits are seconds of CLOCK.
    """

    def __init__(self, path: Path, log: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.buffer = bytearray()
        self.closed = False
        self._lock = threading.Condition()
        self._log = log.open("ab")
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(path))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(65536)
            except OSError:
                data = b""
            with self._lock:
                if not data:
                    self.closed = True
                    self._log.close()
                    self._lock.notify_all()
                    return
                self.buffer += data
                self._log.write(data)
                self._log.flush()
                self._lock.notify_all()

    def send(self, data: bytes) -> None:
        """Type DATA at the guest, slowly enough for a line discipline under emulation."""
        for start in range(0, len(data), 8):
            self._socket.sendall(data[start : start + 8])
            time.sleep(0.03)

    def wait_for(self, pattern: bytes, timeout: float, start: int = 0) -> int | None:
        """Wait for PATTERN at or after the offset START; the offset just behind its first match.

        None after TIMEOUT seconds, or when the console has ended without it.
        """
        deadline = self.clock() + timeout
        matcher = re.compile(pattern)
        with self._lock:
            while True:
                found = matcher.search(self.buffer, start)
                if found:
                    return found.end()
                left = deadline - self.clock()
                if left <= 0 or self.closed:
                    return None
                self._lock.wait(min(left, POLL_SECONDS))

    def count(self, pattern: bytes, start: int = 0) -> int:
        """How often PATTERN has appeared since the offset START."""
        with self._lock:
            return len(re.findall(pattern, bytes(self.buffer[start:])))

    def text(self) -> str:
        """All of this boot's console without terminal escapes."""
        with self._lock:
            return without_escapes(bytes(self.buffer))

    def find_forbidden(self, allowed: frozenset[str] = frozenset()) -> list[str]:
        """As the function of that name, of all of this boot's console."""
        with self._lock:
            data = ESCAPES.sub(b"", bytes(self.buffer))
        return find_forbidden(data, allowed)

    def wait_end(self, timeout: float) -> bool:
        """Wait until the far end has closed, which QEMU's end does; whether it has."""
        with self._lock:
            return self._lock.wait_for(lambda: self.closed, timeout)

    def close(self) -> None:
        """Close the socket; the reader thread ends by itself."""
        self._socket.close()


def find_forbidden(data: bytes, allowed: frozenset[str] = frozenset()) -> list[str]:
    """The entries of FORBIDDEN (less ALLOWED) that occur in DATA, as 'name: the line'."""
    hits = []
    for name, pattern in FORBIDDEN.items():
        if name in allowed:
            continue
        found = re.search(pattern, data)
        if found:
            line = data[data.rfind(b"\n", 0, found.start()) + 1 : found.end() + 80].split(b"\n")[0]
            hits.append(f"{name}: {line.decode(errors='replace').strip()}")
    return hits


def without_escapes(data: bytes) -> str:
    """DATA as text without terminal escapes and carriage returns."""
    return ESCAPES.sub(b"", data).decode(errors="replace")
