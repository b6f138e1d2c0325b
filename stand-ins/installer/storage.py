"""Carries out a plan on the chosen disk, and takes it all down again at the end."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass

from planner import Disk, Partition, Plan, sfdisk_script
from system import Failed, run, setting

ROOT, SYSROOT = "/mnt/sysimage", "/mnt/sysroot"
LSBLK = ("lsblk", "--json", "--bytes", "--tree", "--output", "NAME,PATH,TYPE,SIZE,RO,MOUNTPOINTS")


@dataclass
class Storage:
    """What was made: UUIDs of file systems by mount point, and of the LUKS container."""

    plan: Plan
    uuids: dict[str, str]
    luks: str
    device: str


def look() -> list[Disk]:
    """The disks that are there."""
    return [
        disk
        for node in json.loads(run(*LSBLK))["blockdevices"]
        if node["type"] == "disk" and (disk := as_disk(node))
    ]


def as_disk(node: dict) -> Disk:
    """A disk from a NODE of lsblk's tree."""

    def below(one: dict) -> list[dict]:
        return [one] + [inner for child in one.get("children") or [] for inner in below(child)]

    nodes = below(node)
    points = [point for one in nodes for point in one.get("mountpoints") or [] if point]
    held = f"in use: {points[0]}" if points else "read-only" if node["ro"] else ""
    if not held and any(one["type"] not in ("disk", "part") for one in nodes):
        held = "something is still open on it"
    return Disk(
        node["name"],
        node["path"],
        node["size"],
        tuple(one["name"] for one in nodes if one["type"] == "part"),
        held,
    )


def kdf(wanted_kib: int) -> tuple[list[str], str]:
    """cryptsetup's options for argon2id with WANTED_KIB (0: the program's default), and the lab's override in
    words.
    """
    memory, rounds = setting("veilor.lab.pbkdf-memory"), setting("veilor.lab.pbkdf-iterations")
    options = ["--pbkdf", "argon2id"]
    if memory or wanted_kib:
        options += ["--pbkdf-memory", memory or str(wanted_kib)]
    if rounds:
        options += ["--pbkdf-force-iterations", rounds]
    said = (
        f"argon2id with {memory or wanted_kib} KiB, {rounds or 'measured'} iterations, not the "
        f"{wanted_kib} KiB of the kickstart"
    )
    return options, said if memory or rounds else ""


def partition(made: Plan) -> None:
    """Give the plan's disk a new GPT; every signature of what was there goes."""
    run(
        "sfdisk",
        "--quiet",
        "--wipe",
        "always",
        "--wipe-partitions",
        "always",
        made.disk.path,
        stdin=sfdisk_script(made).encode(),
    )
    run("udevadm", "settle", "--timeout=30", check=False)
    missing = [p.path for p in made.partitions if not os.path.exists(p.path)]
    if missing:
        raise Failed(f"{missing[0]} did not appear after partitioning; start again")


def encrypt(made: Plan, passphrase: bytes, say: Callable[[str], None]) -> tuple[str, str]:
    """LUKS on the root partition; (its UUID, the opened device)."""
    root = made.at("/")
    options, override = kdf(root.part.pbkdf_memory)
    if override:
        say(f"STAND-IN: a cheaper key derivation for the lab: {override}")
    run(
        "cryptsetup",
        "luksFormat",
        "--batch-mode",
        "--type",
        "luks2",
        *options,
        "--key-file=-",
        root.path,
        stdin=passphrase,
        timeout=600,
    )
    luks = run("cryptsetup", "luksUUID", root.path).strip()
    run(
        "cryptsetup",
        "open",
        "--type",
        "luks2",
        "--key-file=-",
        root.path,
        f"luks-{luks}",
        stdin=passphrase,
        timeout=600,
    )
    return luks, f"/dev/mapper/luks-{luks}"


def make_file_systems(made: Plan, luks: str, device: str) -> Storage:
    """File systems on every partition that has a mount point."""
    done = Storage(made, {}, luks, device)
    for one in made.partitions:
        if not one.mount:
            continue
        if one.fstype == "vfat":
            number = uuid.uuid4().hex[:8].upper()
            run("mkfs.vfat", "-F", "32", "-i", number, one.path)
            done.uuids[one.mount] = f"{number[:4]}-{number[4:]}"
        else:
            done.uuids[one.mount] = str(uuid.uuid4())
            label = ["-L", one.part.label] if one.part.label else []
            place = device if one.part.encrypted else one.path
            run(f"mkfs.{one.fstype}", "-q", "-F", "-U", done.uuids[one.mount], *label, place, timeout=600)
    return done


def by_depth(made: Plan) -> list[Partition]:
    """The partitions with a mount point, / first."""
    return sorted((p for p in made.partitions if p.mount), key=lambda p: p.mount.rstrip("/").count("/"))


def mount(done: Storage) -> None:
    """Mount everything below ROOT."""
    os.makedirs(ROOT, exist_ok=True)
    for one in by_depth(done.plan):
        place = ROOT + one.mount.rstrip("/")
        os.makedirs(place, exist_ok=True)
        run("mount", done.device if one.mount == "/" else one.path, place)
    os.chmod(ROOT, 0o755)


def take_down(luks: str) -> None:
    """Unmount everything and close the container; what isn't there is no error."""
    for place in (SYSROOT, ROOT):
        if os.path.ismount(place):
            run("umount", "--recursive", place, timeout=300)
    run("sync", timeout=300)
    if luks and os.path.exists(f"/dev/mapper/luks-{luks}"):
        run("cryptsetup", "close", f"luks-{luks}")
