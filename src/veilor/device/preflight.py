"""Looks at this machine before something is fetched. What each finding does stands in core/preflight.py.

Whatever cannot be told (no such service, no such file) is no finding: the update goes on.
"""

import os
import sys
from datetime import datetime
from pathlib import Path

from veilor.core.outcome import Code
from veilor.core.preflight import BATTERY, BOOT, FULL, SPACE, Does, PreflightFinding, found, judge
from veilor.core.rollout import CLOCK_SLACK, second_turn, waits
from veilor.core.statement import Statement
from veilor.device import config, network, state
from veilor.device.run import DeviceError, at

MiB, GiB = 1 << 20, 1 << 30
SUPPLIES = "/sys/class/power_supply"
MACHINE_ID = "/etc/machine-id"


def free(path: Path) -> int | None:
    """Bytes that root may still write on PATH's file system; None when that cannot be told."""
    try:
        found = os.statvfs(path)
        return found.f_bfree * found.f_frsize
    except OSError:
        return None


def size(number: int) -> str:
    """NUMBER of bytes for a sentence."""
    return f"{number / GiB:.1f} GiB" if number >= GiB else f"{number // MiB} MiB"


def low_battery() -> int | None:
    """Per cent of the fullest battery when the machine runs on it and it is below BATTERY; else None.

    Facts: Documentation/ABI/testing/sysfs-class-power. `scope` Device is a mouse's or a headset's battery.
    """
    levels = []
    for supply in sorted(at(SUPPLIES).glob("*")):
        said = {}
        for name in ("type", "scope", "online", "status", "capacity", "present"):
            try:
                said[name] = (supply / name).read_text().strip()
            except (OSError, ValueError):
                continue
        if said.get("scope") == "Device" or said.get("present") == "0":
            continue
        if said.get("type") in ("Mains", "USB", "Wireless") and said.get("online") == "1":
            return None
        if said.get("type") == "Battery":
            if said.get("status") != "Discharging":
                return None
            if said.get("capacity", "").isdecimal():
                levels.append(int(said["capacity"]))
    return max(levels) if levels and max(levels) < BATTERY else None


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
    """Whether the clock, which says NOW, is behind a moment that is KNOWN to have passed."""
    if known is None or now >= known - CLOCK_SLACK:
        return []
    return [found("clock", clock=f"{now:%Y-%m-%d %H:%M}", known=f"{known:%Y-%m-%d}")]


def before_download(
    program: str, said: Statement | None, now: datetime, alone: bool = False
) -> list[PreflightFinding]:
    """What to find before an image is fetched by PROGRAM; with SAID, the machine's turn belongs to it. ALONE:
    nobody asked.
    """
    findings, names = [], {"program": program}
    due = said and waits(said, machine_id(), config.rollout(), now)
    if said and not due and alone:
        noted = state.parse_time(state.get_dict(state.read_record(state.STATE), "look").get("turn"))
        due = second_turn(said, machine_id(), config.rollout(), now, noted)
    if due:
        findings.append(
            found(
                "turn",
                title=said.title,
                when=f"{due:%Y-%m-%d %H:%M} UTC",
                turn=state.format_time(due),
                **names,
            )
        )
    if network.metered():
        findings.append(found("metered", **names))
    percent = low_battery()
    if percent is not None:
        findings.append(found("battery", percent=percent, **names))
    # Not of /: that may be a composefs image, which has no free space of its own.
    space, boot = free(at("/sysroot")), free(at("/boot"))
    if space is not None and space < SPACE * GiB:
        findings.append(found("full" if space < FULL * MiB else "space", free=size(space), **names))
    if boot is not None and boot < BOOT * MiB:
        findings.append(found("boot", free=size(boot), **names))
    return findings


def can_ask(args) -> bool:
    """Whether there is a person to ask."""
    return not args.json and sys.stdin.isatty()


def require(findings: list[PreflightFinding], now: bool, ask: bool) -> tuple[str, ...]:
    """Go on, with warnings, or raise DeviceError as FINDINGS demand; with ASK a person is asked, and may say
    no.
    """
    stop, asks, warnings = judge(findings, now, ask)
    if stop:
        facts = {"finding": stop.name} | ({"turn": stop.details["turn"]} if "turn" in stop.details else {})
        raise DeviceError(stop.what, stop.means, stop.next, stop.row.code, facts)
    for finding in asks:
        print(f"{finding.what}: {finding.means}.")
    if asks and input("Go on? [y/N] ").strip().lower() not in ("y", "yes"):
        raise DeviceError("Nothing was changed", code=Code.USAGE)
    return tuple(warnings)


def as_facts(findings: list[PreflightFinding]) -> list[dict]:
    """FINDINGS for --json."""
    return [
        {
            "finding": one.name,
            "does": one.row.does.value,
            "what": one.what,
            "now_goes_on": one.row.now or one.row.does is Does.GO_ON,
        }
        for one in findings
    ]
