"""Asks the firmware to trust the key that the kernel is signed with, as the person wanted it.

The question was asked before anything was written, and the code shown that confirms the request. It waits in
the firmware until the next start. Runs outside the new system, whose mokutil it calls. Never fails: it says
how to catch up instead, and waits until that was read.
"""

import os
import subprocess
import sys
import tempfile

sys.path.insert(0, "/run/veilor-install")
import ending

# Where the base image keeps the certificate of its kernel's key.
KEY = "/usr/share/pki/akmods/certs/akmods-secureblue.der"
MOK_CODE = f"{ending.HERE}/mok-code"
IN_SYSTEM = ("chroot", ending.SYSROOT)
SHARED = ending.HERE  # a folder that both systems have at the same place
LATER = f"Later: `run0 mokutil --import {KEY}` on the installed system, Secure Boot turned off until then."


class NotRequested(Exception):
    """Why the firmware holds no request to trust the key, in its own words."""


def run(*argv):
    """Exit code and output of ARGV in the new system. Raises OSError or TimeoutExpired."""
    done = subprocess.run(
        [*IN_SYSTEM, *argv],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout.strip()


def request_trust(code):
    """Leave the request with the firmware, to be confirmed by CODE; whether it is needed.

    Raises NotRequested.
    """
    known, _ = run("mokutil", "--test-key", KEY)
    if known:  # mokutil ends with 0 for a key that isn't enrolled
        return False
    failed, hashed = run("mokutil", f"--generate-hash={code}")
    if failed:
        raise NotRequested(hashed)
    with tempfile.NamedTemporaryFile("w", dir=SHARED) as file:
        file.write(hashed + "\n")
        file.flush()
        failed, said = run("mokutil", "--import", KEY, "--hash-file", file.name)
    if failed:
        raise NotRequested(said)
    failed, waiting = run("mokutil", "--list-new")
    if failed or not waiting:
        raise NotRequested("the firmware kept nothing")
    return True


def main():
    """Leave the request where one was wanted, and say what came of it; 0."""
    try:
        with open(MOK_CODE) as file:
            code = file.read()
        os.unlink(MOK_CODE)
    except FileNotFoundError:
        print("veilor: no key to enrol: nobody asked for it")
        return 0
    try:
        asked = request_trust(code)
    except (OSError, subprocess.SubprocessError, NotRequested) as why:
        problem = f"The firmware took no request to trust the kernel's key ({why}). {LATER}"
        print(f"veilor: {problem}")
        terminal = ending.Terminal()
        terminal.say(f"\n{problem}")
        terminal.ask("The installation goes on when you press Enter. ", ending.PATIENCE)
        return 0
    print("veilor: the firmware asks at the next start" if asked else "veilor: the key is trusted already")
    return 0


if __name__ == "__main__":
    sys.exit(main())
