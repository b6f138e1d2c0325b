#!/usr/bin/python3 -I
"""Stand-in for `bootc install ensure-completion`, laid over the lab's bootc front while the installer's
scripts run.

Merges the kernel arguments of /usr/lib/bootc/kargs.d into the boot entry. Exit codes: 0 done, 1 failed, 2
another verb.
"""

import glob
import platform
import subprocess
import sys
import tomllib

FOLDER = "/usr/lib/bootc/kargs.d"
KEYS = {"kargs", "match-architectures"}


def wanted(folder: str, machine: str) -> list[str]:
    """The arguments in FOLDER for MACHINE, in the order of the files. Raises ValueError on a key that bootc
    doesn't know.
    """
    found = []
    for path in sorted(glob.glob(f"{folder}/*.toml")):
        with open(path, "rb") as file:
            said = tomllib.load(file)
        if set(said) - KEYS:
            raise ValueError(f"{path}: unknown key {sorted(set(said) - KEYS)[0]}")
        if machine in said.get("match-architectures", [machine]):
            found += [one for one in said["kargs"] if one not in found]
    return found


def main() -> int:
    if sys.argv[1:] != ["install", "ensure-completion"]:
        print(
            "the stand-in for bootc knows nothing but `install ensure-completion` during an installation",
            file=sys.stderr,
        )
        return 2
    try:
        arguments = wanted(FOLDER, platform.machine())
        if arguments:
            subprocess.run(
                [
                    "ostree",
                    "admin",
                    "instutil",
                    "set-kargs",
                    "--merge",
                    *(f"--append={one}" for one in arguments),
                ],
                check=True,
                timeout=300,
            )
    except (OSError, KeyError, ValueError, subprocess.SubprocessError) as error:
        print(f"the kernel arguments in {FOLDER} were not applied: {error}", file=sys.stderr)
        return 1
    print("STAND-IN for bootc install ensure-completion; kernel arguments:", " ".join(arguments) or "none")
    return 0


if __name__ == "__main__":
    sys.exit(main())
