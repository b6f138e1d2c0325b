"""A machine's memory read from outside, as by somebody with a probe in it: pages, and what they hold."""

from __future__ import annotations

from pathlib import Path

from veilor.lab.machine import Machine

PAGE = 4096
# QEMU's q35: what is more than 2 GiB of the memory lies behind the 4 GiB line (hw/i386/pc_q35.c).
LOW, HIGH_AT = 2 << 30, 4 << 30


def count_pages(memory: Path, marker: bytes, secret: bytes, chunk: int = 64 << 20) -> tuple[int, int]:
    """How many pages in the file MEMORY begin with MARKER, and how many of these hold SECRET.

    The file begins at a page's start. CHUNK, a multiple of a page, is how much is read at a time, in bytes.
    """
    marked = holding = 0
    with memory.open("rb") as dump:
        while data := dump.read(chunk):
            at = data.find(marker)
            while at >= 0:
                if at % PAGE == 0:
                    marked += 1
                    holding += secret in data[at : at + PAGE]
                at = data.find(marker, at + 1)
    return marked, holding


def read_pages(machine: Machine, marker: bytes, secret: bytes, step: int = 256 << 20) -> tuple[int, int]:
    """As `count_pages`, of all memory of the running MACHINE.

    STEP bytes of it at a time lie on this host's disk.
    """
    total, dump = machine.hardware.memory_mib << 20, machine.dir / "memory"
    marked = holding = 0
    for first in range(0, total, step):
        at = first if first < LOW else HIGH_AT + first - LOW
        machine.qmp.cmd("pmemsave", val=at, size=min(step, total - first), filename=str(dump))
        found = count_pages(dump, marker, secret)
        dump.unlink()
        marked, holding = marked + found[0], holding + found[1]
    return marked, holding
