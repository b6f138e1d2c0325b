"""The boot menu and the passphrase prompt on a machine's own screen, and as text on a serial console."""

from __future__ import annotations

import time
import tomllib

from veilor.lab.evidence import COUNTED, PROMPT
from veilor.lab.machine import DiskFile, Hardware, Machine
from veilor.lab.scenario import phase
from veilor.lab.screen import Screen, dark_colours, press_keys, type_keys
from veilor.lab.verdict import Checks
from veilor.lab.world import PASSPHRASE, UNLOCK_TIMEOUT, World

FLAVOUR = "boot-screen"
STORY = (
    "A machine with a locked disk was started, and its passphrase asked for as a picture on its screen "
    "and as text on a serial console"
)
# A person's machine has no serial console on its command line; the lab's has one, and Plymouth would keep to
# text for it.
WITHOUT_SERIAL = "plymouth.ignore-serial-consoles"
# The edge of the field that the passphrase goes into has four times as many on the smallest screen.
FIELD_PIXELS = 300
TEXT_PIXELS = 40  # in full colour that a line of text has at the least
# Of the height: the layout's name, below what is said of the passphrase and Caps Lock.
LAYOUT_ROWS = (0.69, 0.76)
OPENED = rb"Finished [^\r\n]*Cryptography Setup|Reached target [^\r\n]*Local Encrypted Volumes"


def start_at_boot_menu(world: World, arguments: str) -> Machine:
    """Power on a machine of the flavour with kernel ARGUMENTS, and stop at its boot menu."""
    hardware = Hardware(
        [DiskFile(path) for path in world.make_locked_disks(arguments)],
        "uefi",
        world.uefi_vars,
        world.settings.accel,
    )
    machine = world.power_on(hardware)
    machine.wait_console(COUNTED, UNLOCK_TIMEOUT, "the boot loader")
    press_keys(machine.qmp, "up")  # any key stops the count-down
    return machine


@phase(
    "picture-prompt",
    "The boot menu, then the passphrase asked for on the screen: a wrong one, Caps Lock, the right one",
)
def picture_prompt(world: World, checks: Checks) -> None:
    colour = dark_colours(world.settings.source)
    title = tomllib.loads((world.settings.source / "product.toml").read_text())["product"]["pretty_name"]

    def asks(shown: Screen) -> bool:
        return shown.share(colour["window"]) > 0.7 and shown.count_pixels(colour["border"]) > FIELD_PIXELS

    machine = start_at_boot_menu(world, WITHOUT_SERIAL)
    checks.true(
        "the boot menu names the product",
        machine.console.wait_for(title.encode(), 15),
        machine.console.text()[-400:],
    )
    world.take_screenshot("boot-menu", "The boot menu")
    press_keys(machine.qmp, "ret")
    machine.wait_screen(asks, UNLOCK_TIMEOUT, "the passphrase prompt")
    type_keys(machine.qmp, "not this one")
    first = machine.screen()
    world.take_screenshot("passphrase", "The passphrase prompt, while something is typed")
    machine.wait_screen(
        lambda shown: shown.rows(*LAYOUT_ROWS).count_pixels(colour["muted"]) >= TEXT_PIXELS,
        30,
        "the name of the keyboard's layout",
    )
    checks.equal("nothing is called wrong yet", first.count_pixels(colour["negative"]), 0)
    checks.equal("nothing is said of Caps Lock", first.count_pixels(colour["neutral"]), 0)
    press_keys(machine.qmp, "ret")
    began = time.monotonic()
    machine.wait_screen(
        lambda shown: asks(shown) and shown.count_pixels(colour["negative"]) >= TEXT_PIXELS,
        120,
        "what is said of a wrong passphrase",
    )
    took = time.monotonic() - began
    press_keys(machine.qmp, "caps_lock")
    machine.wait_screen(
        lambda shown: shown.count_pixels(colour["neutral"]) >= TEXT_PIXELS,
        20,
        "the word that Caps Lock is on",
    )
    world.take_screenshot("passphrase-wrong", "A wrong passphrase, said plainly; Caps Lock is on")
    press_keys(machine.qmp, "caps_lock")
    machine.wait_screen(
        lambda shown: shown.count_pixels(colour["neutral"]) == 0,
        20,
        "the word that Caps Lock is on to go away",
    )
    type_keys(machine.qmp, PASSPHRASE.decode())
    press_keys(machine.qmp, "ret")
    machine.wait_screen(lambda shown: not asks(shown), 30, "the prompt to go away")
    time.sleep(2 * took + 5)  # a wrong one would be asked for again by then
    checks.true("the right one is not asked for again", not asks(machine.screen()))
    world.take_screenshot("unlocked", "The right passphrase: the prompt is gone")
    checks.equal("the serial console was not asked", world.count_prompts(), 0)
    world.cut_power()


@phase("text-prompt", "The same machine with a serial console: the passphrase is asked for there as text")
def text_prompt(world: World, checks: Checks) -> None:
    machine = start_at_boot_menu(world, "systemd.show_status=true")
    press_keys(machine.qmp, "ret")
    at = machine.wait_console(PROMPT, UNLOCK_TIMEOUT, "the passphrase prompt")
    world.take_screenshot("text-prompt", "The screen meanwhile: the same prompt as text")
    machine.console.send(b"not this one\n")
    # For each letter Plymouth writes the whole prompt again, with a star more.
    at = machine.wait_console(
        rb"\*{12}[^*]{1,200}?" + PROMPT + rb"(?!\*)", 120, "the passphrase asked for once more", at
    )
    time.sleep(1)  # it listens a moment after it has asked
    checks.true(
        "a wrong passphrase opens nothing",
        machine.console.wait_for(OPENED, 0) is None,
        machine.console.text()[-400:],
    )
    machine.console.send(PASSPHRASE + b"\n")
    checks.true(
        "the right one opens the lock",
        machine.console.wait_for(OPENED, 120, at),
        machine.console.text()[-400:],
    )
    checks.true("neither is shown while it is typed", PASSPHRASE.decode() not in machine.console.text())
    world.cut_power()
