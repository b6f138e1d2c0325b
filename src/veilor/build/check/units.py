"""Units, presets and what systemd makes at the start, by systemd's own programs."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from veilor.build.check.finding import CannotRun, Finding, at_least_one, lines_matching, run_tool

UNITS = "overlay/usr/lib/systemd/system"
USER_UNITS = "overlay/usr/lib/systemd/user"
DRACUT = "overlay/usr/lib/dracut/modules.d"
PRESETS = "overlay/usr/lib/systemd/system-preset"
ENABLED = "overlay/etc/systemd/system"
FIRST_OF_THE_BASE = "35"  # 35-secureblue-desktop.preset: of two presets the first in order of names decides
# What `systemd-analyze verify` says: "/path/unit:3: text", or "unit: text" where it knows no line.
SAID = re.compile(r"^(?P<unit>[^\s:]+\.[a-z]+)(?::(?P<line>\d+))?: (?P<text>.+)$")


def settings_in(root: Path, folder: str, pattern: str) -> list[Path]:
    """The files of overlay/FOLDER that match PATTERN, in order of their names.

    Raises NothingToCheck where there is none.
    """
    return at_least_one(sorted((root / "overlay" / folder).glob(pattern)), f"overlay/{folder}")


def check_units(root: Path, run: Callable | None) -> list[Finding]:
    """Every unit and drop-in of ours, by `systemd-analyze verify`.

    It finds unknown settings and programs that are missing: in units of the system, of a person's session,
    and of those that dracut takes into the initramfs.
    """
    found = verify(root, UNITS, run) + verify(root, USER_UNITS, run, "--user")
    for folder in sorted(
        {path.parent for path in at_least_one(sorted((root / DRACUT).glob("*/*.service")), DRACUT)}
    ):
        found += verify(root, str(folder.relative_to(root)), run)
    return found + links_that_lead_nowhere(root)


def verify(root: Path, home: str, run: Callable | None, *options: str) -> list[Finding]:
    """What `systemd-analyze verify` with OPTIONS says of the units in the folder HOME of the repository."""
    found = []
    with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
        place = Path(scratch, "units")
        at_least_one(list((root / home).glob("*")), home)
        shutil.copytree(root / home, place, symlinks=True)
        named = at_least_one(
            [path for path in sorted(place.iterdir()) if path.is_file() and path.suffix != ".sh"], home
        )
        for folder in sorted(place.glob("*.d")):
            # A drop-in for a unit of the base is checked where the tools tree has that unit, else with an
            # empty one.
            base = folder.name.removesuffix(".d")
            if not (place / base).exists():
                (place / base).write_text(stand_in_for(base))
                named.append(place / base)
        # A session's manager doesn't begin without the folder that a login makes.
        argv = [
            "env",
            f"SYSTEMD_UNIT_PATH={place}:",
            "XDG_RUNTIME_DIR=/run",
            "systemd-analyze",
            *options,
            "verify",
            "--man=no",
            "--generators=no",
            *map(str, named),
        ]
        said_all = run_tool(run, argv, [place])[1]
        if "Failed to initialize manager" in said_all:
            raise CannotRun(f"systemd-analyze can't begin: {' '.join(said_all.split())[-200:]}")
        for line in said_all.splitlines():
            said = SAID.match(line)
            if not said:
                continue
            path = Path(said["unit"])
            inside = path.relative_to(place) if path.is_relative_to(place) else Path(path.name)
            if (root / home / inside).exists():
                found.append(Finding(f"{home}/{inside}", int(said["line"] or 0), said["text"]))
    return found


def stand_in_for(unit: str) -> str:
    """A unit that a drop-in can be read with."""
    return "[Service]\nExecStart=/usr/bin/true\n" if unit.endswith(".service") else "[Unit]\n"


def links_that_lead_nowhere(root: Path) -> list[Finding]:
    """Links that enable a unit of ours which the overlay does not have.

    Units of the base are not known here.
    """
    found = []
    for link in sorted([*(root / ENABLED).rglob("*"), *(root / USER_UNITS).glob("*.wants/*")]):
        if link.is_symlink():
            unit = Path(link.readlink())
            home = root / "overlay" / str(unit).lstrip("/") if unit.is_absolute() else link.parent / unit
            if unit.name.startswith("veilor-") and not home.is_file():
                found.append(
                    Finding(
                        str(link.relative_to(root)),
                        0,
                        f"leads to {unit}, which is not in the overlay; add the unit, or remove the link",
                    )
                )
    return found


def check_presets(root: Path, run: Callable | None) -> list[Finding]:
    """Presets are readable, read before the base's, and enable no unit of ours that isn't there."""
    found = []
    for path in at_least_one(sorted((root / PRESETS).glob("*")), PRESETS):
        name = str(path.relative_to(root))
        if not path.name.endswith(".preset") or path.name[:2] >= FIRST_OF_THE_BASE:
            why = (
                f"its name must end in .preset and sort before {FIRST_OF_THE_BASE}-, or the base's "
                "presets decide"
            )
            found.append(Finding(name, 0, why))
        for number, line in enumerate(path.read_text().splitlines(), 1):
            words = line.split()
            if not words or words[0].startswith(("#", ";")):
                continue
            if len(words) != 2 or words[0] not in ("enable", "disable", "ignore"):
                found.append(
                    Finding(
                        name,
                        number,
                        f"systemd can't read {line!r}: it takes enable, disable or ignore, and a unit",
                    )
                )
            elif words[1].startswith("veilor-") and not list((root / UNITS).glob(words[1])):
                found.append(
                    Finding(
                        name, number, f"there is no unit {words[1]} in {UNITS}; add it, or correct the name"
                    )
                )
    return found


def check_tmpfiles(root: Path, run: Callable | None) -> list[Finding]:
    """tmpfiles.d and sysusers.d, by a dry run of the programs that read them."""
    found = []
    for folder, program in (
        ("tmpfiles.d", ["systemd-tmpfiles", "--create", "--remove", "--boot"]),
        ("sysusers.d", ["systemd-sysusers"]),
    ):
        if folder == "sysusers.d" and not (root / "overlay/usr/lib" / folder).exists():
            continue  # the base has every user that we need
        settings_in(root, f"usr/lib/{folder}", "*.conf")
        with tempfile.TemporaryDirectory(prefix="veilor-check-") as scratch:
            tree = Path(scratch)
            shutil.copytree(root / "overlay/usr/lib" / folder, tree / "usr/lib" / folder)
            (tree / "etc").mkdir()
            (tree / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
            (tree / "etc/group").write_text("root:x:0:\nwheel:x:10:\n")
            _, said = run_tool(run, [*program, f"--root={tree}", "--dry-run"], [tree])
        for _, line in lines_matching(said, rf"^{re.escape(scratch)}/(\S+?):(\d+): (.+)$"):
            found.append(Finding(f"overlay/{line[1]}", int(line[2]), line[3]))
    return found


OOMD = {
    "SwapUsedLimit",
    "DefaultMemoryPressureLimit",
    "DefaultMemoryPressureDurationSec",
    "PrekillHookTimeoutSec",
}


def check_oomd(root: Path, run: Callable | None) -> list[Finding]:
    """oomd.conf.d: only what oomd.conf(5) knows, in its one section."""
    found = []
    for path in settings_in(root, "usr/lib/systemd/oomd.conf.d", "*"):
        name, section = str(path.relative_to(root)), ""
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if line.startswith("["):
                section = line
            elif (
                line.strip()
                and not line.startswith(("#", ";"))
                and (section != "[OOM]" or line.partition("=")[0].strip() not in OOMD)
            ):
                found.append(
                    Finding(
                        name,
                        number,
                        f"systemd-oomd ignores {line!r} in the section {section or 'none'}; see oomd.conf(5)",
                    )
                )
    return found
