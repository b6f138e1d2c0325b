"""Tells the person which USB devices USBGuard keeps out, and how to let one in.

A path unit starts it at each judgement. A line of `usbguard list-devices` is a number and the device as a
rule, usbguard-rules.conf(5).
"""

import argparse
import re
import time
from dataclasses import dataclass

from veilor.core.outcome import Code, Outcome
from veilor.device import tell
from veilor.device.run import run

TOPIC = "usb-blocked"
LIST = ["usbguard", "list-devices", "--blocked"]
# seconds for which nothing new was blocked: a device comes in parts, and is judged before it is listed
STEADY = 1.0
TEXT = r'(?:[^"\\]|\\.)*'  # between quotation marks
DEVICE = re.compile(
    r"(?P<number>\d+): block id (?P<id>[0-9a-f]{4}:[0-9a-f]{4}) "
    rf'serial "{TEXT}" name "(?P<name>{TEXT})".* '
    r"with-interface (?:\{ (?P<interfaces>[^}]*) \}|(?P<interface>\S+))"
)
KINDS = {  # by the USB class of an interface
    "01": "a sound device",
    "02": "a network or serial device",
    "03": "a keyboard, mouse or the like",
    "06": "a camera",
    "07": "a printer",
    "08": "a drive",
    "0a": "a network or serial device",
    "0e": "a camera",
    "e0": "a radio",
}
NAMED = 3  # devices that are named in one notice; the others are counted
NAME_LENGTH = 40  # characters of a device's name that are shown


@dataclass(frozen=True)
class BlockedDevice:
    """A device that is blocked: its number in usbguard's list, and what to say of it."""

    number: str
    description: str


def parse_device(line: str) -> BlockedDevice | None:
    """The device in a LINE of usbguard's list; None for a line of another shape.

    The device chose its name itself: it is shortened, and what is no plain letter, digit or mark is left out.
    """
    found = DEVICE.fullmatch(re.sub(r' with-connect-type "[^"\\]*"$', "", line.strip()))
    if not found:
        return None
    name = re.sub(r"[^A-Za-z0-9 .,+()_-]", "", found["name"]).strip()[:NAME_LENGTH] or "no name"
    interfaces = (found["interfaces"] or found["interface"] or "").split()
    kinds = dict.fromkeys(KINDS.get(interface[:2], "something else") for interface in interfaces)
    return BlockedDevice(found["number"], f"“{name}” ({found['id']}), by its own words {' and '.join(kinds)}")


def describe(listed: str) -> Outcome | None:
    """What to say of the devices that usbguard LISTED as blocked; None when there are none."""
    found = [device for device in map(parse_device, listed.splitlines()) if device]
    if not found:
        return None
    named = found[:NAMED]
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    allow = "; ".join(f"`run0 usbguard allow-device {device.number}`" for device in named)
    return Outcome(
        Code.REFUSED,
        f"USB devices that were blocked: {'; '.join(device.description for device in named)}{more}",
        "until you allow it such a device can do nothing here; if you did not plug it in, take it out",
        f"if you trust it, in a terminal: {allow}, then `run0 veilor-usbguard-enroll` to keep it",
    )


def notify_until_steady(args: argparse.Namespace) -> Outcome:
    """Leave a notice of what is blocked, until nothing new is; none where usbguard does not answer."""
    before = None
    while True:
        done = run(LIST, timeout=30)
        listed = "" if done.code else done.out
        if listed == before:
            return Outcome(Code.DONE, f"{len(listed.splitlines())} USB devices are blocked")
        tell.notify(TOPIC, describe(listed))
        before = listed
        time.sleep(STEADY)


def main(argv: list[str]) -> int:
    """The program `usb-blocked`, started by its path unit."""
    about = "Tells which USB devices are blocked and how to allow one."
    return tell.conclude(tell.parser(TOPIC, about, as_json=False), argv, notify_until_steady)
