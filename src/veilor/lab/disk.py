"""A machine's disk read from outside, as by somebody who took it out: partitions, LUKS header, bytes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from veilor.lab.tools import Tools
from veilor.lab.verdict import LabFault, OSFault

SECTOR = 512


@dataclass(frozen=True)
class Partition:
    """A GPT partition: first byte, size in bytes, type GUID in lower case."""

    start: int
    size: int
    type: str


def make_second_disk(path: Path, size: int = 16 << 30, data: int = 32 << 20) -> Path:
    """Write to PATH a second disk with somebody's data on it; the path.

    It has SIZE bytes and is sparse, except for the first and the last DATA bytes.
    """
    noise = random.Random(44).randbytes(data)
    with path.open("wb") as disk:
        disk.truncate(size)
        disk.write(b"\0" * 510 + b"\x55\xaa" + noise[SECTOR:])
        disk.seek(size - data)
        disk.write(noise)
    return path


def fingerprint(path: Path) -> str:
    """A SHA-256 over a sparse file's size, the offsets of its data and the data; any write changes it."""
    total = hashlib.sha256(str(path.stat().st_size).encode())
    with path.open("rb") as disk:
        for first, last in data_ranges(path, 0, path.stat().st_size):
            total.update(f"{first}-{last}".encode())
            disk.seek(first)
            for at in range(first, last, 16 << 20):
                total.update(disk.read(min(16 << 20, last - at)))
    return total.hexdigest()


def convert_to_raw(tools: Tools, disk: Path, raw: Path) -> Path:
    """Write the qcow2 DISK as the sparse raw file RAW."""
    tools.run(
        ["qemu-img", "convert", "-O", "raw", str(disk), str(raw)],
        binds=[disk.parent, raw.parent],
        timeout=600,
    )
    return raw


def check_image(tools: Tools, disk: Path) -> None:
    """Raise LabFault when the qcow2 file DISK is damaged.

    Then what goes wrong in a guest is the rehearsal's fault, not the product's.
    """
    done = tools.run(["qemu-img", "check", "-q", str(disk)], binds=[disk.parent], timeout=300, check=False)
    leaked_only = 3  # clusters that a killed QEMU leaves, which lose nothing
    if done.returncode not in (0, leaked_only):
        said = (done.stderr or done.stdout).decode(errors="replace").strip().splitlines()
        raise LabFault(
            f"the disk image of the machine is damaged ({said[0] if said else 'qemu-img check failed'})"
        )


def read_gpt(raw: Path) -> list[Partition]:
    """The partitions in the GPT of RAW, in the order of the disk. Raises OSFault when there is none."""
    with raw.open("rb") as disk:
        disk.seek(SECTOR)
        header = disk.read(92)
        if header[:8] != b"EFI PART":
            raise OSFault("the installed disk has no GPT")
        first, count, width = struct.unpack_from("<QII", header, 72)
        disk.seek(first * SECTOR)
        table = disk.read(count * width)
    found = []
    for number in range(count):
        entry = table[number * width : (number + 1) * width]
        if entry[:16] != bytes(16):
            a, b, c = struct.unpack_from("<IHH", entry)
            start, last = struct.unpack_from("<QQ", entry, 32)
            kind = f"{a:08x}-{b:04x}-{c:04x}-{entry[8:10].hex()}-{entry[10:16].hex()}"
            found.append(Partition(start * SECTOR, (last - start + 1) * SECTOR, kind))
    return sorted(found, key=lambda part: part.start)


@dataclass(frozen=True)
class LuksHeader:
    """What a LUKS header says: its version, the number of key slots, and what the first of them uses.

    `kdf` stretches the passphrase, with `memory` KiB and `time` iterations. Without a slot these are None.
    """

    version: int
    slots: int
    kdf: str | None
    memory: int | None
    time: int | None
    cipher: str | None


def read_luks_header(raw: Path, part: Partition) -> LuksHeader:
    """The LUKS header of PART. Raises OSFault when there is none.

    LUKS2 keeps a 4096-byte binary header and JSON behind it (the LUKS2 on-disk format, section 2).
    """
    with raw.open("rb") as disk:
        disk.seek(part.start)
        binary = disk.read(4096)
        if binary[:6] != b"LUKS\xba\xbe":
            raise OSFault("the root partition is not encrypted: it has no LUKS header")
        version, size = struct.unpack_from(">HQ", binary, 6)
        text = disk.read(size - 4096) if version == 2 else b"{}"
    meta = json.loads(text.split(b"\0", 1)[0])
    slots = list(meta.get("keyslots", {}).values())
    kdf = slots[0]["kdf"] if slots else {}
    return LuksHeader(
        version=version,
        slots=len(slots),
        kdf=kdf.get("type"),
        memory=kdf.get("memory"),
        time=kdf.get("time"),
        cipher=slots[0]["area"]["encryption"] if slots else None,
    )


def data_ranges(raw: Path, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The parts of RAW between the offsets START and END that are not holes, as (first byte, end)."""
    with raw.open("rb") as disk:
        at = start
        while at < end:
            try:
                first = os.lseek(disk.fileno(), at, os.SEEK_DATA)
            except OSError:
                return
            if first >= end:
                return
            hole = os.lseek(disk.fileno(), first, os.SEEK_HOLE)
            yield first, min(hole, end)
            at = hole


def write_in_clear(raw: Path, part: Partition, data: bytes) -> None:
    """Write DATA in the clear over the middle of PART, to see that a search finds what lies there.

    What was there is lost.
    """
    with raw.open("r+b") as disk:
        disk.seek(part.start + part.size // 2)
        disk.write(data)


def find_bytes(
    raw: Path, needles: Iterable[bytes], ranges: Iterable[tuple[int, int]], chunk: int = 16 << 20
) -> list[str]:
    """Where each of NEEDLES occurs first in RANGES (first byte, end) of RAW, as 'needle at byte N'.

    CHUNK is how much is read at a time, in bytes.
    """
    needles = list(needles)
    overlap = max(map(len, needles)) - 1
    found: dict[bytes, str] = {}
    with raw.open("rb") as disk:
        for low, high in ranges:
            for first, last in data_ranges(raw, low, high):
                at = first
                while at < last:
                    disk.seek(at)
                    data = disk.read(min(chunk + overlap, last - at))
                    for needle in needles:
                        offset = data.find(needle)
                        if offset >= 0:
                            found.setdefault(
                                needle, f"{needle.decode(errors='replace')} at byte {at + offset}"
                            )
                    at += chunk
    return sorted(found.values())
