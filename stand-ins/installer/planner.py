"""What to do to which disk, from the kickstart and the disks that are there. Pure: nothing is looked at or
changed here.
"""

from dataclasses import dataclass

from ks import Kickstart, Part
from system import Failed

MiB = 1 << 20
EFI_MIB, BIOS_MIB = 600, 1  # what Anaconda takes for `reqpart`
EDGE_MIB = 1  # kept free at both ends, for the GPT and its copy
TYPES = {
    "efi": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "linux": "0FC63DAF-8483-4772-8E79-3D69D8477DE4",
}


@dataclass(frozen=True)
class Disk:
    """A disk as it is: its partitions by name; `held` says what keeps it from being used, such as a mount
    point.
    """

    name: str
    path: str
    size: int
    partitions: tuple[str, ...] = ()
    held: str = ""


@dataclass(frozen=True)
class Partition:
    """A partition to make, in MiB from the start of the disk; `mount` is empty
    for one without a file system.
    """

    number: int
    path: str
    start: int
    size: int
    type: str
    mount: str
    fstype: str
    part: Part | None = None


@dataclass(frozen=True)
class Plan:
    """Make a GPT with PARTITIONS on DISK. Nothing else is written to, anywhere."""

    disk: Disk
    partitions: tuple[Partition, ...]

    def at(self, mount: str) -> Partition | None:
        """The partition that goes to MOUNT."""
        return next((p for p in self.partitions if p.mount == mount), None)


def plan(ks: Kickstart, disks: list[Disk], *, uefi: bool) -> Plan:
    """The one plan that KS allows on DISKS. Raises Failed, with nothing changed, when it allows none."""
    disk = target(ks, disks)
    wanted: list[tuple[str, str, str, int, bool, Part | None]] = []
    if ks.reqpart:
        wanted.append(
            ("efi", "/boot/efi", "vfat", EFI_MIB, False, None)
            if uefi
            else ("bios", "", "", BIOS_MIB, False, None)
        )
    for part in sorted(ks.parts, key=lambda part: part.mount == "/"):
        wanted.append(("linux", part.mount, part.fstype, part.size, part.grow, part))
    judge_parts(ks, uefi)
    room = disk.size // MiB - 2 * EDGE_MIB
    spare = room - sum(size for _, _, _, size, _, _ in wanted)
    if spare < 0:
        raise Failed(
            f"{disk.name} lacks {-spare} MiB for what the kickstart wants; take a larger disk; nothing was "
            "changed"
        )
    made, start = [], EDGE_MIB
    for number, (kind, mount, fstype, size, grow, part) in enumerate(wanted, 1):
        size += spare if grow else 0
        made.append(
            Partition(
                number, partition_path(disk.path, number), start, size, TYPES[kind], mount, fstype, part
            )
        )
        start += size
    return Plan(disk, tuple(made))


def target(ks: Kickstart, disks: list[Disk]) -> Disk:
    """The disk that KS lets us use and erase; exactly one, free, and everything on it named."""
    if len(ks.only_use) != 1:
        raise Failed("the kickstart must name exactly one disk by ignoredisk --only-use; nothing was changed")
    name = ks.only_use[0]
    disk = next((disk for disk in disks if disk.name == name), None)
    if disk is None:
        raise Failed(f"there is no disk {name}; nothing was changed")
    if disk.held:
        raise Failed(f"{name} can't be used: {disk.held}; nothing was changed")
    if ks.label != "gpt":
        raise Failed(f"this installer makes GPT only, not {ks.label}; nothing was changed")
    if set(ks.clear_drives) != {name}:
        raise Failed(f"clearpart --drives must name {name} alone; nothing was changed")
    named = set(ks.clear)
    missing, strange = set(disk.partitions) - named, named - {name, *disk.partitions}
    if missing:
        raise Failed(f"nobody agreed to erase {', '.join(sorted(missing))}; nothing was changed")
    if strange:
        raise Failed(f"clearpart names {', '.join(sorted(strange))}, not on {name}; nothing was changed")
    return disk


def judge_parts(ks: Kickstart, uefi: bool) -> None:
    """Refuse partitions that make no system: what an installer's own checks
    say before anything is written.
    """
    mounts = [part.mount for part in ks.parts]
    if sorted(mounts) != ["/", "/boot"]:
        raise Failed(
            f"this installer makes / and /boot, not {' '.join(mounts) or 'nothing'}; nothing was changed"
        )
    root, boot = (next(part for part in ks.parts if part.mount == mount) for mount in ("/", "/boot"))
    if boot.encrypted or any(part.grow for part in ks.parts if part is not root):
        raise Failed("/boot can be neither encrypted nor growing; nothing was changed")
    if not root.encrypted or root.luks_version not in ("", "luks2") or root.pbkdf not in ("", "argon2id"):
        raise Failed(
            "this installer makes an encrypted root by LUKS2 with argon2id only; nothing was changed"
        )
    if not ks.reqpart:
        raise Failed(
            f"nothing makes the {'EFI' if uefi else 'BIOS boot'} partition: reqpart is missing; nothing was "
            "changed"
        )


def partition_path(disk: str, number: int) -> str:
    """The device of partition NUMBER of the device DISK: /dev/sda1, /dev/nvme0n1p1."""
    return f"{disk}{'p' if disk[-1].isdigit() else ''}{number}"


def sfdisk_script(made: Plan) -> str:
    """The plan as sfdisk reads it."""
    lines = [f"start={p.start}MiB, size={p.size}MiB, type={p.type}" for p in made.partitions]
    return "\n".join(["label: gpt", *lines, ""])
