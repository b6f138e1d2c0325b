"""Tells the person which USB devices USBGuard keeps out, and how to let one in. Started by a path unit at
each judgement.

Fact: a line of `usbguard list-devices` is a number and the device as a rule, usbguard-rules.conf(5).
"""

import re
import time

from veilor.core.outcome import Code, Outcome
from veilor.device import tell
from veilor.device.run import run

TOPIC = "usb-blocked"
LIST = ["usbguard", "list-devices", "--blocked"]
# seconds for which nothing new was blocked: a device comes in parts, and is judged before it is listed
STEADY = 1.0
TEXT = r'"((?:[^"\\]|\\.)*)"'
DEVICE = re.compile(
    rf"(\d+): block id ([0-9a-f]{{4}}:[0-9a-f]{{4}}) serial {TEXT} name {TEXT}.* with-interface (?:\{{ "
    rf"([^}}]*)\}}|(\S+))"
)
KINDS = {
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
MOST = 3


def say(line: str) -> tuple[str, str] | None:
    """The number and a short description of the device in a LINE of usbguard's list; None for a line of
    another shape.

    The device chose its name itself: shortened, and what is no plain letter, digit or mark is left out.
    """
    found = DEVICE.fullmatch(re.sub(r' with-connect-type "[^"\\]*"$', "", line.strip()))
    if not found:
        return None
    number, device, _, name, several, single = found.groups()
    name = re.sub(r"[^A-Za-z0-9 .,+()_-]", "", name).strip()[:40] or "no name"
    kinds = dict.fromkeys(KINDS.get(one[:2], "something else") for one in (several or single).split())
    return number, f"“{name}” ({device}), by its own words {' and '.join(kinds)}"


def outcome(listed: str) -> Outcome | None:
    """What to say of the devices in usbguard's list of blocked ones; None when there are none."""
    found = [one for one in map(say, listed.splitlines()) if one]
    if not found:
        return None
    more = f" and {len(found) - MOST} more" if len(found) > MOST else ""
    allow = "; ".join(f"`run0 usbguard allow-device {number}`" for number, _ in found[:MOST])
    return Outcome(
        Code.REFUSED,
        f"USB devices that were blocked: {'; '.join(about for _, about in found[:MOST])}{more}",
        "until you allow it such a device can do nothing here; if you did not plug it in, take it out",
        f"if you trust it, in a terminal: {allow}, then `run0 veilor-usbguard-enroll` to keep it",
    )


def look(args) -> Outcome:
    """Say what is blocked until nothing new is. Where usbguard does not answer there is nothing to say."""
    before = None
    while True:
        done = run(LIST, timeout=30)
        listed = "" if done.code else done.out
        if listed == before:
            break
        tell.notify(TOPIC, outcome(listed))
        before = listed
        time.sleep(STEADY)
    return Outcome(Code.DONE, f"{len(listed.splitlines())} USB devices are blocked")


def main(argv: list[str]) -> int:
    """The program `usb-blocked`, started by its path unit."""
    return tell.conclude(
        tell.parser(TOPIC, "Tells which USB devices are blocked and how to allow one.", as_json=False),
        argv,
        look,
    )
