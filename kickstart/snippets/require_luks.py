"""Lets the installation end well only when everything on the disks lies on LUKS2 with argon2id.

Exempt are /boot and the EFI partition, which start the machine, and swap in compressed memory. Looked at is
what is mounted below the new system, what its fstab and crypttab name, and the swap that is on. Runs outside
the new system. Otherwise the machine is switched off. Exit codes: 0 it does, 1 it doesn't.
"""

import json
import os
import subprocess
import sys

sys.path.insert(0, "/run/veilor-install")
import ending

ROOTS = ("/mnt/sysimage", "/mnt/sysroot")  # the disks as they are mounted, and the new system as it sees them
IN_CLEAR = ("/boot", "/boot/efi")  # what the firmware and GRUB read
OF_THE_INSTALLER = ("/dev", "/proc", "/run", "/sys", "/tmp")  # its own, bound into the new system
SPREAD = ("btrfs", "bcachefs", "zfs_member")  # file systems that lie on several devices by themselves
RANDOM = ("/dev/urandom", "/dev/random")  # keys that nobody can keep
TAGS = ("UUID", "LABEL", "PARTUUID", "PARTLABEL")  # what fstab and crypttab may name a device by


class Unprotected(Exception):
    """What is wrong with the encryption, in a few words."""


def run(*argv):
    """Standard output of ARGV as text. Raises CalledProcessError or TimeoutExpired."""
    return subprocess.run(argv, check=True, capture_output=True, text=True, timeout=120).stdout


def check_header(metadata):
    """Raise Unprotected unless a LUKS2 header encrypts all of its data, by keys derived by argon2id.

    METADATA is the JSON that cryptsetup prints of the header.
    """
    slots, segments = metadata.get("keyslots", {}), metadata.get("segments", {})
    if not slots:
        raise Unprotected("it has no key slot")
    weak = []
    for number, slot in sorted(slots.items()):
        kind = slot["kdf"]["type"]
        if kind != "argon2id":
            weak.append(f"slot {number} uses {kind}")
    for _, segment in sorted(segments.items()):
        cipher = segment.get("encryption", "no cipher")
        if segment.get("type") != "crypt" or cipher.startswith("cipher_null"):
            weak.append(f"its data is encrypted by {cipher}")
    if weak:
        raise Unprotected(", ".join(weak))


def is_luks2(device):
    """Whether DEVICE holds a LUKS2 header."""
    argv = ["cryptsetup", "isLuks", "--type", "luks2", device]
    return subprocess.run(argv, timeout=120, capture_output=True).returncode == 0


def why_not_container(device):
    """Why DEVICE is no LUKS2 container with argon2id; an empty text when it is one."""
    if not is_luks2(device):
        return f"{device} is not LUKS2"
    try:
        check_header(json.loads(run("cryptsetup", "luksDump", "--dump-json-metadata", device)))
    except Unprotected as why:
        return f"{device}: {why}"
    return ""


def ways_down(node, passed=()):
    """Each way from NODE of `lsblk --inverse` down to a disk: (the disk's path, the containers passed).

    A container is the device below one of the type `crypt`.
    """
    below = node.get("children") or []
    if not below:
        yield node["path"], passed
    for child in below:
        yield from ways_down(child, (*passed, child["path"]) if node["type"] == "crypt" else passed)


def problems_of(device):
    """What of DEVICE lies on a disk without LUKS2 and argon2id, in a few words each.

    A file system that is spread over several devices is looked at on each of them.
    """
    found = []
    for member in members(device):
        listed = json.loads(run("lsblk", "--json", "--inverse", "--output", "NAME,PATH,TYPE", member))
        for node in listed["blockdevices"]:
            for disk, containers in ways_down(node):
                whys = [why_not_container(one) for one in containers]
                if all(whys):  # also where no container was passed
                    found.append("; ".join(whys) or f"{member} lies in the clear on {disk}")
    return sorted(set(found))


def members(device):
    """Every device of the file system that DEVICE is one of."""
    columns = "PATH,FSTYPE,UUID"
    (own,) = json.loads(run("lsblk", "--json", "--nodeps", "--output", columns, device))["blockdevices"]
    if own.get("fstype") not in SPREAD or not own.get("uuid"):
        return [device]
    listed = json.loads(run("lsblk", "--json", "--list", "--output", columns))["blockdevices"]
    same = {one["path"] for one in listed if (one["fstype"], one["uuid"]) == (own["fstype"], own["uuid"])}
    return sorted(same | {device})


def place_in_system(target):
    """TARGET, a mount point below one of ROOTS, as the new system calls it; None for another's."""
    for root in ROOTS:
        if target == root or target.startswith(f"{root}/"):
            return target[len(root) :] or "/"
    return None


def devices_of(source, options=""):
    """The devices that the SOURCE of a mount and its OPTIONS name, such as the log of a file system."""
    bare = source.split("[", 1)[0]
    named = [word.partition("=")[2] for word in options.split(",") if "=/dev/" in word]
    return [*(one for one in bare.split(":") if one.startswith("/dev/")), *named]


def mounted():
    """(place in the new system, device) for each mount of a device below it.

    Raises Unprotected where its root is not one.
    """
    listed = json.loads(run("findmnt", "--json", "--list", "--output", "TARGET,SOURCE,FSTYPE,OPTIONS"))
    found = []
    for one in listed["filesystems"]:
        place = place_in_system(one["target"])
        if place is None or place.startswith(tuple(f"{folder}/" for folder in OF_THE_INSTALLER)):
            continue
        if place not in OF_THE_INSTALLER:
            found += [(place, device) for device in devices_of(one["source"], one.get("options") or "")]
    if not any(place == "/" for place, _ in found):
        raise Unprotected("the new system's root is no device that could be looked at")
    return found


def rows(name):
    """The fields of each row of the file NAME in the new system's /etc."""
    found = []
    for root in ROOTS:
        try:
            with open(f"{root}/etc/{name}") as table:
                lines = [line.split() for line in table if not line.lstrip().startswith("#")]
        except FileNotFoundError:
            continue
        found += [fields for fields in lines if fields and fields not in found]
    return found


def devices_named(spec):
    """The devices that SPEC of fstab or crypttab names; none where it names no device, as tmpfs does.

    Raises Unprotected for one that is not there.
    """
    if spec.partition("=")[0] in TAGS:
        # Asked of the devices themselves: udev may not have seen yet what was just made.
        argv = ["blkid", "--cache-file", "/dev/null", "--output", "device", "--match-token", spec]
        found = subprocess.run(argv, capture_output=True, text=True, timeout=120).stdout.split()
    elif spec.startswith("/dev/"):
        found = [os.path.realpath(spec)] if os.path.exists(spec) else []
    else:
        return []
    if not found:
        raise Unprotected(f"{spec} is not there to be looked at")
    return found


def asked_for():
    """(place, device) for each row of fstab that the new system mounts or swaps to."""
    found = []
    for fields in rows("fstab"):
        place = "swap" if fields[2:3] == ["swap"] else fields[1]
        found += [(place, device) for device in devices_named(fields[0])]
        if len(fields) > 3:
            found += [(place, one) for one in devices_of("", fields[3])]
    return found


def swapped_to():
    """("swap", device) for each device or file that is swapped to now; compressed memory is none."""
    found = []
    for path in run("swapon", "--show=NAME", "--noheadings", "--raw").split():
        if os.path.basename(path).startswith("zram"):
            continue
        if not path.startswith("/dev/"):
            path = devices_of(run("findmnt", "--noheadings", "--output", "SOURCE", "--target", path).strip())[
                0
            ]
        found.append(("swap", path))
    return found


def crypttab_problems():
    """What the rows of crypttab open without a passphrase, or in a weak way."""
    found = []
    for name, spec, *more in rows("crypttab"):
        key = more[0] if more else "none"
        if key in RANDOM:
            continue
        if key not in ("none", "-"):
            found.append(f"{name} of crypttab is opened by the file {key}")
        whys = [why_not_container(device) for device in devices_named(spec)] or [f"{spec} is no device"]
        found += [f"{name} of crypttab: {why}" for why in whys if why]
    return found


def all_problems():
    """Everything that the new system would keep in the clear, in a few words each."""
    found, looked_at = [], {}
    for place, device in [*mounted(), *asked_for(), *swapped_to()]:
        if place in IN_CLEAR:
            continue
        if device not in looked_at:
            looked_at[device] = problems_of(device)
        found += [f"{place}: {problem}" for problem in looked_at[device]]
    return sorted({*found, *crypttab_problems()})


def main():
    """Look at everything, and say what came of it; the exit code."""
    try:
        found = all_problems()
    except Unprotected as why:
        found = [str(why)]
    except (OSError, ValueError, LookupError, subprocess.SubprocessError) as error:
        found = [f"the disks could not be looked at ({error})"]
    if not found:
        print("veilor: everything except /boot and the EFI partition is on LUKS2 with argon2id")
        return 0
    return ending.end(
        "everything except /boot and the EFI partition has to lie on LUKS2 with argon2id, and that is not so "
        f"({'; '.join(found)}); what was written must not be used, start again",
        installed=True,
    )


if __name__ == "__main__":
    sys.exit(main())
