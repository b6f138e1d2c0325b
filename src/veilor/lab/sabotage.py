"""Sabotages: known ways to break the product or the rehearsal, to see that the rehearsal notices.

Each is one small mutation, of the staged tree or of the running rehearsal, with the verdict and the phase in
which it has to come out. A sabotage that leaves everything green means that a check is blind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from veilor.lab.result import Run
from veilor.lab.verdict import LabFault, Verdict

if TYPE_CHECKING:
    from veilor.lab.world import World

APP = "usr/lib/veilor/app/veilor"


@dataclass(frozen=True)
class Sabotage:
    """A way to break something, with the VERDICT and the PHASE in which that has to be noticed.

    TREE changes a staged tree. LIVE changes the running rehearsal where a phase calls `apply_sabotage` with
    POINT. BEGINS is the first phase that differs from an honest run, if that is not the first: what comes
    before may be carried over from one. TREE then changes only images from version SINCE on. SAYS is a part
    of the reason that the phase has to fail with, so that another failure is not taken for it.
    """

    title: str
    verdict: Verdict
    phase: str
    tree: Callable[[Path], None] | None = None
    point: str = ""
    live: Callable[[World], None] | None = None
    begins: str = ""
    since: str = ""
    says: str = ""


def _remove(tree: Path, folders: str, name: str) -> None:
    # fnmatch over a listing: a glob does not see links that lead nowhere outside of the machine.
    found = [path for folder in tree.glob(folders) for path in folder.iterdir() if fnmatch(path.name, name)]
    if not found:
        raise LabFault(f"the sabotage finds no {folders}/{name} to remove: it has to follow the product")
    for path in found:
        path.unlink()


def _append(tree: Path, name: str, text: str) -> None:
    path = tree / name
    if not path.is_file():
        raise LabFault(f"the sabotage finds no {name} to change: it has to follow the product")
    path.write_text(path.read_text() + text)


def _first_boot_off(tree: Path) -> None:
    _remove(tree, "etc/systemd/system/*.wants", "veilor-firstboot-rebase.service")


def _rebase_lies(tree: Path) -> None:
    _append(tree, f"{APP}/device/firstboot.py", "\n\ndef main(*_args, **_options):\n    return 0\n")


def _policy_open(tree: Path) -> None:
    path = tree / "etc/containers/policy.json"
    policy = json.loads(path.read_text())
    policy["default"] = [{"type": "insecureAcceptAnything"}]
    path.write_text(json.dumps(policy))


def _statement_unchecked(tree: Path) -> None:
    _append(
        tree, f"{APP}/core/statement.py", "\n\ndef check_sequence(*_args, **_options):\n    return None\n"
    )


def _no_health_check(tree: Path) -> None:
    _remove(tree, "etc/systemd/system/boot-complete.target.requires", "veilor-boot-check.service")


def _kill_agent(world: World) -> None:
    world.machine.run(
        ["sh", "-c", "systemctl stop --no-block veilor-lab-agent.service; kill -9 $PPID"],
        timeout=5,
        check=False,
    )


def _verb_lies(verb: str) -> Callable[[World], None]:
    """A change after which bootc's VERB ends with 0 and does nothing, until the next start."""
    front = f'#!/bin/sh\n[ "$1" != {verb} ] || exit 0\nexec /run/veilor-lab/bootc "$@"\n'

    def replace_bootc(world: World) -> None:
        world.write_file("/run/veilor-lab/front", front)
        world.machine.run(
            [
                "sh",
                "-ec",
                "cd /run/veilor-lab; cp /usr/bin/bootc bootc; chmod +x front; mount --bind front "
                "/usr/bin/bootc",
            ]
        )

    return replace_bootc


def _lose_staged(world: World) -> None:
    world.machine.run(["rm", "/run/ostree/staged-deployment"])


def _count_as_unlocked(world: World) -> None:
    health = json.loads(world.read_file("/var/lib/veilor/health.json"))
    health["armed"]["unlocked"] = 3
    world.write_file("/var/lib/veilor/health.json", json.dumps(health))


def _kill_qemu(world: World) -> None:
    world.machine.process.kill()


def _truncate_disk(world: World) -> None:
    with world.disk.open("r+b") as disk:
        disk.truncate(world.disk.stat().st_size // 2)


SABOTAGES = {
    "firstboot-not-enabled": Sabotage(
        "the first-boot unit is not enabled", Verdict.OS_FAULT, "first-boot", _first_boot_off
    ),
    "rebase-does-nothing": Sabotage(
        "the first-boot program ends with 0 without switching", Verdict.OS_FAULT, "first-boot", _rebase_lies
    ),
    "policy-permissive": Sabotage(
        "the container policy accepts anything by default",
        Verdict.OS_FAULT,
        "first-boot",
        _policy_open,
        says="to stage the signed image did not come",
    ),
    "statement-unchecked": Sabotage(
        "an older statement is taken for a newer one",
        Verdict.OS_FAULT,
        "update-attacks",
        _statement_unchecked,
        begins="not-unlocked",
        since="44.4",
    ),
    "health-check-missing": Sabotage(
        "the image ships no health check",
        Verdict.OS_FAULT,
        "bad-update",
        _no_health_check,
        begins="bad-update",
        since="44.3",
        says="the passphrase prompt did not come",
    ),
    "rollback-does-nothing": Sabotage(
        "bootc's way back ends with 0 and changes nothing",
        Verdict.OS_FAULT,
        "rollback",
        None,
        "rollback",
        _verb_lies("rollback"),
        "rollback",
        says="veilor-rollback ends well",
    ),
    "update-does-nothing": Sabotage(
        "bootc's upgrade ends with 0 and changes nothing",
        Verdict.OS_FAULT,
        "update",
        None,
        "update",
        _verb_lies("upgrade"),
        "update",
        says="the update is downloaded",
    ),
    "staged-lost": Sabotage(
        "the signed image that was staged is lost before the restart",
        Verdict.OS_FAULT,
        "second-boot",
        None,
        "first-boot-end",
        _lose_staged,
        "first-boot",
        says="the booted image is the announced one",
    ),
    "unlock-not-told": Sabotage(
        "starts that nobody unlocked are taken for ones that failed",
        Verdict.OS_FAULT,
        "not-unlocked",
        None,
        "not-unlocked",
        _count_as_unlocked,
        "not-unlocked",
        says="status says that nobody unlocked it",
    ),
    "agent-killed": Sabotage(
        "the lab's agent is killed in the guest",
        Verdict.OS_FAULT,
        "second-boot",
        None,
        "second-boot",
        _kill_agent,
        "second-boot",
        says="the guest's agent did not answer",
    ),
    "qemu-killed": Sabotage(
        "QEMU is killed",
        Verdict.LAB_FAULT,
        "second-boot",
        None,
        "second-boot",
        _kill_qemu,
        "second-boot",
        says="QEMU died",
    ),
    "disk-truncated": Sabotage(
        "the disk image is cut in half",
        Verdict.LAB_FAULT,
        "second-boot",
        None,
        "second-boot-off",
        _truncate_disk,
        "second-boot",
        says="the disk image of the machine is damaged",
    ),
}


def apply_to_tree(name: str | None, tree: Path, version: str) -> None:
    """Apply the sabotage NAME, if any, to the staged TREE of the image VERSION, if it changes that one.

    Raises LabFault when the tree has not what it would change.
    """
    if not name:
        return
    chosen = SABOTAGES[name]
    if chosen.tree and _number(version) >= _number(chosen.since):
        chosen.tree(tree)


def _number(version: str) -> list[int]:
    return [int(part) for part in version.split(".") if part]


def apply_live(name: str | None, point: str, world: World) -> None:
    """Apply the sabotage NAME, if any, to the running rehearsal WORLD, if POINT is where it acts."""
    if not name:
        return
    chosen = SABOTAGES[name]
    if chosen.live and chosen.point == point:
        chosen.live(world)


def was_noticed(name: str, run: Run) -> tuple[bool, str]:
    """Whether RUN noticed the sabotage NAME where and as it should, and a line that says so."""
    wanted = SABOTAGES[name]
    should_be = f"it should be {wanted.verdict} in {wanted.phase}: a check is blind or too early"
    failed = [phase for phase in run.phases if phase.verdict not in (Verdict.PASS, Verdict.NOT_RUN)]
    if not failed:
        return False, f"sabotage {name}: nothing was noticed, but {should_be}"
    first = failed[0]
    found = f"{first.verdict} in {first.name}"
    if (first.name, first.verdict) != (wanted.phase, wanted.verdict):
        return False, f"sabotage {name}: {found}, but {should_be}"
    if wanted.says not in first.reason:
        return False, f"sabotage {name}: {found}, but for another reason: {first.reason}"
    return True, f"sabotage {name}: noticed, as it should be ({found})"
