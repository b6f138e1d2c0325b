"""veilor-lab-anaconda: the lab's stand-in for Anaconda. Carries out the kickstart of its own medium.

Asks on the console which disk to take (that is the kickstart's own %pre script) and for a passphrase, says
each step, and ends with one line: `VEILOR-INSTALL: DONE`, or `VEILOR-INSTALL: FAILED` with the reason. Then
the machine goes off if all went well; after a failure it stays on, as with Anaconda. Exit codes: 0 done, 1 an
expected failure, 70 a bug.
"""

import os
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import habits
import ks
import planner
import storage
from deploy import (
    configure,
    deploy_image,
    init_ostree,
    install_boot_loader,
    mount_system,
    set_kernel_arguments,
)
from scripts import run_scripts
from system import EarlyFailed, Failed, display_mode, kernel_arguments, log, run
from terminal import ask, ask_secret, relay

LIVE, REPO = "/run/initramfs/live", "/run/install/repo"
STEPS = 12
STRONG = 10  # characters; Anaconda asks libpwquality, which the lab has not


@dataclass
class Attempt:
    """How far an installation has come: what has to be known to give it up.

    `kickstart` is its text, `luks` the UUID of the container as soon as there is one to close.
    """

    kickstart: str = ""
    luks: str = ""


class InstallProgress:
    """Numbers the steps on the console."""

    def __init__(self) -> None:
        self.done = 0

    def begin_step(self, text: str) -> None:
        """Say that the next step begins, and what it does."""
        self.done += 1
        say(f"[{self.done}/{STEPS}] {text}")


def say(text: str) -> None:
    """Write one line for the person, and to the log."""
    print(text, flush=True)
    log(text)


def find_kickstart() -> str:
    """The text of the kickstart that the kernel argument inst.ks names on this medium. Raises Failed."""
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
            text = file.read()
        habits.write(Path(habits.INPUT), text)
        return text
    except OSError as error:
        raise Failed(
            f"the medium has no kickstart {named[1]} ({error.strerror}); make it anew by `veilor iso`"
        ) from None


def ask_passphrase() -> bytes:
    """A passphrase typed twice the same, in Anaconda's words. Raises Failed when the terminal ends.

    Anaconda takes an empty one here, and refuses it when it judges the partitions.
    """
    words = habits.SEEN["passphrase"]
    while True:
        try:
            first = ask_secret(f"{words['message']}\n\n{words['title']}: ")
            again = ask_secret(f"{words['title']} (confirm): ")
            if first != again:
                say(words["different"])
            elif not first:
                raise Failed(words["empty"])
            elif len(first.decode(errors="replace")) < words["shortest"]:
                say(words["short"])
            elif len(first) >= STRONG or is_wanted_anyway(words):
                return first
        except EOFError:
            raise Failed("no passphrase was typed; nothing was changed, start again") from None


def is_wanted_anyway(words: dict[str, str]) -> bool:
    """Whether the person wants a weak passphrase after all, asked in WORDS. Raises EOFError."""
    say(f"{words['weak']} \n{words['anyway']}")
    return ask(words["answer"]).strip() == b"yes"


def install(attempt: Attempt) -> ks.Kickstart:
    """Install by the kickstart of ATTEMPT, which notes what was opened; the kickstart as it was understood.

    Raises Failed.
    """
    progress = InstallProgress()
    progress.begin_step("reading the kickstart")
    pre, _ = ks.read_early_scripts(attempt.kickstart)
    progress.begin_step("the kickstart's questions")
    run_scripts(pre, "%pre")
    kickstart = ks.read_kickstart(attempt.kickstart)
    if display_mode() != "text":
        raise Failed(
            "the boot arguments ask for the installer's windows, which this stand-in has not; nothing was "
            "changed, start by an entry with inst.text"
        )
    plan = planner.make_plan(kickstart, storage.list_disks(), uefi=os.path.isdir("/sys/firmware/efi"))
    passphrase = ask_passphrase()
    progress.begin_step(f"partitioning {plan.disk.name}")
    storage.partition_disk(plan)
    progress.begin_step("encrypting")
    attempt.luks, device = storage.encrypt(plan, passphrase, say)
    del passphrase
    progress.begin_step("making file systems")
    made = storage.make_file_systems(plan, attempt.luks, device)
    storage.mount(made)
    run_scripts(kickstart.pre_install, "%pre-install")
    progress.begin_step("preparing ostree")
    init_ostree(kickstart)
    progress.begin_step(f"deploying the image from {kickstart.url} (a few minutes)")
    deployment = deploy_image(kickstart)
    configure(kickstart, made, deployment)
    progress.begin_step("the boot loader")
    mount_system(kickstart, deployment)
    install_boot_loader(made)
    progress.begin_step("kernel arguments")
    set_kernel_arguments(kickstart, made)
    habits.leave_kickstart(attempt.kickstart, Path(storage.SYSROOT, "var/roothome"))
    progress.begin_step("the kickstart's last scripts")
    run_scripts(kickstart.post, "%post")
    habits.leave_behind()
    progress.begin_step("closing the disk")
    storage.take_down(attempt.luks)
    progress.begin_step("done")
    return kickstart


def main() -> int:
    """Install, and say how it ended; the exit code."""
    say("")
    say("STAND-IN: this is the lab's installer in the place of Anaconda; what it installs is real")
    say(
        "STAND-IN: containers are taken without a signature here, as on Fedora's medium; the first boot "
        "verifies"
    )
    attempt = Attempt()
    try:
        run("udevadm", "settle", "--timeout=30", check=False)
        attempt.kickstart = find_kickstart()
        kickstart = install(attempt)
    except (Failed, KeyboardInterrupt) as why:
        give_up(attempt, str(why) or "interrupted; start again", early=isinstance(why, EarlyFailed))
        return 1
    say("VEILOR-INSTALL: DONE")
    end_machine(kickstart.end)
    return 0


def give_up(attempt: Attempt, why: str, *, early: bool = False) -> None:
    """Say WHY as Anaconda does, take everything down, and stay on.

    EARLY, while it can show nothing, Anaconda runs no %onerror script.
    """
    log(f"failed: {why}")
    steps = [lambda: storage.take_down(attempt.luks)]
    if not early and attempt.kickstart:
        steps.insert(
            0, lambda: run_scripts(ks.read_early_scripts(attempt.kickstart)[1], "%onerror", strict=False)
        )
    for step in steps:
        try:
            step()
        except (Failed, OSError) as error:
            log(f"while giving up: {error}")
    print(habits.SEEN["failure"]["pre" if early else "later"], flush=True)
    say(f"VEILOR-INSTALL: FAILED {why}")
    signal.pause()


def end_machine(action: str) -> None:
    """Carry out systemctl's ACTION: `poweroff` or `reboot`."""
    subprocess.run(["systemctl", "--no-block", action], timeout=60)


if __name__ == "__main__":
    sys.exit(relay(main))
