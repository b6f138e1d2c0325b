"""Somebody outside of the machine: reads its disk, types at its passphrase prompt, reads its memory.

Titles of checks begin with a claim's id, as in attacks.py.
"""

from __future__ import annotations

import base64
import re
import secrets
import time

from veilor.lab import disk
from veilor.lab.evidence import PROMPT
from veilor.lab.machine import Machine
from veilor.lab.memory import read_pages
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import PASSPHRASE, UNLOCK_TIMEOUT, World

AFTER = "life:second-boot"
STORY = "A machine that follows the signed image was read and typed at by somebody who cannot log in"
DESK = "/run/veilor-lab"
HOLD = f"import sys, time; kept = open('{DESK}/held').read() * 2000; time.sleep(900)"
OPENED = "Switch Root"  # a unit of systemd's that starts once the root file system is there
GUESS, ANSWER, KERNEL = b"a wrong guess", b"veilor-lab-44", b"Linux version"
PAGES = 512
# A program leaves a secret all over the pages of many pipes and ends; then another one's pipes, which keep
# each write in a page of its own, are given a few bytes. What else is in those pages is what the kernel gave
# out with them. Standard input: both, as hex.
LEAVE = f"""
import fcntl, os, sys, time
secret, marker = (bytes.fromhex(word) for word in sys.stdin.read().split())
os.sched_setaffinity(0, {{0}})  # each processor keeps what was freed on it for itself at first

def fill(words, pages):
    pipes = [os.pipe2(os.O_DIRECT) for _ in range(pages // 256)]
    for _, end in pipes:
        fcntl.fcntl(end, 1031, 1 << 20)  # F_SETPIPE_SZ: 256 pages
        for _ in range(256):
            os.write(end, words)
    return pipes

if not os.fork():
    fill(secret * (4096 // len(secret)), 8 * {PAGES})
    os._exit(0)
os.wait()
kept = fill(marker, {PAGES})
print("left", flush=True)
time.sleep(900)
"""


@phase("disk-off", "The disk is taken out and read", starts_from="second-boot", independent=True)
def disk_off(world: World, checks: Checks) -> None:
    inside, outside, held = (secrets.token_hex(24) for _ in range(3))
    machine = world.boot()
    world.write_file("/var/home/diary.txt", inside)
    machine.run(["mount", "-o", "remount,rw", "/boot"])  # the health check leaves it read-only
    world.write_file("/boot/veilor-lab.txt", outside)
    world.write_file(f"{DESK}/held", held)  # in memory alone: swap is the way by which it could reach a disk
    machine.run(["systemd-run", "--quiet", "--unit=veilor-lab-held", "python3", "-c", HOLD])
    machine.run(
        [
            "sh",
            "-c",
            "sleep 2; echo 900M > /sys/fs/cgroup/system.slice/veilor-lab-held.service/memory.reclaim",
        ],
        check=False,
    )
    pid = machine.run(["systemctl", "show", "-P", "MainPID", "veilor-lab-held.service"]).out.strip()
    swapped = int(
        (
            machine.run(["sed", "-n", "s/^VmSwap:[^0-9]*\\([0-9]*\\).*/\\1/p", f"/proc/{pid}/status"]).out
            or "0"
        ).strip()
        or 0
    )
    device = machine.run(["blkid", "-t", "TYPE=crypto_LUKS", "-o", "device"]).out.split()[0]
    dumped = machine.run(
        [
            "sh",
            "-c",
            f"cryptsetup luksDump --dump-volume-key --volume-key-file {DESK}/key --batch-mode --key-file - "
            '"$1"'
            f" && base64 -w0 {DESK}/key && rm {DESK}/key",
            "sh",
            device,
        ],
        stdin=PASSPHRASE,
        check=False,
        timeout=300,
    )
    searched = PASSPHRASE + b"\n" + outside.encode() + b"\n"
    found = machine.run(
        ["grep", "-rlaF", "-f", "-", "/var/log", "/var/lib", "/etc", "/boot"],
        check=False,
        stdin=searched,
        timeout=300,
    )
    checks.equal(
        "laptop.no-second-copy: the passphrase is in no log, setting or state, where a planted word is found",
        found.out.split(),
        ["/boot/veilor-lab.txt"],
        go_on=True,
    )
    world.shut_down()

    raw = world.export_raw_disk()
    whole = [(0, raw.stat().st_size)]
    try:
        clear = disk.find_bytes(raw, [outside.encode()], whole)
        for claim in ("laptop.encrypted", "laptop.no-swap-on-disk", "laptop.no-second-copy"):
            checks.true(f"{claim} negative control: the search finds what lies in the clear (/boot)", clear)
        checks.equal(
            "laptop.encrypted: a file of the person's can't be found",
            disk.find_bytes(raw, [inside.encode()], whole),
            [],
            go_on=True,
        )
        checks.equal(
            "laptop.no-second-copy: nor the passphrase",
            disk.find_bytes(raw, [PASSPHRASE], whole),
            [],
            go_on=True,
        )
        title = "laptop.no-swap-on-disk: what lay in memory, and was swapped out of it, is not there"
        if swapped < 20:
            checks.not_run(title, f"nothing of it was swapped ({swapped} KiB): this base has no swap")
        else:
            checks.equal(title, disk.find_bytes(raw, [held.encode()], whole), [], go_on=True)
        root = max(disk.read_gpt(raw), key=lambda part: part.size)
        header = disk.read_luks_header(raw, root)
        checks.equal(
            "laptop.encrypted: one way in, by argon2id",
            (header.slots, header.kdf),
            (1, "argon2id"),
            go_on=True,
        )
        title = "laptop.no-second-copy: nor the key that the passphrase opens"
        if dumped.code == 0 and len(key := base64.b64decode(dumped.out)) >= 32:
            checks.equal(title, disk.find_bytes(raw, [key[:32], key[-32:]], whole), [], go_on=True)
        else:
            checks.not_run(title, f"cryptsetup gave none out: {dumped.err[-200:]}")
    finally:
        raw.unlink()


def answers_with_a_shell(world: World, machine: Machine) -> bool:
    """Guess the passphrase until no more is asked, then type at whatever reads.

    Returns whether a shell answers before the machine restarts.
    """
    at = world.type_passphrase(GUESS)
    deadline = machine.clock() + UNLOCK_TIMEOUT
    while machine.clock() < deadline:
        heard = machine.console.wait_for(b"|".join((PROMPT, ANSWER, KERNEL)), 3, at)
        if heard is None:
            machine.console.send(b"\x03\necho veilor-lab-$((40 + 4))\n")
            continue
        said, at = bytes(machine.console.buffer[at:heard]), heard
        if not said.endswith(b":"):
            return said.endswith(ANSWER)
        time.sleep(1)
        machine.console.send(GUESS + b"\n")
    raise machine.fault_for_silence("a restart or a shell after the last guess")


@phase(
    "prompt",
    "Somebody stands before the locked machine and guesses",
    starts_from="second-boot",
    independent=True,
)
def prompt(world: World, checks: Checks) -> None:
    shell, files = "laptop.no-shell-before-unlock", "laptop.encrypted"
    # The control alone is to stand: root is locked in the initramfs as well, and the second argument would
    # let it in all the same. The first changes only how long is waited after the last guess.
    change_kernel_arguments(world.boot(), {"rd.shell=0": "rd.retry=20 SYSTEMD_SULOGIN_FORCE=1 rd.shell=0"})
    world.shut_down()
    machine = world.power_on()
    checks.true(
        f"{shell}: no shell answers when the guesses are used up; the machine starts anew and asks again",
        not answers_with_a_shell(world, machine),
    )
    checks.true(
        f"{files} negative control: by a wrong passphrase the disk is not opened",
        OPENED not in machine.console.text(),
    )
    world.boots += 1  # the machine restarts by itself
    world.type_passphrase(start=machine.console.buffer.rindex(KERNEL))
    machine.wait_agent(UNLOCK_TIMEOUT)
    checks.true(f"{files}: by the right one it is, also after them", OPENED in machine.console.text())
    world.wait_startup_end()
    world.take_screenshot(
        "opened", "After wrong guesses the machine has started anew, and the right passphrase opens the disk"
    )
    change_kernel_arguments(machine, {"rd.shell=0": "rd.shell=1", "rd.emergency=reboot": "rd.emergency=halt"})
    world.shut_down()
    machine = world.power_on()
    checks.true(
        f"{shell} negative control: a shell answers whoever stands there",
        answers_with_a_shell(world, machine),
    )
    world.cut_power()


def change_kernel_arguments(machine: Machine, changes: dict[str, str]) -> None:
    """Change kernel arguments from the next start on, as somebody does who edits the boot loader's entries.

    CHANGES are the old words and the new ones.
    """
    words = [word for old, new in changes.items() for word in ("-e", f"s/{re.escape(old)}/{new}/")]
    machine.run(["mount", "-o", "remount,rw", "/boot"])  # the health check leaves it read-only
    machine.run(["sh", "-c", 'sed -i "$@" /boot/loader/entries/*.conf', "sh", *words])


@phase(
    "memory",
    "What a program left in memory is looked for in what others are given",
    starts_from="second-boot",
    independent=True,
)
def memory(world: World, checks: Checks) -> None:
    claim = "local.memory-wiped"
    tries = {
        "no program has a page at an address that everybody knows": "vsyscall",
        "the kernel keeps objects of different kinds apart": "merged",
    }
    for wiped in (True, False):
        machine = world.boot()
        for title, name in tries.items():
            seen = world.run_try(name)
            if wiped:
                checks.true(f"{claim}: {title}", seen not in ("ok", ""), seen, go_on=True)
            else:
                checks.equal(
                    f"{claim} negative control: that {title} no longer holds", seen, "ok", go_on=True
                )
        secret, marker = secrets.token_bytes(64), secrets.token_bytes(16)
        world.write_file(f"{DESK}/words", f"{secret.hex()} {marker.hex()}")
        machine.run(
            [
                "systemd-run",
                "--quiet",
                "--unit=veilor-lab-left",
                "-p",
                f"StandardInput=file:{DESK}/words",
                "-p",
                f"StandardOutput=file:{DESK}/left",
                "python3",
                "-I",
                "-c",
                LEAVE,
            ]
        )
        machine.wait_until(
            ["cat", f"{DESK}/left"],
            lambda r: "left" in r.out,
            120,
            "a program to write to its memory and end",
        )
        marked, leaking = read_pages(machine, marker, secret)
        world.notes.measured[f"memory-{wiped}"] = [marked, leaking]
        if wiped:
            checks.true(
                f"{claim}: pages that are given out hold nothing of what was in them",
                marked >= PAGES / 2 and not leaking,
                f"{leaking} of {marked} pages",
            )
            change_kernel_arguments(
                machine,
                {
                    "init_on_alloc=1": "init_on_alloc=0",
                    "init_on_free=1": "init_on_free=0",
                    "slab_nomerge": "slab_merge",
                    "vsyscall=none": "vsyscall=xonly",
                },
            )
            world.shut_down()
        else:
            checks.true(f"{claim} negative control: they do", leaking > 0, f"{leaking} of {marked} pages")
            world.cut_power()
