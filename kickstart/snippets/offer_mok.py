"""Offers to have the firmware trust the key that the kernel is signed with, where Secure Boot is on and
doesn't yet.

Runs in the new system. Without that trust the machine won't start it while Secure Boot is on. The request
waits in the firmware until the next start, when the firmware's blue screen asks for the code shown here.
Never fails: it says how to catch up instead.
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
PATIENCE = 600
LATER = f"Later: `run0 mokutil --import {KEY}` on the installed system, Secure Boot turned off until then."


def secure_boot_is_on():
    """Whether the firmware checks signatures: the variable's fifth byte, after four of attributes (UEFI,
    3.3).
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


def reason_not_to():
    """Why there is nothing to offer, or an empty text. `mokutil --test-key` ends with 0 for a key that isn't
    enrolled.
    """
    if not secure_boot_is_on():
        return "Secure Boot is off"
    if not os.path.exists(KEY):
        return f"{KEY} is not in this image"
    code, said = run("mokutil", "--test-key", KEY)
    return "" if code == 0 else said


def request(code):
    """Leave the request with the firmware, to be confirmed by CODE; what went wrong, or an empty text."""
    failed, hashed = run("mokutil", f"--generate-hash={code}")
    if failed:
        return hashed
    with tempfile.NamedTemporaryFile("w") as file:
        file.write(hashed + "\n")
        file.flush()
        failed, said = run("mokutil", "--import", KEY, "--hash-file", file.name)
    if failed:
        return said
    failed, waiting = run("mokutil", "--list-new")
    return "the firmware kept nothing" if failed or not waiting else ""


def open_terminal():
    """(reading, writing) on the terminal the person sits at; in the new system's root, where /dev is the
    installer's.
    """
    try:
        return open("/dev/tty"), open("/dev/tty", "w")
    except OSError:
        with open("/sys/class/tty/console/active") as active:
            name = active.read().split()[-1]
        return open(f"/dev/{name}"), open(f"/dev/{name}", "w")


def offer(ask, say):
    """Ask, and leave the request. ASK(prompt) gives a line, None when nobody answers."""
    say("")
    say("Secure Boot is on, and does not know the key that this system's kernel is signed with.")
    answer = ask("Have it trusted, confirmed by you at the next start? Type yes or no: ")
    if (answer or "no").strip().lower() not in ("y", "yes"):
        say("Not asked for. With Secure Boot on this system will not start. " + LATER)
        return
    code = f"{secrets.randbelow(10**8):08}"
    problem = request(code)
    if problem:
        say(f"The firmware took no request ({problem}). " + LATER)
        return
    say("At the next start a blue screen comes up for ten seconds: press a key, then choose")
    say("  Enroll MOK > Continue > Yes, type this code, and Reboot.")
    say(f"      {code}")
    ask("Write the code down, then press Enter. ")


def main():
    """Look, offer, say."""
    try:
        reason = reason_not_to()
        if reason:
            print(f"veilor: no key to enrol: {reason}")
            return
        reading, writing = open_terminal()

        def ask(prompt):
            writing.write(prompt)
            writing.flush()
            return (reading.readline() or None) if select.select([reading], [], [], PATIENCE)[0] else None

        offer(ask, lambda text: print(text, file=writing, flush=True))
    except (OSError, subprocess.SubprocessError) as error:
        print(f"veilor: the kernel's key could not be offered ({error}). {LATER}")


if __name__ == "__main__":
    sys.exit(main())
