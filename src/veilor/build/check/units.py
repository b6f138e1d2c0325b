"""Units, presets and what systemd makes at the start, by systemd's own programs."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.check.finding import Finding, ask, lines_matching

UNITS = "overlay/usr/lib/systemd/system"
PRESETS = "overlay/usr/lib/systemd/system-preset"
ENABLED = "overlay/etc/systemd/system"
FIRST_OF_THE_BASE = "35"  # 35-secureblue-desktop.preset: of two presets the first in order of names decides
# What `systemd-analyze verify` says: "/path/unit:3: text", or "unit: text" where it knows no line.
SAID = re.compile(r"^(?P<unit>[^\s:]+\.[a-z]+)(?::(?P<line>\d+))?: (?P<text>.+)$")


def settings_in(root: Path, folder: str, pattern: str) -> list[Path]:
    """The files of overlay/FOLDER that match PATTERN, in order of names."""
    return sorted((root / "overlay" / folder).glob(pattern))


def check_units(root: Path, run: Callable | None) -> list[Finding]:
    """Every unit and drop-in of ours, by `systemd-analyze verify`: unknown settings, programs that aren't there."""
    found = []
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        place = Path(scratch, "units")
        shutil.copytree(root / UNITS, place, symlinks=True)
        named = [path for path in sorted(place.iterdir()) if path.is_file()]
        for folder in sorted(place.glob("*.d")):
            # A drop-in for a unit of the base is checked where the tools tree has that unit, else with an empty one.
            base = folder.name.removesuffix(".d")
            if not (place / base).exists():
                (place / base).write_text(stand_in_for(base))
                named.append(place / base)
        argv = ["env", f"SYSTEMD_UNIT_PATH={place}:", "systemd-analyze", "verify", "--man=no", "--generators=no", *map(str, named)]
        for line in ask(run, argv, [place])[1].splitlines():
            said = SAID.match(line)
            if not said:
                continue
            path = Path(said["unit"])
            inside = path.relative_to(place) if path.is_relative_to(place) else Path(path.name)
            if (root / UNITS / inside).exists():
                found.append(Finding(f"{UNITS}/{inside}", int(said["line"] or 0), said["text"]))
    return found + links_that_lead_nowhere(root)


def stand_in_for(unit: str) -> str:
    """A unit that a drop-in can be read with."""
    return "[Service]\nExecStart=/usr/bin/true\n" if unit.endswith(".service") else "[Unit]\n"


def links_that_lead_nowhere(root: Path) -> list[Finding]:
    """Enabling links to units of ours that the overlay doesn't have; units of the base are not ours to know."""
    found = []
    for link in sorted((root / ENABLED).rglob("*")):
        if link.is_symlink():
            unit = Path(link.readlink())
            if unit.name.startswith("veilor-") and not (root / "overlay" / str(unit).lstrip("/")).is_file():
                found.append(Finding(str(link.relative_to(root)), 0, f"leads to {unit}, which is not in the overlay"))
    return found


def check_presets(root: Path, run: Callable | None) -> list[Finding]:
    """Presets are readable, read before the base's, and enable no unit of ours that isn't there."""
    found = []
    for path in sorted((root / PRESETS).glob("*")):
        name = str(path.relative_to(root))
        if not path.name.endswith(".preset") or path.name[:2] >= FIRST_OF_THE_BASE:
            why = f"its name must end in .preset and sort before {FIRST_OF_THE_BASE}-, or the base's presets decide"
            found.append(Finding(name, 0, why))
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith(("#", ";")):
                continue
            if len(words) != 2 or words[0] not in ("enable", "disable", "ignore"):
                found.append(Finding(name, number, f"systemd can't read {line!r}: it takes enable, disable or ignore, and a unit"))
            elif words[1].startswith("veilor-") and not list((root / UNITS).glob(words[1])):
                found.append(Finding(name, number, f"there is no unit {words[1]} in {UNITS}"))
    return found


def check_tmpfiles(root: Path, run: Callable | None) -> list[Finding]:
    """tmpfiles.d and sysusers.d, by a dry run of the programs that read them."""
    found = []
    for folder, program in (("tmpfiles.d", ["systemd-tmpfiles", "--create", "--remove", "--boot"]), ("sysusers.d", ["systemd-sysusers"])):
        files = settings_in(root, f"usr/lib/{folder}", "*.conf")
        if not files:
            continue
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            tree = Path(scratch)
            shutil.copytree(root / "overlay/usr/lib" / folder, tree / "usr/lib" / folder)
            (tree / "etc").mkdir()
            (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
            (tree / "etc/group").write_text("root:x:0:\nwheel:x:10:\n")
            _, said = ask(run, [*program, f"--root={tree}", "--dry-run"], [tree])
        for _, line in lines_matching(said, rf"^{re.escape(scratch)}/(\S+?):(\d+): (.+)$"):
            found.append(Finding(f"overlay/{line[1]}", int(line[2]), line[3]))
    return found


OOMD = {"SwapUsedLimit", "DefaultMemoryPressureLimit", "DefaultMemoryPressureDurationSec", "PrekillHookTimeoutSec"}


def check_oomd(root: Path, run: Callable | None) -> list[Finding]:
    """oomd.conf.d: only what oomd.conf(5) knows, in its one section."""
    found = []
    for path in settings_in(root, "usr/lib/systemd/oomd.conf.d", "*"):
        name, section = str(path.relative_to(root)), ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("["):
                section = line
            elif line.strip() and not line.startswith(("#", ";")) and (section != "[OOM]" or line.partition("=")[0].strip() not in OOMD):
                found.append(Finding(name, number, f"systemd-oomd ignores {line!r} in the section {section or 'none'}"))
    return found
