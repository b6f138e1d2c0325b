"""How an installation that is refused ends: a sentence where the person sits, the logs kept, the machine off.

The installer itself would show a traceback and stay on, or offer to start a system that must not be used. Our
other scripts import this from the folder HERE, where a %pre script has put it.
"""

import glob
import os
import select
import subprocess
import time

HERE = "/run/veilor-install"  # of the installer's system, in memory; the new system's root shows it as well
KEEP_LOGS = f"{HERE}/keep_logs.py"
SYSROOT = "/mnt/sysroot"  # the new system as it sees itself
ENTRIES = "/mnt/sysimage/boot/loader/entries/*.conf"
PATIENCE = 600  # seconds that an answer is waited for
GRACE = 300  # seconds in which the machine has gone off


def windows_open(cmdline):
    """Whether the installer opens its windows: of its boot options for that the last counts."""
    modes = [word for word in cmdline.split() if word in ("inst.text", "inst.graphical")]
    return not modes or modes[-1] == "inst.graphical"


def open_terminal():
    """(reading, writing) on the terminal that the person sits at, brought to the front."""
    with open("/sys/class/tty/console/active") as active:
        name = active.read().split()[-1]
    with open("/proc/cmdline") as cmdline:
        if name == "tty0" and windows_open(cmdline.read()):
            subprocess.run(["chvt", "1"], timeout=20)  # the windows lie on another screen
    try:
        # The installer runs in tmux, shown on the screen and on a serial console alike; its pane is ours.
        return open("/dev/tty"), open("/dev/tty", "w")
    except OSError:
        # A screen of its own: another program reads from the one in front.
        if name == "tty0":
            subprocess.run(["chvt", "6"], timeout=20)
            name = "tty6"
        return open(f"/dev/{name}"), open(f"/dev/{name}", "w")


class Terminal:
    """The person's terminal; without one nothing is shown, and nobody answers."""

    def __init__(self):
        """Open it, if there is one."""
        try:
            self.reading, self.writing = open_terminal()
        except (OSError, IndexError, subprocess.SubprocessError):
            self.reading = self.writing = None

    def say(self, text):
        """Show TEXT to the person alone: in no log."""
        if self.writing:
            print(text, file=self.writing, flush=True)

    def ask(self, prompt, patience=None):
        """The line that is typed after PROMPT; None at its end, or when PATIENCE seconds are over."""
        if not self.writing:
            return None
        self.writing.write(prompt)
        self.writing.flush()
        if patience is not None and not select.select([self.reading], [], [], patience)[0]:
            return None
        return self.reading.readline() or None


def spoil_boot_entries():
    """Take the boot entries that were written out of GRUB's sight, so that nobody starts them unawares.

    Those of another system that shares /boot are older than our scripts, and stay.
    """
    for path in glob.glob(ENTRIES):
        try:
            if os.path.getmtime(path) >= os.path.getmtime(KEEP_LOGS):
                os.rename(path, f"{path}.refused")
        except OSError as error:
            print(f"veilor: {path} could not be put aside ({error})", flush=True)


def end(why, terminal=None, installed=False):
    """Say WHY nothing usable is installed, keep the logs, and switch off; 1, for whoever calls.

    With INSTALLED something was written that must not start.
    """
    terminal = terminal or Terminal()
    sentence = f"Not installed: {why}."
    print(sentence, flush=True)
    terminal.say(f"\n{sentence}")
    if installed:
        spoil_boot_entries()
    try:
        subprocess.run(["/usr/bin/python3", KEEP_LOGS], timeout=200)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"veilor: the logs were not kept ({error})", flush=True)
    terminal.ask(f"Press Enter to switch off (by itself in {PATIENCE // 60} minutes). ", PATIENCE)
    try:
        subprocess.run(["systemctl", "--no-block", "--no-wall", "poweroff"], timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        print(f"veilor: the machine could not be switched off ({error})", flush=True)
        return 1
    time.sleep(GRACE)  # what the installer would say next is of no use to anybody
    return 1
