"""What a boot is judged by: the named checks of a new version. None needs a network.

Name         What a person needs of it                                    Patience
deployment   bootc answers, and knows what is booted                      10 s
trust        this version could verify the next one                       10 s
floor        the lowest sequence number that it accepts can be read       10 s
memory       what the machine remembers can be written                    10 s
home         files under /home can be written                             10 s
keyboard     a keyboard is there: the passphrase was typed on one         30 s
network      the network service runs; a connection is not needed         60 s
login        the login screen is up and stays up, or a text login waits   150 s

What no program can see is left to the person: whether the login screen shows anything, and takes what is
typed. Where there is one, a version has proved itself only when somebody has logged in (`health login`).

A check that fails on the version before as well is not held against a new one (health.py), nor is a service
that the owner has masked, nor a disk without room.
"""

import errno
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from typing import NamedTuple

from veilor.device import bootc, channel, state
from veilor.device.run import DeviceError, at, run

PROBE = "/var/lib/veilor/.health-check"
HOME_PROBE = "/var/home/.veilor-health-check"
SESSIONS = ("/usr/share/wayland-sessions", "/usr/share/xsessions")
GRAPHICAL = "graphical.target"
SCREEN, NETWORK = "display-manager.service", "NetworkManager.service"
PAUSE = 5.0  # seconds between two tries of a check
STEADY = 15.0  # seconds that a login screen has to stay: one that crashes is started again, or gone


def check_writable(path: str) -> list[str]:
    """Whether a file at PATH can be written. A disk without room is no version's fault."""
    try:
        state.replace_file(path, b"", 0o600)
    except DeviceError as error:
        if error.outcome.facts.get("errno") in (errno.ENOSPC, errno.EDQUOT):
            return []
        raise
    at(path).unlink()
    return []


def check_deployment() -> list[str]:
    try:
        return [] if bootc.status().booted else ["no deployment is booted"]
    except DeviceError as error:
        if error.outcome.facts.get("finding") == "full":
            return []
        raise


def check_trust() -> list[str]:
    return channel.trust_problems(channel.product())


def check_floor() -> list[str]:
    return [] if min(channel.floor()) >= 0 else ["the channel's floor is below zero"]


def check_memory() -> list[str]:
    return check_writable(PROBE)


def check_home() -> list[str]:
    return check_writable(HOME_PROBE)


def check_keyboard() -> list[str]:
    """Udev gives ID_INPUT_KEYBOARD to what has the keys of one: systemd, src/udev/udev-builtin-input_id.c."""
    for file in at("/run/udev/data").glob("c13:*"):
        with suppress(OSError):
            if b"E:ID_INPUT_KEYBOARD=1\n" in file.read_bytes():
                return []
    return ["no keyboard is there"]


def show_unit(name: str) -> dict[str, str]:
    """What systemd knows of the unit NAME; for an alias, of the unit that it stands for."""
    done = run(["systemctl", "show", "--property=Id,LoadState,ActiveState,NRestarts,Job", name], timeout=60)
    return dict(line.split("=", 1) for line in done.out.splitlines() if "=" in line)


def find_links(name: str, etc: str) -> list[str]:
    """Where the links that start the unit NAME lead to, in the folder ETC of settings."""
    folder = at(f"{etc}/systemd/system")
    places = [folder, *folder.glob("*.*")]
    return [os.readlink(place / name) for place in places if (place / name).is_symlink()]


def turned_off_by_owner(name: str) -> bool:
    """Whether the owner has masked or disabled the unit NAME, or what it stands for: the image starts it."""
    for one in {name, show_unit(name).get("Id", name)}:
        ours, images = find_links(one, "/etc"), find_links(one, "/usr/etc")
        if "/dev/null" in ours and "/dev/null" not in images:
            return True
        if images and "/dev/null" not in images and not ours:
            return True
    return False


def check_unit(name: str) -> list[str]:
    """Whether the service NAME runs, if it is to."""
    unit = show_unit(name)
    if unit.get("ActiveState") == "active" or turned_off_by_owner(name):
        return []
    return [f"{name} is {unit.get('ActiveState', 'unknown')} ({unit.get('LoadState', 'unknown')})"]


def check_network() -> list[str]:
    return check_unit(NETWORK)


def is_desktop() -> bool:
    """Whether people log in on a screen here: a desktop is installed, and is what the machine starts into.

    Where systemd does not answer it is taken for one: what asks too much only waits for a login.
    """
    desktops = [file for folder in SESSIONS for file in at(folder).glob("*.desktop")]
    if not desktops or turned_off_by_owner(SCREEN):
        return False
    return show_unit("default.target").get("Id", GRAPHICAL) == GRAPHICAL


def starts_login_screen() -> bool:
    """Whether this boot comes to a login screen: a person may have asked for a text login this once."""
    target = show_unit(GRAPHICAL)
    comes = target.get("ActiveState", "active") != "inactive" or target.get("Job", "0") not in ("", "0")
    return comes and is_desktop()


def list_sessions() -> list[dict[str, object]]:
    """The sessions at this machine's own seat, as logind knows them."""
    done = run(["loginctl", "list-sessions", "--json=short"], timeout=60)
    try:
        listed = json.loads(done.out)
    except ValueError:
        return []
    return [one for one in listed if isinstance(one, dict) and one.get("seat")]


def somebody_is_logged_in() -> bool:
    """Whether a person has a session at the machine: a login screen's own is of the class "greeter"."""
    return any(str(one.get("class")).startswith("user") for one in list_sessions())


def check_login() -> list[str]:
    """What is judged is the session that the login screen has with logind, and that it stays."""
    if not starts_login_screen():
        return check_unit("getty@tty1.service")
    wrong = check_unit(SCREEN)
    if wrong:
        return wrong
    restarts, before = (
        show_unit(SCREEN).get("NRestarts"),
        {str(one.get("session")) for one in list_sessions()},
    )
    if not before:
        return ["no login screen has come up"]
    time.sleep(STEADY)
    after = {str(one.get("session")) for one in list_sessions()}
    if somebody_is_logged_in():
        return []
    if not before & after or show_unit(SCREEN).get("NRestarts") != restarts:
        return ["the login screen does not stay up"]
    return []


class Check(NamedTuple):
    """What is wrong, as sentences (it may raise DeviceError instead), and for how many seconds it may be."""

    find_faults: Callable[[], list[str]]
    patience: float = 10


CHECKS = {
    "deployment": Check(check_deployment),
    "trust": Check(check_trust),
    "floor": Check(check_floor),
    "memory": Check(check_memory),
    "home": Check(check_home),
    "keyboard": Check(check_keyboard, 30),
    "network": Check(check_network, 60),
    "login": Check(check_login, 150),
}
# what can still be asked at a shutdown, when the services are ending
LASTING = ("trust", "floor", "memory")


def find_faults(name: str, patient: bool = True) -> list[str]:
    """What the check NAME still finds wrong when its patience ends: one failure is no version's fault."""
    check = CHECKS[name]
    deadline = time.monotonic() + (check.patience if patient else 0)
    while True:
        try:
            found = check.find_faults()
        except DeviceError as error:
            found = [error.outcome.what]
        except OSError as error:
            found = [f"{error.filename} cannot be used ({error.strerror})"]
        if not found or time.monotonic() >= deadline:
            return found
        time.sleep(PAUSE)
