"""Shows what the person should know as desktop notifications. Runs in the person's session, without root.

One that changed takes the place of the one before, and one that is no longer true is closed: nobody reads two
that disagree. When the desktop's part that shows them was restarted, what still holds is shown once more, at
the next change of anything. Facts: the Desktop Notifications Specification, org.freedesktop.Notifications:
Notify, CloseNotification.
"""

import contextlib
import html
import json
import os
from pathlib import Path

from veilor.core.outcome import Code, Outcome, plain
from veilor.device import state, tell
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
    "health": "The system went back by itself",
    "firstboot": "Setting up",
    "channel": "No news of updates",
    "usb": "USB devices",
    "usb-blocked": "Blocked by USBGuard",
}


def shown_file() -> Path:
    """Where the session keeps which notices it has shown."""
    return Path(os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}") / "veilor-notices.json"


def remember(server: str, shown: dict[str, dict]) -> None:
    """Keep what was SHOWN by SERVER, {topic: {"line", "number"}}. Where that is not possible it is shown once
    more.
    """
    with contextlib.suppress(OSError):
        shown_file().write_text(json.dumps({"server": server, "notices": shown}))


def remembered() -> tuple[str, dict[str, dict]]:
    """What `remember` kept."""
    try:
        kept = json.loads(shown_file().read_bytes())
        kept = kept if isinstance(kept, dict) else {}
    except (OSError, ValueError, RecursionError):
        kept = {}
    return str(kept.get("server")), {
        topic: one for topic, one in state.get_dict(kept, "notices").items() if isinstance(one, dict)
    }


def answer(done: Done) -> object:
    """The one value that busctl's call gave, or None."""
    try:
        return json.loads(done.out)["data"][0]
    except (ValueError, RecursionError, LookupError, TypeError):
        return None


def number(value: object) -> int:
    """VALUE as the number of a notice; 0 for none."""
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 1 << 32 else 0


def argv(topic: str, notice: dict, replaces: int) -> list[str]:
    """The call that shows NOTICE about TOPIC in the place of number REPLACES. Its text is no markup, though a
    notification's may be.
    """
    icon = "system-software-update" if notice.get("code") == int(Code.DONE) else "dialog-warning"
    return [
        *SERVICE,
        "Notify",
        "susssasa{sv}i",
        "veilor-os",
        str(replaces),
        icon,
        TITLES.get(topic, "veilor-os"),
        html.escape(plain(notice["line"])),
        "0",
        "0",
        STAYS,
    ]


def owner() -> str:
    """Who shows notices now, by its name on the bus; empty where nobody does yet."""
    return str(answer(run(OWNER, timeout=60)) or "")


def forget_numbers(shown: dict[str, dict]) -> dict[str, dict]:
    """SHOWN without numbers: they may be of somebody else's notices once another server counts."""
    return {topic: {**one, "number": 0} for topic, one in shown.items()}


def show_changes() -> int:
    """Show what is new or has changed, and close what is no longer true; how many those were. Raises
    DeviceError.
    """
    notices = {
        topic: notice
        for topic, notice in state.get_dict(state.read_record(tell.NOTICE), "notices").items()
        if isinstance(notice, dict) and isinstance(notice.get("line"), str)
    }
    server, shown = remembered()
    if not notices and not shown:
        return 0
    now = owner()
    if not now or not server:
        shown = forget_numbers(shown)
    elif now != server:
        shown = {}  # another server has nothing of what the one before it was given
    new = [topic for topic, notice in notices.items() if shown.get(topic, {}).get("line") != notice["line"]]
    gone = shown.keys() - notices.keys()
    if not new and not gone:
        return 0
    for topic in gone:
        known = number(shown.pop(topic).get("number"))
        if known:
            run(
                [*SERVICE, "CloseNotification", "u", str(known)], timeout=60
            )  # fails where the person has closed it
    for topic in new:
        done = run(argv(topic, notices[topic], number(shown.get(topic, {}).get("number"))), timeout=60)
        if done.code:
            raise DeviceError(
                f"The desktop does not show notices ({done.reason})", "", f"read {tell.MOTD}", Code.LATER
            )
        after = owner()
        if after != now:  # at the start of a session it comes only when it is called
            now, shown = after, forget_numbers(shown)
        shown[topic] = {"line": notices[topic]["line"], "number": number(answer(done))}
        remember(now, shown)
    remember(now, shown)
    return len(new) + len(gone)


def show(args) -> Outcome:
    """Show every notice that the session has not shown yet. Raises DeviceError when there is no desktop to
    show them on.

    It is looked again until nothing has changed: systemd's path unit does not see what is written while this
    runs.
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
