"""The lab's live medium: a small bootable ISO that runs the stand-in installer, as a Fedora netinst ISO runs
Anaconda.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tarfile
from pathlib import Path

from veilor.lab.cache import artefact, hash_tree
from veilor.lab.debian_base import added_files, base_rootfs, epoch, grub_images, rust_programs, write_tree
from veilor.lab.tools import Tools

VOLUME = "VEILOR-LAB-LIVE"
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
PERMISSIVE = b'{"default":[{"type":"insecureAcceptAnything"}]}\n'


def live_medium(cache: Path, tools: Tools, source: Path) -> Path:
    """The live ISO without kickstart and image, cached by everything that goes into it (about 60 s)."""
    rootfs, programs = base_rootfs(cache, source), rust_programs(cache, tools, source)
    grub = grub_images(cache, tools)
    installer = source / "stand-ins/installer"
    added = [entry for entry in added_files(source, programs, grub) if "greenboot" not in entry[0]]
    for path in sorted(installer.glob("*.py")):
        added.append((f"usr/lib/veilor-lab-anaconda/{path.name}", path, 0o644))
    for name in ("pykickstart",):
        package = Path(importlib.util.find_spec(name).origin).parent
        for path in sorted(package.rglob("*.py")):
            added.append((f"usr/lib/veilor-lab-anaconda/{name}/{path.relative_to(package)}", path, 0o644))
    # The installer takes the parser of the Fedora that this names.
    added.append(("usr/lib/veilor-lab-anaconda/product.toml", source / "product.toml", 0o644))
    unit = "veilor-lab-anaconda.service"
    added += [
        (f"usr/lib/systemd/system/{unit}", installer / unit, 0o644),
        (f"etc/systemd/system/multi-user.target.wants/{unit}", f"/usr/lib/systemd/system/{unit}", 0o777),
        ("etc/systemd/system/serial-getty@ttyS0.service", "/dev/null", 0o777),
        ("etc/containers/policy.json", PERMISSIVE, 0o644),
        *((f"etc/systemd/system/{name}.service", "/dev/null", 0o777) for name in MASKED_UNITS),
        (
            "etc/resolv.conf",
            b"",
            0o644,
        ),  # `bootc install ensure-completion` copies it, as Fedora's medium always has one
    ]
    inputs = {
        "rootfs": rootfs.parent.name,
        "programs": hash_tree(programs),
        "grub": hash_tree(grub),
        "epoch": str(epoch()),
        "installer": hash_tree(installer),
        "stand-ins": [
            f"{n} {c if isinstance(c, str) else hash_tree(c) if isinstance(c, Path) else c}"
            for n, c, _ in added
        ],
        "grub.cfg": GRUB_CFG,
        "writer": Path(__file__),
        "tree": Path(__file__).with_name("debian_base.py"),
    }

    def build(dest: Path) -> None:
        work = dest.with_name(dest.name + ".work")
        shutil.rmtree(work, ignore_errors=True)
        (work / "iso/LiveOS").mkdir(parents=True)
        try:
            lay_out_medium(work, rootfs, added, grub, tools)
            write_iso(work, dest, tools)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    return artefact(cache, "live.iso", inputs, build)


def lay_out_medium(work: Path, rootfs: Path, added: list, grub: Path, tools: Tools) -> None:
    """Lay out the medium under WORK/iso: kernel, initramfs, squashed root, boot configuration, EFI image."""
    iso = work / "iso"
    write_tree(rootfs, work / "tree.tar", added, ostree=False)
    run = {"binds": [work], "timeout": 900}
    with (work / "tree.tar").open("rb"):
        tools.run(
            [
                "sh",
                "-c",
                f"sqfstar -comp zstd -Xcompression-level 3 -processors 2 -all-time {epoch()} -mkfs-time "
                f"{epoch()} "
                '-quiet -no-progress "$1" < "$2"',
                "sh",
                f"{iso}/LiveOS/squashfs.img",
                f"{work}/tree.tar",
            ],
            **run,
        )
    (iso / "images/pxeboot").mkdir(parents=True)
    with tarfile.open(work / "tree.tar") as tree:
        for member in tree:
            name = os.path.basename(member.name)
            if (
                member.name.startswith("usr/lib/modules/")
                and member.name.count("/") == 4
                and name in ("vmlinuz", "initramfs.img")
            ):
                target = iso / "images/pxeboot" / {"initramfs.img": "initrd.img"}.get(name, name)
                target.write_bytes(tree.extractfile(member).read())
    for place in ("boot/grub2", "EFI/BOOT"):
        (iso / place).mkdir(parents=True)
        (iso / place / "grub.cfg").write_text(GRUB_CFG)
    (work / "early.cfg").write_text(
        "search --no-floppy --file --set=root /LiveOS/squashfs.img\nconfigfile ($root)/boot/grub2/grub.cfg\n"
    )
    modules = (
        "part_gpt part_msdos fat iso9660 normal search search_fs_file configfile serial terminal "
        "linux all_video echo test"
    ).split()
    make = ["grub-mkimage", "-c", str(work / "early.cfg"), "-p", "/boot/grub2"]
    tools.run([*make, "-O", "x86_64-efi", "-o", str(iso / "EFI/BOOT/BOOTX64.EFI"), *modules], **run)
    tools.run(
        [*make, "-O", "i386-pc-eltorito", "-o", str(iso / "boot/grub2/eltorito.img"), "biosdisk", *modules],
        **run,
    )
    tools.run(["cp", "/usr/lib/grub/i386-pc/boot_hybrid.img", str(work / "hybrid.img")], **run)
    image = work / "efi.img"
    tools.run(
        ["mkfs.vfat", "-C", "-i", "20260101", "--invariant", "-n", "LIVE-EFI", str(image), "8192"], **run
    )
    tools.run(
        [
            "sh",
            "-c",
            f"mmd -i {image} ::/EFI ::/EFI/BOOT && mcopy -i {image} -m {iso}/EFI/BOOT/* ::/EFI/BOOT/",
        ],
        **run,
    )


def write_iso(work: Path, dest: Path, tools: Tools) -> None:
    """Make the hybrid ISO: El Torito for BIOS and UEFI, an MBR for BIOS sticks,
    the EFI image as partition 2.
    """
    argv = [
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-V",
        VOLUME,
        "-r",
        "-J",
        "-joliet-long",
        "-iso-level",
        "3",
        "-o",
        str(dest),
    ]
    argv += ["--grub2-mbr", str(work / "hybrid.img"), "-partition_offset", "16", "-appended_part_as_gpt"]
    argv += ["-append_partition", "2", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", str(work / "efi.img")]
    argv += [
        "-c",
        "boot.cat",
        "-b",
        "boot/grub2/eltorito.img",
        "-no-emul-boot",
        "-boot-load-size",
        "4",
        "-boot-info-table",
    ]
    argv += [
        "--grub2-boot-info",
        "-eltorito-alt-boot",
        "-e",
        "--interval:appended_partition_2:all::",
        "-no-emul-boot",
    ]
    tools.run(
        [*argv, str(work / "iso")],
        binds=[work, dest.parent],
        env={"SOURCE_DATE_EPOCH": str(epoch())},
        timeout=600,
    )
