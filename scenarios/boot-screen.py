"""The boot menu and the passphrase prompt on a machine's own screen, and as text on a serial console."""

from __future__ import annotations

import tomllib

from veilor.lab.evidence import PROMPT
from veilor.lab.life import PASSPHRASE, UNLOCK_TIMEOUT, Life
from veilor.lab.scenario import phase
from veilor.lab.screen import Screen, press, type_keys
from veilor.lab.verdict import Checks

AFTER = "life:install"
FLAVOUR = "boot-screen"
STORY = "An installed machine was started, its passphrase asked for as text on a serial console and as a picture on its screen"
SEEN = rb"veilor-lab: boot_counter"
# A person's machine has no serial console on its command line; the lab's has one, and Plymouth would keep to text for it.
WITHOUT_SERIAL = "plymouth.ignore-serial-consoles"
ASKING = 300  # pixels: the edge of the field that the passphrase goes into has four times as many on the smallest screen
WRITTEN = 40  # pixels in full colour that a line of text has at the least


def colours(life: Life) -> dict[str, str]:
    """The dark half of the product's palette, in which boot screen and login are drawn."""
    return tomllib.loads((life.settings.source / "artwork/palette.toml").read_text())["dark"]


@phase("text-prompt", "The boot menu, and the passphrase asked for as text on a serial console")
def text_prompt(life: Life, checks: Checks) -> None:
    product = tomllib.loads((life.settings.source / "product.toml").read_text())
    machine = life.power_on(life.hardware(network=False))
    at = machine.wait_console(SEEN, UNLOCK_TIMEOUT, "the boot loader")
    press(machine.qmp, "up")  # any key stops the count-down
    title = product["product"]["pretty_name"]
    checks.true("the boot menu names the product", machine.console.wait_for(title.encode(), 15, at), machine.console.text()[-400:])
    machine.wait_screen(lambda shown: shown.share("#000000") > 0.5, 15, "the boot menu")
    life.picture("boot-menu", "The boot menu")
    press(machine.qmp, "ret")

    at = machine.wait_console(PROMPT, UNLOCK_TIMEOUT, "the passphrase prompt", at)
    machine.console.send(b"not this one\n")
    at = machine.wait_console(PROMPT, 120, "the passphrase asked for once more", at)
    machine.console.send(PASSPHRASE + b"\n")
    machine.wait_agent(UNLOCK_TIMEOUT)
    life.settle()
    life.judge_console()
    checks.true("neither is shown while it is typed", PASSPHRASE.decode() not in machine.console.text())
    machine.run(["mount", "-o", "remount,rw", "/boot"], check=False)
    machine.run(["ostree", "admin", "kargs", "edit-in-place", f"--append-if-missing={WITHOUT_SERIAL}"])
    life.shut_down()


@phase("picture-prompt", "The passphrase asked for on the screen: a wrong one, Caps Lock, the right one")
def picture_prompt(life: Life, checks: Checks) -> None:
    colour = colours(life)

    def asks(shown: Screen) -> bool:
        return shown.share(colour["window"]) > 0.7 and shown.count(colour["border"]) > ASKING

    machine = life.power_on(life.hardware(network=False))
    machine.wait_screen(asks, UNLOCK_TIMEOUT, "the passphrase prompt")
    type_keys(machine.qmp, "not this one")
    first = machine.screen()
    life.picture("passphrase", "The passphrase prompt, while something is typed")
    checks.true("the keyboard's layout is named", first.count(colour["muted"]) >= WRITTEN, first.count(colour["muted"]))
    checks.equal("nothing is called wrong yet", first.count(colour["negative"]), 0)
    checks.equal("nothing is said of Caps Lock", first.count(colour["neutral"]), 0)
    press(machine.qmp, "ret")
    machine.wait_screen(lambda shown: asks(shown) and shown.count(colour["negative"]) >= WRITTEN, 90, "what is said of a wrong passphrase")
    press(machine.qmp, "caps_lock")
    machine.wait_screen(lambda shown: shown.count(colour["neutral"]) >= WRITTEN, 20, "the word that Caps Lock is on")
    life.picture("passphrase-wrong", "A wrong passphrase, said plainly; Caps Lock is on")
    press(machine.qmp, "caps_lock")
    machine.wait_screen(lambda shown: shown.count(colour["neutral"]) == 0, 20, "the word that Caps Lock is on to go away")
    type_keys(machine.qmp, PASSPHRASE.decode())
    press(machine.qmp, "ret")
    machine.wait_agent(UNLOCK_TIMEOUT)
    life.settle()
    checks.equal("the serial console was not asked", life.prompts(), 0)
    life.shut_down()
