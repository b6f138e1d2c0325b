"""Lets the installation end well only when the installed root lies on LUKS2 with argon2id.

Runs outside the new system, which the installer has mounted at ROOT. Exit codes: 0 it does, 1 it doesn't.
"""

import json
import subprocess
import sys

ROOT = "/mnt/sysimage"


class Unprotected(Exception):
    """What is wrong with the encryption of the installed root, in a few words."""


def find_container(nodes):
    """The path of the device that holds the encryption container, or None where nothing is encrypted.

    NODES are of the tree that `lsblk --inverse` prints, from a file system down to the disks: the container
    lies on the first device below the first one of the type `crypt`.
    """
    for node in nodes:
        below = node.get("children") or []
        if node["type"] == "crypt":
            return below[0]["path"] if below else None
        found = find_container(below)
        if found:
            return found
    return None


def check_header(metadata):
    """Raise Unprotected unless every key slot of a LUKS2 header derives its key by argon2id.

    METADATA is the JSON that cryptsetup prints of the header.
    """
    slots = metadata.get("keyslots", {})
    if not slots:
        raise Unprotected("it has no key slot")
    weak = []
    for number, slot in sorted(slots.items()):
        kind = slot["kdf"]["type"]
        if kind != "argon2id":
            weak.append(f"slot {number} uses {kind}")
    if weak:
        raise Unprotected(", ".join(weak))


def run(*argv):
    """Standard output of ARGV as text. Raises CalledProcessError or TimeoutExpired."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def is_luks2(device):
    """Whether DEVICE holds a LUKS2 header."""
    argv = ["cryptsetup", "isLuks", "--type", "luks2", device]
    return subprocess.run(argv, timeout=120).returncode == 0


def check_root():
    """The path of the LUKS2 container that the installed root lies on. Raises Unprotected without one."""
    find = ["findmnt", "--noheadings", "--first-only", "--nofsroot", "--output", "SOURCE"]
    source = run(*find, "--mountpoint", ROOT).strip()
    listed = json.loads(run("lsblk", "--json", "--inverse", "--output", "NAME,PATH,TYPE", source))
    container = find_container(listed["blockdevices"])
    if container is None:
        raise Unprotected(f"{source} is not encrypted")
    if not is_luks2(container):
        raise Unprotected(f"{container} is not LUKS2")
    check_header(json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", container)))
    return container


def main():
    """Check the root, and say what came of it; the exit code."""
    try:
        container = check_root()
    except Unprotected as why:
        problem = str(why)
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        problem = f"it could not be looked at ({error})"
    else:
        print(f"veilor: the installed root is on LUKS2 with argon2id ({container})")
        return 0
    print(
        f"veilor: the installed root must be on LUKS2 with argon2id, but {problem}; this installation "
        "must not be used"
    )
    return 1


if __name__ == "__main__":
    sys.exit(main())
