"""Pages of a machine's memory are found where they begin, and what they hold is seen."""

from types import SimpleNamespace

from veilor.lab import memory

MARKER, SECRET = b"0123456789abcdef", bytes(range(100, 164))


def page(begins: bytes, holds: bytes = b"") -> bytes:
    return (begins.ljust(64, b"\0") + holds).ljust(memory.PAGE, b"\0")


def test_only_pages_that_begin_with_the_marker_count_and_a_secret_counts_only_in_them(tmp_path):
    dump = tmp_path / "dump"
    pages = [
        page(MARKER),
        page(b"", SECRET),
        page(MARKER, SECRET),
        page(b"x" + MARKER, SECRET),
        page(MARKER, SECRET[:-1]),
    ]
    dump.write_bytes(b"".join(pages))
    for chunk in (memory.PAGE, 2 * memory.PAGE, 64 << 20):
        assert memory.count_pages(dump, MARKER, SECRET, chunk) == (3, 1)


def test_all_memory_is_read_and_nothing_is_left_behind(tmp_path):
    asked = []

    def cmd(name, val, size, filename):
        asked.append((name, val, size))
        with open(filename, "wb") as out:
            out.write(page(MARKER, SECRET))

    for mib, step, starts in (
        (3072, 1 << 30, [0, 1 << 30, 4 << 30]),
        (1536, 1 << 30, [0, 1 << 30]),
        (256, 1 << 30, [0]),
    ):
        asked.clear()
        machine = SimpleNamespace(
            hardware=SimpleNamespace(memory_mib=mib), dir=tmp_path, qmp=SimpleNamespace(cmd=cmd)
        )
        assert memory.read_pages(machine, MARKER, SECRET, step) == (len(starts), len(starts))
        assert (
            [one[1] for one in asked] == starts
            and sum(one[2] for one in asked) == mib << 20
            and not list(tmp_path.iterdir())
        )
