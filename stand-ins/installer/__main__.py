"""veilor-lab-anaconda: the lab's stand-in for Anaconda. Carries out the kickstart of the medium it was
started from.

Asks on the console which disk to take (that is the kickstart's own %pre script) and for a passphrase, says
each step, and ends with one line: `VEILOR-INSTALL: DONE`, or `VEILOR-INSTALL: FAILED` with the reason. Then
the machine goes off. Exit codes: 0 done, 1 an expected failure, 70 a bug.
"""

import os
import re
import select
import subprocess
import sys

import ks
import planner
import storage
from deploy import configure, deploy, init, install_boot_loader, set_kernel_arguments, show_system
from scripts import run_scripts
from system import Failed, kernel_arguments, log, run
from terminal import ask_secret, relay

LIVE, REPO = "/run/initramfs/live", "/run/install/repo"
SHORTEST = 8  # characters of a passphrase, Anaconda's least
STEPS = 12
PATIENCE = 600  # seconds that a failure stays on the screen


def say(text: str) -> None:
    """One line for the person, and for the log."""
    print(text, flush=True)
    log(text)


class Progress:
    """Numbers the steps."""

    def __init__(self) -> None:
        self.done = 0

    def step(self, text: str) -> None:
        self.done += 1
        say(f"[{self.done}/{STEPS}] {text}")


def find_kickstart() -> str:
    """The text of the kickstart that the kernel argument inst.ks names on this medium."""
    if not os.path.isdir(LIVE):
        raise Failed(f"{LIVE} is not there, so this is not the live medium; nothing was changed")
    os.makedirs(REPO, exist_ok=True)
    if not os.path.ismount(REPO):
        run("mount", "--bind", LIVE, REPO)
    named = re.fullmatch(r"hd:(?:LABEL|UUID|CDLABEL)=[^:]+:(/.+)", kernel_arguments().get("inst.ks", ""))
    if not named:
        raise Failed(
            "the kernel argument inst.ks names no kickstart on a medium; start this medium through `veilor "
            "iso`"
        )
    try:
        with open(REPO + named[1]) as file:
            return file.read()
    except OSError as error:
        raise Failed(
            f"the medium has no kickstart {named[1]} ({error.strerror}); make it anew by `veilor iso`"
        ) from None


def ask_passphrase() -> bytes:
    """A passphrase typed twice the same and long enough. Raises Failed when the terminal ends."""
    while True:
        try:
            first = ask_secret("Passphrase for the encrypted disk: ")
            if len(first.decode(errors="replace")) < SHORTEST:
                say(f"It needs {SHORTEST} characters or more.")
                continue
            if ask_secret("Again: ") == first:
                return first
        except EOFError:
            raise Failed("no passphrase was typed; nothing was changed, start again") from None
        say("The two are not the same.")


def install(text: str, made: dict) -> ks.Kickstart:
    """Everything, in order; MADE gets the LUKS UUID as soon as there is something to take down."""
    progress = Progress()
    progress.step("reading the kickstart")
    pre, _ = ks.read_pre(text)
    progress.step("the kickstart's questions")
    run_scripts(pre, "%pre")
    asked = ks.read(text)
    plan = planner.plan(asked, storage.look(), uefi=os.path.isdir("/sys/firmware/efi"))
    passphrase = ask_passphrase()
    progress.step(f"partitioning {plan.disk.name}")
    storage.partition(plan)
    progress.step("encrypting")
    made["luks"], device = storage.encrypt(plan, passphrase, say)
    del passphrase
    progress.step("making file systems")
    done = storage.make_file_systems(plan, made["luks"], device)
    storage.mount(done)
    progress.step("preparing ostree")
    init(asked)
    progress.step(f"deploying the image from {asked.url} (a few minutes)")
    deployment = deploy(asked)
    configure(asked, done, deployment)
    progress.step("the boot loader")
    show_system(asked, deployment)
    install_boot_loader(done)
    progress.step("kernel arguments")
    set_kernel_arguments(asked, done)
    progress.step("the kickstart's last scripts")
    run_scripts(asked.post, "%post")
    progress.step("closing the disk")
    storage.take_down(made["luks"])
    progress.step("done")
    return asked


def main() -> int:
    """Install, and say how it ended; the exit code."""
    say("")
    say("STAND-IN: this is the lab's installer in the place of Anaconda; what it installs is real")
    say(
        "STAND-IN: containers are taken without a signature here, as on Fedora's medium; the first boot "
        "verifies"
    )
    text, made = "", {}
    try:
        run("udevadm", "settle", "--timeout=30", check=False)
        text = find_kickstart()
        asked = install(text, made)
    except (Failed, KeyboardInterrupt) as why:
        fail(text, made, str(why) or "interrupted; start again")
        return 1
    say("VEILOR-INSTALL: DONE")
    end(asked.end)
    return 0


def fail(text: str, made: dict, why: str) -> None:
    """Run %onerror, take everything down, say WHY, wait for somebody to read it, and switch off."""
    log(f"failed: {why}")
    for give_up in (
        lambda: run_scripts(ks.read_pre(text)[1], "%onerror", strict=False),
        lambda: storage.take_down(made.get("luks", "")),
    ):
        try:
            give_up()
        except (Failed, OSError) as error:
            log(f"while giving up: {error}")
    say(f"VEILOR-INSTALL: FAILED {why}")
    print(f"Press Enter to switch off (by itself in {PATIENCE // 60} minutes).", flush=True)
    select.select([sys.stdin], [], [], PATIENCE)
    end("poweroff")


def end(action: str) -> None:
    """Switch the machine off, or start it again."""
    subprocess.run(["systemctl", "--no-block", action], timeout=60)


if __name__ == "__main__":
    sys.exit(relay(main))
