"""Examines this machine before something is fetched. What each finding leads to stands in core/preflight.py.

Whatever cannot be told (no such service, no such file) is no finding: the update goes on.
"""

import argparse
import configparser
import os
import sys
from datetime import datetime
from pathlib import Path

from veilor.core.outcome import Code
from veilor.core.preflight import BATTERY, BOOT, FULL, SPACE, Does, PreflightFinding, found, judge
from veilor.core.rollout import CLOCK_SLACK, second_turn, waits
from veilor.core.statement import Statement
from veilor.device import config, network, state, tell
from veilor.device.run import DeviceError, at

MiB, GiB = 1 << 20, 1 << 30
SUPPLIES = "/sys/class/power_supply"
MAINS = ("Mains", "USB", "Wireless")
MACHINE_ID = "/etc/machine-id"
REPO = "/sysroot/ostree/repo"
RESERVED_PERCENT = 3  # ostree's default: src/libostree/ostree-repo.c, 2026.4
UNITS = {"MB": MiB, "GB": GiB, "TB": 1 << 40}


def free(path: Path) -> int | None:
    """Bytes that root may still write on PATH's file system; None when that cannot be told."""
    try:
        found = os.statvfs(path)
        return found.f_bfree * found.f_frsize
    except OSError:
        return None


def reserved() -> int:
    """Bytes of the system's disk that ostree never fills: ostree.repo-config(5), min-free-space-*.

    A size, where it is given, wins over a percentage.
    """
    config = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        config.read_string(at(f"{REPO}/config").read_text(errors="replace"))
        size = config.get("core", "min-free-space-size", fallback="0MB")
        number = int(size[:-2]) * UNITS.get(size[-2:], 0)
        percent = config.getint("core", "min-free-space-percent", fallback=0 if number else RESERVED_PERCENT)
    except (OSError, ValueError, configparser.Error):
        number, percent = 0, RESERVED_PERCENT
    try:
        found = os.statvfs(at("/sysroot"))
    except OSError:
        return 0
    return number or found.f_blocks * found.f_frsize * percent // 100


def boot_need(kept: int) -> int:
    """Bytes that the next kernel and initramfs need on /boot beyond what ostree can free for them there.

    They are taken for a tenth larger than the largest that are there. ostree removes those of a deployment
    that has to go first, if it must; KEPT deployments stay (ostree-sysroot-deploy.c, early prune).
    """
    folders = [folder for folder in at("/boot/ostree").glob("*") if folder.is_dir()]
    sizes = [sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) for folder in folders]
    if not sizes:
        return BOOT * MiB
    removable = min(sizes) if len(sizes) > kept else 0
    return max(sizes) * 11 // 10 - removable


def format_size(number: int) -> str:
    """NUMBER of bytes for a sentence."""
    return f"{number / GiB:.1f} GiB" if number >= GiB else f"{number // MiB} MiB"


def low_battery() -> int | None:
    """Per cent of the fullest battery when the machine runs on it and it is below BATTERY; else None."""
    levels = []
    for folder in sorted(at(SUPPLIES).glob("*")):
        supply = read_supply(folder)
        if supply.get("scope") == "Device" or supply.get("present") == "0":
            continue  # a mouse's or a headset's battery, or an empty bay
        if supply.get("type") in MAINS and supply.get("online") == "1":
            return None
        if supply.get("type") != "Battery":
            continue
        if supply.get("status") != "Discharging":
            return None
        if supply.get("capacity", "").isdecimal():
            levels.append(int(supply["capacity"]))
    if not levels or max(levels) >= BATTERY:
        return None
    return max(levels)


def read_supply(folder: Path) -> dict[str, str]:
    """What the kernel says of the power supply in FOLDER (Documentation/ABI/testing/sysfs-class-power)."""
    found = {}
    for name in ("type", "scope", "online", "status", "capacity", "present"):
        try:
            found[name] = (folder / name).read_text().strip()
        except (OSError, ValueError):
            continue
    return found


def machine_id() -> str:
    """This machine's id; an empty one when it has none."""
    try:
        return at(MACHINE_ID).read_text().strip()
    except (OSError, ValueError):
        return ""


def offline() -> list[PreflightFinding]:
    """What to find before the registry is asked."""
    return [] if network.connected() else [found("offline")]


def clock(now: datetime, known: datetime | None) -> list[PreflightFinding]:
    """Whether the clock, which says NOW, is behind a time that is KNOWN to have passed."""
    if known is None or now >= known - CLOCK_SLACK:
        return []
    return [found("clock", clock=f"{now:%Y-%m-%d %H:%M}", known=f"{known:%Y-%m-%d}")]


def turn(program: str, said: Statement, now: datetime, unattended: bool) -> list[PreflightFinding]:
    """Whether this machine's turn in the rollout of the release that SAID announces is still to come.

    UNATTENDED: a machine that slept through its turn gets a second one, unless somebody asks for the update.
    """
    due = waits(said, machine_id(), config.rollout(), now)
    if not due and unattended:
        noted = state.parse_time(state.get_dict(state.read_record(state.STATE), "look").get("turn"))
        due = second_turn(said, machine_id(), config.rollout(), now, noted)
    if not due:
        return []
    when = f"{due:%Y-%m-%d %H:%M} UTC"
    return [found("turn", title=said.title, when=when, turn=state.format_time(due), program=program)]


def room(program: str, kept: int) -> list[PreflightFinding]:
    """Whether there is too little room for an update, for the system and on /boot, as ostree judges it."""
    findings = []
    # Not of /: that may be a composefs image, which has no free space of its own.
    system, boot = free(at("/sysroot")), free(at("/boot"))
    if system is not None:
        held = reserved()
        usable = max(0, system - held)
        short = "full" if usable < FULL * MiB else "space" if usable < SPACE * GiB else None
        if short:
            findings.append(
                found(short, free=format_size(usable), reserved=format_size(held), program=program)
            )
    try:
        need = boot_need(kept)
    except OSError:
        need = BOOT * MiB
    if boot is not None and boot < need:
        findings.append(found("boot", free=format_size(boot), need=format_size(need), program=program))
    return findings


def before_download(
    program: str, said: Statement | None, now: datetime, unattended: bool = False, kept: int = 1
) -> list[PreflightFinding]:
    """What to find before an image is fetched by PROGRAM.

    With SAID, the machine waits for its turn in that release's rollout. UNATTENDED: nobody asked for it now.
    KEPT: how many deployments stay on the disk (Host.kept).
    """
    findings = turn(program, said, now, unattended) if said else []
    if network.metered():
        findings.append(found("metered", program=program))
    percent = low_battery()
    if percent is not None:
        findings.append(found("battery", percent=percent, program=program))
    return findings + room(program, kept)


def can_ask(args: argparse.Namespace) -> bool:
    """Whether there is a person to ask: somebody at a terminal who did not ask for JSON."""
    return not args.json and sys.stdin.isatty()


def require(findings: list[PreflightFinding], now: bool, ask: bool) -> tuple[str, ...]:
    """Go on, with warnings, or raise DeviceError as FINDINGS demand.

    NOW: --now was given. With ASK a person is asked, and may say no.
    """
    stop, asks, warnings = judge(findings, now, ask)
    if stop:
        facts = {"finding": stop.name}
        if "turn" in stop.details:
            facts["turn"] = stop.details["turn"]
        raise DeviceError(stop.what, stop.means, stop.next, stop.row.code, facts)
    for finding in asks:
        print(f"{finding.what}: {finding.means}.")
    if asks and not tell.confirm("Go on? [y/N] "):
        raise DeviceError("Nothing was changed", code=Code.USAGE)
    return tuple(warnings)


def as_facts(findings: list[PreflightFinding]) -> list[dict[str, str | bool]]:
    """FINDINGS for --json: name, what it does, the sentence, and whether --now goes on all the same."""
    return [
        {
            "finding": one.name,
            "does": one.row.does.value,
            "what": one.what,
            "now_goes_on": one.row.now or one.row.does is Does.GO_ON,
        }
        for one in findings
    ]
