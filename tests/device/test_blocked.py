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
    line = blocked.describe([blocked.parse_device(STICK)]).line()
    assert "“Ultra” (0781:5581), by its own words a drive" in line
    assert "`run0 usbguard allow-device 7`, then `run0 veilor-usbguard-enroll`" in line


def test_the_picture_in_the_documents_shows_these_words():
    assert {topic: (code, line) for topic, code, line in NOTICES}["usb-blocked"] == (
        4,
        blocked.describe([blocked.parse_device(STICK)]).line(),
    )


def test_a_stick_that_is_a_keyboard_as_well_is_called_both():
    device = blocked.parse_device(BOTH)
    assert (
        device.number == "12"
        and device.description
        == "“Pretty stick” (1234:0001), by its own words a drive and a keyboard, mouse or the like"
    )


def test_nothing_blocked_is_nothing_to_say():
    assert blocked.describe([]) is None


@pytest.mark.parametrize("name", ["\\x1b[2J\\x1b[31m", "x`; rm -rf ~`<b>", "a" * 500, "\u202egnp.exe", ""])
def test_a_name_brings_no_commands_markup_or_length(name):
    about = blocked.parse_device(STICK.replace("Ultra", name)).description
    shown = about[1 : about.index("”")]
    assert len(shown) <= 40 and not set(shown) & set("`<>;\\\x1b\u202e") and shown


def test_many_are_counted():
    found = [blocked.parse_device(STICK.replace("7:", f"{number}:", 1)) for number in range(9)]
    line = blocked.describe(found).line()
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


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (
            "\\xd0\\x9a\\xd0\\xbb\\xd0\\xb0\\xd0\\xb2\\xd0\\xb8\\xd0\\xb0\\xd1\\x82\\xd1\\x83\\xd1\\x80\\xd0\\xb0",
            "Клавиатура",
        ),
        ("\\xe3\\x82\\xad\\xe3\\x83\\xbc", "キー"),
        ("\\xe0\\xa4\\x95\\xe0\\xa5\\x80", "की"),
        ("B\\xc3\\xbcro", "Büro"),
        ("B\\xfcro", "Bro"),
        ('My \\"Stick\\" \\\\ 64GB', "My Stick  64GB"),
        ("a\\\\x41b", "ax41b"),
        ("\\xe2\\x80\\xaegnp.exe", "gnp.exe"),
        ("\\x1b[2J", "2J"),
        ("\\xf0\\x9f\\x98\\x80", "no name"),
    ],
)
def test_a_name_is_shown_in_its_own_script(written, shown):
    assert blocked.parse_device(STICK.replace("Ultra", written)).description.startswith(f"“{shown}” (")


def escape(name: bytes) -> str:
    """As usbguard's Utility.cpp writes a name."""
    return "".join(
        "\\" + chr(one) if one in b'"\\' else chr(one) if 32 <= one < 127 else f"\\x{one:02x}" for one in name
    )


@pytest.mark.parametrize("name", ["Клавиатура", "Ä (x) 2.0", "ลำโพง"])
def test_what_usbguard_escapes_is_read_back(name):
    assert blocked.shown_name(escape(name.encode())) == name


def test_a_device_cannot_pose_as_another_by_its_name():
    line = STICK.replace("Ultra", '\\" via-port \\"9-9\\" with-interface 09:00:00')
    device = blocked.parse_device(line)
    assert device.port == "1-2" and device.rule.endswith("with-interface 08:06:50")
    assert blocked.parse_device(STICK.replace("Ultra", '" via-port "9-9')) is None


def test_the_log_is_begun_anew_when_it_has_grown(tmp_path, monkeypatch):
    monkeypatch.setattr(programs, "ROOT", tmp_path)
    monkeypatch.setattr(blocked, "LARGEST_LOG", 100)
    blocked.rotate_log()
    log = tmp_path / "var/log/usbguard/usbguard-audit.log"
    log.parent.mkdir(parents=True)
    with log.open("ab", buffering=0) as held:  # as usbguard holds it
        held.write(b"a" * 100)
        blocked.rotate_log()
        assert log.stat().st_size == 100
        held.write(b"b")
        blocked.rotate_log()
        held.write(b"c")
    assert log.read_bytes() == b"c" and log.with_name(log.name + ".1").read_bytes() == b"a" * 100 + b"b"
