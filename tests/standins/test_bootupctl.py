"""The stand-in for bootupd: what it puts where, and that it keeps what counts boots."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

BOOTUPCTL = Path(__file__).parents[2] / "stand-ins/bootupctl/bootupctl"
GRUB_CFG = BOOTUPCTL.with_name("grub.cfg")
BIOS_BOOT = "21686148-6449-6E6F-744E-656564454649"
LINUX = "0FC63DAF-8483-4772-8E79-3D69D8477DE4"


@pytest.fixture
def source(tmp_path):
    """A deployment's /usr with boot code of known bytes."""
    updates = tmp_path / "source/usr/lib/bootupd/updates"
    for name, content in {
        "EFI/BOOT/BOOTX64.EFI": b"efi",
        "bios/boot.img": bytes(range(256)) * 2,
        "bios/core.img": b"\1" * 700,
        "grub2/x86_64-efi/linux.mod": b"module",
        "grub2/i386-pc/linux.mod": b"module",
    }.items():
        (updates / name).parent.mkdir(parents=True, exist_ok=True)
        (updates / name).write_bytes(content)
    (updates.parent / "grub.cfg").write_bytes(GRUB_CFG.read_bytes())
    fragments = updates.parent / "grub2-static/configs.d"
    fragments.mkdir(parents=True)
    (fragments / "08_first.cfg").write_text("set first=1\n")
    (fragments / "09_without_newline.cfg").write_text("save_env last")
    return tmp_path / "source"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "root/boot/efi").mkdir(parents=True)
    return tmp_path / "root"


def install(
    source: Path, root: Path, *more: str, tools: Path | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [
        sys.executable,
        "-I",
        str(BOOTUPCTL),
        "backend",
        "install",
        "--auto",
        "--write-uuid",
        "--src-root",
        str(source),
    ]
    env = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}"} if tools else None
    return subprocess.run([*argv, *more, str(root)], capture_output=True, text=True, timeout=30, env=env)


def disk_with(tmp_path: Path, kind: str, size: int = 4) -> Path:
    """A disk of 16 sectors, and an sfdisk that lists one partition on it.

    The partition has the type KIND, begins at sector 8 and is SIZE sectors long.
    """
    (tmp_path / "disk").write_bytes(b"\xee" * 512 * 16)
    table = {"partitiontable": {"partitions": [{"start": 8, "size": size, "type": kind}]}}
    (tmp_path / "sfdisk").write_text(f"#!/bin/sh\ncat <<'END'\n{json.dumps(table)}\nEND\n")
    (tmp_path / "sfdisk").chmod(0o755)
    return tmp_path / "disk"


def test_boot_partitions_get_all_that_grub_reads(source, root):
    assert install(source, root).returncode == 0
    assert (root / "boot/efi/EFI/BOOT/BOOTX64.EFI").read_bytes() == b"efi"
    grub = root / "boot/grub2"
    written = (grub / "grub.cfg").read_text()
    before, after = GRUB_CFG.read_text().split("@configs.d@\n")
    assert written.startswith(before) and written.endswith(after)
    assert written[len(before) : -len(after)] == (
        "### BEGIN 08_first.cfg ###\nset first=1\n### END 08_first.cfg ###\n"
        "### BEGIN 09_without_newline.cfg ###\nsave_env last### END 09_without_newline.cfg ###\n"
    ), "as bootupd does it: a fragment without a newline has its last line spoilt"
    assert (grub / "x86_64-efi/linux.mod").is_file() and (grub / "i386-pc/linux.mod").is_file()
    assert (grub / "veilor-boot").is_file(), "the mark by which GRUB finds this partition"
    environment = (grub / "grubenv").read_bytes()
    assert len(environment) == 1024 and environment.startswith(b"# GRUB Environment Block\n#")


def test_a_boot_counter_in_use_is_kept(source, root):
    install(source, root)
    counting = b"# GRUB Environment Block\nboot_counter=2\n".ljust(1024, b"#")
    (root / "boot/grub2/grubenv").write_bytes(counting)
    assert install(source, root).returncode == 0
    assert (root / "boot/grub2/grubenv").read_bytes() == counting


def test_bios_code_leaves_the_partition_table_alone(source, root, tmp_path):
    disk = disk_with(tmp_path, BIOS_BOOT)
    assert install(source, root, "--device", str(disk), tools=tmp_path).returncode == 0
    written, boot = disk.read_bytes(), (source / "usr/lib/bootupd/updates/bios/boot.img").read_bytes()
    assert written[:0x5C] == boot[:0x5C] and written[0x64:440] == boot[0x64:440]
    assert int.from_bytes(written[0x5C:0x64], "little") == 8, "boot.img knows where core.img begins"
    assert written[440:4096] == b"\xee" * (4096 - 440)
    core = written[4096 : 4096 + 700]
    assert int.from_bytes(core[0x1F4:0x1FC], "little") == 9, "core.img knows where it goes on"
    assert core[:0x1F4] == b"\1" * 0x1F4


@pytest.mark.parametrize(("kind", "size", "code"), [(LINUX, 4, 0), (BIOS_BOOT, 1, 1)])
def test_a_disk_without_room_for_bios_code_stays_as_it_is(source, root, tmp_path, kind, size, code):
    disk = disk_with(tmp_path, kind, size)
    assert install(source, root, "--device", str(disk), tools=tmp_path).returncode == code
    assert disk.read_bytes() == b"\xee" * 512 * 16


def test_a_missing_boot_partition_is_one_line(source, tmp_path):
    (tmp_path / "empty").mkdir()
    done = install(source, tmp_path / "empty")
    assert done.returncode == 1 and done.stderr.count("\n") == 1 and "mount the boot partition" in done.stderr
