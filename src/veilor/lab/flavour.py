"""Flavours of the stand-in base: what a scenario's machine has besides the plain one, and the initramfs that shows it.

A flavour is made on demand and cached like the plain base. Its images get an initramfs of their own, made with the staged
tree in place, as the real image build does (bluebuild/files/scripts/initramfs.sh): the boot screen lies in there.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.lab.base import TreeWriter
from veilor.lab.cache import hash_tree, remove_tree
from veilor.lab.verdict import LabFault

BOOT_SCREEN = tuple("plymouth plymouth-label kbd fonts-inter".split())
FLAVOURS = {"": (), "boot-screen": BOOT_SCREEN}
DRACUT = """dracut --force --no-hostonly --zstd --reproducible --add ostree --add crypt --add systemd-cryptsetup
    --omit ecryptfs --omit usrmount --omit selinux""".split()


def stamp(staged: Path, root: Path) -> None:
    """Put every file of the staged tree STAGED in place of what ROOT has there; no link of ROOT is written through."""
    for source in sorted(staged.rglob("*")):
        target = root / source.relative_to(staged)
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


def initramfs_maker(rootfs: Path, work: Path) -> Callable[[Path], bytes]:
    """A function from a staged tree to a layer's tar with its initramfs, made once for each tree (30 to 60 s).

    ROOTFS is the flavour's tree as a tar; WORK a folder with room for two of them. Raises LabFault when dracut fails.
    """
    made: dict[str, bytes] = {}

    def make(staged: Path) -> bytes:
        key = hash_tree(staged)
        if key not in made:
            made[key] = make_initramfs(rootfs, staged, work)
        return made[key]

    return make


def make_initramfs(rootfs: Path, staged: Path, work: Path) -> bytes:
    """The tar of a layer with nothing but the initramfs that dracut makes in ROOTFS with STAGED stamped on it."""
    scratch = Path(tempfile.mkdtemp(prefix="initramfs-", dir=work))
    try:
        root = scratch / "root"
        root.mkdir()
        subprocess.run(["tar", "-C", str(root), "--no-same-owner", "--exclude=./dev/*", "-xf", str(rootfs)], check=True, timeout=900)
        stamp(staged, root)
        (modules,) = (root / "usr/lib/modules").iterdir()
        image = modules / "initramfs.img"
        wrap = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-net", "--new-session", "--clearenv", "--bind", str(root), "/"]
        wrap += ["--unshare-user", "--uid", "0", "--gid", "0"] if os.geteuid() else []
        wrap += ["--dev", "/dev", "--proc", "/proc", "--tmpfs", "/run", "--tmpfs", "/tmp", "--setenv", "PATH", "/usr/sbin:/usr/bin"]
        argv = [*wrap, "--", *DRACUT, "--kver", modules.name, f"/{image.relative_to(root)}"]
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=900, check=False)
        if done.returncode:
            raise LabFault(f"dracut ended with {done.returncode}: {' / '.join(done.stderr.strip().splitlines()[-3:])[-400:]}")
        with TreeWriter(scratch / "layer.tar") as out:
            out.add(str(image.relative_to(root)), image, 0o644)
        return (scratch / "layer.tar").read_bytes()
    finally:
        remove_tree(scratch)
