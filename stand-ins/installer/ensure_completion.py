#!/usr/bin/python3 -I
"""Stand-in for `bootc install ensure-completion`, put over the lab's bootc while the last scripts run.

Merges the kernel arguments of /usr/lib/bootc/kargs.d into the boot entry. Exit codes: 0 done, 1 failed, 2
another verb.
"""

import glob
import os
import platform
import subprocess
import sys
import tomllib

FOLDER = "/usr/lib/bootc/kargs.d"
# bootc takes the installer's along, and fails where there is none (bootc-image-builder#961).
RESOLV_CONF = "/proc/1/root/etc/resolv.conf"
KEYS = {"kargs", "match-architectures"}


def read_kargs(folder: str, machine: str) -> list[str]:
    """The kernel arguments in FOLDER for the architecture MACHINE, each once, in the order of the files.

    Raises ValueError on a key that bootc doesn't know, and KeyError for a file without `kargs`.
    """
    found: list[str] = []
    for path in sorted(glob.glob(f"{folder}/*.toml")):
        with open(path, "rb") as file:
            table = tomllib.load(file)
        unknown = sorted(set(table) - KEYS)
        if unknown:
            raise ValueError(f"{path}: unknown key {unknown[0]}")
        if machine in table.get("match-architectures", [machine]):
            found += [argument for argument in table["kargs"] if argument not in found]
    return found


def main() -> int:
    """Merge the arguments; the exit code."""
    if sys.argv[1:] != ["install", "ensure-completion"]:
        print(
            "the stand-in for bootc knows nothing but `install ensure-completion` during an installation",
            file=sys.stderr,
        )
        return 2
    if not os.path.lexists(RESOLV_CONF):
        print(
            "error: Completing installation: Copying resolv.conf: No such file or directory", file=sys.stderr
        )
        return 1
    try:
        arguments = read_kargs(FOLDER, platform.machine())
        if arguments:
            argv = ["ostree", "admin", "instutil", "set-kargs", "--merge"]
            argv += [f"--append={argument}" for argument in arguments]
            subprocess.run(argv, check=True, timeout=300)
    except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        print(f"the kernel arguments in {FOLDER} were not applied: {error}", file=sys.stderr)
        return 1
    print("STAND-IN for bootc install ensure-completion; kernel arguments:", " ".join(arguments) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
