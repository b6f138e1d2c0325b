"""The lab's live medium: a small bootable ISO with the stand-in installer.

It runs that as a Fedora netinst ISO runs Anaconda.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tarfile
from functools import partial
from pathlib import Path

from veilor.lab import debian_base
from veilor.lab.cache import artefact, hash_tree
from veilor.lab.debian_base import (
    TreeEntry,
    added_files,
    base_rootfs,
    epoch,
    grub_images,
    rust_programs,
    write_tree,
)
from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault

VOLUME = "VEILOR-LAB-LIVE"
INSTALLER = "usr/lib/veilor-lab-anaconda"  # the stand-in installer's folder on the medium
# A stand-in: the product asks for 1 GiB, which an emulated processor takes minutes for.
STAND_IN_KDF = "veilor.lab.pbkdf-memory=65536 veilor.lab.pbkdf-iterations=4"
ARGUMENTS = (
    f"root=live:CDLABEL={VOLUME} rd.live.image rd.live.overlay.overlayfs=1 {STAND_IN_KDF} "
    "console=tty0 console=ttyS0"
)
GRUB_CFG = f"""set timeout=1
set default=0
serial --unit=0 --speed=115200
terminal_input console serial
terminal_output console serial
menuentry 'Install veilor-os' {{
  linux /images/pxeboot/vmlinuz {ARGUMENTS}
  initrd /images/pxeboot/initrd.img
}}
"""
# Fedora's medium has none of these running beside its installer, or with settings that let everything
# through.
MASKED_UNITS = ("firewalld", "usbguard", "chrony", "auditd", "systemd-oomd", "systemd-zram-setup@zram0")
BOOT_FILES = {"vmlinuz": "vmlinuz", "initramfs.img": "initrd.img"}  # beside the modules: on the medium
PERMISSIVE = b'{"default":[{"type":"insecureAcceptAnything"}]}\n'


def live_medium(cache: Path, tools: Tools, source: Path) -> Path:
    """The live ISO without kickstart and image, cached by everything that goes into it (about 60 s)."""
    rootfs, programs = base_rootfs(cache, source), rust_programs(cache, tools, source)
    grub = grub_images(cache, tools)
    installer = source / "stand-ins/installer"
    added = list(added_files(source, programs, grub))
    for path in sorted([*installer.glob("*.py"), installer / "anaconda.toml"]):
        added.append(TreeEntry(f"{INSTALLER}/{path.name}", path, 0o644))
    pykickstart = importlib.util.find_spec("pykickstart")
    if not pykickstart or not pykickstart.origin:
        raise LabFault("pykickstart, which the stand-in installer needs, is not installed; run `make setup`")
    package = Path(pykickstart.origin).parent
    for path in sorted(package.rglob("*.py")):
        added.append(TreeEntry(f"{INSTALLER}/pykickstart/{path.relative_to(package)}", path, 0o644))
    # The installer takes the parser of the Fedora that this names.
    added.append(TreeEntry(f"{INSTALLER}/product.toml", source / "product.toml", 0o644))
    unit = "veilor-lab-anaconda.service"
    units = "etc/systemd/system"
    added += [
        TreeEntry(f"usr/lib/systemd/system/{unit}", installer / unit, 0o644),
        TreeEntry(f"{units}/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}", 0o777),
        TreeEntry(f"{units}/serial-getty@ttyS0.service", "/dev/null", 0o777),
        TreeEntry("etc/containers/policy.json", PERMISSIVE, 0o644),
        *(TreeEntry(f"{units}/{name}.service", "/dev/null", 0o777) for name in MASKED_UNITS),
    ]
    inputs = {
        "rootfs": rootfs.parent.name,
        "programs": hash_tree(programs),
        "grub": hash_tree(grub),
        "epoch": str(epoch()),
        "installer": hash_tree(installer),
        "stand-ins": [_fingerprint(entry) for entry in added],
        "grub.cfg": GRUB_CFG,
        "writer": Path(__file__),
        "tree": Path(debian_base.__file__),
    }

    def build(dest: Path) -> None:
        work = dest.with_name(dest.name + ".work")
        shutil.rmtree(work, ignore_errors=True)
        (work / "iso/LiveOS").mkdir(parents=True)
        try:
            lay_out_medium(work, rootfs, added, tools)
            write_iso(work, dest, tools)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "live.iso", inputs, build)


def _fingerprint(entry: TreeEntry) -> str:
    """What of ENTRY goes into the key of the medium."""
    content = hash_tree(entry.content) if isinstance(entry.content, Path) else entry.content
    return f"{entry.name} {content!r}"


def lay_out_medium(work: Path, rootfs: Path, added: list[TreeEntry], tools: Tools) -> None:
    """Lay out the medium under WORK/iso: kernel, initramfs, squashed root, boot configuration, EFI image."""
    iso = work / "iso"
    write_tree(rootfs, work / "tree.tar", added, ostree=False)
    run = partial(tools.run, binds=[work], timeout=900)
    squash = (
        f"sqfstar -comp zstd -Xcompression-level 3 -processors 2 -all-time {epoch()} -mkfs-time {epoch()} "
        '-quiet -no-progress "$1" < "$2"'
    )
    run(["sh", "-c", squash, "sh", f"{iso}/LiveOS/squashfs.img", f"{work}/tree.tar"])
    boot = iso / "images/pxeboot"
    boot.mkdir(parents=True)
    with tarfile.open(work / "tree.tar") as tree:
        for member in tree:
            target = BOOT_FILES.get(os.path.basename(member.name))
            in_modules = member.name.startswith("usr/lib/modules/") and member.name.count("/") == 4
            if not target or not in_modules:
                continue
            if data := tree.extractfile(member):
                (boot / target).write_bytes(data.read())
    for folder in ("boot/grub2", "EFI/BOOT"):
        (iso / folder).mkdir(parents=True)
        (iso / folder / "grub.cfg").write_text(GRUB_CFG)
    (work / "early.cfg").write_text(
        "search --no-floppy --file --set=root /LiveOS/squashfs.img\nconfigfile ($root)/boot/grub2/grub.cfg\n"
    )
    modules = (
        "part_gpt part_msdos fat iso9660 normal search search_fs_file configfile serial terminal "
        "linux all_video echo test"
    ).split()
    make = ["grub-mkimage", "-c", str(work / "early.cfg"), "-p", "/boot/grub2"]
    run([*make, "-O", "x86_64-efi", "-o", str(iso / "EFI/BOOT/BOOTX64.EFI"), *modules])
    run([*make, "-O", "i386-pc-eltorito", "-o", str(iso / "boot/grub2/eltorito.img"), "biosdisk", *modules])
    run(["cp", "/usr/lib/grub/i386-pc/boot_hybrid.img", str(work / "hybrid.img")])
    image = work / "efi.img"
    run(["mkfs.vfat", "-C", "-i", "20260101", "--invariant", "-n", "LIVE-EFI", str(image), "8192"])
    run(
        [
            "sh",
            "-c",
            f"mmd -i {image} ::/EFI ::/EFI/BOOT && mcopy -i {image} -m {iso}/EFI/BOOT/* ::/EFI/BOOT/",
        ]
    )


def write_iso(work: Path, dest: Path, tools: Tools) -> None:
    """Write WORK/iso as the hybrid ISO DEST.

    It has El Torito for BIOS and UEFI, an MBR for BIOS sticks, and the EFI image as partition 2.
    """
    argv = ["xorriso", "-as", "mkisofs", "-quiet", "-V", VOLUME, "-r", "-J", "-joliet-long"]
    argv += ["-iso-level", "3", "-o", str(dest)]
    argv += ["--grub2-mbr", str(work / "hybrid.img"), "-partition_offset", "16", "-appended_part_as_gpt"]
    argv += ["-append_partition", "2", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", str(work / "efi.img")]
    argv += ["-c", "boot.cat", "-b", "boot/grub2/eltorito.img", "-no-emul-boot"]
    argv += ["-boot-load-size", "4", "-boot-info-table", "--grub2-boot-info"]
    argv += ["-eltorito-alt-boot", "-e", "--interval:appended_partition_2:all::", "-no-emul-boot"]
    tools.run(
        [*argv, str(work / "iso")],
        binds=[work, dest.parent],
        env={"SOURCE_DATE_EPOCH": str(epoch())},
        timeout=600,
    )
