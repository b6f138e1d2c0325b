"""Our SELinux modules, by secilc, against a policy of the base's shape with and without the base's wall."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from veilor.build.check.finding import Finding, run_tool

MODULES = "bluebuild/files/selinux"
SHAPE = "stand-ins/image"
BASE, WALL = f"{SHAPE}/base.cil", f"{SHAPE}/wall.cil"
BRAVE, UPDATE = f"{MODULES}/veilor_brave.cil", f"{MODULES}/veilor_update.cil"
REACH, REACH_UPDATE = f"{SHAPE}/reach.cil", f"{SHAPE}/reach-update.cil"
ELSEWHERE, CLOSED = f"{SHAPE}/elsewhere.cil", f"{SHAPE}/closed.cil"
SAID = re.compile(r"line (\d+) of (\S+\.cil)|(\S+\.cil):(\d+)")


def check_cil(root: Path, run) -> list[Finding]:
    """Our SELinux modules compile on the base, with its wall and without.

    They let Brave and bootc reach what these need, and leave the wall standing for all others.
    """
    modules, found = [f"{MODULES}/{path.name}" for path in sorted((root / MODULES).glob("*.cil"))], []
    for base in ([BASE], [BASE, WALL]):
        code, said = compiled(root, run, [*base, *modules])
        if not code:
            continue
        places = [(hit[2] or hit[3], int(hit[1] or hit[4])) for hit in SAID.finditer(said)]
        path, line = next(
            ((path, line) for path, line in places if MODULES in path), places[0] if places else (MODULES, 0)
        )
        text = " ".join(said.replace(f"{root}/", "").split())
        names = " and ".join(Path(name).name for name in base)
        found.append(
            Finding(path.replace(f"{root}/", ""), line, f"secilc refuses it on {names}: {text[:300]}")
        )
    return found or [*out_of_reach(root, run), *domain_of_bootc(root, run), *opened(root, run)]


def compiled(root: Path, run, names: list[str]) -> tuple[int, str]:
    """What secilc answers to the files NAMES of the clone at ROOT: its exit code, and what it says."""
    argv = ["secilc", "--output=/dev/null", "--filecontext=/dev/null", *(str(root / name) for name in names)]
    return run_tool(run, argv, [root])


def forbidden(root: Path, run, policy: list[str], probe: str) -> Iterator[tuple[int, str, bool]]:
    """Each line of the file PROBE that forbids something: number, text, and whether POLICY breaks it."""
    _, said = compiled(root, run, [*policy, probe])
    broken = {
        int(line) for line in re.findall(rf"neverallow check failed at .*?{re.escape(probe)}:(\d+)", said)
    }
    for number, line in enumerate((root / probe).read_text().splitlines(), 1):
        if line.startswith("(neverallow"):
            yield number, line, number in broken


def out_of_reach(root: Path, run) -> Iterator[Finding]:
    """A finding for each right that Brave or bootc needs and does not have.

    Each line of the two files REACH forbids one of these, and so has to be refused.
    """
    for who, where, policy, probe in (
        ("Brave", BRAVE, [BASE, BRAVE], REACH),
        ("bootc, started by a service,", UPDATE, [BASE, WALL, BRAVE, UPDATE], REACH_UPDATE),
    ):
        for number, line, broken in forbidden(root, run, policy, probe):
            if not broken:
                yield Finding(where, 0, f"{who} has no right to what {probe}:{number} is about: {line}")


def domain_of_bootc(root: Path, run) -> Iterator[Finding]:
    """A finding where bootc stays in the domain of the service that starts it.

    Our module and ELSEWHERE name two domains for the same start, which no policy can hold together.
    """
    _, said = compiled(root, run, [BASE, WALL, BRAVE, UPDATE, ELSEWHERE])
    if "existing=install_t" not in said:
        yield Finding(
            UPDATE,
            0,
            "a service that starts bootc stays in its own domain, where no update with new labels works",
        )


def opened(root: Path, run) -> Iterator[Finding]:
    """A finding for each line of CLOSED that the compiler refuses, at the rule of ours that opens it."""
    _, said = compiled(root, run, [BASE, WALL, BRAVE, UPDATE, CLOSED])
    lines = (root / CLOSED).read_text().splitlines()
    for block in said.split("neverallow check failed at ")[1:]:
        probe, ours = (
            re.match(rf"\S*{re.escape(CLOSED)}:(\d+)", block),
            re.search(rf"({MODULES}/\S+):(\d+)", block),
        )
        if probe:
            path, line = (ours[1], int(ours[2])) if ours else (MODULES, 0)
            yield Finding(path, line, f"this opens what {CLOSED} keeps closed: {lines[int(probe[1]) - 1]}")
