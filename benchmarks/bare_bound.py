"""The least time that the scenario `life` could take on this machine.

Usage: .venv/bin/python benchmarks/bare_bound.py [--boots N] [--report build/report/report.json]
Installs the bare stand-in base once, then boots, unlocks and shuts it down N times (three by default) with
none of our programs, and writes as many bytes through LUKS by dd as the installation leaves on the disk. The
bound is the boots of the report × the median cycle + the writes; it is printed with the ratio of the report's
seconds to it. Machines run one after another: run nothing beside them.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from veilor.build.iso import build_iso
from veilor.lab.cache import cache_root
from veilor.lab.debian_base import base_layout, epoch
from veilor.lab.evidence import PROMPT
from veilor.lab.live import live_medium
from veilor.lab.machine import OVMF_VARS, DiskFile, Hardware, Machine
from veilor.lab.tools import tools_tree
from veilor.lab.world import PASSPHRASE

SOURCE = Path(__file__).resolve().parents[1]
WRITE = """set -e
printf %s "$2" | cryptsetup luksFormat --batch-mode --pbkdf pbkdf2 --pbkdf-force-iterations 1000 --key-file=- /dev/vdb
printf %s "$2" | cryptsetup open --key-file=- /dev/vdb bound
dd if=/dev/zero of=/dev/mapper/bound bs=1M count="$1" conv=fsync 2>/dev/null
cryptsetup close bound"""  # noqa: E501


def machine(tools, folder: Path, disks: list[DiskFile], log: str) -> Machine:
    """A running machine with DISKS, its console noted in the file LOG of FOLDER."""
    guest = Machine(tools, Hardware(disks, uefi_vars=folder / "uefi.fd"), folder / log).start()
    guest.resume_cpus()
    return guest


def install(tools, folder: Path, iso: Path, disk: Path) -> None:
    """Install the bare base onto DISK as a person does."""
    guest = machine(tools, folder, [DiskFile(iso, read_only=True), DiskFile(disk, "qcow2")], "install.log")
    try:
        at = guest.wait_console(rb"Install to which disk\? ", 240, "the installer's question")
        guest.console.send(b"1\n")
        for question in (rb"Passphrase for the encrypted disk: ", rb"Again: "):
            at = guest.wait_console(question, 240, "the installer's question", at)
            guest.console.send(PASSPHRASE + b"\n")
        guest.wait_console(rb"VEILOR-INSTALL: DONE", 900, "the end of the installation", at)
        guest.wait_end(150, "power off")
    finally:
        guest.stop()


def cycle(tools, folder: Path, disk: Path) -> float:
    """Seconds of one boot with unlock, up to the end of start-up, and one shutdown."""
    started = time.monotonic()
    guest = machine(tools, folder, [DiskFile(disk, "qcow2")], "boots.log")
    try:
        guest.wait_console(PROMPT, 240, "the passphrase prompt")
        time.sleep(1)
        guest.console.send(PASSPHRASE + b"\n")
        guest.wait_agent(240)
        guest.run(["systemctl", "is-system-running", "--wait"], timeout=180, check=False)
        guest.power_off()
    finally:
        guest.stop()
    return time.monotonic() - started


def write(tools, folder: Path, iso: Path, size: int) -> float:
    """Seconds of the live medium's boot and of SIZE bytes written by dd through LUKS."""
    target = folder / "dd.qcow2"
    tools.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", str(target), str(size + (64 << 20))],
        binds=[folder],
        timeout=60,
    )
    started = time.monotonic()
    guest = machine(tools, folder, [DiskFile(iso, read_only=True), DiskFile(target, "qcow2")], "dd.log")
    try:
        guest.wait_agent(240)
        guest.run(["sh", "-c", WRITE, "sh", str(size >> 20), "bound passphrase"], timeout=600)
        guest.power_off()
    finally:
        guest.stop()
    return time.monotonic() - started


def main() -> None:
    """Measure and print."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--boots", type=int, default=3)
    asked.add_argument("--report", type=Path, default=SOURCE / "build/report/report.json")
    args = asked.parse_args()
    cache = cache_root()
    tools = tools_tree(cache)
    layout, live = base_layout(cache, tools, SOURCE), live_medium(cache, tools, SOURCE)
    folder = Path(tempfile.mkdtemp(prefix="bound-", dir=cache))
    try:
        shutil.copyfile(tools.root / OVMF_VARS, folder / "uefi.fd")
        iso, disk = folder / "bare.iso", folder / "disk.qcow2"
        build_iso(live, layout, SOURCE / "kickstart/install.ks", iso, run=tools.run, epoch=epoch())
        tools.run(
            ["qemu-img", "create", "-q", "-f", "qcow2", str(disk), str(12 << 30)], binds=[folder], timeout=60
        )
        install(tools, folder, iso, disk)
        size = disk.stat().st_blocks * 512
        cycles = [cycle(tools, folder, disk) for _ in range(args.boots)]
        writes = write(tools, folder, live, size)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(
        f"boot, unlock and shut down, bare: {statistics.median(cycles):.1f} s (of "
        f"{', '.join(f'{c:.1f}' for c in cycles)})"
    )
    print(f"live medium and {size >> 20} MiB by dd through LUKS: {writes:.1f} s")
    if args.report.exists():
        report = json.loads(args.report.read_text())
        boots = sum(phase["boots"] for phase in report["phases"])
        bound = writes + (boots - 1) * statistics.median(cycles)
        spent = sum(phase["seconds"] for phase in report["phases"])
        print(
            f"bound for {boots} boots: {bound:.0f} s; {report['scenario']} took {spent:.0f} s in its phases: "
            f"{spent / bound:.2f} ×"
        )


if __name__ == "__main__":
    main()
