"""What to do to which disk, by the kickstart and the disks that are there. It reads and changes nothing."""

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
    """A disk as it is, its size in bytes, its partitions by name.

    `held` says what keeps it from being used, such as a mount point; empty when nothing does.
    """

    name: str
    path: str
    size: int
    partitions: tuple[str, ...] = ()
    held: str = ""


@dataclass(frozen=True)
class Wanted:
    """A partition that is wanted, before it has its place on a disk: its kind (a key of TYPES), size in MiB.

    `part` is the kickstart's line that asks for it; None for what `reqpart` asks for.
    """

    kind: str
    mount: str
    fstype: str
    size: int
    grow: bool = False
    part: Part | None = None


@dataclass(frozen=True)
class Partition:
    """A partition to make, in MiB from the start of the disk; `mount` is empty without a file system."""

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

    def partition_at(self, mount: str) -> Partition:
        """The partition that goes to MOUNT. Raises Failed without one."""
        for partition in self.partitions:
            if partition.mount == mount:
                return partition
        raise Failed(f"nothing is planned for {mount}; nothing was changed")


def make_plan(kickstart: Kickstart, disks: list[Disk], *, uefi: bool) -> Plan:
    """The one plan that KICKSTART allows on DISKS. Raises Failed, with nothing changed, without one."""
    disk = choose_disk(kickstart, disks)
    check_parts(kickstart, uefi)
    wanted = list_wanted(kickstart, uefi)
    room = disk.size // MiB - 2 * EDGE_MIB
    spare = room - sum(one.size for one in wanted)
    if spare < 0:
        raise Failed(
            f"{disk.name} lacks {-spare} MiB for what the kickstart wants; take a larger disk; nothing was "
            "changed"
        )
    partitions, start = [], EDGE_MIB
    for number, one in enumerate(wanted, 1):
        size = one.size + (spare if one.grow else 0)
        path = partition_path(disk.path, number)
        partitions.append(
            Partition(number, path, start, size, TYPES[one.kind], one.mount, one.fstype, one.part)
        )
        start += size
    return Plan(disk, tuple(partitions))


def list_wanted(kickstart: Kickstart, uefi: bool) -> list[Wanted]:
    """The partitions that KICKSTART asks for in their order on the disk: the firmware's first, / last."""
    wanted = []
    if kickstart.reqpart:
        wanted.append(
            Wanted("efi", "/boot/efi", "vfat", EFI_MIB) if uefi else Wanted("bios", "", "", BIOS_MIB)
        )
    for part in sorted(kickstart.parts, key=lambda part: part.mount == "/"):
        wanted.append(Wanted("linux", part.mount, part.fstype, part.size, part.grow, part))
    return wanted


def choose_disk(kickstart: Kickstart, disks: list[Disk]) -> Disk:
    """The disk of DISKS that KICKSTART lets us use and erase. Raises Failed unless it may be taken whole.

    There has to be exactly one, it has to be free, and everything on it has to be named.
    """
    if len(kickstart.only_use) != 1:
        raise Failed("the kickstart must name exactly one disk by ignoredisk --only-use; nothing was changed")
    name = kickstart.only_use[0]
    disk = next((disk for disk in disks if disk.name == name), None)
    if disk is None:
        raise Failed(f"there is no disk {name}; nothing was changed")
    if disk.held:
        raise Failed(f"{name} can't be used: {disk.held}; nothing was changed")
    if kickstart.label != "gpt":
        raise Failed(f"this installer makes GPT only, not {kickstart.label}; nothing was changed")
    if set(kickstart.clear_drives) != {name}:
        raise Failed(f"clearpart --drives must name {name} alone; nothing was changed")
    named = set(kickstart.clear)
    missing = set(disk.partitions) - named
    if missing:
        raise Failed(f"nobody agreed to erase {', '.join(sorted(missing))}; nothing was changed")
    strange = named - {name, *disk.partitions}
    if strange:
        raise Failed(f"clearpart names {', '.join(sorted(strange))}, not on {name}; nothing was changed")
    return disk


def check_parts(kickstart: Kickstart, uefi: bool) -> None:
    """Raise Failed for partitions that make no system, as an installer's own checks do before writing."""
    by_mount = {part.mount: part for part in kickstart.parts}
    mounts = [part.mount for part in kickstart.parts]
    if sorted(mounts) != ["/", "/boot"]:
        raise Failed(
            f"this installer makes / and /boot, not {' '.join(mounts) or 'nothing'}; nothing was changed"
        )
    boot = by_mount["/boot"]
    if boot.encrypted or boot.grow:
        raise Failed("/boot can be neither encrypted nor growing; nothing was changed")
    check_encryption(by_mount["/"])
    if not kickstart.reqpart:
        raise Failed(
            f"nothing makes the {'EFI' if uefi else 'BIOS boot'} partition: reqpart is missing; nothing was "
            "changed"
        )


def check_encryption(root: Part) -> None:
    """Raise Failed unless ROOT is asked for on LUKS2 with argon2id; where nothing is said, both are meant."""
    refusal = "this installer makes an encrypted root by LUKS2 with argon2id only; nothing was changed"
    if not root.encrypted:
        raise Failed(refusal)
    if root.luks_version not in ("", "luks2"):
        raise Failed(refusal)
    if root.pbkdf not in ("", "argon2id"):
        raise Failed(refusal)


def partition_path(disk: str, number: int) -> str:
    """The device of partition NUMBER of the device DISK: /dev/sda1, /dev/nvme0n1p1."""
    return f"{disk}{'p' if disk[-1].isdigit() else ''}{number}"


def sfdisk_script(plan: Plan) -> str:
    """PLAN as sfdisk reads it."""
    lines = [f"start={one.start}MiB, size={one.size}MiB, type={one.type}" for one in plan.partitions]
    return "\n".join(["label: gpt", *lines, ""])
