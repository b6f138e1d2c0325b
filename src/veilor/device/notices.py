"""Shows what the person should know as desktop notifications. Runs in the person's session, without root.

One that changed takes the place of the one before, and one that is no longer true is closed: nobody reads two
that disagree. When the desktop's part that shows them was restarted, what still holds is shown once more, at
the next change of anything. Facts: the Desktop Notifications Specification, org.freedesktop.Notifications:
Notify, CloseNotification.
"""

import argparse
import contextlib
import html
import json
import os
from dataclasses import dataclass, replace
from pathlib import Path

from veilor.core.outcome import Code, Outcome, plain
from veilor.device import notice, state, tell
from veilor.device.notice import Notice
from veilor.device.run import DeviceError, Done, run

CALL = ["busctl", "--user", "--timeout=20", "--json=short", "call"]
DESKTOP = "org.freedesktop.Notifications"
SERVICE = [*CALL, DESKTOP, "/org/freedesktop/Notifications", DESKTOP]
OWNER = [
    *CALL,
    "org.freedesktop.DBus",
    "/org/freedesktop/DBus",
    "org.freedesktop.DBus",
    "GetNameOwner",
    "s",
    DESKTOP,
]
ROUNDS = 20  # whoever writes notices without an end is left alone
STAYS = "0"  # until it is closed
TITLES = {
    "update": "System update",
    "rollback": "System version",
    "health": "System version",
    "firstboot": "Setting up",
    "channel": "No news of updates",
    "clock": "The clock",
    "usb": "USB devices",
    "usb-blocked": "Blocked by USBGuard",
    "as-shipped": "Settings of the system",
}


def shown_file() -> Path:
    """Where the session keeps which notices it has shown."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "veilor-notices.json"


@dataclass(frozen=True)
class Shown:
    """A notice that the session was shown: its line, and its number with the server (0: none is known)."""

    line: str | None
    number: int


def remember(server: str, shown: dict[str, Shown]) -> None:
    """Keep what was SHOWN, by topic, by SERVER. Where that is not possible it is shown once more.

    The file is {"server", "notices": {TOPIC: {"line", "number"}}}.
    """
    kept = {topic: vars(one) for topic, one in shown.items()}
    with contextlib.suppress(OSError):
        shown_file().write_text(json.dumps({"server": server, "notices": kept}))


def remembered() -> tuple[str, dict[str, Shown]]:
    """What `remember` kept."""
    try:
        kept = json.loads(shown_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        kept = {}
    if not isinstance(kept, dict):
        kept = {}
    shown = {}
    for topic, one in state.get_dict(kept, "notices").items():
        if isinstance(one, dict):
            shown[topic] = Shown(state.get_text(one, "line"), number(one.get("number")))
    return str(kept.get("server")), shown


def answer(done: Done) -> object:
    """The one value that busctl's call gave, or None."""
    try:
        return json.loads(done.out)["data"][0]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def number(value: object) -> int:
    """VALUE as the number of a notice; 0 for none."""
    if not isinstance(value, int) or isinstance(value, bool):
        return 0
    return value if 0 < value < 1 << 32 else 0


def argv(topic: str, one: Notice, replaces: int) -> list[str]:
    """The call that shows ONE about TOPIC instead of number REPLACES.

    Its text is no markup, though a notification's may be.
    """
    icon = "system-software-update" if one.code == int(Code.DONE) else "dialog-warning"
    return [
        *SERVICE,
        "Notify",
        "susssasa{sv}i",
        "veilor-os",
        str(replaces),
        icon,
        TITLES.get(topic, "veilor-os"),
        html.escape(plain(one.line)),
        "0",
        "0",
        STAYS,
    ]


def owner() -> str:
    """Who shows notices now, by its name on the bus; empty where nobody does yet."""
    return str(answer(run(OWNER, timeout=60)) or "")


def forget_numbers(shown: dict[str, Shown]) -> dict[str, Shown]:
    """SHOWN without numbers: they may be of somebody else's notices once another server counts."""
    return {topic: replace(one, number=0) for topic, one in shown.items()}


def show_changes() -> int:
    """Show what is new or has changed, and close what is no longer true; how many those were.

    Raises DeviceError when the desktop does not show it.
    """
    notices = notice.read()
    server, shown = remembered()
    if not notices and not shown:
        return 0
    now = owner()
    if not now or not server:
        shown = forget_numbers(shown)
    elif now != server:
        shown = {}  # another server has nothing of what the one before it was given
    new = [topic for topic, one in notices.items() if topic not in shown or shown[topic].line != one.line]
    gone = shown.keys() - notices.keys()
    if not new and not gone:
        return 0
    for topic in gone:
        known = shown.pop(topic).number
        if known:  # the call fails where the person has closed it
            run([*SERVICE, "CloseNotification", "u", str(known)], timeout=60)
    for topic in new:
        replaces = shown[topic].number if topic in shown else 0
        done = run(argv(topic, notices[topic], replaces), timeout=60)
        if done.code:
            raise DeviceError(
                f"The desktop does not show notices ({done.reason})", "", f"read {tell.MOTD}", Code.LATER
            )
        after = owner()
        if after != now:  # at the start of a session it comes only when it is called
            now, shown = after, forget_numbers(shown)
        shown[topic] = Shown(notices[topic].line, number(answer(done)))
        remember(now, shown)
    remember(now, shown)
    return len(new) + len(gone)


def show(args: argparse.Namespace) -> Outcome:
    """Show every notice that the session has not shown yet. Raises DeviceError when there is no desktop.

    The file is read again until nothing has changed: systemd's path unit does not see what is written while
    this runs.
    """
    changes = 0
    for _ in range(ROUNDS):
        found = show_changes()
        changes += found
        if not found:
            break
    return Outcome(Code.DONE, f"{changes} change{'s' * (changes != 1)} shown")


def main(argv: list[str]) -> int:
    """The program `notices`, started by the session's unit."""
    return tell.conclude(
        tell.parser("notices", "Shows what the person should know on the desktop.", as_json=False), argv, show
    )
