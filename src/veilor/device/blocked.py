"""Tells the person which USB devices USBGuard keeps out, and how to let one in.

A path unit starts it at each judgement, which usbguard writes to its audit log. A line of `usbguard
list-devices` is a number and the device as a rule, usbguard-rules.conf(5). What was blocked is kept until the
next start (SEEN): a device that shows itself anew once it is let in, as a modem or a phone does, is a second
one to usbguard, and the enrolment offers the first as well.

usbguard has its log open for as long as it runs, appends to it and listens to no signal, so it is rotated by
copying and emptying it, here, when it has grown. A line that comes in between is lost.
"""

import argparse
import os
import re
import shutil
import time
import unicodedata
from dataclasses import dataclass

from veilor.core.outcome import Code, Outcome
from veilor.device import state, tell
from veilor.device.run import DeviceError, at, run

TOPIC = "usb-blocked"
SEEN = f"{state.RUN}/usb-blocked"
MOST_SEEN = 64
LOG = "/var/log/usbguard/usbguard-audit.log"
LARGEST_LOG = 1 << 20  # bytes
LIST = ["usbguard", "list-devices", "--blocked"]
# seconds for which nothing new was blocked: a device comes in parts, and is judged before it is listed
STEADY = 1.0
TEXT = r'(?:[^"\\]|\\.)*'  # between quotation marks
DEVICE = re.compile(
    rf'(?:(?P<number>\d+): )?(?:allow|block) (?P<what>id (?P<id>[0-9a-f]{{4}}:[0-9a-f]{{4}}) serial "{TEXT}" '
    rf'name "(?P<name>{TEXT})")(?: hash "{TEXT}")?(?: parent-hash "{TEXT}")?'
    rf'(?: via-port "(?P<port>{TEXT})")? '
    r"with-interface (?P<interfaces>\{ [0-9a-f: ]+ \}|[0-9a-f:]+)"
    rf'(?: with-connect-type "{TEXT}")?'
)
ESCAPED = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.))", re.DOTALL)
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
class UsbDevice:
    """A device as usbguard writes it: its number in a list, its port, both None where they are not said.

    `rule` lets it in wherever it is plugged in, `description` is for a sentence.
    """

    number: str | None
    port: str | None
    id: str
    rule: str
    description: str


def parse_device(line: str) -> UsbDevice | None:
    """The device in a LINE of usbguard's; None for a line of another shape."""
    found = DEVICE.fullmatch(line.strip())
    if not found:
        return None
    kinds = dict.fromkeys(
        KINDS.get(interface[:2], "something else") for interface in found["interfaces"].strip("{ }").split()
    )
    return UsbDevice(
        found["number"],
        found["port"],
        found["id"],
        f"allow {found['what']} with-interface {found['interfaces']}",
        f"“{shown_name(found['name'])}” ({found['id']}), by its own words {' and '.join(kinds)}",
    )


def shown_name(escaped: str) -> str:
    """The name that usbguard writes ESCAPED: each byte that is not printable ASCII as \\xHH, in UTF-8.

    The device chose it itself: it is shortened, and what is no letter, digit or plain mark of any script is
    left out, so that it brings no command, markup or change of direction.
    """
    raw = ESCAPED.sub(lambda one: bytes([int(one[1], 16)]) if one[1] else one[2], escaped.encode())
    kept = [
        char
        for char in raw.decode(errors="replace")
        if char in " .,+()_-" or unicodedata.category(char)[0] in "LMN"
    ]
    return "".join(kept).strip()[:NAME_LENGTH] or "no name"


def seen_blocked() -> list[UsbDevice]:
    """What was blocked since the start of the machine, each once."""
    try:
        lines = at(SEEN).read_text().splitlines()
    except (OSError, ValueError):
        lines = []
    return [device for device in map(parse_device, lines) if device]


def remember(found: list[UsbDevice]) -> None:
    """Keep what was FOUND to be blocked. Raises DeviceError."""
    rules = dict.fromkeys(device.rule for device in (*seen_blocked(), *found))
    state.replace_file(SEEN, "\n".join(list(rules)[-MOST_SEEN:]).encode(), 0o600)


def rotate_log() -> None:
    """Begin usbguard's log anew when it is larger than LARGEST_LOG; the last one is kept beside it."""
    log = at(LOG)
    try:
        if log.exists() and log.stat().st_size > LARGEST_LOG:
            shutil.copy(log, log.with_name(log.name + ".1"))
            os.truncate(log, 0)
    except OSError as error:
        raise DeviceError(f"{log} cannot be rotated ({error.strerror})", "it goes on growing") from None


def describe(found: list[UsbDevice]) -> Outcome | None:
    """What to say of the devices that were FOUND to be blocked; None when there are none."""
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
            rotate_log()
            return Outcome(Code.DONE, f"{len(listed.splitlines())} USB devices are blocked")
        found = [device for device in map(parse_device, listed.splitlines()) if device]
        tell.notify(TOPIC, describe(found))
        remember(found)
        before = listed
        time.sleep(STEADY)


def main(argv: list[str]) -> int:
    """The program `usb-blocked`, started by its path unit."""
    about = "Tells which USB devices are blocked and how to allow one."
    return tell.conclude(tell.parser(TOPIC, about, as_json=False), argv, notify_until_steady)
