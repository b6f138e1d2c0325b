"""veilor-usbguard-enroll: from now on only the USB devices that are attached now are let in, and hubs.

Hubs have a rule of the image; perhaps a keyboard that comes later is let in as well. The rules for attached
devices are usbguard's own, without hashes and ports: by id, serial number, name and interfaces, so that a
dock may be plugged in elsewhere. Two devices that say the same of themselves cannot be told apart by them.
What is blocked is not taken in unless somebody asks for it by name.

A keyboard that comes later is let in by itself only where the machine has no other: a machine whose only
keyboard breaks must not be lost. A laptop has one inside, so there the person allows it from the unlocked
session.
"""

import argparse
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from veilor.core.outcome import Code, Outcome, plain
from veilor.device import ask, preflight, state, tell
from veilor.device.blocked import UsbDevice, parse_device, seen_blocked
from veilor.device.run import DeviceError, at, run

PROGRAM = "veilor-usbguard-enroll"
UNIT = "usbguard.service"
RULES = "/etc/usbguard/rules.conf"
BEFORE = "/etc/usbguard/rules.conf.before-veilor"
PRIVATE = 0o600  # usbguard reads no rules that others may read
CONFIG = "/etc/usbguard/usbguard-daemon.conf"
GENERATE = ["usbguard", "generate-policy", "--no-hashes", "--with-ports"]  # the port says which device it is
# SMBIOS chassis types that have a keyboard built in: portable, laptop, notebook, sub-notebook, convertible.
# Not: tablets and detachables, whose keyboard may be left at home, nor a desktop's PS/2, which may be a
# socket with nothing in it.
WITH_KEYBOARD = {8, 9, 10, 14, 31}
BUILT_IN_BUSES = {0x11, 0x18, 0x1C}  # i8042, I2C and SPI: linux/input.h
USB = 0x03
SETTLE = 3.0  # seconds in which a keyboard that the new rules shut out is seen to be
LETTERS = 0xFFFFFFFE  # the keys 1 to 31, by which udev as well knows a keyboard (ID_INPUT_KEYBOARD)

BOOT_KEYBOARD = "03:01:01"
# For one that is nothing but an input device. Nothing is refused by name here: rules that are read after
# these, such as the one that the person adds, would not count any more. What no rule lets in is blocked by
# ImplicitPolicyTarget.
LATER = (
    f"allow with-interface match-all {{ 03:*:* }} if !allowed-matches(with-interface one-of {{ "
    f"{BOOT_KEYBOARD} }})"
)


@dataclass(frozen=True)
class Keyboard:
    """A keyboard as the kernel knows it: its name and its bus (linux/input.h).

    One on USB also has its device's folder in sysfs, and its id ("046d:c31c").
    """

    name: str
    bus: int
    device: Path | None
    id: str | None


def read_sysfs(path: Path) -> str:
    """The text of a sysfs file; an empty one when it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def parse_hex(text: str) -> int:
    """TEXT as a hexadecimal number; 0 when it is none."""
    return int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{1,16}", text) else 0


def keyboards() -> list[Keyboard]:
    """Every keyboard that is attached now, from /sys/class/input."""
    found = []
    for entry in sorted(at("/sys/class/input").glob("input*")):
        lowest_keys = (read_sysfs(entry / "capabilities/key").split() or [""])[-1]
        if parse_hex(lowest_keys) & LETTERS != LETTERS:
            continue
        bus = parse_hex(read_sysfs(entry / "id/bustype"))
        device = usb_device_of(entry) if bus == USB else None
        usb_id = None
        if device:
            usb_id = f"{read_sysfs(device / 'idVendor')}:{read_sysfs(device / 'idProduct')}"
        found.append(Keyboard(read_sysfs(entry / "name") or "a keyboard", bus, device, usb_id))
    return found


def usb_device_of(entry: Path) -> Path | None:
    """The sysfs folder of the USB device that the input device at ENTRY belongs to."""
    return next((folder for folder in entry.resolve().parents if (folder / "idVendor").exists()), None)


def built_in(known: list[Keyboard]) -> Keyboard | None:
    """The one of KNOWN that is part of the machine and not on USB; None when there is none for certain."""
    chassis = read_sysfs(at("/sys/class/dmi/id/chassis_type"))
    if not chassis.isdecimal() or int(chassis) not in WITH_KEYBOARD:
        return None
    return next((keyboard for keyboard in known if keyboard.bus in BUILT_IN_BUSES), None)


def attached() -> list[UsbDevice]:
    """What is attached now, blocked or not; never none. Raises DeviceError."""
    done = run(GENERATE, timeout=60)
    found = [parse_device(line) for line in done.out.splitlines() if line.strip()]
    known = [device for device in found if device]
    if done.code or not found or len(known) != len(found):
        raise DeviceError(
            f"usbguard did not say which devices are attached ({done.reason})",
            "nothing was changed",
            "see `usbguard generate-policy`",
        )
    return known


def is_blocked(device: UsbDevice) -> bool:
    """Whether the kernel keeps DEVICE out. One whose port is not known is judged by its id."""
    if device.port is not None:
        return read_sysfs(at(f"/sys/bus/usb/devices/{device.port}/authorized")) == "0"
    for folder in at("/sys/bus/usb/devices").glob("*-*"):
        usb_id = f"{read_sysfs(folder / 'idVendor')}:{read_sysfs(folder / 'idProduct')}"
        if usb_id == device.id and read_sysfs(folder / "authorized") == "0":
            return True
    return False


def is_wanted(device: UsbDevice, args: argparse.Namespace) -> bool:
    """Whether DEVICE, which is blocked or was, is asked for by name: by --also in ARGS, or by a person."""
    if device.id in args.also:
        return True
    if args.dry_run or not preflight.can_ask(args):
        return False
    question = f"{device.description}: it is blocked, or was since the last start. Let it in for good? [y/N] "
    return tell.confirm(question)


def read_rules() -> str:
    """The rules that there are, with bytes that are not UTF-8 kept as surrogates. Raises DeviceError."""
    try:
        return at(RULES).read_bytes().decode(errors="surrogateescape")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DeviceError(
            f"{RULES} cannot be read ({error.strerror})",
            "what you allowed or refused there would be lost, so nothing was changed",
            "see what is in its place; `--forget` begins without it",
        ) from None


def merge(old: str, attached: list[str], own: Keyboard | None) -> list[str]:
    """The rules to be, each once: the owner's in OLD first, then those ATTACHED that are new, then ours.

    OWN: the keyboard inside the machine, with which no rule for a later keyboard is needed.
    """
    kept = []
    for line in (line.strip(" \t\r") for line in old.split("\n")):  # no other character ends a rule
        if not line or line.startswith("#"):
            continue
        if line == LATER:
            continue  # it stays the last one, or goes
        kept.append(line)
    rules = list(dict.fromkeys(kept + attached))
    return rules if own else [*rules, LATER]


def explain_later_keyboard(own: Keyboard | None) -> str:
    """What happens to a keyboard that comes later, as a sentence. OWN: the keyboard inside the machine."""
    if own:
        return (
            f"this machine has a keyboard of its own ({own.name}), so one that is plugged in later is "
            "blocked until you allow it: "
            "`usbguard list-devices --blocked`, then `usbguard allow-device NUMBER`, as root, and "
            f"`{PROGRAM}` to keep it"
        )
    return (
        "this machine has no other keyboard for certain, so one that is plugged in later, while it runs, "
        "works by itself when no "
        "other is attached"
    )


def check_rule_file() -> None:
    """Raise DeviceError (UNFIT) when usbguard is set up to read its rules from another file than RULES."""
    named = re.findall(r"^RuleFile=(.*)$", read_sysfs(at(CONFIG)), re.M)
    if named and named[-1].strip() != RULES:
        raise DeviceError(
            f"usbguard reads its rules from {named[-1].strip()}, not from {RULES}",
            "somebody has set it up in another way, so nothing was changed",
            f"set RuleFile={RULES} in {CONFIG}",
            Code.UNFIT,
        )


def check_keyboards_have_rules(known: list[Keyboard], attached: list[str]) -> None:
    """Raise DeviceError when one of the keyboards KNOWN on USB has no rule among those ATTACHED."""
    without = []
    for keyboard in known:
        if keyboard.device and not any(f"allow id {keyboard.id} " in rule for rule in attached):
            without.append(keyboard.name)
    if without:
        raise DeviceError(
            f"usbguard has no rule for {', '.join(without)}",
            "it would be shut out, so nothing was changed",
            "unplug it and plug it in again, then try again",
        )


def enroll(args: argparse.Namespace) -> Outcome:
    """The whole program, as asked by ARGS. Raises DeviceError."""
    ask.require_root(PROGRAM, args)
    check_rule_file()
    known = keyboards()
    own, old, there = built_in(known), "" if args.forget else read_rules(), attached()
    taken = [device.rule for device in there if not is_blocked(device)]
    asked = {device.rule: device for device in (*there, *seen_blocked()) if device.rule not in taken}
    asked = {rule: device for rule, device in asked.items() if rule not in merge(old, [], own)}
    wanted = [rule for rule, device in asked.items() if is_wanted(device, args)]
    left = [device for rule, device in asked.items() if rule not in wanted]
    check_keyboards_have_rules(known, taken)
    rules = merge(old, taken + wanted, own)
    warnings = tuple(
        f"{device.description}: it is blocked or was, so it is left out; `{PROGRAM} --also {device.id}` "
        "takes it in"
        for device in left
    )
    facts = {
        "rules": rules,
        "own_keyboard": own and own.name,
        "later_keyboard": "ask" if own else "alone",
        "keyboards": [keyboard.name for keyboard in known],
        "left_out": [device.rule for device in left],
    }
    if args.dry_run:
        if not args.json:
            print("\n".join(map(plain, rules)))
        what = f"Nothing was changed; {explain_later_keyboard(own)}"
        return Outcome(Code.DONE, what, facts={**facts, "state": "dry run"}, warnings=warnings)
    with state.exclusive_lock():
        install("\n".join(rules) + "\n", known)
    outcome = Outcome(
        Code.DONE,
        f"Only the {len(taken + wanted)} USB devices that are attached now are let in, and those allowed "
        "before",
        explain_later_keyboard(own),
        f"`{PROGRAM}` again takes in more; `systemctl disable --now {UNIT}` ends it",
        {**facts, "state": "enrolled"},
        warnings,
    )
    if args.announce:
        tell.announce("usb", outcome)
    return outcome


def active_state() -> str:
    """What systemd says of usbguard's unit: "active", "inactive", "failed", …"""
    return run(["systemctl", "is-active", UNIT], timeout=30).out.strip()


def install(text: str, known: list[Keyboard]) -> None:
    """Apply the rules in TEXT, and put the former ones back if one of the keyboards KNOWN is shut out.

    Raises DeviceError when they were put back.
    """
    rules, before = at(RULES), switches()
    old = rules.read_bytes() if rules.exists() else None
    was_active = active_state() == "active"
    if old is not None:
        state.replace_file(BEFORE, old, PRIVATE)
    state.replace_file(RULES, text.encode(errors="surrogateescape"), PRIVATE)
    trouble = apply_rules(known)
    if not trouble:
        return
    if old is not None:
        state.replace_file(RULES, old, PRIVATE)
    else:
        rules.unlink()
    run(["systemctl", "restart" if was_active else "stop", UNIT], timeout=60)
    if not was_active:
        run(["systemctl", "disable", UNIT], timeout=60)
    for path, value in before.items():
        if read_sysfs(path) not in (value, ""):
            set_switch(path, value)
    raise DeviceError(
        f"The rules were taken back: {trouble}",
        "USB devices are let in as before",
        "see `journalctl -b -u usbguard`",
    )


def switches() -> dict[Path, str]:
    """How every device and every controller is switched in sysfs: `authorized` and `authorized_default`.

    usbguard turns them, and leaves them as they are when it ends (RestoreControllerDeviceState=false).
    """
    return {path: read_sysfs(path) for path in at("/sys/devices").rglob("authorized*")}


def set_switch(path: Path, value: str) -> None:
    """Write VALUE to the switch at PATH; one that is gone, or does not take it, is passed over and said."""
    try:
        path.write_text(value)
    except OSError as error:
        print(f"veilor: {path} was not set to {value} ({error.strerror})", file=sys.stderr)


def apply_rules(known: list[Keyboard]) -> str | None:
    """Enable and restart usbguard, then see for SETTLE seconds that the keyboards KNOWN still work.

    Returns what is wrong, as a sentence; None when nothing is.
    """
    for verb in ("enable", "restart"):
        done = run(["systemctl", verb, UNIT], timeout=120)
        if done.code:
            return f"`systemctl {verb} {UNIT}` failed ({done.reason})"
    deadline = time.monotonic() + SETTLE
    while True:
        lost = [keyboard.name for keyboard in known if is_shut_out(keyboard)]
        if lost:
            return f"{', '.join(lost)} would have been shut out"
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    active = active_state()
    return None if active == "active" else f"{UNIT} is {active or 'in an unknown state'} after it was started"


def is_shut_out(keyboard: Keyboard) -> bool:
    """Whether the kernel lets nothing of KEYBOARD in."""
    return keyboard.device is not None and read_sysfs(keyboard.device / "authorized") == "0"


def make_parser() -> argparse.ArgumentParser:
    """The command line of veilor-usbguard-enroll."""
    about = (
        "Lets in the USB devices that are attached now, and blocks others. A keyboard that comes later "
        "works by itself only where "
        "the machine has no other; it says which way it chose."
    )
    parser = tell.parser(PROGRAM, about, Code.UNFIT)
    parser.add_argument("--dry-run", action="store_true", help="print the rules and change nothing")
    parser.add_argument(
        "--announce",
        action="store_true",
        help="say it as a notice as well, as at the first start, which enrols by itself",
    )
    parser.add_argument(
        "--forget", action="store_true", help="forget what was allowed before: only what is attached now"
    )
    parser.add_argument(
        "--also",
        metavar="ID",
        action="append",
        default=[],
        help="let in also what is blocked, or was since the last start, and has this id (0781:5581); "
        "may be repeated; at a terminal each is asked about",
    )
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-usbguard-enroll."""
    return tell.conclude(make_parser(), argv, enroll)
