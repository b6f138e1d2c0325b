"""Shows what the person should know as desktop notifications. Runs in the person's session, without root.

Facts: the Desktop Notifications Specification, org.freedesktop.Notifications.Notify.
"""

import contextlib
import html
import json
import os
from pathlib import Path

from veilor.core.outcome import Code, Outcome, plain
from veilor.device import state, tell
from veilor.device.run import DeviceError, run

NOTIFY = ["busctl", "--user", "--timeout=20", "call", "org.freedesktop.Notifications", "/org/freedesktop/Notifications",
          "org.freedesktop.Notifications", "Notify", "susssasa{sv}i"]
STAYS = "0"  # until it is closed
TITLES = {"update": "System update", "rollback": "System version", "health": "The system went back by itself",
          "firstboot": "Setting up", "channel": "No news of updates", "usb": "USB devices",
          "usb-blocked": "Blocked by USBGuard"}


def shown_file() -> Path:
    """Where the session keeps which notices it has shown."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "veilor-notices.json"


def remember(shown: dict[str, str]) -> None:
    """Keep what was SHOWN. Where that is not possible it is shown once more."""
    with contextlib.suppress(OSError):
        shown_file().write_text(json.dumps(shown))


def argv(topic: str, notice: dict) -> list[str]:
    """The call that shows NOTICE about TOPIC. Its text is no markup, though a notification's may be."""
    icon = "system-software-update" if notice.get("code") == int(Code.DONE) else "dialog-warning"
    return [*NOTIFY, "veilor-os", "0", icon, TITLES.get(topic, "veilor-os"), html.escape(plain(notice["line"])), "0", "0", STAYS]


def show(args) -> Outcome:
    """Show every notice that the session has not shown yet. Raises DeviceError when there is no desktop to show them on."""
    notices = state.part(state.read(tell.NOTICE), "notices")
    try:
        shown = json.loads(shown_file().read_bytes())
    except (OSError, ValueError, RecursionError):
        shown = {}
    shown = shown if isinstance(shown, dict) else {}
    kept, new = {}, 0
    for topic, notice in notices.items():
        if not isinstance(notice, dict) or not isinstance(notice.get("line"), str):
            continue
        if shown.get(topic) != notice["line"]:
            done = run(argv(topic, notice), timeout=60)
            if done.code:
                raise DeviceError(f"The desktop does not show notices ({done.reason})", "", f"read {tell.MOTD}", Code.LATER)
            new += 1
        kept[topic] = notice["line"]
        remember({**shown, **kept})
    remember(kept)
    return Outcome(Code.DONE, f"{new} new notice{'s' * (new != 1)} shown")


def main(argv: list[str]) -> int:
    """The program `notices`, started by the session's unit."""
    return tell.conclude(tell.parser("notices", "Shows what the person should know on the desktop.", as_json=False), argv, show)
