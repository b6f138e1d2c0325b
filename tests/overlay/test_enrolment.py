"""The rules that veilor-usbguard-enroll writes, judged by the real
usbguard-daemon with the image's settings.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from veilor.device.usbguard import Keyboard, merge

sys.path.insert(0, str(Path(__file__).parent))
from test_usbguard import ENROLLED, MINE, OTHERS, judge  # noqa: F401
from usb import HUB, KEYBOARD, VENDOR_HID, Device

LAPTOP = Keyboard("AT Translated Set 2 keyboard", 0x11, None, None)


def rules(*attached: str, own: Keyboard | None = None) -> str:
    return "\n".join(merge("", [line.strip() for line in attached], own)) + "\n"


@pytest.mark.parametrize("own", [LAPTOP, None], ids=["a keyboard inside", "none inside"])
def test_the_enrolled_keyboard_moves_with_its_dock(judge, own):  # noqa: F811
    moved = Device("2-3", MINE.vendor, MINE.product, MINE.name, MINE.interfaces)
    dock = Device("2-4", 0x17EF, 0x1010, "Dock", (HUB,))
    assert judge(dock, moved, enrolled=rules(ENROLLED, own=own)) == {"2-3", "2-4"}


@pytest.mark.parametrize("own", [LAPTOP, None], ids=["a keyboard inside", "none inside"])
@pytest.mark.parametrize("interfaces", OTHERS.values(), ids=OTHERS)
def test_nothing_else_gets_in_beside_it(judge, interfaces, own):  # noqa: F811
    other = Device("1-2", 0x1234, 1, "Other", interfaces, "S1", False)
    assert judge(MINE, other, enrolled=rules(ENROLLED, own=own)) == {"1-1"}


@pytest.mark.parametrize(
    "interfaces", [(KEYBOARD,), (KEYBOARD, VENDOR_HID)], ids=["plain", "with keys of its own"]
)
def test_a_machine_without_another_takes_one_new_keyboard(judge, interfaces):  # noqa: F811
    new = Device("1-2", 0x1234, 2, "New", interfaces, "S2", False)
    assert judge(new, enrolled=rules(ENROLLED)) == {"1-2"}


def test_a_laptop_does_not(judge):  # noqa: F811
    new = Device("1-2", 0x1234, 2, "New", (KEYBOARD,), "S2", False)
    assert judge(new, enrolled=rules(own=LAPTOP)) == set()
