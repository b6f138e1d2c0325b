"""veilor-usbguard-enroll on sysfs trees of a laptop, a desktop, a tablet, a docked laptop; the rules judged
by a matcher.

The matcher is a model of the part of usbguard's rule language that is used here, not usbguard itself. Rules
for attached devices are written here in the form that `usbguard generate-policy -X -p` prints.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from veilor.device import blocked, usbguard

ROOT = Path(__file__).resolve().parents[2]
LETTERS = "fffffffe"
SCHEMA = json.loads((ROOT / "overlay/usr/share/veilor/schema/usbguard-enroll.schema.json").read_text())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(usbguard, "SETTLE", 0.1)


class Device:
    """A USB device: what usbguard judges it by, and its keyboard if it is one."""

    def __init__(self, id, name, *interfaces, serial="", keyboard=False, via="1-1", connect="hotplug"):
        self.id, self.name, self.interfaces, self.serial, self.keyboard, self.via, self.connect = (
            id,
            name,
            list(interfaces),
            serial,
            keyboard,
            via,
            connect,
        )

    @property
    def rule(self):
        listed = self.interfaces[0] if len(self.interfaces) == 1 else f"{{ {' '.join(self.interfaces)} }}"
        return (
            f'allow id {self.id} serial "{self.serial}" name "{self.name}" with-interface {listed} '
            f'with-connect-type "{self.connect}"'
        )

    @property
    def generated(self):
        return self.rule.replace(" with-interface", f' via-port "{self.via}" with-interface', 1)


ROOT_HUB = Device(
    "1d6b:0002", "xHCI Host Controller", "09:00:00", serial="0000:00:14.0", via="usb1", connect=""
)
KEYBOARD = Device("046d:c31c", "USB Keyboard", "03:01:01", "03:00:00", keyboard=True, via="1-4")
OTHER_KEYBOARD = Device("04d9:a0cd", "Some Keyboard", "03:01:01", keyboard=True, via="1-5")
RECEIVER = Device("046d:c52b", "USB Receiver", "03:01:01", "03:01:02", "03:00:00", keyboard=True, via="1-6")
MOUSE = Device("046d:c077", "Mouse", "03:01:02", via="1-2")
DOCK = Device("17ef:a387", "Dock Hub", "09:00:01", "09:00:02", via="1-3")
HEADSET = Device("0b0e:245d", "Headset", "01:01:00", "01:02:00", "03:00:00", serial="HS1", via="1-7")
STICK = Device("0781:5581", "Stick", "08:06:50", serial="A1", via="1-8")
BADUSB = Device("0781:5581", "Stick", "08:06:50", "03:01:01", serial="A2", keyboard=True, via="1-9")


def attach(machine, devices, *, chassis, inside=None):
    """Write sysfs: DEVICES, the machine's CHASSIS type, and a keyboard INSIDE on that bus."""
    machine.load()
    machine.world["usb_rules"] = "\n".join(device.generated for device in devices)
    machine.save()
    machine.put("sys/class/dmi/id/chassis_type", f"{chassis}\n")
    (machine.root / "sys/class/input").mkdir(parents=True, exist_ok=True)
    for old in (machine.root / "sys/class/input").iterdir():
        old.unlink()
    inputs = [(f"sys/devices/pci0/usb1/{device.via}", device, 0x03) for device in devices]
    inputs += [
        (
            "sys/devices/platform/i8042/serio0",
            Device("", "AT Translated Set 2 keyboard", keyboard=True),
            inside,
        )
    ] * bool(inside)
    inputs += [("sys/devices/LNXSYSTM:00/button", Device("", "Power Button"), 0x19)]
    for number, (folder, device, bus) in enumerate(inputs):
        if device.id:
            vendor, product = device.id.split(":")
            for name, value in (("idVendor", vendor), ("idProduct", product), ("authorized", "1")):
                machine.put(f"{folder}/{name}", f"{value}\n")
            link = machine.root / "sys/bus/usb/devices" / device.via
            link.parent.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(machine.root / folder)
        entry = f"{folder}/if0/input/input{number}"
        keys = f"3f0001 0 e080ffdf01cfffff {LETTERS}" if device.keyboard else "1f0000 0 0 0"
        for name, value in (("name", device.name), ("id/bustype", f"{bus:04x}"), ("capabilities/key", keys)):
            machine.put(f"{entry}/{name}", f"{value}\n")
        (machine.root / f"sys/class/input/input{number}").symlink_to(machine.root / entry)


# -- a model of usbguard's judgement
# -----------------------------------------------------------------------------------


def like(pattern, interface):
    return all(p in ("*", i) for p, i in zip(pattern.split(":"), interface.split(":"), strict=True))


def fits(rule, device, allowed):
    """Whether DEVICE fits RULE while the devices ALLOWED are let in."""
    rule, _, condition = rule.partition(" if ")
    if condition:
        wanted = re.fullmatch(r"!allowed-matches\(with-interface one-of \{ (\S+) \}\)", condition)[1]
        if any(like(wanted, interface) for other in allowed for interface in other.interfaces):
            return False
    for key, value in (
        ("id", device.id),
        ("serial", device.serial),
        ("name", device.name),
        ("via-port", device.via),
    ):
        asked = re.search(rf' {key} "?((?<=")[^"]*|[^" ]+)', rule)
        if asked and asked[1] != value:
            return False
    asked = re.search(r"with-interface (match-all |one-of |equals )?(?:\{ ([^}]*) \}|(\S+))", rule)
    patterns, kind = (asked[2] or asked[3]).split(), (asked[1] or "equals ").strip()
    if kind == "equals":
        return sorted(patterns) == sorted(device.interfaces)
    hits = [any(like(pattern, interface) for pattern in patterns) for interface in device.interfaces]
    return all(hits) if kind == "match-all" else any(hits)


IMAGE = [
    line
    for line in (ROOT / "overlay/usr/share/veilor/usbguard/50-veilor.conf").read_text().splitlines()
    if line[:1] != "#"
]


def judge(rules, device, allowed=()):
    """What becomes of DEVICE: the RULES of the enrolment come first, then the image's; what none lets in is
    blocked.
    """
    rules = [*rules, *IMAGE]
    return next((rule.split()[0] for rule in rules if fits(rule, device, allowed)), "block")


def enroll(machine, *argv):
    """What it answers is what its schema says, and nothing besides."""
    done = machine.program("usbguard-enroll", "--json", *argv)
    jsonschema.Draft202012Validator({**SCHEMA, "additionalProperties": False}).validate(done.data)
    return done


@pytest.mark.parametrize("field", ["rules", "later_keyboard", "own_keyboard", "keyboards", "state", "code"])
def test_an_answer_without_a_field_is_noticed(laptop, field):
    data = enroll(laptop, "--dry-run").data
    del data[field]
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, SCHEMA)


LAPTOP = {"chassis": 10, "inside": 0x11}


@pytest.fixture
def laptop(machine):
    attach(machine, [ROOT_HUB, MOUSE], **LAPTOP)
    return machine


@pytest.fixture
def desktop(machine):
    attach(machine, [ROOT_HUB, KEYBOARD, MOUSE], chassis=3)
    return machine


def test_a_laptop_blocks_a_later_keyboard_and_says_how_to_allow_it(laptop):
    done = enroll(laptop)
    assert done.code == 0 and done.data["later_keyboard"] == "ask" and "AT Translated" in done.data["means"]
    rules = done.data["rules"]
    assert laptop.text("etc/usbguard/rules.conf").splitlines() == rules
    assert (laptop.root / "etc/usbguard/rules.conf").stat().st_mode & 0o777 == 0o600
    assert judge(rules, MOUSE) == "allow" and judge(rules, ROOT_HUB) == "allow"
    assert [judge(rules, device) for device in (KEYBOARD, RECEIVER, STICK, HEADSET, BADUSB)] == ["block"] * 5
    assert not any(rule.startswith(("block", "reject")) for rule in rules), (
        "a rule that the person adds at the end still counts"
    )
    assert [argv[1:] for argv in laptop.calls("systemctl")][1:3] == [
        ["enable", "usbguard.service"],
        ["restart", "usbguard.service"],
    ]


def test_a_machine_whose_only_keyboard_is_on_usb_takes_another_one_only_in_its_place(desktop):
    done = enroll(desktop)
    rules = done.data["rules"]
    assert (
        done.code == 0 and done.data["later_keyboard"] == "alone" and "works by itself" in done.data["means"]
    )
    assert judge(rules, KEYBOARD) == "allow"
    for later in (OTHER_KEYBOARD, RECEIVER):
        assert judge(rules, later, [KEYBOARD]) == "block", "while the first is there"
        assert judge(rules, later, [MOUSE]) == "allow", "once the first is gone"
    assert judge(rules, BADUSB, []) == "block" and judge(rules, STICK, []) == "block"
    assert judge(rules, DOCK, []) == "allow", "a keyboard may hang on a hub"


def test_without_the_rule_for_later_keyboards_such_a_machine_would_be_lost(desktop):
    rules = [rule for rule in enroll(desktop).data["rules"] if rule != usbguard.LATER]
    assert judge(rules, OTHER_KEYBOARD, []) == "block"


@pytest.mark.parametrize(
    ("devices", "chassis", "inside", "later"),
    [
        ([KEYBOARD], 3, 0x11, "alone"),  # a desktop with something on PS/2: perhaps an empty socket
        ([KEYBOARD], 32, 0x18, "alone"),  # a detachable
        ([KEYBOARD], "", None, "alone"),
        ([KEYBOARD], 10, None, "alone"),  # a laptop whose own keyboard is on USB, or is broken
        ([KEYBOARD], 10, 0x05, "alone"),  # Bluetooth only
        ([KEYBOARD], 10, 0x18, "ask"),
        ([KEYBOARD], 9, 0x1C, "ask"),
        ([], 10, 0x11, "ask"),
        ([MOUSE], 3, None, "alone"),
    ],
)
def test_which_way_is_chosen(machine, devices, chassis, inside, later):
    attach(machine, [ROOT_HUB, *devices], chassis=chassis, inside=inside)
    done = enroll(machine, "--dry-run")
    assert done.code == 0 and done.data["later_keyboard"] == later
    assert (judge(done.data["rules"], OTHER_KEYBOARD, []) == "allow") == (later == "alone")


def test_a_dock_in_another_socket_is_the_same_dock(machine):
    on_dock = [
        DOCK,
        Device(
            "046d:c31c", "USB Keyboard", "03:01:01", "03:00:00", keyboard=True, via="1-3.1", connect="hotplug"
        ),
    ]
    attach(machine, [ROOT_HUB, *on_dock], **LAPTOP)
    rules = enroll(machine).data["rules"]
    for device in on_dock:
        device.via, device.connect = device.via.replace("1-3", "3-1"), "unknown"
        assert judge(rules, device) == "allow"
    assert not any(
        word in rule for rule in rules for word in (" hash ", "parent-hash", "via-port", "with-connect-type")
    )
    by_port = [rule.replace(" with-interface", ' via-port "1-3" with-interface', 1) for rule in rules]
    assert judge(by_port, on_dock[1]) == "block", "with ports it would not be"


def test_again_takes_in_more_and_forgets_nothing(laptop):
    enroll(laptop)
    owners = 'allow id 1050:0407 serial "" name "Key" with-interface { 03:01:01 03:00:00 }'
    laptop.put("etc/usbguard/rules.conf", f"# by hand\n{owners}\n" + laptop.text("etc/usbguard/rules.conf"))
    attach(laptop, [ROOT_HUB, HEADSET], **LAPTOP)
    first = enroll(laptop).data["rules"]
    assert judge(first, MOUSE) == "allow" and judge(first, HEADSET) == "allow" and first[0] == owners
    assert enroll(laptop).data["rules"] == first, "twice is as once"
    assert "Key" in laptop.text("etc/usbguard/rules.conf.before-veilor")
    only = enroll(laptop, "--forget").data["rules"]
    assert judge(only, MOUSE) == "block" and judge(only, HEADSET) == "allow" and owners not in only


def test_a_rule_of_the_owner_against_a_device_wins(laptop):
    laptop.put(
        "etc/usbguard/rules.conf", 'block id 046d:c077 serial "" name "Mouse" with-interface 03:01:02\n'
    )
    assert judge(enroll(laptop).data["rules"], MOUSE) == "block"


def test_the_first_start_says_it_as_a_notice_and_a_person_at_the_terminal_gets_none(laptop):
    enroll(laptop)
    assert not (laptop.root / "run/veilor/notice.json").exists()
    done = enroll(laptop, "--announce")
    notice = json.loads(laptop.text("run/veilor/notice.json"))["notices"]["usb"]
    assert (
        done.code == 0
        and "Only the 2 USB devices" in notice["line"]
        and "usbguard allow-device NUMBER" in notice["line"]
    )


def test_dry_run_prints_the_rules_and_changes_nothing(laptop):
    done = laptop.program("usbguard-enroll", "--dry-run")
    assert done.code == 0 and 'name "Mouse"' in done.out and "blocked until you allow" in done.out
    assert not laptop.calls("systemctl") and not (laptop.root / "etc/usbguard").exists()


@pytest.mark.parametrize("before", [None, "allow id 1:1\n"])
def test_a_keyboard_that_is_shut_out_takes_the_rules_back(desktop, before):
    if before:
        desktop.put("etc/usbguard/rules.conf", before)
    desktop.change("usb", x=1)
    desktop.world["usb_shuts_out"] = ["sys/devices/pci0/usb1/1-4"]
    desktop.save()
    done = enroll(desktop)
    assert done.code == 1 and "USB Keyboard would have been shut out" in done.data["what"]
    assert desktop.text("etc/usbguard/rules.conf") == (before or "")
    assert desktop.text("sys/devices/pci0/usb1/1-4/authorized") == "1"


def test_a_service_that_does_not_start_takes_the_rules_back(desktop):
    desktop.change("fail", **{"systemctl restart": "Job for usbguard.service failed"})
    done = enroll(desktop)
    assert (
        done.code == 1
        and "taken back" in done.data["what"]
        and not (desktop.root / "etc/usbguard/rules.conf").exists()
    )


@pytest.mark.parametrize("rules", ["", "error", "allow id 046d:c077 name x\nblock", MOUSE.rule])
def test_rules_without_the_keyboard_are_not_taken(desktop, rules):
    desktop.load()
    desktop.world["usb_rules"] = rules
    desktop.save()
    done = enroll(desktop)
    assert done.code == 1 and not desktop.calls("systemctl") and not (desktop.root / "etc/usbguard").exists()


def test_where_it_does_not_fit(desktop, monkeypatch):
    desktop.put("etc/usbguard/usbguard-daemon.conf", "RuleFile=/etc/other.conf\n")
    assert enroll(desktop).code == 5
    desktop.put("etc/usbguard/usbguard-daemon.conf", "RuleFile=/etc/usbguard/rules.conf\n")
    assert enroll(desktop, "--dry-run").code == 0
    (desktop.folder / "bin/usbguard").unlink()
    monkeypatch.setattr("veilor.device.run.PATH", str(desktop.folder / "bin"))
    assert enroll(desktop).code == 5
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert enroll(desktop).code == 6


# -- what is blocked now
# -----------------------------------------------------------------------------------


def block(machine, device):
    machine.put(f"sys/devices/pci0/usb1/{device.via}/authorized", "0\n")


CABLE = Device("0bad:cafe", "USB Cable", "03:01:01", "02:06:00", via="1-4")
CLONE = Device("046d:c077", "Mouse", "03:01:02", "08:06:50", via="1-9")


@pytest.mark.parametrize("other", [CABLE, STICK, CLONE], ids=lambda device: device.id)
def test_what_is_blocked_is_not_taken_in(machine, other):
    attach(machine, [ROOT_HUB, MOUSE, other], **LAPTOP)
    block(machine, other)
    done = enroll(machine)
    assert (
        done.code == 0
        and judge(done.data["rules"], other) == "block"
        and judge(done.data["rules"], MOUSE) == "allow"
    )
    assert done.data["left_out"] == [other.rule.partition(" with-connect-type")[0]]
    assert f"({other.id})" in done.data["warnings"][0] and f"--also {other.id}" in done.data["warnings"][0]
    assert "Only the 2 USB devices" in done.data["what"]


def test_of_two_that_say_the_same_the_rule_is_for_both(machine):
    """They cannot be told apart: usb.same-identity in the threat model."""
    twin = Device("046d:c077", "Mouse", "03:01:02", via="1-9")
    attach(machine, [ROOT_HUB, MOUSE, twin], **LAPTOP)
    block(machine, twin)
    assert enroll(machine).data["left_out"] == []


def test_asked_for_by_name_it_is_taken_in(machine):
    attach(machine, [ROOT_HUB, CABLE, STICK], **LAPTOP)
    block(machine, CABLE)
    block(machine, STICK)
    done = enroll(machine, "--also", "0781:5581")
    assert judge(done.data["rules"], STICK) == "allow" and judge(done.data["rules"], CABLE) == "block"


def test_a_person_at_a_terminal_is_asked_about_each(machine, monkeypatch):
    attach(machine, [ROOT_HUB, CABLE, STICK], **LAPTOP)
    block(machine, CABLE)
    block(machine, STICK)
    asked = []
    monkeypatch.setattr(usbguard.preflight, "can_ask", lambda args: not args.json)
    monkeypatch.setattr(
        "builtins.input", lambda text: asked.append(text) or ("y" if "Stick" in text else "n")
    )
    assert machine.program("usbguard-enroll").code == 0
    assert len(asked) == 2 and "“USB Cable” (0bad:cafe), by its own words a keyboard" in asked[0]
    rules = machine.text("etc/usbguard/rules.conf").splitlines()
    assert judge(rules, STICK) == "allow" and judge(rules, CABLE) == "block"
    assert machine.program("usbguard-enroll", "--dry-run").code == 0 and len(asked) == 2, "that only looks"


def test_without_the_look_at_what_is_blocked_it_would_be_taken_in(machine, monkeypatch):
    monkeypatch.setattr(usbguard, "is_blocked", lambda device: False)
    attach(machine, [ROOT_HUB, CABLE], **LAPTOP)
    block(machine, CABLE)
    assert judge(enroll(machine).data["rules"], CABLE) == "allow"


MODEM_AS_DISK = Device("0bda:1a2b", "DISK", "08:06:50", via="1-4")
MODEM = Device("0bda:c811", "802.11ac NIC", "ff:ff:ff", serial="123456", via="1-4")
PHONE, TETHER = (
    Device("18d1:4ee1", "Phone", "06:01:01", serial="ABC1", via="1-5"),
    Device("18d1:4eeb", "Phone", "02:0d:00", "0a:00:01", serial="ABC1", via="1-5"),
)
SOUND_KEYBOARD = Device(
    "1234:0003", "Gaming KB", "03:01:01", "03:00:00", "01:01:00", keyboard=True, via="1-6"
)


def blocked_before(machine, *devices):
    """usbguard has blocked DEVICES since the start: what its notifier was shown then."""
    for number, device in enumerate(devices, 7):
        line = f"{number}: {device.rule.replace('allow', 'block', 1)}"
        line = line.replace(
            " with-interface", f' hash "x=" parent-hash "y=" via-port "{device.via}" with-interface'
        )
        blocked.remember([blocked.parse_device(line)])


@pytest.mark.parametrize(("first", "second"), [(MODEM_AS_DISK, MODEM), (PHONE, TETHER)])
def test_a_device_with_two_faces_keeps_both(machine, monkeypatch, first, second):
    """Plugged in it shows the first and is blocked; allowed by hand it shows the second; allowed as well, it
    is enrolled.
    """
    blocked_before(machine, first, second)
    attach(machine, [ROOT_HUB, second], **LAPTOP)
    left = enroll(machine).data
    assert len(left["left_out"]) == 1 and judge(left["rules"], second) == "allow"
    asked = []
    monkeypatch.setattr(usbguard.preflight, "can_ask", lambda args: not args.json)
    monkeypatch.setattr("builtins.input", lambda text: asked.append(text) or "y")
    assert machine.program("usbguard-enroll").code == 0 and len(asked) == 1 and first.id in asked[0]
    rules = machine.text("etc/usbguard/rules.conf").splitlines()
    assert judge(rules, first) == judge(rules, second) == "allow"
    other = Device(first.id, "Another", *first.interfaces, serial="S2")
    assert judge(rules, other) == "block", "its serial number and name are in the rule"
    assert machine.program("usbguard-enroll").code == 0 and len(asked) == 1, "it is not asked again"
    assert (machine.root / "run/veilor/usb-blocked").stat().st_mode & 0o777 == 0o600


def test_a_keyboard_with_sound_is_kept_with_all_that_it_is(machine):
    attach(machine, [ROOT_HUB, KEYBOARD, SOUND_KEYBOARD], chassis=3)
    rules = enroll(machine).data["rules"]
    assert judge(rules, SOUND_KEYBOARD) == "allow"
    assert judge([usbguard.LATER], SOUND_KEYBOARD, []) == "block", (
        "as a later one it is more than an input device"
    )


# -- the owner's rules
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "before", ["# B\u00fcro-Dock\n".encode("latin-1"), b"", b"#\xff\xfe\n", "# \u2028\x0c\n".encode()]
)
@pytest.mark.parametrize(
    "name", [b"evil", b"B\xfcro", "Tastatur \u2028 \x85 \x0c".encode(), "Клавиатура".encode()]
)
def test_bytes_that_are_not_utf_8_lose_no_rule(laptop, before, name):
    reject = b'reject id 0bad:cafe name "' + name + b'"'
    mine = b'allow id 1234:5678 serial "AA" name "My stick" with-interface 08:06:50'
    path = laptop.root / "etc/usbguard/rules.conf"
    path.parent.mkdir(parents=True)
    path.write_bytes(before + reject + b"\n" + mine + b"\r\n")
    assert "0bad:cafe" in laptop.program("usbguard-enroll", "--dry-run").out
    assert enroll(laptop).code == 0
    assert path.read_bytes().split(b"\n")[:2] == [reject, mine]
    assert (
        laptop.root / "etc/usbguard/rules.conf.before-veilor"
    ).read_bytes() == before + reject + b"\n" + mine + b"\r\n"


def test_rules_that_cannot_be_read_are_not_taken_for_none(laptop):
    (laptop.root / "etc/usbguard/rules.conf").mkdir(parents=True)
    done = enroll(laptop)
    assert done.code == 1 and "cannot be read" in done.data["what"] and not laptop.calls("systemctl")


# -- taken back
# -----------------------------------------------------------------------------------


@pytest.mark.parametrize("was_active", [True, False])
def test_taken_back_every_device_is_let_in_as_before(machine, monkeypatch, was_active):
    attach(machine, [ROOT_HUB, KEYBOARD, MOUSE, HEADSET, STICK], chassis=3)
    machine.put("sys/devices/pci0/usb1/authorized_default", "1\n")
    block(machine, STICK)
    paths = [f"sys/devices/pci0/usb1/{one.via}/authorized" for one in (KEYBOARD, MOUSE, HEADSET, STICK)]
    paths.append("sys/devices/pci0/usb1/authorized_default")
    before = [machine.text(path).strip() for path in paths]
    monkeypatch.setattr(usbguard, "active_state", lambda: "active" if was_active else "inactive")
    real = usbguard.run

    def turning(argv, **more):
        if argv[:2] == ["systemctl", "restart"]:
            for path in paths:
                machine.put(path, "0\n")
        return real(argv, **more)

    monkeypatch.setattr(usbguard, "run", turning)
    done = enroll(machine)
    assert done.code == 1 and "let in as before" in done.data["means"]
    assert [machine.text(path).strip() for path in paths] == before == ["1", "1", "1", "0", "1"]


def test_without_setting_the_switches_back_they_stay_turned(machine, monkeypatch):
    monkeypatch.setattr(usbguard, "set_switch", lambda path, value: None)
    attach(machine, [ROOT_HUB, KEYBOARD, MOUSE], chassis=3)
    machine.world["usb_shuts_out"] = ["sys/devices/pci0/usb1/1-4", "sys/devices/pci0/usb1/1-2"]
    machine.save()
    assert enroll(machine).code == 1 and machine.text("sys/devices/pci0/usb1/1-2/authorized").strip() == "0"
