"""Carries out a plan on the chosen disk, and takes it all down again at the end."""

import json
import os
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from planner import Disk, Partition, Plan, sfdisk_script
from system import Failed, lab_setting, run

ROOT, SYSROOT = "/mnt/sysimage", "/mnt/sysroot"  # the mounted disk, and the new system as it sees itself
LSBLK = ("lsblk", "--json", "--bytes", "--tree", "--output", "NAME,PATH,TYPE,SIZE,RO,MOUNTPOINTS")


@dataclass
class Storage:
    """What was made: UUIDs of file systems by mount point, the LUKS container's UUID and opened device."""

    plan: Plan
    uuids: dict[str, str]
    luks: str
    device: str


def list_disks() -> list[Disk]:
    """The disks that are there."""
    nodes = json.loads(run(*LSBLK))["blockdevices"]
    return [disk_from_node(node) for node in nodes if node["type"] == "disk"]


def disk_from_node(node: dict[str, Any]) -> Disk:
    """The disk that NODE of lsblk's tree describes."""
    nodes = with_descendants(node)
    partitions = tuple(one["name"] for one in nodes if one["type"] == "part")
    return Disk(node["name"], node["path"], node["size"], partitions, why_held(node))


def with_descendants(node: dict[str, Any]) -> list[dict[str, Any]]:
    """NODE of lsblk's tree and everything on it."""
    found = [node]
    for child in node.get("children") or []:
        found += with_descendants(child)
    return found


def why_held(node: dict[str, Any]) -> str:
    """What keeps the disk of NODE from being used; an empty text when nothing does."""
    nodes = with_descendants(node)
    for one in nodes:
        for point in one.get("mountpoints") or []:
            if point:
                return f"in use: {point}"
    if node["ro"]:
        return "read-only"
    if any(one["type"] not in ("disk", "part") for one in nodes):
        return "something is still open on it"
    return ""


def key_derivation(wanted_kib: int) -> tuple[list[str], str]:
    """cryptsetup's options for argon2id with WANTED_KIB of memory (0: the program's default).

    Also returns what the lab has changed of it, in words; an empty text when nothing.
    """
    memory, rounds = lab_setting("veilor.lab.pbkdf-memory"), lab_setting("veilor.lab.pbkdf-iterations")
    options = ["--pbkdf", "argon2id"]
    if memory or wanted_kib:
        options += ["--pbkdf-memory", memory or str(wanted_kib)]
    if rounds:
        options += ["--pbkdf-force-iterations", rounds]
    if not memory and not rounds:
        return options, ""
    return options, (
        f"argon2id with {memory or wanted_kib} KiB, {rounds or 'measured'} iterations, not the "
        f"{wanted_kib} KiB of the kickstart"
    )


def partition_disk(plan: Plan) -> None:
    """Give the plan's disk a new GPT; every signature of what was there is wiped."""
    argv = ["sfdisk", "--quiet", "--wipe", "always", "--wipe-partitions", "always", plan.disk.path]
    run(*argv, stdin=sfdisk_script(plan).encode())
    run("udevadm", "settle", "--timeout=30", check=False)
    missing = [one.path for one in plan.partitions if not os.path.exists(one.path)]
    if missing:
        raise Failed(f"{missing[0]} did not appear after partitioning; start again")


def encrypt(plan: Plan, passphrase: bytes, say: Callable[[str], None]) -> tuple[str, str]:
    """Make LUKS2 on the root partition and open it; its UUID and the opened device."""
    root = plan.partition_at("/")
    options, override = key_derivation(root.part.pbkdf_memory if root.part else 0)
    if override:
        say(f"STAND-IN: a cheaper key derivation for the lab: {override}")
    make = ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *options, "--key-file=-"]
    run(*make, root.path, stdin=passphrase, timeout=600)
    luks = run("cryptsetup", "luksUUID", root.path).strip()
    unlock = ["cryptsetup", "open", "--type", "luks2", "--key-file=-", root.path, f"luks-{luks}"]
    run(*unlock, stdin=passphrase, timeout=600)
    return luks, f"/dev/mapper/luks-{luks}"


def make_file_systems(plan: Plan, luks: str, device: str) -> Storage:
    """Make a file system on every partition of PLAN that has a mount point.

    LUKS is the container's UUID, DEVICE the opened container, on which the encrypted root is made.
    """
    storage = Storage(plan, {}, luks, device)
    for one in plan.partitions:
        if not one.mount:
            continue
        if one.fstype == "vfat":
            number = uuid.uuid4().hex[:8].upper()
            run("mkfs.vfat", "-F", "32", "-i", number, one.path)
            storage.uuids[one.mount] = f"{number[:4]}-{number[4:]}"
        else:
            storage.uuids[one.mount] = str(uuid.uuid4())
            label = ["-L", one.part.label] if one.part and one.part.label else []
            target = device if one.part and one.part.encrypted else one.path
            argv = [f"mkfs.{one.fstype}", "-q", "-F", "-U", storage.uuids[one.mount], *label, target]
            run(*argv, timeout=600)
    return storage


def by_depth(plan: Plan) -> list[Partition]:
    """The partitions with a mount point, / first."""
    mounted = [one for one in plan.partitions if one.mount]
    return sorted(mounted, key=lambda one: one.mount.rstrip("/").count("/"))


def mount(storage: Storage) -> None:
    """Mount everything below ROOT."""
    os.makedirs(ROOT, exist_ok=True)
    for one in by_depth(storage.plan):
        folder = ROOT + one.mount.rstrip("/")
        os.makedirs(folder, exist_ok=True)
        run("mount", storage.device if one.mount == "/" else one.path, folder)
    os.chmod(ROOT, 0o755)


def take_down(luks: str) -> None:
    """Unmount everything and close the container with the UUID LUKS; what isn't there is no error."""
    for folder in (SYSROOT, ROOT):
        if os.path.ismount(folder):
            run("umount", "--recursive", folder, timeout=300)
    run("sync", timeout=300)
    if luks and os.path.exists(f"/dev/mapper/luks-{luks}"):
        run("cryptsetup", "close", f"luks-{luks}")
