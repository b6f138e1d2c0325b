"""veilor-usbguard-enroll: from now on only the USB devices that are attached now, hubs (a rule of the image),
and perhaps a keyboard that comes later.

The rules for attached devices are usbguard's own, without hashes and ports: by id, serial number, name and
interfaces, so that a dock may be plugged in elsewhere. Two devices that say the same of themselves cannot be
told apart by them.

A keyboard that comes later is let in by itself only where the machine has no other: a machine whose only
keyboard breaks must not be lost. A laptop has one inside, so there the person allows it from the unlocked
session.
"""

import re
import time
from dataclasses import dataclass
from pathlib import Path

from veilor.core.outcome import Code, Outcome
from veilor.device import ask, state, tell
from veilor.device.run import DeviceError, at, run

PROGRAM = "veilor-usbguard-enroll"
UNIT = "usbguard.service"
RULES = "/etc/usbguard/rules.conf"
BEFORE = "/etc/usbguard/rules.conf.before-veilor"
PRIVATE = 0o600  # usbguard reads no rules that others may read
CONFIG = "/etc/usbguard/usbguard-daemon.conf"
GENERATE = ["usbguard", "generate-policy", "--no-hashes", "--no-ports-sn"]
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
    """A keyboard as the kernel knows it: its name, its bus, and the sysfs folder and id of its USB device, if
    it is one.
    """

    name: str
    bus: int
    device: Path | None
    id: str | None


def read(path: Path) -> str:
    """The text of a sysfs file; an empty one when it cannot be read."""
    try:
        return path.read_text().strip()
    except (OSError, ValueError):
        return ""


def number(text: str) -> int:
    """TEXT as a hexadecimal number; 0 when it is none."""
    return int(text, 16) if re.fullmatch(r"[0-9a-fA-F]{1,16}", text) else 0


def keyboards() -> list[Keyboard]:
    """Every keyboard that is attached now, from /sys/class/input."""
    found = []
    for entry in sorted(at("/sys/class/input").glob("input*")):
        lowest = (read(entry / "capabilities/key").split() or [""])[-1]
        if number(lowest) & LETTERS != LETTERS:
            continue
        bus, device = number(read(entry / "id/bustype")), None
        if bus == USB:
            device = next(
                (folder for folder in entry.resolve().parents if (folder / "idVendor").exists()), None
            )
        name = device and f"{read(device / 'idVendor')}:{read(device / 'idProduct')}"
        found.append(Keyboard(read(entry / "name") or "a keyboard", bus, device, name))
    return found


def built_in(known: list[Keyboard]) -> Keyboard | None:
    """The one of KNOWN that is part of the machine and not on USB; None when there is none for certain."""
    chassis = read(at("/sys/class/dmi/id/chassis_type"))
    if not chassis.isdecimal() or int(chassis) not in WITH_KEYBOARD:
        return None
    return next((keyboard for keyboard in known if keyboard.bus in BUILT_IN_BUSES), None)


def attached_rules() -> list[str]:
    """usbguard's rules for what is attached now. Raises DeviceError."""
    done = run(GENERATE, timeout=60)
    # Not how a port is built in: a dock can have both kinds.
    rules = [
        re.sub(r' with-connect-type "[^"\\]*"$', "", line.strip())
        for line in done.out.splitlines()
        if line.strip()
    ]
    if (
        done.code
        or not rules
        or not all(re.match(r"allow id [0-9a-f]{4}:[0-9a-f]{4} ", rule) for rule in rules)
    ):
        raise DeviceError(
            f"usbguard did not say which devices are attached ({done.reason})",
            "nothing was changed",
            "see `usbguard generate-policy`",
        )
    return rules


def merge(old: str, attached: list[str], own: Keyboard | None) -> list[str]:
    """The rules to be: the owner's of OLD first, then those ATTACHED that are new, then ours. OWN: the
    keyboard inside.
    """
    kept = [
        line
        for line in (line.strip() for line in old.splitlines())
        if line and not line.startswith("#") and line != LATER
    ]
    rules = kept + [rule for rule in attached if rule not in kept]
    return [*dict.fromkeys(rules), *([] if own else [LATER])]


def way(own: Keyboard | None) -> str:
    """Which way was chosen for a keyboard that comes later, as a sentence."""
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


def enroll(args) -> Outcome:
    """The whole program, as asked by ARGS."""
    ask.require_root(PROGRAM, args)
    config = re.findall(r"^RuleFile=(.*)$", read(at(CONFIG)), re.M)
    if config and config[-1].strip() != RULES:
        raise DeviceError(
            f"usbguard reads its rules from {config[-1].strip()}, not from {RULES}",
            "somebody has set it up in another way, so nothing was changed",
            f"set RuleFile={RULES} in {CONFIG}",
            Code.UNFIT,
        )
    known = keyboards()
    own, attached = built_in(known), attached_rules()
    nameless = [
        keyboard.name
        for keyboard in known
        if keyboard.device and not any(f"allow id {keyboard.id} " in rule for rule in attached)
    ]
    if nameless:
        raise DeviceError(
            f"usbguard has no rule for {', '.join(nameless)}",
            "it would be shut out, so nothing was changed",
            "unplug it and plug it in again, then try again",
        )
    old = "" if args.forget else read(at(RULES))
    rules = merge(old, attached, own)
    facts = {
        "rules": rules,
        "own_keyboard": own and own.name,
        "later_keyboard": "ask" if own else "alone",
        "keyboards": [keyboard.name for keyboard in known],
    }
    if args.dry_run:
        if not args.json:
            print("\n".join(rules))
        return Outcome(Code.DONE, f"Nothing was changed; {way(own)}", facts={**facts, "state": "dry run"})
    with state.exclusive_lock():
        install("\n".join(rules) + "\n", known)
    what = f"Only the {len(attached)} USB devices that are attached now are let in, and those allowed before"
    outcome = Outcome(
        Code.DONE,
        what,
        way(own),
        f"`{PROGRAM}` again takes in more; `systemctl disable --now {UNIT}` ends it",
        {**facts, "state": "enrolled"},
    )
    if args.announce:
        tell.announce("usb", outcome)
    return outcome


def install(text: str, known: list[Keyboard]) -> None:
    """Put the rules in TEXT to work, and take them back if one of the keyboards KNOWN is shut out. Raises
    DeviceError.
    """
    rules = at(RULES)
    old = rules.read_bytes() if rules.exists() else None
    was_active = run(["systemctl", "is-active", UNIT], timeout=30).out.strip() == "active"
    if old is not None:
        state.replace_file(BEFORE, old, PRIVATE)
    state.replace_file(RULES, text.encode(), PRIVATE)
    trouble = put_to_work(known)
    if not trouble:
        return
    state.replace_file(RULES, old, PRIVATE) if old is not None else rules.unlink()
    run(["systemctl", "restart" if was_active else "stop", UNIT], timeout=60)
    if not was_active:
        run(["systemctl", "disable", UNIT], timeout=60)
    for keyboard in known:
        if keyboard.device:
            try:
                (keyboard.device / "authorized").write_text("1")
            except OSError:
                continue
    raise DeviceError(
        f"The rules were taken back: {trouble}",
        "USB devices are let in as before",
        "see `journalctl -b -u usbguard`",
    )


def put_to_work(known: list[Keyboard]) -> str | None:
    """Enable and restart usbguard, then see for a while that the keyboards KNOWN still work. What is wrong,
    as a sentence.
    """
    for verb in ("enable", "restart"):
        done = run(["systemctl", verb, UNIT], timeout=120)
        if done.code:
            return f"`systemctl {verb} {UNIT}` failed ({done.reason})"
    deadline = time.monotonic() + SETTLE
    while True:
        lost = [
            keyboard.name
            for keyboard in known
            if keyboard.device and read(keyboard.device / "authorized") == "0"
        ]
        if lost:
            return f"{', '.join(lost)} would have been shut out"
        if time.monotonic() > deadline:
            break
        time.sleep(0.2)
    active = run(["systemctl", "is-active", UNIT], timeout=30).out.strip()
    return None if active == "active" else f"{UNIT} is {active or 'in an unknown state'} after it was started"


def make_parser():
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
    return parser


def main(argv: list[str]) -> int:
    """The program veilor-usbguard-enroll."""
    return tell.conclude(make_parser(), argv, enroll)
