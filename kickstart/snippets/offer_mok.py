"""Offers to have the firmware trust the key that the kernel is signed with, where Secure Boot needs it.

Runs in the new system. While Secure Boot is on, the machine starts this system only with that trust. The
request waits in the firmware until the next start, when the firmware's blue screen asks for the code shown
here. Never fails: it says how to catch up instead.
"""

import os
import secrets
import select
import subprocess
import sys
import tempfile

# Where the base image keeps the certificate of its kernel's key.
KEY = "/usr/share/pki/akmods/certs/akmods-secureblue.der"
SECURE_BOOT = "/sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c"
PATIENCE = 600  # seconds that an answer is waited for
LATER = f"Later: `run0 mokutil --import {KEY}` on the installed system, Secure Boot turned off until then."


class NotRequested(Exception):
    """Why the firmware holds no request to trust the key, in its own words."""


def secure_boot_is_on():
    """Whether the firmware checks signatures.

    The variable's fifth byte says so, after four of attributes (UEFI, 3.3).
    """
    try:
        with open(SECURE_BOOT, "rb") as variable:
            return variable.read()[4:5] == b"\1"
    except OSError:
        return False


def run(*argv):
    """Exit code and output of ARGV. Raises OSError or TimeoutExpired."""
    done = subprocess.run(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout.strip()


def why_not_to_offer():
    """Why there is nothing to offer; an empty text when there is something."""
    if not secure_boot_is_on():
        return "Secure Boot is off"
    if not os.path.exists(KEY):
        return f"{KEY} is not in this image"
    code, said = run("mokutil", "--test-key", KEY)
    if code != 0:  # mokutil ends with 0 for a key that isn't enrolled
        return said
    return ""


def request_trust(code):
    """Leave the request with the firmware, to be confirmed by CODE. Raises NotRequested."""
    failed, hashed = run("mokutil", f"--generate-hash={code}")
    if failed:
        raise NotRequested(hashed)
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(hashed + "\n")
        file.flush()
        failed, said = run("mokutil", "--import", KEY, "--hash-file", file.name)
    if failed:
        raise NotRequested(said)
    failed, waiting = run("mokutil", "--list-new")
    if failed or not waiting:
        raise NotRequested("the firmware kept nothing")


def open_terminal():
    """(reading, writing) on the terminal that the person sits at, from the new system's root.

    Its /dev is the installer's.
    """
    try:
        return open("/dev/tty"), open("/dev/tty", "w")
    except OSError:
        with open("/sys/class/tty/console/active") as active:
            name = active.read().split()[-1]
        return open(f"/dev/{name}"), open(f"/dev/{name}", "w")


def offer(ask, say):
    """Ask whether to trust the key, and leave the request.

    ASK(prompt) gives a line, None when nobody answers; SAY(text) shows one.
    """
    say("")
    say("Secure Boot is on, and does not know the key that this system's kernel is signed with.")
    answer = ask("Have it trusted, confirmed by you at the next start? Type yes or no: ")
    if (answer or "no").strip().lower() not in ("y", "yes"):
        say("Not asked for. With Secure Boot on this system will not start. " + LATER)
        return
    code = f"{secrets.randbelow(10**8):08}"
    try:
        request_trust(code)
    except NotRequested as why:
        say(f"The firmware took no request ({why}). " + LATER)
        return
    say("At the next start a blue screen comes up for ten seconds: press a key, then choose")
    say("  Enroll MOK > Continue > Yes, type this code, and Reboot.")
    say(f"      {code}")
    ask("Write the code down, then press Enter. ")


def main():
    """Offer the key where it is needed, and say what came of it."""
    try:
        reason = why_not_to_offer()
        if reason:
            print(f"veilor: no key to enrol: {reason}")
            return
        reading, writing = open_terminal()

        def ask(prompt):
            writing.write(prompt)
            writing.flush()
            answered = select.select([reading], [], [], PATIENCE)[0]
            return (reading.readline() or None) if answered else None

        offer(ask, lambda text: print(text, file=writing, flush=True))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"veilor: the kernel's key could not be offered ({error}). {LATER}")


if __name__ == "__main__":
    sys.exit(main())
