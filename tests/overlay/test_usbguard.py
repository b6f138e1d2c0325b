"""The real usbguard-daemon judges devices in a made-up /sys by the image's settings and rules.

A device that the daemon lets in keeps 1 in its `authorized`, one that it blocks gets 0, one that it rejects
gets 1 in `remove`. What is not shown here: the kernel obeying those files, and hot plug (events don't come
from a made-up tree, so every device counts as there at the start).
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from veilor.device.usbguard import LATER

sys.path.insert(0, str(Path(__file__).parent))
from usb import HUB, KEYBOARD, MOUSE, NETWORK, STORAGE, VENDOR_HID, Device, plug_all

MINE = Device("1-1", 0x046D, 0xC31C, "My keyboard", (KEYBOARD, VENDOR_HID))
ENROLLED = 'allow id 046d:c31c serial "" name "My keyboard" with-interface { 03:01:01 03:00:00 }\n'
# What the enrolment adds on a machine whose only keyboard is built in and not on USB.
ONE_LATER = (
    "allow with-interface equals { 03:01:01 } if !allowed-matches(with-interface one-of { 03:01:01 })\n"
)

MAKE = """
cp /etc/passwd /etc/group {root}/etc/
systemd-tmpfiles --root={root} --remove --create --boot veilor-usbguard.conf || exit 8
"""
DAEMON = (
    MAKE
    + """
mkdir -p /sys /var/log/usbguard
mount --bind {sysfs} /sys && mount --bind {root}/etc/usbguard /etc/usbguard || exit 8
{before}
usbguard-daemon -k -c /etc/usbguard/usbguard-daemon.conf & daemon=$!
for try in $(seq 100); do usbguard list-rules >/dev/null 2>&1 && break; kill -0 $daemon || exit 9; sleep 0.1; done
{then}
kill $daemon; wait $daemon || true
"""  # noqa: E501
)


@pytest.fixture
def judge(machine, run, tmp_path):
    """Plug DEVICES, start the daemon with the rules ENROLLED and ADDED, run THEN, and tell which ports were
    let in.
    """

    def go(*devices, enrolled=ENROLLED, added="", then="usbguard list-devices"):
        (machine / "etc/usbguard/rules.d").mkdir(parents=True, exist_ok=True)
        for name, text in (("rules.conf", enrolled), ("rules.d/90-added.conf", added)):
            (machine / "etc/usbguard" / name).write_text(text)
            (machine / "etc/usbguard" / name).chmod(0o600)
        sysfs = plug_all(tmp_path / "sys", devices)
        done = run(DAEMON.format(root=machine, sysfs=sysfs, before="", then=then))
        assert done[0] == 0, done
        links = sorted((sysfs / "bus/usb/devices").glob("*-*"))
        go.sysfs = sysfs
        kept = [link for link in links if not (link / "remove").read_text().strip()]
        return {link.name for link in kept if (link / "authorized").read_text().strip() == "1"}

    return go


def test_the_enrolled_keyboard_is_let_in_on_any_port(judge):
    assert judge(MINE) == {"1-1"}


def test_behind_a_dock_that_was_plugged_in_elsewhere_too(judge):
    dock = Device("2-4", 0x17EF, 0x1010, "Dock", (HUB,))
    moved = Device("2-3", MINE.vendor, MINE.product, MINE.name, MINE.interfaces)
    assert judge(dock, moved) == {"2-3", "2-4"}


def test_with_hashes_as_generate_policy_writes_them_it_is_blocked_after_that_replug(judge):
    """What 0.5.32 shipped: the negative control of the two tests above."""
    rules = ENROLLED.replace(
        " with-interface",
        ' parent-hash "rV9bfLq7c2eA4tYjVjwO4bxhm+y6GgZpl9J60L0fBkY=" via-port "1-1" with-interface',
    )
    assert (
        judge(Device("2-3", MINE.vendor, MINE.product, MINE.name, MINE.interfaces), enrolled=rules) == set()
    )


OTHERS = {
    "a second keyboard": (KEYBOARD,),
    "a keyboard with a drive": (KEYBOARD, STORAGE),
    "a keyboard with a network card": (KEYBOARD, NETWORK),
    "a network card": (NETWORK,),
    "a drive": (STORAGE,),
    "a mouse": (MOUSE,),
    "a hub that is a keyboard as well": (HUB, KEYBOARD),
}


@pytest.mark.parametrize("interfaces", OTHERS.values(), ids=OTHERS)
def test_what_nobody_enrolled_is_blocked(judge, interfaces):
    assert judge(MINE, Device("1-2", 0x1234, 0x0001, "Other", interfaces, "S1")) == {"1-1"}


def test_it_is_the_implicit_policy_that_blocks(judge, machine):
    conf = machine / "usr/share/veilor/usbguard/usbguard-daemon.conf"
    conf.write_text(conf.read_text().replace("ImplicitPolicyTarget=block", "ImplicitPolicyTarget=allow"))
    assert judge(MINE, Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD, STORAGE), "S1")) == {"1-1", "1-2"}


def test_a_hub_is_let_in_and_without_the_images_rule_is_not(judge, machine):
    dock = Device("1-4", 0x17EF, 0x1010, "Dock", (HUB,))
    rule = machine / "usr/share/veilor/usbguard/50-veilor.conf"
    rule.write_text("# nothing\n")
    assert judge(MINE, dock) == {"1-1"}


def test_one_later_keyboard_is_let_in(judge):
    assert judge(Device("1-2", 0x1234, 2, "Later", (KEYBOARD,), "S2", False), enrolled=ONE_LATER) == {"1-2"}


def test_one_that_was_there_before_the_daemon_has_to_be_plugged_in_again(judge):
    """It counts itself as the keyboard that is let in already; docs/RECOVERY.md tells the person."""
    assert judge(Device("1-2", 0x1234, 2, "Later", (KEYBOARD,), "S2", True), enrolled=ONE_LATER) == set()


def test_one_later_keyboard_and_no_second(judge):
    first, second = (Device(f"1-{n}", 0x1234, n, "Later", (KEYBOARD,), f"S{n}", False) for n in (2, 3))
    assert len(judge(first, second, enrolled=ONE_LATER)) == 1


def test_the_rule_that_the_enrolment_writes_takes_one_later_keyboard_of_any_make_and_no_second(judge):
    first, second = (
        Device(f"1-{n}", 0x1234, n, "Later", (KEYBOARD, MOUSE, VENDOR_HID), f"S{n}", False) for n in (2, 3)
    )
    assert len(judge(first, second, enrolled=LATER + "\n")) == 1


@pytest.mark.parametrize("interfaces", [kind for kind in OTHERS.values() if any(one[0] != 3 for one in kind)])
def test_and_nothing_that_is_more_than_an_input_device(judge, interfaces):
    assert judge(Device("1-2", 0x1234, 1, "Other", interfaces, "S1", False), enrolled=LATER + "\n") == set()


def test_without_the_condition_the_second_gets_in(judge):
    first, second = (Device(f"1-{n}", 0x1234, n, "Later", (KEYBOARD,), f"S{n}", False) for n in (2, 3))
    assert judge(first, second, enrolled=ONE_LATER.partition(" if ")[0] + "\n") == {"1-2", "1-3"}


def test_a_rule_that_a_person_adds_counts_and_goes_to_their_file(judge, machine):
    other = Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD,), "S1")
    add = "usbguard append-rule 'allow id 1234:0001'"
    assert judge(MINE, other, then=add) == {"1-1"}
    kept = machine / "etc/usbguard"
    assert "1234:0001" in (kept / "rules.d/90-added.conf").read_text()
    assert "1234" not in (kept / "rules.conf").read_text() + (kept / "rules.d/50-veilor.conf").read_text()


def test_an_added_rule_is_read_at_the_next_start(judge):
    other = Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD,), "S1")
    assert judge(MINE, other, added="allow id 1234:0001\n") == {"1-1", "1-2"}


NUMBER = "$(usbguard list-devices --blocked | sed -n 's/^\\([0-9]*\\):.* id 1234:0001 .*/\\1/p')"


def test_a_device_is_allowed_for_now_and_no_rule_is_touched(judge, machine):
    other = Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD,), "S1", False)
    assert judge(MINE, other, enrolled=ENROLLED + ONE_LATER, then=f"usbguard allow-device {NUMBER}") == {
        "1-1",
        "1-2",
    }
    assert (machine / "etc/usbguard/rules.conf").read_text() == ENROLLED + ONE_LATER


def test_why_nobody_is_told_to_allow_it_permanently(judge, machine):
    """It takes the place of the rule that would keep a machine with a broken keyboard usable, and it holds
    hashes.
    """
    other = Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD,), "S1", False)
    judge(MINE, other, enrolled=ENROLLED + ONE_LATER, then=f"usbguard allow-device --permanent {NUMBER}")
    rules = (machine / "etc/usbguard/rules.conf").read_text()
    assert "allowed-matches" not in rules and "parent-hash" in rules


def test_a_rule_that_blocks_by_name_would_make_an_added_one_void(judge):
    """Why the image blocks by the implicit policy alone."""
    other = Device("1-2", 0x1234, 0x0001, "Other", (KEYBOARD,), "S1", False)
    blocks = "block with-interface match-all { 03:*:* }\n"
    assert judge(MINE, other, enrolled=ENROLLED + blocks, added="allow id 1234:0001\n") == {"1-1"}


def test_new_devices_wait_for_the_daemon(judge):
    judge(MINE)
    assert (judge.sysfs / "bus/usb/devices/usb1/authorized_default").read_text().strip() == "0"


def test_the_daemon_refuses_what_others_can_read(machine, run, tmp_path):
    """Why systemd-tmpfiles puts settings and rules in place: with the modes of an image the daemon would not
    start.
    """
    plug_all(tmp_path / "sys", (MINE,))
    open_up = "chmod 644 /etc/usbguard/rules.d/*"
    lines = DAEMON.format(root=machine, sysfs=tmp_path / "sys", before=open_up, then="exit 0")
    code, _, said = run(lines)
    assert code == 9 and "should be 0600" in said


def test_every_start_brings_the_images_files_and_keeps_the_persons(machine, run):
    make = MAKE.format(root=machine)
    assert run(make)[0] == 0
    folder = machine / "etc/usbguard"
    found = {
        str(path.relative_to(folder)): path.stat().st_mode & 0o777
        for path in folder.rglob("*")
        if path.is_file()
    }
    assert found == dict.fromkeys(
        [
            "usbguard-daemon.conf",
            "rules.conf",
            "rules.d/50-veilor.conf",
            "rules.d/90-added.conf",
            "IPCAccessControl.d/:wheel",
        ],
        0o600,
    )
    (folder / "usbguard-daemon.conf").write_text("ImplicitPolicyTarget=allow\n")
    for name in ("rules.conf", "rules.d/90-added.conf"):
        (folder / name).write_text(ENROLLED)
    assert run(make)[0] == 0
    assert "ImplicitPolicyTarget=block" in (folder / "usbguard-daemon.conf").read_text()
    assert (folder / "rules.conf").read_text() == (folder / "rules.d/90-added.conf").read_text() == ENROLLED
