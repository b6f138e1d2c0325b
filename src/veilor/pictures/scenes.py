"""Runs inside the desktop tree to make one picture: a display in memory, the real program, a screenshot.

Called by draw.py as `python3 -I scenes.py SCENE FILE WIDTH HEIGHT`; standard library only, since it's
Debian's Python that runs it. Its namespace ends with it, and every program that it started ends as well.
"""

from __future__ import annotations

import functools
import json
import os
import pty
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

DISPLAY = ":7"
LOOK = {"dark": "org.veilor.dark.desktop", "light": "org.veilor.light.desktop"}
PROMPT = "Please enter passphrase for disk Samsung SSD 980 (luks-7d0c1f52):"
LEAST_COLOURS = 40  # a picture with fewer shows nothing
BUS = "unix:path=/run/user/0/bus"
ENVIRONMENT = {  # what a Plasma session has, and drawing without a graphics card
    "XDG_RUNTIME_DIR": "/run/user/0",
    "XDG_CURRENT_DESKTOP": "KDE",
    "XDG_MENU_PREFIX": "plasma-",
    "XDG_SESSION_TYPE": "x11",
    "KDE_FULL_SESSION": "true",
    "KDE_SESSION_VERSION": "6",
    "QT_QPA_PLATFORMTHEME": "kde",
    "LANG": "C.UTF-8",
    "DBUS_SESSION_BUS_ADDRESS": BUS,
    "XDG_CONFIG_DIRS": "/root/.config/kdedefaults:/etc/xdg",
    "QT_QUICK_BACKEND": "software",
    "LIBGL_ALWAYS_SOFTWARE": "1",
}
STARTED: list[subprocess.Popen[bytes]] = []  # kept, so that Python does not warn of programs that still run


def start(argv: list[str], **options: Any) -> None:
    """Start ARGV in the background, its output going to standard error. OPTIONS are Popen's."""
    STARTED.append(subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=sys.stderr, **options))


def run(argv: list[str], timeout: float = 30, check: bool = True) -> str:
    """Run ARGV to its end; its standard output. Raises CalledProcessError or TimeoutExpired."""
    return subprocess.run(
        argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, timeout=timeout, check=check, text=True
    ).stdout


def wait_until(what: str, ready: Callable[[], bool], seconds: float) -> None:
    """Wait until READY() is true. Raises TimeoutError, which names WHAT."""
    end = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")
        time.sleep(0.3)


def succeeds(argv: list[str]) -> bool:
    """Whether ARGV ends with 0."""
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=20, check=False)
    return done.returncode == 0


def start_display(width: int, height: int) -> None:
    """Start an X server in memory with a screen of WIDTH × HEIGHT pixels."""
    Path("/tmp/.X11-unix").mkdir(mode=0o1777)
    start(
        ["Xvfb", DISPLAY, "-noreset", "-screen", "0", f"{width}x{height}x24", "-dpi", "96"],
        stderr=subprocess.DEVNULL,
    )
    os.environ["DISPLAY"] = DISPLAY
    wait_until("the display", lambda: succeeds(["xdpyinfo"]), 30)


def take_picture(path: str) -> None:
    """Write what the display shows to PATH once nothing has changed for a second; after 40 s as it is.

    Raises RuntimeError when the picture has too few colours to show anything.
    """
    before, end = b"", time.monotonic() + 40
    while time.monotonic() < end:
        time.sleep(1.2)
        now = subprocess.run(["xwd", "-root", "-silent"], capture_output=True, timeout=30, check=True).stdout
        if now == before:
            break
        before = now
    run(["import", "-window", "root", "-strip", path])
    colours = int(run(["magick", path, "-format", "%k", "info:"]))
    if colours < LEAST_COLOURS:
        raise RuntimeError(f"the picture has {colours} colours: nothing is on it")


# Boot screen


def start_plymouth(width: int, height: int) -> None:
    """Start plymouthd on the display; it needs a terminal as well, and gets one of ours."""
    start_display(width, height)
    Path("/run/plymouth").mkdir(exist_ok=True)
    _, terminal = pty.openpty()
    start(
        [
            "plymouthd",
            "--no-daemon",
            "--no-boot-log",
            "--mode=boot",
            f"--tty={os.ttyname(terminal)}",
            "--kernel-command-line=splash plymouth.ignore-serial-consoles",
        ],
        stderr=subprocess.DEVNULL,
    )
    wait_until("plymouthd's answer", lambda: succeeds(["plymouth", "--ping"]), 20)
    run(["plymouth", "show-splash"])
    time.sleep(1)


def ask_passphrase(tries: int = 1) -> None:
    """Have plymouth ask for a passphrase TRIES times: any that is typed is wrong."""
    start(
        [
            "plymouth",
            "ask-for-password",
            f"--prompt={PROMPT}",
            f"--number-of-tries={tries}",
            "--command=false",
        ]
    )
    time.sleep(1.5)


def scene_boot(width: int, height: int) -> None:
    """The boot screen with a message."""
    start_plymouth(width, height)
    run(["plymouth", "message", "--text=veilor-os: The signed image is here. Restart to use it."])


def scene_passphrase(width: int, height: int) -> None:
    """The passphrase prompt, half typed."""
    start_plymouth(width, height)
    run(["plymouth", "update", "--status=keymap=de"])
    ask_passphrase()
    run(["xdotool", "type", "--delay", "60", "correct horse"])


def scene_passphrase_wrong(width: int, height: int) -> None:
    """The passphrase prompt after a wrong passphrase."""
    start_plymouth(width, height)
    run(["plymouth", "update", "--status=keymap=de"])
    ask_passphrase(tries=2)
    run(["xdotool", "type", "--delay", "60", "wrong"])
    run(["xdotool", "key", "Return"])


# Login screen


def scene_login(width: int, height: int) -> None:
    """The login screen as it comes up."""
    start_display(width, height)
    start(["sddm-greeter-qt6", "--test-mode", "--theme", "/usr/share/sddm/themes/veilor"])
    time.sleep(6)


def scene_login_typed(width: int, height: int) -> None:
    """The login screen after a wrong password, as far as its test mode goes: nothing checks the password."""
    scene_login(width, height)
    run(["xdotool", "type", "--delay", "60", "ada"])
    run(["xdotool", "key", "Tab"])
    run(["xdotool", "type", "--delay", "60", "wrong"])
    run(["xdotool", "key", "Caps_Lock"])
    run(["xdotool", "key", "Return"])
    time.sleep(1)


# Desktop


def start_session(width: int, height: int, mode: str) -> None:
    """Start a session as a new user gets it, with window manager and panel, dark or light by MODE.

    Raises RuntimeError when the machine's settings name another look than ours, or when it was not applied.
    """
    start_display(width, height)
    home = Path("/root")
    for folder in (".config", ".cache", ".local/share"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    # The browser's entry stands in: Debian has no package of it, and the panel would show an empty place.
    browser = home / ".local/share/applications/brave-browser.desktop"
    browser.parent.mkdir(parents=True, exist_ok=True)
    browser.write_text(
        "[Desktop Entry]\nType=Application\nName=Brave\nExec=false\nIcon=internet-web-browser\n"
    )
    run(["kbuildsycoca6"], check=False)
    named = run(
        ["kreadconfig6", "--file", "kdeglobals", "--group", "KDE", "--key", "LookAndFeelPackage"]
    ).strip()
    if named != LOOK["dark"]:
        raise RuntimeError(f"the machine's default look is {named!r}, not {LOOK['dark']}")
    run(["plasma-apply-lookandfeel", "--apply", LOOK[mode]], timeout=60)
    applied = run(
        ["kreadconfig6", "--file", "kdeglobals", "--group", "General", "--key", "ColorScheme"]
    ).strip()
    if applied != f"Veilor{mode.capitalize()}":
        raise RuntimeError(f"the look was applied, and the colours are {applied!r}")
    start(["kwin_x11"], stderr=subprocess.DEVNULL)
    start(["/usr/lib/x86_64-linux-gnu/libexec/kactivitymanagerd"], stderr=subprocess.DEVNULL)
    start(["kded6"], stderr=subprocess.DEVNULL)
    start(["plasmashell", "--no-respawn"])
    wait_until("the panel", lambda: succeeds(["xdotool", "search", "--class", "plasmashell"]), 120)
    time.sleep(12)


# The program itself, root in a namespace of its own as it has to be; what it asks is sample_bootc.py.
STATUS = "unshare --map-root-user veilor-status"
SHOWN_IN_TERMINAL = f"echo 'ada@veilor:~$ veilor-status'; {STATUS}; echo; cat /usr/lib/os-release"


def mark_first_boot_done() -> None:
    """Leave what the first boot leaves when it has moved the machine onto the signed image."""
    done = Path("/var/lib/veilor/firstboot-done")
    done.parent.mkdir(parents=True, exist_ok=True)
    done.write_text('{"schema": 1}')


def place_window(name: str, left: float, top: float, width: float, height: float) -> None:
    """Move and resize the window of the program NAME; all numbers are shares of the screen, from 0 to 1."""
    wide, high = map(int, run(["xdotool", "getdisplaygeometry"]).split())
    windows = run(["xdotool", "search", "--onlyvisible", "--class", name]).split()
    for window in windows[-1:]:
        run(["xdotool", "windowsize", window, str(int(width * wide)), str(int(height * high))])
        run(["xdotool", "windowmove", window, str(int(left * wide)), str(int(top * high))])
        run(["xdotool", "windowactivate", window], check=False)
    if not windows:
        raise RuntimeError(f"{name} opened no window")


def scene_desktop(width: int, height: int, mode: str = "dark") -> None:
    """The desktop with a terminal and System Settings, dark or light by MODE."""
    start_session(width, height, mode)
    mark_first_boot_done()
    start(
        [
            "konsole",
            "--hide-menubar",
            "-e",
            "sh",
            "-c",
            f"clear; {SHOWN_IN_TERMINAL}; PS1='ada@veilor:~$ ' exec sh",
        ],
        cwd="/root",
    )
    start(["systemsettings", "kcm_colors"])
    for name in ("konsole", "systemsettings"):
        wait_until(
            f"{name}'s window",
            functools.partial(succeeds, ["xdotool", "search", "--onlyvisible", "--class", name]),
            120,
        )
    time.sleep(8)
    place_window("konsole", 0.05, 0.09, 0.5, 0.6)
    place_window("systemsettings", 0.42, 0.3, 0.53, 0.58)


def scene_desktop_light(width: int, height: int) -> None:
    """The light desktop."""
    scene_desktop(width, height, "light")


def scene_notifications(width: int, height: int) -> None:
    """The notices as the product's own program shows them, on the desktop's own notification service."""
    start_session(width, height, "dark")
    Path("/run/veilor").mkdir()
    fedora = tomllib.loads(Path("/usr/lib/veilor/product.toml").read_text())["product"]["version"]
    notices = {
        topic: {"code": code, "line": line.replace("{fedora}", fedora)} for topic, code, line in NOTICES
    }
    Path("/run/veilor/notice.json").write_text(json.dumps({"schema": 1, "notices": notices}))
    print(run(["python3", "-I", "/usr/lib/veilor/app", "notices"], timeout=60), file=sys.stderr)
    time.sleep(10)


NOTICES = (  # topic, code and words as the programs on the machine write them; {fedora} is product.toml's
    (
        "usb-blocked",
        4,
        "USB devices that were blocked: “Ultra” (0781:5581), by its own words a drive. Until you allow it "
        "such a device can "
        "do nothing here; if you did not plug it in, take it out. If you trust it, in a terminal: "
        "`run0 usbguard allow-device 7`, then `run0 veilor-usbguard-enroll` to keep it.",
    ),
    (
        "firstboot",
        0,
        "veilor-os {fedora}.20260102 was verified and is ready. Until the restart this machine runs what the "
        "installer wrote, "
        "unverified. Restart when you like.",
    ),
    (
        "health",
        1,
        "veilor-os {fedora}.20260103 was started 3 times and never came to the end of its health check, so "
        "the machine went back "
        "to {fedora}.20260102 by itself. Your files are as they were.",
    ),
)


def scene_splash(width: int, height: int) -> None:
    """The splash while the desktop starts."""
    start_display(width, height)
    start(["ksplashqml", "--test", "--window", LOOK["dark"]])
    time.sleep(3)


def main() -> int:
    """Play the scene that the command line names, and write its picture to the file named there."""
    scene, path, width, height = sys.argv[1:]
    os.environ.update(ENVIRONMENT)
    Path("/run/user/0").mkdir(parents=True, mode=0o700, exist_ok=True)
    # The bus lies where a systemd session has it, since programs that keep to a clean environment look there.
    start(["dbus-daemon", "--session", "--nofork", f"--address={BUS}"], stderr=subprocess.DEVNULL)
    wait_until("the session's bus", lambda: Path(BUS.partition("=")[2]).exists(), 10)
    globals()[f"scene_{scene}"](int(width), int(height))
    take_picture(path)
    os._exit(0)


if __name__ == "__main__":
    main()
