"""What a person is told of blocked USB devices: what it is, how to let it in, and nothing that the device
could smuggle in.
"""

from __future__ import annotations

import json

import pytest

from veilor.device import blocked
from veilor.device import run as programs
from veilor.pictures.scenes import NOTICES

STICK = (
    '7: block id 0781:5581 serial "A1" name "Ultra" hash "x=" parent-hash "y=" via-port "1-2" '
    "with-interface 08:06:50 "
    'with-connect-type "hotplug"'
)
BOTH = (
    '12: block id 1234:0001 serial "a \\" name \\"b" name "Pretty \\"stick\\"" hash "x=" parent-hash "y=" '
    'via-port "1-3" '
    'with-interface { 08:06:50 03:01:01 } with-connect-type "hotplug"'
)


def test_it_says_what_was_blocked_and_how_to_let_it_in():
    line = blocked.describe(STICK).line()
    assert "“Ultra” (0781:5581), by its own words a drive" in line
    assert "`run0 usbguard allow-device 7`, then `run0 veilor-usbguard-enroll`" in line


def test_the_picture_in_the_documents_shows_these_words():
    assert {topic: (code, line) for topic, code, line in NOTICES}["usb-blocked"] == (
        4,
        blocked.describe(STICK).line(),
    )


def test_a_stick_that_is_a_keyboard_as_well_is_called_both():
    device = blocked.parse_device(BOTH)
    assert (
        device.number == "12"
        and device.description
        == "“Pretty stick” (1234:0001), by its own words a drive and a keyboard, mouse or the like"
    )


def test_nothing_blocked_is_nothing_to_say():
    assert blocked.describe("") is None
    assert blocked.describe("7: allow " + STICK.partition("block ")[2]) is None


@pytest.mark.parametrize("name", ["\\x1b[2J\\x1b[31m", "x`; rm -rf ~`<b>", "a" * 500, "\u202egnp.exe", ""])
def test_a_name_brings_no_commands_markup_or_length(name):
    about = blocked.parse_device(STICK.replace("Ultra", name)).description
    shown = about[1 : about.index("”")]
    assert len(shown) <= 40 and not set(shown) & set("`<>;\\\x1b\u202e") and shown


def test_many_are_counted():
    line = blocked.describe("\n".join(STICK.replace("7:", f"{number}:", 1) for number in range(9))).line()
    assert line.count("allow-device") == 3 and "and 6 more" in line


def test_the_notice_comes_and_goes(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    lists = iter([STICK, STICK, "", ""])
    monkeypatch.setattr(blocked, "run", lambda *_, **__: type("Done", (), {"code": 0, "out": next(lists)}))
    monkeypatch.setattr(blocked, "STEADY", 0)
    blocked.notify_until_steady(None)
    assert (
        "0781:5581"
        in json.loads((tmp_path / "run/veilor/notice.json").read_text())["notices"]["usb-blocked"]["line"]
    )
    blocked.notify_until_steady(None)
    assert json.loads((tmp_path / "run/veilor/notice.json").read_text())["notices"] == {}
