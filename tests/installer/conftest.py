"""Where the installer's tests find the parts under test, and a small boot medium."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "stand-ins/installer"), str(ROOT / "kickstart/snippets")]

GRUB_CFG = """set default="1"
set timeout=60
menuentry 'Install' {
  linux /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=SMALL-MEDIUM quiet
  initrd /images/pxeboot/initrd.img
}
menuentry 'Test this media and install' {
  linuxefi /images/pxeboot/vmlinuz inst.stage2=hd:LABEL=SMALL-MEDIUM rd.live.check inst.ks=cdrom:/old.cfg quiet
  initrd /images/pxeboot/initrd.img
}
"""  # noqa: E501


@pytest.fixture(scope="session")
def run(tools):
    """`run` of the tools tree."""
    return tools.run


@pytest.fixture(scope="session")
def medium(run, tmp_path_factory):
    """A small medium, bootable by BIOS and UEFI, made as the lab's is: El Torito twice, an EFI image as
    partition 2.
    """
    work = tmp_path_factory.mktemp("medium")
    for place in ("boot/grub2", "EFI/BOOT", "images/pxeboot"):
        (work / "iso" / place).mkdir(parents=True)
    for place in ("boot/grub2", "EFI/BOOT"):
        (work / "iso" / place / "grub.cfg").write_text(GRUB_CFG)
    for name in ("vmlinuz", "initrd.img"):
        (work / "iso/images/pxeboot" / name).write_bytes(name.encode() * 1000)
    grub = "/usr/lib/grub/i386-pc"
    iso, efi, bind = work / "iso", work / "efi.img", {"binds": [work], "timeout": 120}
    eltorito = f"{iso}/boot/grub2/eltorito.img"
    run(
        [
            "grub-mkimage",
            "-O",
            "i386-pc-eltorito",
            "-p",
            "/boot/grub2",
            "-o",
            eltorito,
            "biosdisk",
            "iso9660",
        ],
        **bind,
    )
    run(["cp", f"{grub}/boot_hybrid.img", str(work / "hybrid.img")], **bind)
    run(["mkfs.vfat", "-C", str(efi), "2048"], **bind)
    run(["mmd", "-i", str(efi), "::/EFI", "::/EFI/BOOT"], **bind)
    run(["mcopy", "-i", str(efi), f"{iso}/EFI/BOOT/grub.cfg", "::/EFI/BOOT/grub.cfg"], **bind)
    argv = [
        "xorriso",
        "-as",
        "mkisofs",
        "-quiet",
        "-V",
        "SMALL-MEDIUM",
        "-r",
        "-J",
        "-o",
        str(work / "small.iso"),
    ]
    argv += ["--grub2-mbr", str(work / "hybrid.img"), "-partition_offset", "16", "-appended_part_as_gpt"]
    argv += ["-append_partition", "2", "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", str(efi)]
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
        str(iso),
    ]
    run(argv, **bind)
    return work / "small.iso"


@pytest.fixture
def layout(tmp_path):
    """Something with the shape of an OCI layout and blobs in no order."""
    return make_layout(tmp_path / "layout")


@pytest.fixture(scope="session")
def new_layout():
    """The function that makes another one, of the same bytes, in a folder."""
    return make_layout


def make_layout(folder: Path, order: tuple[int, ...] = (3, 1, 2)) -> Path:
    (folder / "blobs/sha256").mkdir(parents=True)
    (folder / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (folder / "index.json").write_text("{}")
    for number in order:
        (folder / "blobs/sha256" / f"{number:064x}").write_bytes(bytes([number]) * 100_000 * number)
    return folder
