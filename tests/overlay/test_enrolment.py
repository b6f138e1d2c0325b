"""The rules that veilor-usbguard-enroll writes, judged by the real
usbguard-daemon with the image's settings.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from veilor.device.blocked import parse_device
from veilor.device.usbguard import GENERATE, Keyboard, merge

sys.path.insert(0, str(Path(__file__).parent))
from test_usbguard import ENROLLED, MINE, OTHERS, judge  # noqa: F401
from usb import HUB, KEYBOARD, NETWORK, STORAGE, VENDOR_HID, Device, plug_all

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


SOUND = (1, 1, 0)
OF_ALL_SORTS = (
    Device("1-1", 0x1234, 1, "Клавиатура", (KEYBOARD,), "", False),
    Device("1-2", 0x1234, 2, 'My "Stick" \\ 64GB', (STORAGE,), "S 1", False),
    Device("1-3", 0x1234, 3, "Gaming KB", (KEYBOARD, VENDOR_HID, SOUND), "", False),
    Device("1-4", 0x1234, 4, "キーボード' target.new='allow", (NETWORK,), "Ω", False),
)
SHOWN = ["Клавиатура", "My Stick  64GB", "Gaming KB", "キーボード target.newallow"]
LOOK = "usbguard list-devices --blocked >{root}/blocked; " + " ".join(GENERATE) + " >{root}/generated"


def test_what_usbguard_writes_of_a_device_is_understood(judge, machine):  # noqa: F811
    """Its list of what is blocked, and the rules that it generates: the same device each time."""
    assert judge(*OF_ALL_SORTS, then=LOOK.format(root=machine)) == set()
    blocked = [parse_device(line) for line in (machine / "blocked").read_text().splitlines()]
    lines = (machine / "generated").read_text().splitlines()
    generated = {device.port: device for device in map(parse_device, lines)}
    assert len(blocked) == len(OF_ALL_SORTS) and len(generated) == len(lines) == len(OF_ALL_SORTS) + 1
    for device in blocked:
        assert generated[device.port].rule == device.rule
        name = SHOWN[int(device.port[-1]) - 1]
        assert device.description.startswith(f"“{name}” (1234:000{device.port[-1]})")


@pytest.mark.parametrize("number", range(4))
def test_and_the_rule_that_is_made_of_it_lets_in_that_device_alone(judge, machine, tmp_path, number):  # noqa: F811
    device = OF_ALL_SORTS[number]
    judge(device, then=LOOK.format(root=machine))
    (rule,) = [parse_device(line).rule for line in (machine / "blocked").read_text().splitlines()]
    shutil.rmtree(tmp_path / "sys")
    moved = Device("2-7", device.vendor, device.product, device.name, device.interfaces, device.serial, False)
    other = Device("2-8", device.vendor, device.product, "Other", device.interfaces, device.serial, False)
    more = Device(
        "2-9", device.vendor, device.product, device.name, (*device.interfaces, STORAGE, HUB), "", False
    )
    assert judge(moved, other, more, enrolled=rule + "\n") == {"2-7"}


# What a stick that switches its mode, and a phone, show one after the other.
DISK = Device("1-1", 0x0BDA, 0x1A2B, "DISK", (STORAGE,), "", False)
MODEM = Device("1-1", 0x0BDA, 0xC811, "802.11ac NIC", ((0xFF, 0xFF, 0xFF),), "123456", False)


def test_both_faces_of_a_device_are_let_in_by_the_rules_made_of_what_was_blocked(judge, machine, tmp_path):  # noqa: F811
    found = []
    for face in (DISK, MODEM):
        assert judge(face, then=LOOK.format(root=machine)) == set()
        found += [parse_device(line).rule for line in (machine / "blocked").read_text().splitlines()]
        shutil.rmtree(tmp_path / "sys")
    for face in (DISK, MODEM):
        assert judge(face, enrolled="\n".join(found) + "\n") == {"1-1"}
        shutil.rmtree(tmp_path / "sys")
    assert judge(DISK, enrolled=found[1] + "\n") == set(), "with the second alone it never gets to show it"


def test_a_log_that_is_emptied_while_usbguard_runs_is_written_on(judge, machine):  # noqa: F811
    log = "/var/log/usbguard/usbguard-audit.log"
    number = "$(usbguard list-devices --blocked | cut -d: -f1)"
    then = f"n={number}; : >{log}; usbguard allow-device $n; sleep 0.5; cat {log} >{machine}/log"
    judge(DISK, then=then)
    text = (machine / "log").read_bytes()
    assert b"target.new='allow'" in text and b"\0" not in text and b"Device.Insert" not in text


STOPPED = """
mkdir -p /tmp/bin /sys
printf '#!/bin/sh\\nexit {code}\\n' >/tmp/bin/systemctl
chmod +x /tmp/bin/systemctl
mount --bind {sysfs} /sys || exit 8
echo 0 >/sys/bus/usb/devices/usb1/authorized_default
PATH=/tmp/bin:$PATH {command}
"""


@pytest.mark.parametrize(("enabled", "after"), [(True, "0"), (False, "1")])
def test_switched_off_for_good_it_leaves_the_ports_open(machine, run, tmp_path, enabled, after):
    """Also when it was only stopped, or has crashed, they stay shut."""
    text = (machine / "usr/lib/systemd/system/usbguard.service.d/10-veilor.conf").read_text()
    (command,) = [line.partition("=+")[2] for line in text.splitlines() if line.startswith("ExecStopPost=")]
    sysfs, command = plug_all(tmp_path / "sys", (DISK,)), command.replace("$$", "$")  # as systemd does
    done = run(STOPPED.format(sysfs=sysfs, code=0 if enabled else 1, command=command))
    assert done[0] == 0, done
    assert (sysfs / "bus/usb/devices/usb1/authorized_default").read_text().strip() == after
    assert (sysfs / "bus/usb/devices/1-1/authorized").read_text().strip() == "0"
