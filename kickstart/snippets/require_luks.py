"""Lets the installation end well only when the installed root lies on LUKS2 with argon2id.

Runs outside the new system, which the installer has mounted at ROOT. Exit codes: 0 it does, 1 it doesn't.
"""

import json
import subprocess
import sys

ROOT = "/mnt/sysimage"


def find_container(tree):
    """The path of the device directly below the dm-crypt device that the file system of `lsblk --inverse`
    lies on.
    """
    for node in tree:
        below = node.get("children") or []
        if node["type"] == "crypt":
            return below[0]["path"] if below else None
        found = find_container(below)
        if found:
            return found
    return None


def judge(metadata):
    """What is wrong with a LUKS header's METADATA (the JSON that cryptsetup prints), or an empty text."""
    slots = metadata.get("keyslots", {})
    if not slots:
        return "it has no key slot"
    weak = [
        f"slot {n} uses {slot['kdf']['type']}"
        for n, slot in sorted(slots.items())
        if slot["kdf"]["type"] != "argon2id"
    ]
    return ", ".join(weak)


def run(*argv):
    """Standard output of ARGV as text. Raises CalledProcessError or TimeoutExpired."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def main():
    """Look and say; the exit code."""
    try:
        source = run(
            "findmnt",
            "--noheadings",
            "--first-only",
            "--nofsroot",
            "--output",
            "SOURCE",
            "--mountpoint",
            ROOT,
        ).strip()
        tree = json.loads(run("lsblk", "--json", "--inverse", "--output", "NAME,PATH,TYPE", source))[
            "blockdevices"
        ]
        container = find_container(tree)
        if container is None:
            problem = f"{source} is not encrypted"
        elif subprocess.run(["cryptsetup", "isLuks", "--type", "luks2", container], timeout=120).returncode:
            problem = f"{container} is not LUKS2"
        else:
            problem = judge(json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", container)))
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        problem = f"it could not be looked at ({error})"
    if problem:
        print(
            f"veilor: the installed root must be on LUKS2 with argon2id, but {problem}; this installation "
            "must not be used"
        )
        return 1
    print(f"veilor: the installed root is on LUKS2 with argon2id ({container})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
