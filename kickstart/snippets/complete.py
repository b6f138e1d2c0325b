"""Completes what `ostreecontainer` leaves out, and puts the new system's settings back to the image's.

Only bootc knows the kernel arguments in /usr/lib/bootc/kargs.d; later updates apply just what changed in them
since, so what is missing now would be missing for ever. What the installer wrote into /etc without need would
hide the image's own for good. Both are done by the new system's own programs. Where they fail, the machine is
switched off. Exit codes: 0 done, 1 not.
"""

import os
import subprocess
import sys

sys.path.insert(0, "/run/veilor-install")
import ending

IN_SYSTEM = ("chroot", ending.SYSROOT)
RESOLV_CONF = "/etc/resolv.conf"  # bootc takes the installer's along, and fails where there is none
KICKSTART = "/run/install/ks.cfg"  # the installer copies it to root's home after the last script
STEPS = (
    (("bootc", "install", "ensure-completion"), "the kernel arguments of the image could not be set"),
    (
        ("/usr/bin/python3", "-I", "-S", "/usr/lib/veilor/app", "as-shipped", "--put-back"),
        "the settings of the image could not be put back",
    ),
)


def complete():
    """What could not be done, in a few words; an empty text when all is done."""
    for argv, problem in STEPS:
        try:
            done = subprocess.run(
                [*IN_SYSTEM, *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=600,
            )
        except (OSError, subprocess.SubprocessError) as error:
            return f"{problem} ({error})"
        print(done.stdout, end="", flush=True)
        if done.returncode:
            last = done.stdout.strip().splitlines()[-1:] or ["it said nothing"]
            return f"{problem} ({last[0][:300]})"
    return ""


def main():
    """Do both; the exit code."""
    if not os.path.lexists(RESOLV_CONF):
        open(RESOLV_CONF, "w").close()
    problem = complete()
    if problem:
        return ending.end(f"{problem}; what was written must not be used, start again", installed=True)
    if os.path.exists(KICKSTART):
        os.unlink(KICKSTART)
    return 0


if __name__ == "__main__":
    sys.exit(main())
