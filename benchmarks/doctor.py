"""veilor-doctor beside lynis: time and memory of both in the same tree.

Usage, as root: .venv/bin/python benchmarks/doctor.py LYNIS
LYNIS is a folder made by `dpkg-deb -x lynis_*.deb LYNIS`. The tree is the lab's base with the staged tree on
it. Both run by chroot in a namespace of their own, on this host's kernel: what they find says nothing of a
machine, and a claim that asks systemd or bootc is UNKNOWN at once. In the scenario `attacks` the doctor runs
on a machine.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from veilor.build.stage import stage
from veilor.lab.cache import cache_root
from veilor.lab.debian_base import base_rootfs

SOURCE = Path(__file__).resolve().parents[1]
ENTER = (
    'mount -t proc proc "$0/proc" && mount -t sysfs sys "$0/sys"; mount --bind /dev "$0/dev" && exec '
    'chroot "$0" "$@"'
)
MEASURED = """
import json, resource, subprocess, sys, time
began = time.monotonic()
subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({"seconds": round(time.monotonic() - began, 2), "processor": round(used.ru_utime + used.ru_stime, 2),
                  "peak MiB": round(used.ru_maxrss / 1024, 1)}))
"""  # noqa: E501


def measure(root: Path, argv: list[str]) -> dict:
    """What ARGV takes in the tree ROOT: seconds, the processor's seconds, and MiB of its largest process."""
    enter = [
        "unshare",
        "--mount",
        "--pid",
        "--fork",
        "sh",
        "-c",
        ENTER,
        str(root),
        "python3",
        "-I",
        "-c",
        MEASURED,
        *argv,
    ]
    return json.loads(subprocess.run(enter, capture_output=True, check=True, timeout=3600).stdout)


def main() -> None:
    """Lay out the tree, run both, and print a line for each."""
    with tempfile.TemporaryDirectory(prefix="veilor-doctor-") as scratch:
        root = Path(scratch, "root")
        with tarfile.open(base_rootfs(cache_root(), SOURCE)) as tar:
            tar.extractall(root, filter="tar")
        for tree in (stage(SOURCE, Path(scratch, "tree")), Path(sys.argv[1])):
            subprocess.run(["cp", "-a", f"{tree}/.", str(root)], check=True, timeout=600)
        for argv in (
            ["veilor-doctor", "--json"],
            ["lynis", "audit", "system", "--quick", "--quiet", "--no-colors"],
        ):
            print(argv[0], json.dumps(measure(root, argv)), flush=True)


if __name__ == "__main__":
    main()
