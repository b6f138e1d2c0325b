"""What a guest's screen shows, by the palette's colours, and the keys that are pressed in front of it."""

from __future__ import annotations

import re
import time
import tomllib
from dataclasses import dataclass
from pathlib import Path

from qemu.qmp.legacy import QEMUMonitorProtocol

NEAR = 14  # of 255, in each channel: edges of letters are blended with what is behind them
KEYS = {" ": "spc", "\n": "ret", "-": "minus"}
HOLD = 100  # milliseconds that a key is held; much less gets lost under emulation
PAUSE = 0.25  # seconds between two keys


@dataclass(frozen=True)
class Screen:
    """A picture of WIDTH × HEIGHT pixels; RGB has three bytes for each, row by row."""

    width: int
    height: int
    rgb: bytes

    def count_pixels(self, colour: str) -> int:
        """How many pixels have nearly the COLOUR #rrggbb."""
        found = -1
        for channel in range(3):
            value = int(colour[1 + 2 * channel : 3 + 2 * channel], 16)
            table = bytes(abs(level - value) <= NEAR for level in range(256))
            found &= int.from_bytes(self.rgb[channel::3].translate(table))
        return found.bit_count()

    def rows(self, first: float, last: float) -> Screen:
        """The rows from FIRST to LAST, shares of the height, as a picture of their own."""
        top, bottom = int(self.height * first), int(self.height * last)
        return Screen(self.width, bottom - top, self.rgb[3 * self.width * top : 3 * self.width * bottom])

    def share(self, colour: str) -> float:
        """How much of the picture has nearly the COLOUR #rrggbb, from 0 to 1."""
        return self.count_pixels(colour) / (self.width * self.height)


def dark_colours(source: Path) -> dict[str, str]:
    """The dark half of the product's palette in the repository SOURCE: colour #rrggbb by its name.

    Boot screen, login and a new desktop are drawn in it.
    """
    dark: dict[str, str] = tomllib.loads((source / "artwork/palette.toml").read_text())["dark"]
    return dark


def read_ppm(data: bytes) -> Screen:
    """The picture in a binary PPM of 8 bits, which is QEMU's own form. Raises ValueError for others."""
    head = re.match(rb"P6\n(\d+) (\d+)\n255\n", data)
    if not head or len(data) - head.end() != 3 * int(head[1]) * int(head[2]):
        raise ValueError("this is no binary PPM of 8 bits")
    return Screen(int(head[1]), int(head[2]), data[head.end() :])


def press_keys(qmp: QEMUMonitorProtocol, *keys: str) -> None:
    """Press KEYS, QEMU's names such as "caps_lock", together."""
    qmp.cmd("send-key", **{"keys": [{"type": "qcode", "data": key} for key in keys], "hold-time": HOLD})
    time.sleep(PAUSE)


def type_keys(qmp: QEMUMonitorProtocol, text: str) -> None:
    """Type TEXT: small letters, digits, spaces, dashes and line ends. Raises KeyError for anything else."""
    for char in text:
        press_keys(qmp, char if char.isascii() and (char.islower() or char.isdigit()) else KEYS[char])
