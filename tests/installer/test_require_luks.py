"""Everything on the disks except what starts the machine lies on LUKS2 with argon2id."""

from __future__ import annotations

import json
import subprocess

import ending
import pytest
import require_luks as gate

GOOD = {
    "keyslots": {"0": {"kdf": {"type": "argon2id"}}},
    "segments": {"0": {"type": "crypt", "encryption": "aes-xts-plain64"}},
}


class Machine:
    """Devices, and what lies below each; mounts, tables and swap of the new system.

    Each device: its kind as lsblk calls it, and the devices below. A guided installation, to be spoilt.
    """

    def __init__(self, folder, monkeypatch):
        self.devices = {
            "/dev/vdb": ("disk", []),
            "/dev/vdb1": ("part", ["/dev/vdb"]),
            "/dev/vdb2": ("part", ["/dev/vdb"]),
            "/dev/vdb3": ("part", ["/dev/vdb"]),
            "/dev/mapper/luks-x": ("crypt", ["/dev/vdb3"]),
        }
        self.headers = {"/dev/vdb3": GOOD}
        self.systems = {}  # device → (type, UUID) of the file system
        self.root, self.system = folder / "sysimage", folder / "sysroot"
        self.mounts = [
            ("/run/install/repo", "/dev/sr0", "iso9660", "ro"),
            (f"{self.root}", "/dev/mapper/luks-x", "ext4", "rw"),
            (f"{self.root}/boot", "/dev/vdb2", "ext4", "rw"),
            (f"{self.root}/boot/efi", "/dev/vdb1", "vfat", "rw"),
            (f"{self.system}", "/dev/mapper/luks-x[/ostree/deploy/veilor/deploy/0.0]", "ext4", "rw"),
            (f"{self.system}/usr", "/dev/mapper/luks-x[/ostree/deploy/veilor/deploy/0.0/usr]", "ext4", "ro"),
            (f"{self.system}/boot", "/dev/vdb2", "ext4", "rw"),
            (f"{self.system}/proc", "proc", "proc", "rw"),
            (f"{self.system}/run", "tmpfs", "tmpfs", "rw"),
            (f"{self.system}/run/install/repo", "/dev/sr0", "iso9660", "ro"),
        ]
        self.swap = ["/dev/zram0"]
        (self.system / "etc").mkdir(parents=True)
        self.table("fstab", "UUID=root / ext4 defaults 0 0", "/dev/vdb2 /boot ext4 defaults 0 0")
        self.table("crypttab", "luks-x UUID=luks none discard,x-initrd.attach")
        self.by = {"UUID=root": "/dev/mapper/luks-x", "UUID=luks": "/dev/vdb3"}
        monkeypatch.setattr(gate, "ROOTS", (str(self.root), str(self.system)))
        monkeypatch.setattr(gate, "run", self.run)
        monkeypatch.setattr(gate, "is_luks2", self.headers.__contains__)
        monkeypatch.setattr(gate.subprocess, "run", self.blkid)
        monkeypatch.setattr(gate.os.path, "exists", lambda path: path in self.devices)

    def table(self, name, *rows):
        """Add ROWS to the file NAME of the new system."""
        path = self.system / "etc" / name
        path.write_text((path.read_text() if path.is_file() else "# comment /x\n") + "\n".join(rows) + "\n")

    def add(self, path, kind, *below):
        self.devices[path] = (kind, list(below))

    def mount(self, place, source, kind="ext4", options="rw"):
        self.mounts.append((f"{self.root}{place}", source, kind, options))

    def tree(self, path):
        kind, below = self.devices[path]
        return {"name": path[5:], "path": path, "type": kind, "children": [self.tree(one) for one in below]}

    def blkid(self, argv, **_):
        """The devices that the tag at the end of ARGV names."""
        assert argv[0] == "blkid"
        return subprocess.CompletedProcess(argv, 0, stdout=self.by.get(argv[-1], "") + "\n")

    def run(self, *argv):
        """What the program of ARGV prints on such a machine."""
        if argv[0] == "findmnt" and "--json" in argv:
            names = ("target", "source", "fstype", "options")
            return json.dumps({"filesystems": [dict(zip(names, one, strict=True)) for one in self.mounts]})
        if argv[0] == "findmnt":
            return self.devices_of_file(argv[-1]) + "\n"
        if argv[0] == "lsblk" and "--inverse" in argv:
            return json.dumps({"blockdevices": [self.tree(argv[-1])]})
        if argv[0] == "lsblk":
            paths = [argv[-1]] if "--nodeps" in argv else list(self.devices)
            rows = [(path, *self.systems.get(path, (None, None))) for path in paths]
            names = ("path", "fstype", "uuid")
            return json.dumps({"blockdevices": [dict(zip(names, row, strict=True)) for row in rows]})
        if argv[0] == "swapon":
            return "\n".join(self.swap)
        assert argv[:3] == ("cryptsetup", "luksDump", "--dump-json-metadata")
        return json.dumps(self.headers[argv[-1]])

    def devices_of_file(self, path):
        """The device of the file system that the file PATH of the new system lies on."""
        return "/dev/vdb2" if "/boot/" in path else "/dev/mapper/luks-x"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    return Machine(tmp_path, monkeypatch)


def test_a_guided_installation_is_accepted(machine, capsys, monkeypatch):
    monkeypatch.setattr(ending, "end", lambda why, **_: pytest.fail(why))
    assert gate.main() == 0
    assert "everything except /boot and the EFI partition is on LUKS2" in capsys.readouterr().out


def plain_home(machine):
    """/home on a partition kept from before."""
    machine.add("/dev/vdb4", "part", "/dev/vdb")
    machine.mount("/var/home", "/dev/vdb4")


def half_plain_volume(machine):
    """The root's logical volume lies on a container and on a bare partition."""
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    machine.add("/dev/mapper/vg-root", "lvm", "/dev/mapper/luks-x", "/dev/vdc1")
    machine.mounts[1] = (str(machine.root), "/dev/mapper/vg-root", "ext4", "rw")


def half_plain_array(machine):
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    machine.add("/dev/md0", "raid1", "/dev/mapper/luks-x", "/dev/vdc1")
    machine.mount("/var/lib", "/dev/md0")


def spread_btrfs(machine, kind="btrfs"):
    """findmnt names one device of a file system that lies on two."""
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    for path in ("/dev/mapper/luks-x", "/dev/vdc1"):
        machine.systems[path] = (kind, "f00")
    machine.mounts[1] = (str(machine.root), "/dev/mapper/luks-x[/root]", kind, "rw")


def spread_bcachefs(machine):
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    machine.mount("/var", "/dev/mapper/luks-x:/dev/vdc1", "bcachefs")


def log_in_clear(machine):
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    machine.mount("/var", "/dev/mapper/luks-x", "xfs", "rw,logdev=/dev/vdc1")


def swap_on(machine):
    machine.add("/dev/vdb5", "part", "/dev/vdb")
    machine.swap.append("/dev/vdb5")


def swap_in_fstab(machine):
    machine.add("/dev/vdb5", "part", "/dev/vdb")
    machine.table("fstab", "/dev/vdb5 none swap defaults 0 0")


def windows_in_fstab(machine):
    """Not mounted now, and mounted by the new system."""
    machine.add("/dev/vda3", "part", "/dev/vdb")
    machine.by["UUID=NTFS"] = "/dev/vda3"
    machine.table("fstab", "UUID=NTFS /srv/windows ntfs3 noauto 0 0")


def luks1(machine):
    machine.headers.pop("/dev/vdb3")


def header(**changed):
    def spoil(machine):
        machine.headers["/dev/vdb3"] = GOOD | changed

    return spoil


def second_container_is_weak(machine):
    machine.add("/dev/vdb6", "part", "/dev/vdb")
    machine.add("/dev/mapper/luks-y", "crypt", "/dev/vdb6")
    machine.headers["/dev/vdb6"] = GOOD | {"keyslots": {"0": {"kdf": {"type": "pbkdf2"}}}}
    machine.mount("/var/home", "/dev/mapper/luks-y")


REFUSED = {
    "plain home": (plain_home, "/var/home: /dev/vdb4 lies in the clear on /dev/vdb"),
    "half-plain volume": (half_plain_volume, "/: /dev/mapper/vg-root lies in the clear"),
    "half-plain array": (half_plain_array, "/var/lib: /dev/md0 lies in the clear"),
    "btrfs on two devices": (spread_btrfs, "/: /dev/vdc1 lies in the clear"),
    "bcachefs on two devices": (spread_bcachefs, "/var: /dev/vdc1 lies in the clear"),
    "a log of its own": (log_in_clear, "/var: /dev/vdc1 lies in the clear"),
    "swap that is on": (swap_on, "swap: /dev/vdb5 lies in the clear"),
    "swap in fstab": (swap_in_fstab, "swap: /dev/vdb5 lies in the clear"),
    "a swap file on /boot": (lambda m: m.swap.append("/boot/swap"), "swap: /dev/vdb2 lies in the clear"),
    "another system's partition": (windows_in_fstab, "/srv/windows: /dev/vda3 lies in the clear"),
    "LUKS1": (luks1, "/dev/vdb3 is not LUKS2"),
    "pbkdf2": (header(keyslots={"0": {"kdf": {"type": "pbkdf2"}}}), "slot 0 uses pbkdf2"),
    "one weak slot of two": (
        header(keyslots={"0": {"kdf": {"type": "argon2id"}}, "1": {"kdf": {"type": "argon2i"}}}),
        "slot 1 uses argon2i",
    ),
    "no slot": (header(keyslots={}), "no key slot"),
    "no cipher": (
        header(segments={"0": {"type": "crypt", "encryption": "cipher_null-ecb"}}),
        "encrypted by cipher_null-ecb",
    ),
    "half encrypted yet": (header(segments={"0": {"type": "linear"}}), "encrypted by no cipher"),
    "another container": (second_container_is_weak, "/var/home: /dev/vdb6: slot 0 uses pbkdf2"),
    "a key file": (
        lambda m: m.table("crypttab", "luks-y /dev/vdb3 /boot/key"),
        "opened by the file /boot/key",
    ),
    "crypttab of a bare disk": (lambda m: m.table("crypttab", "y /dev/vdb2 none"), "/dev/vdb2 is not LUKS2"),
    "a device that is gone": (lambda m: m.table("fstab", "LABEL=x /x ext4 - 0 0"), "LABEL=x is not there"),
    "a plain root": (
        lambda m: m.mounts.__setitem__(1, (str(m.root), "/dev/vdb2", "ext4", "rw")),
        "/: /dev/vdb2",
    ),
    "no root": (lambda m: m.mounts.__delitem__(slice(1, None)), "no device that could be looked at"),
    "what starts the machine, elsewhere": (
        lambda m: m.mount("/boot/more", "/dev/vdb2"),
        "/boot/more: /dev/vdb2",
    ),
}


@pytest.mark.parametrize(("spoil", "why"), REFUSED.values(), ids=REFUSED)
def test_what_lies_in_the_clear_is_named(spoil, why, machine, monkeypatch):
    spoil(machine)
    ended = []
    monkeypatch.setattr(ending, "end", lambda said, installed: ended.append((said, installed)) or 1)
    assert gate.main() == 1
    ((said, installed),) = ended
    assert why in said and "must not be used" in said and installed


def volume_in_container_in_volume(machine):
    """Nested: a volume in a container in a volume, and what lies under the container may be bare."""
    machine.add("/dev/mapper/outer-lv", "lvm", "/dev/vdb3")
    machine.add("/dev/mapper/luks-x", "crypt", "/dev/mapper/outer-lv")
    machine.add("/dev/mapper/inner-root", "lvm", "/dev/mapper/luks-x")
    machine.headers["/dev/mapper/outer-lv"] = GOOD
    machine.mounts[1] = (str(machine.root), "/dev/mapper/inner-root", "ext4", "rw")


def weak_in_a_good_one(machine):
    """Of two containers on the way down, one is enough."""
    machine.add("/dev/mapper/plain", "crypt", "/dev/mapper/luks-x")
    machine.mounts[1] = (str(machine.root), "/dev/mapper/plain", "ext4", "rw")


def array_of_containers(machine):
    machine.add("/dev/vdc1", "part", "/dev/vdb")
    machine.add("/dev/mapper/luks-y", "crypt", "/dev/vdc1")
    machine.add("/dev/md0", "raid1", "/dev/mapper/luks-x", "/dev/mapper/luks-y")
    machine.headers["/dev/vdc1"] = GOOD
    machine.mount("/var", "/dev/md0")


def spread_over_containers(machine):
    spread_btrfs(machine)
    machine.add("/dev/vdc1", "crypt", "/dev/vdc2")
    machine.add("/dev/vdc2", "part", "/dev/vdb")
    machine.headers["/dev/vdc2"] = GOOD


ACCEPTED = {
    "nested": volume_in_container_in_volume,
    "a weak one in a good one": weak_in_a_good_one,
    "an array of containers": array_of_containers,
    "btrfs over containers": spread_over_containers,
    "a swap file inside": lambda m: m.swap.append("/var/swap"),
    "swap by a key that nobody keeps": lambda m: m.table(
        "crypttab", "swap /dev/vdb2 /dev/urandom swap,plain"
    ),
    "memory": lambda m: m.table("fstab", "tmpfs /tmp tmpfs defaults 0 0"),
    "another copy of ext4": lambda m: m.systems.update(
        {"/dev/mapper/luks-x": ("ext4", "a"), "/dev/vdb2": ("ext4", "a")}
    ),
}


@pytest.mark.parametrize("change", ACCEPTED.values(), ids=ACCEPTED)
def test_what_is_protected_otherwise_is_accepted(change, machine, monkeypatch):
    monkeypatch.setattr(ending, "end", lambda why, **_: pytest.fail(why))
    change(machine)
    assert gate.main() == 0


@pytest.mark.parametrize("failing", ["findmnt", "lsblk", "swapon", "cryptsetup"])
def test_without_its_programs_it_refuses(failing, machine, monkeypatch):
    ended = []

    def run(*argv):
        if argv[0] == failing:
            raise subprocess.CalledProcessError(1, argv)
        return machine.run(*argv)

    monkeypatch.setattr(gate, "run", run)
    monkeypatch.setattr(ending, "end", lambda said, installed: ended.append(said) or 1)
    assert gate.main() == 1 and "could not be looked at" in ended[0]
