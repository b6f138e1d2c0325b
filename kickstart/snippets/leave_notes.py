"""Leaves notes on /boot for the day when nothing starts.

Any other system can read them there without the passphrase. Runs in the new system. They hold what the rescue
needs to know of this disk and nothing secret. Never fails.
"""

import json
import os
import subprocess

NOTES_PATH = "/boot/veilor-recovery.txt"
NOTES = """veilor-os: when this machine does not start

Nothing here is secret. The whole text is docs/RECOVERY.md of veilor-os.

1. Switch the machine off and on. At the boot menu (hold Shift, or press Esc) choose the second entry: the previous
   version. A version that fails three times is left by itself.
2. It asks for the passphrase and does not take it: the keyboard layout at the prompt is {keymap}. A passphrase that is
   lost is lost: nobody can open the disk without it.
3. The keyboard is dead after the login screen: unplug it and plug it in again.
4. Still nothing: start any Linux from a stick and open the disk there, to save your files:
     cryptsetup open {device} veilor
     mount /dev/mapper/veilor /mnt
   Your files are in {home}.
5. /boot is full, or an update can't be put in place: from the running system, `veilor-status` says what to do.
"""  # noqa: E501


def find_container(nodes):
    """The path, by UUID, of the first LUKS container in lsblk's tree NODES; None without one."""
    for node in nodes:
        if node.get("fstype") == "crypto_LUKS" and node.get("uuid"):
            return f"/dev/disk/by-uuid/{node['uuid']}"
        found = find_container(node.get("children") or [])
        if found:
            return found
    return None


def find_home(deploy="/sysroot/ostree/deploy"):
    """Where the home folders are once the disk is mounted at /mnt.

    They lie in the one stateroot of the folder DEPLOY, whatever it is called.
    """
    try:
        stateroots = [name for name in os.listdir(deploy) if os.path.isdir(os.path.join(deploy, name, "var"))]
    except OSError:
        return "/mnt/home"  # a system of packages, not an image
    return f"/mnt/ostree/deploy/{stateroots[0] if len(stateroots) == 1 else '*'}/var/home"


def read_keymap(path="/etc/vconsole.conf"):
    """The console's keyboard layout, us where none is set."""
    keymap = ""
    try:
        with open(path) as conf:
            for line in conf:
                if line.startswith("KEYMAP="):
                    keymap = line.partition("=")[2].strip().strip('"')
    except OSError:
        pass
    return keymap or "us"


def main():
    """Write the notes to NOTES_PATH."""
    try:
        listed = subprocess.run(
            ["lsblk", "--json", "--output", "PATH,FSTYPE,UUID"], capture_output=True, check=True, timeout=60
        ).stdout
        device = find_container(json.loads(listed)["blockdevices"])
    except (OSError, ValueError, KeyError, subprocess.SubprocessError) as error:
        print(f"veilor: the disk could not be looked at ({error}); the notes name no device")
        device = None
    try:
        with open(NOTES_PATH + ".new", "w") as out:
            out.write(
                NOTES.format(
                    device=device or "/dev/THE-LARGEST-PARTITION", keymap=read_keymap(), home=find_home()
                )
            )
        os.rename(NOTES_PATH + ".new", NOTES_PATH)
    except OSError as error:
        print(f"veilor: no recovery notes on /boot ({error})")


if __name__ == "__main__":
    main()
