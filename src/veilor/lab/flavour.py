"""Flavours of the stand-in base: what a scenario's machine has besides the plain one.

A flavour is made on demand and cached like the plain base. A machine of one with a desktop is installed from
an image of it.

The machines of other flavours are not installed. Their initramfs is made with the staged tree in place, as
the real image build does (bluebuild/files/scripts/initramfs.sh): the boot screen lies in there. Boot loader,
kernel and a locked container lie on disks of their own, made in seconds, and nothing is behind the lock.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from functools import partial
from pathlib import Path

from veilor.lab.cache import artefact, hash_tree
from veilor.lab.debian_base import grub_images
from veilor.lab.tools import Tools, unpack_tree

FLAVOURS = {"boot-screen": tuple("plymouth plymouth-label kbd fonts-inter".split())}
# Drawn by the processor: a machine of the lab has no graphics that could.
DESKTOPS = {
    "": (),
    "desktop": tuple(
        """plasma-desktop plasma-workspace kwin-wayland kactivitymanagerd systemsettings konsole dolphin
        sddm breeze breeze-icon-theme breeze-cursor-theme breeze-gtk-theme kde-style-breeze
        kwin-style-breeze plasma-integration qt6-svg-plugins qt6-wayland layer-shell-qt fonts-inter
        fonts-jetbrains-mono libgl1-mesa-dri""".split()
    ),
}
DRACUT = """dracut --force --no-hostonly --zstd --reproducible --add ostree --add crypt --add systemd-cryptsetup
    --omit ecryptfs --omit usrmount --omit selinux""".split()  # noqa: E501
LUKS = "7d0c1f52-0f3a-4c55-9b1e-5a1f0d6f2c11"
# As Anaconda writes them (life's install has the same from its stand-in), and the lab's serial console.
ARGUMENTS = (
    f"rd.luks.uuid=luks-{LUKS} rhgb quiet console=tty0 console=ttyS0 "
    "root=UUID=6f2c115a-0000-4000-8000-000000000001 rw"
)
ENTRY = """title {title}
version 1
options {arguments}
linux /vmlinuz
initrd /initramfs.img
"""


def lay_over(staged: Path, root: Path) -> None:
    """Copy every file of the staged tree STAGED over what ROOT has there.

    No link of ROOT is written through.
    """
    for source in sorted(staged.rglob("*")):
        target = root / source.relative_to(staged)
        if source.is_symlink() or source.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.unlink(missing_ok=True)
            shutil.copy2(source, target, follow_symlinks=False)


class WritableTree(Tools):
    """The tree of a flavour, in which programs run as root, without a network, and may write everywhere."""

    def argv(
        self, argv: list[str], binds: Iterable[Path] = (), env: dict[str, str] | None = None
    ) -> list[str]:
        """The bubblewrap command line that runs ARGV in the tree; it takes neither BINDS nor ENV."""
        wrap = ["bwrap", "--die-with-parent", "--unshare-pid", "--unshare-net", "--new-session", "--clearenv"]
        wrap += ["--bind", str(self.root), "/"]
        wrap += ["--unshare-user", "--uid", "0", "--gid", "0"] if os.geteuid() else []
        wrap += [
            "--dev",
            "/dev",
            "--proc",
            "/proc",
            "--tmpfs",
            "/run",
            "--tmpfs",
            "/tmp",
            "--setenv",
            "PATH",
            "/usr/sbin:/usr/bin",
        ]
        return [*wrap, "--", *argv]


def machine_parts(cache: Path, rootfs: Path, staged: Path, passphrase: bytes) -> Path:
    """A folder with what a locked machine is made of: vmlinuz, initramfs.img and lock.img.

    ROOTFS is the flavour's tree as a tar, STAGED the product's staged tree, PASSPHRASE what opens the lock;
    cached by all three. It takes one to two minutes, most of them dracut's. Raises LabFault.
    """

    def build(dest: Path) -> None:
        root = dest.with_name(dest.name + ".root")
        dest.mkdir()
        unpack_tree(rootfs, root)
        lay_over(staged, root)
        tree = WritableTree(root)
        (modules,) = (root / "usr/lib/modules").iterdir()
        tree.run([*DRACUT, "--kver", modules.name, "/initramfs.img"], timeout=900)
        with (root / "lock.img").open("wb") as lock:
            lock.truncate(64 << 20)
        cheap = ["--pbkdf", "argon2id", "--pbkdf-memory", "65536", "--pbkdf-force-iterations", "4"]
        cheap += ["--uuid", LUKS]
        tree.run(
            ["cryptsetup", "luksFormat", "--batch-mode", "--type", "luks2", *cheap, "/lock.img", "-"],
            timeout=900,
            stdin=passphrase,
        )
        for made in (modules / "vmlinuz", root / "initramfs.img", root / "lock.img"):
            shutil.move(made, dest / made.name)

    inputs = {
        "rootfs": rootfs.parent.name,
        "staged": hash_tree(staged),
        "passphrase": passphrase,
        "dracut": DRACUT,
        "lock": LUKS,
    }
    return artefact(cache, "locked", inputs, build)


def make_disks(
    parts: Path, staged: Path, dest: Path, *, tools: Tools, cache: Path, source: Path, arguments: str
) -> list[Path]:
    """Make the disks of a machine of PARTS in the new folder DEST: boot loader, /boot, lock.

    The boot entry is as ostree writes it, named by the staged os-release, with kernel ARGUMENTS besides those
    of an installer.
    """
    boot = dest / "boot"
    for folder in ("loader/entries", "grub2/x86_64-efi"):
        (boot / folder).mkdir(parents=True)
    named = dict(
        line.partition("=")[::2] for line in (staged / "usr/lib/os-release").read_text().splitlines()
    )
    title = named["PRETTY_NAME"].strip('"')
    entry = ENTRY.format(title=f"{title} (ostree:0)", arguments=f"{ARGUMENTS} {arguments}".strip())
    (boot / "loader/entries/ostree-1.conf").write_text(entry)
    grub = grub_images(cache, tools)
    for copied, name in (
        (parts / "vmlinuz", "vmlinuz"),
        (parts / "initramfs.img", "initramfs.img"),
        (grub / "x86_64-efi.linux.mod", "grub2/x86_64-efi/linux.mod"),
        (source / "stand-ins/bootupctl/grub.cfg", "grub2/grub.cfg"),
    ):
        shutil.copyfile(copied, boot / name)
    (boot / "grub2/veilor-boot").touch()
    run = partial(tools.run, binds=[dest, grub], timeout=300)
    run(["mkfs.vfat", "-C", str(dest / "efi.img"), "65536"])
    run(["mmd", "-i", str(dest / "efi.img"), "::/EFI", "::/EFI/BOOT"])
    run(["mcopy", "-i", str(dest / "efi.img"), str(grub / "BOOTX64.EFI"), "::/EFI/BOOT/"])
    run(["mke2fs", "-q", "-t", "ext4", "-d", str(boot), str(dest / "boot.img"), "512M"])
    shutil.copyfile(parts / "lock.img", dest / "lock.img")
    return [dest / name for name in ("efi.img", "boot.img", "lock.img")]
