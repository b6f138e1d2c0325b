"""The desktop of an installed machine: login screen, sessions, and the notices about the signed image."""

from __future__ import annotations

import json
import time

from veilor.lab.scenario import phase
from veilor.lab.screen import Screen, dark_colours, press_keys, type_keys
from veilor.lab.verdict import Checks, OSFault
from veilor.lab.world import UNLOCK_TIMEOUT, World

AFTER = "life:install"
FLAVOUR = "desktop"
STORY = (
    "A machine with a desktop was installed, moved itself onto the signed image while somebody was "
    "logged in, and was logged into again"
)
ACCOUNT, PASSWORD = "ada", "late night 7 trains"
DRAW_TIMEOUT = 400  # seconds that an emulated processor may take for a greeter or a session
TEXT_PIXELS = 300  # pixels of text that a notice or a menu has at the least
DRAW_SECONDS = 20  # seconds, for what the desktop has already been told
WALLPAPER_SHARE = 0.05  # of the screen in the colours of its front folds, which the splash does not have
FOCUS_PIXELS = 1000  # pixels of the accent: the ring around the field of the login that is typed into
FIELDS = (0.47, 0.62)  # the rows with the login's two fields, of a screen of 1280 x 800
BUS = [
    "runuser",
    "-u",
    ACCOUNT,
    "--",
    "env",
    "XDG_RUNTIME_DIR=/run/user/1000",
    "busctl",
    "--user",
    "--json=short",
]


def shows_wallpaper(colour: dict[str, str], shown: Screen) -> bool:
    """Whether SHOWN has the wallpaper, in the palette's COLOURs."""
    return shown.share(colour["fold-5"]) + shown.share(colour["fold-6"]) >= WALLPAPER_SHARE


def count_text_pixels(colour: dict[str, str], shown: Screen, top: float = 0.5) -> int:
    """The pixels of text above the panel in SHOWN, from TOP on, a share of its height.

    Notices and the menu are in the lower half.
    """
    return shown.rows(top, 0.93).count_pixels(colour["text"])


def add_account(world: World, checks: Checks) -> None:
    """Make the account that Plasma Setup asks for on Fedora, and a menu entry for the browser.

    Debian has neither.
    """
    machine = world.machine
    if machine.run(["test", "-e", "/usr/libexec/plasma-setup"], check=False).code == 0:
        checks.not_run("the account is made by Plasma Setup", "nobody answers its questions here")
    machine.run(["useradd", "--create-home", "--uid", "1000", "--shell", "/bin/bash", ACCOUNT])
    machine.run(["chpasswd"], stdin=f"{ACCOUNT}:{PASSWORD}\n".encode())
    home = f"/home/{ACCOUNT}"
    machine.run(
        [
            "runuser",
            "-u",
            ACCOUNT,
            "--",
            "mkdir",
            "-p",
            f"{home}/.local/share/applications",
            f"{home}/.config",
        ]
    )
    # A busy emulated processor hears of a key's release late, and the session would repeat the key.
    world.write_file(f"{home}/.config/kcminputrc", "[Keyboard]\nKeyRepeat=nothing\n")
    if machine.run(["test", "-e", "/usr/share/applications/brave-browser.desktop"], check=False).code:
        entry = "[Desktop Entry]\nType=Application\nName=Brave\nExec=false\nIcon=internet-web-browser\n"
        world.write_file(f"{home}/.local/share/applications/brave-browser.desktop", entry)
    machine.run(["systemctl", "restart", "display-manager.service"])


def log_in(world: World, checks: Checks, colour: dict[str, str], name: str) -> None:
    """Type the password at the login screen and wait for a session that is drawn.

    The login screen knows the machine's only account. NAME goes into the names of screenshots.
    """
    machine = world.machine

    def ready(now: Screen) -> bool:
        return (
            shows_wallpaper(colour, now) and now.rows(*FIELDS).count_pixels(colour["accent"]) > FOCUS_PIXELS
        )

    machine.wait_screen(ready, DRAW_TIMEOUT, "the login")
    world.take_screenshot(f"{name}-login", "The login screen")
    type_keys(machine.qmp, PASSWORD)
    press_keys(machine.qmp, "ret")
    machine.wait_until(
        ["pgrep", "-u", ACCOUNT, "-x", "plasmashell"],
        lambda r: r.code == 0,
        DRAW_TIMEOUT,
        "the desktop's shell",
    )
    machine.wait_until(
        [*BUS, "list"],
        lambda r: "org.freedesktop.Notifications" in r.out,
        DRAW_TIMEOUT,
        "the desktop's notices",
    )
    machine.wait_screen(lambda now: shows_wallpaper(colour, now), DRAW_TIMEOUT, "the desktop")


def read_session(world: World) -> dict[str, str]:
    """What logind knows of the account's session."""
    listed = json.loads(world.machine.run(["loginctl", "list-sessions", "-j"]).out)
    numbers = [one["session"] for one in listed if one["user"] == ACCOUNT and one.get("seat")]
    if not numbers:
        raise OSFault(f"logind knows no session of {ACCOUNT}'s on the seat: {listed}")
    shown = world.machine.run(["loginctl", "show-session", numbers[0]]).out
    return dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)


def start_by_keyboard(world: World, colour: dict[str, str], program: str) -> None:
    """Open the menu, search PROGRAM in it and start it, without a pointer."""
    machine = world.machine
    before = count_text_pixels(colour, machine.screen())
    press_keys(machine.qmp, "meta_l")
    machine.wait_screen(
        lambda now: count_text_pixels(colour, now) > before + TEXT_PIXELS, DRAW_TIMEOUT, "the menu"
    )
    type_keys(machine.qmp, program)
    time.sleep(DRAW_SECONDS)
    press_keys(machine.qmp, "ret")
    machine.wait_until(["pgrep", "-u", ACCOUNT, "-x", program], lambda r: r.code == 0, DRAW_TIMEOUT, program)


@phase("first-session", "First start: the login, a session, and the notice that the signed image is ready")
def first_session(world: World, checks: Checks) -> None:
    colour = dark_colours(world.settings.source)
    same = world.make_image("44.0")  # the very digest that is on the ISO
    world.publish(same)
    machine = world.power_on()
    machine.set_link(False)
    world.type_passphrase()
    machine.wait_agent(UNLOCK_TIMEOUT)
    add_account(world, checks)
    log_in(world, checks, colour, "first")
    world.wait_startup_end()
    checks.equal("the session is on Wayland", read_session(world)["Type"], "wayland", go_on=True)
    machine.wait_screen(
        lambda now: count_text_pixels(colour, now) > TEXT_PIXELS,
        DRAW_TIMEOUT,
        "the notice that it waits for a network",
    )
    checks.true(
        "the first boot waits in the background",
        "not connected" in world.login_notice(),
        world.login_notice(),
        go_on=True,
    )
    world.take_screenshot("first-desktop", "The desktop of the first session says what it waits for")

    written = count_text_pixels(colour, machine.screen())
    machine.set_link(True)
    machine.wait_unit("veilor-firstboot-rebase.service", "inactive", 400)
    staged = world.bootc_status()["staged"]
    checks.equal("the signed image is staged", staged and staged["image"]["imageDigest"], same.digest)
    shown = ["cat", "/run/user/1000/veilor-notices.json"]
    machine.wait_until(
        shown,
        lambda r: "Restart when you like" in r.out,
        DRAW_TIMEOUT,
        "the desktop to be told that the image is ready",
    )
    time.sleep(DRAW_SECONDS)
    now = count_text_pixels(colour, machine.screen())
    checks.true(
        "one notice has taken the other's place",
        TEXT_PIXELS < now < 1.5 * written,
        f"{now} of text, before {written}",
        go_on=True,
    )
    world.take_screenshot("first-notice", "The desktop tells that the signed image is ready")
    world.check_console()
    world.shut_down()


@phase("second-session", "After the restart: the signed image, a session, and a terminal by keyboard alone")
def second_session(world: World, checks: Checks) -> None:
    colour = dark_colours(world.settings.source)
    machine = world.power_on()
    world.type_passphrase()
    machine.wait_agent(UNLOCK_TIMEOUT)
    log_in(world, checks, colour, "second")
    world.wait_startup_end()
    booted = world.bootc_status()["booted"]
    checks.equal("what runs is verified", booted["image"]["image"].get("signature"), "containerPolicy")
    checks.true("healthy", world.wait_healthy(), world.grub_environment())
    start_by_keyboard(world, colour, "konsole")
    time.sleep(DRAW_SECONDS)
    before = count_text_pixels(colour, machine.screen(), 0)
    type_keys(machine.qmp, "veilor-status\n")
    machine.wait_screen(
        lambda now: count_text_pixels(colour, now, 0) > before + 4 * TEXT_PIXELS,
        DRAW_TIMEOUT,
        "the terminal to answer",
    )
    world.take_screenshot("second-desktop", "A terminal, opened by keyboard alone, says what runs")
    world.check_console()
    world.shut_down()
