"""The disk seen from outside: what is on it has to be found, and what changed has to show."""

import json
import struct

import pytest

from veilor.lab import disk
from veilor.lab.verdict import OSFault

MIB = 1 << 20


def gpt(path, parts, size=64 * MIB):
    """A raw disk at PATH with a GPT of PARTS, (start, size) in bytes."""
    with path.open("wb") as raw:
        raw.truncate(size)
        raw.seek(512)
        header = bytearray(512)
        header[:8] = b"EFI PART"
        struct.pack_into("<QII", header, 72, 2, 128, 128)
        raw.write(header)
        for number, (start, length) in enumerate(parts):
            entry = bytearray(128)
            entry[:16] = bytes.fromhex("af3dc60f838472478e793d69d8477de4")
            struct.pack_into("<QQ", entry, 32, start // 512, (start + length) // 512 - 1)
            raw.seek(1024 + number * 128)
            raw.write(entry)
    return path


def luks(path, start, version=2, kdf="argon2id"):
    """A LUKS header in PATH at START."""
    meta = json.dumps(
        {
            "keyslots": {
                "0": {
                    "kdf": {"type": kdf, "memory": 65536, "time": 4},
                    "area": {"encryption": "aes-xts-plain64"},
                }
            }
        }
    )
    with path.open("r+b") as raw:
        raw.seek(start)
        raw.write(b"LUKS\xba\xbe" + struct.pack(">HQ", version, 16384))
        raw.seek(start + 4096)
        raw.write(meta.encode())


def test_partitions_are_read_in_the_order_of_the_disk(tmp_path):
    raw = gpt(tmp_path / "raw", [(8 * MIB, 4 * MIB), (1 * MIB, 2 * MIB)])
    assert [(p.start, p.size) for p in disk.read_gpt(raw)] == [(1 * MIB, 2 * MIB), (8 * MIB, 4 * MIB)]
    assert disk.read_gpt(raw)[0].type == "0fc63daf-8483-4772-8e79-3d69d8477de4"


def test_a_disk_without_a_table_is_the_products_fault(tmp_path):
    raw = tmp_path / "raw"
    raw.write_bytes(bytes(MIB))
    with pytest.raises(OSFault, match="no GPT"):
        disk.read_gpt(raw)


@pytest.mark.parametrize(("version", "kdf"), [(2, "argon2id"), (2, "pbkdf2")])
def test_the_luks_header_says_what_it_is(tmp_path, version, kdf):
    raw = gpt(tmp_path / "raw", [(8 * MIB, 32 * MIB)])
    luks(raw, 8 * MIB, version, kdf)
    header = disk.read_luks_header(raw, disk.read_gpt(raw)[0])
    assert (header.version, header.kdf, header.memory) == (version, kdf, 65536)


def test_an_older_luks_shows_as_one_and_none_is_the_products_fault(tmp_path):
    raw = gpt(tmp_path / "raw", [(8 * MIB, 32 * MIB)])
    with pytest.raises(OSFault, match="not encrypted"):
        disk.read_luks_header(raw, disk.read_gpt(raw)[0])
    luks(raw, 8 * MIB, version=1)
    assert disk.read_luks_header(raw, disk.read_gpt(raw)[0]).version == 1


def test_words_are_found_across_the_border_of_two_reads_and_only_where_asked(tmp_path):
    raw = tmp_path / "raw"
    with raw.open("wb") as out:
        out.truncate(4 * MIB)
        out.seek(MIB - 3)
        out.write(b"secret words")
    assert disk.find_bytes(raw, [b"secret words"], [(0, 4 * MIB)], chunk=MIB) == [
        f"secret words at byte {MIB - 3}"
    ]
    assert disk.find_bytes(raw, [b"secret words", b"other"], [(2 * MIB, 4 * MIB)], chunk=MIB) == []


def test_what_is_planted_in_a_partition_is_found_there(tmp_path):
    raw = gpt(tmp_path / "raw", [(8 * MIB, 32 * MIB)])
    part = disk.read_gpt(raw)[0]
    disk.write_in_clear(raw, part, b"secret words")
    size, place = raw.stat().st_size, part.start + part.size // 2
    assert disk.find_bytes(raw, [b"secret words"], [(part.start, part.start + part.size)]) == [
        f"secret words at byte {place}"
    ]
    assert raw.stat().st_size == size and disk.find_bytes(raw, [b"secret words"], [(0, part.start)]) == []


def test_any_write_to_the_other_disk_shows(tmp_path):
    other = disk.make_second_disk(tmp_path / "other", size=64 * MIB, data=MIB)
    before = disk.fingerprint(other)
    assert disk.fingerprint(other) == before
    for place in (0, 32 * MIB, 64 * MIB - 1):
        with other.open("r+b") as raw:
            raw.seek(place)
            kept = raw.read(1)
            raw.seek(place)
            raw.write(bytes([kept[0] ^ 1]))
        assert disk.fingerprint(other) != before
        with other.open("r+b") as raw:
            raw.seek(place)
            raw.write(kept)
