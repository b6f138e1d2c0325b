"""New versions that never come to their health check.

The kernel panics, start-up hangs, or it ends in emergency mode.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from veilor.lab.evidence import COUNTED
from veilor.lab.machine import Machine
from veilor.lab.scenario import phase
from veilor.lab.verdict import Checks
from veilor.lab.world import UNLOCK_TIMEOUT, World

AFTER = "life:second-boot"
STORY = (
    "A machine was given three updates that never come to their health check, and left each of them by itself"
)
RESTARTING = rb"did not come to the end of its health check: restarting"
STAYS_SECONDS = 75  # all limits below are shorter, the emulated start-up before them included
UNITS = "usr/lib/systemd/system"
# The person's machine waits ten minutes; only how long is changed, by the image that hangs.
SHORT_LIMIT = "[Timer]\nOnActiveSec=\nOnActiveSec=20s\n"
BEFORE_THE_CHECK = """[Unit]
Description=What a new version starts before its health check
Before=veilor-boot-check.service
After=basic.target
[Service]
Type=oneshot
ExecStart=/bin/sh -c '{}'
"""
PANICS = BEFORE_THE_CHECK.format("echo c > /proc/sysrq-trigger")
HANGS = BEFORE_THE_CHECK.format("echo This start never ends. > /dev/console; exec sleep infinity")
EMERGENCY = """[Unit]
Description=A file system that cannot be mounted
DefaultDependencies=no
After=boot.mount var.mount
Before=local-fs.target
[Service]
Type=oneshot
ExecStart=/bin/false
"""


def add_unit(
    text: str, target: str, dependency: str = "wants", limit: str = "", without: str = ""
) -> Callable[[Path], None]:
    """A function that adds a unit of TEXT to a staged tree, for TARGET to want or require.

    LIMIT changes the time limit. WITHOUT names the link, below etc/systemd/system, of a unit that is then not
    started.
    """

    def mutate(tree: Path) -> None:
        unit = tree / UNITS / "veilor-lab-broken.service"
        unit.write_text(text)
        link = tree / UNITS / f"{target}.{dependency}" / unit.name
        link.parent.mkdir(exist_ok=True)
        link.symlink_to(f"../{unit.name}")
        if limit:
            drop_in = tree / UNITS / "veilor-health-deadline.timer.d/90-lab.conf"
            drop_in.parent.mkdir(exist_ok=True)
            drop_in.write_text(limit)
        if without:
            (tree / "etc/systemd/system" / without).unlink()

    return mutate


def stage_update(world: World, checks: Checks, version: str, mutate: Callable[[Path], None]) -> None:
    """Publish the update to VERSION, changed by MUTATE, and stage it on the running machine."""
    world.publish(world.make_image(version, mutate=mutate))
    checks.equal(f"{version} is staged", world.run_program("veilor-update").code, 0)


def check_machine_comes_back(
    world: World, checks: Checks, mutate: Callable[[Path], None], said: bytes, allowed: str = ""
) -> None:
    """Check that an update changed by MUTATE is started three times and then left by itself.

    SAID is on the console each time that it goes wrong. ALLOWED names the forbidden word that the console may
    say; see console.py.
    """
    world.boot()
    stage_update(world, checks, "44.2", mutate)
    world.shut_down()

    machine = world.power_on()
    at = 0
    for number in range(1, 5):
        at = world.type_passphrase(start=at)
        if number < 4:
            at = machine.wait_console(said, UNLOCK_TIMEOUT, f"start {number} to go wrong", at)
            world.boots += 1  # the machine restarts by itself
    world.take_screenshot("fourth-start", "The fourth start is of the version before")
    machine.agent.discard_input()
    machine.wait_agent(UNLOCK_TIMEOUT)
    world.wait_startup_end()
    checks.equal("three starts of it, then one more", machine.console.count(COUNTED), 4)
    old = world.notes.releases["44.1"]
    checks.equal(
        "the fourth is of the version before", world.bootc_status()["booted"]["image"]["imageDigest"], old
    )
    machine.wait_unit("veilor-health-return.service", "inactive", 120)
    shown = world.run_program("veilor-status").text
    checks.true(
        "status says why",
        "never came to the end of its health check" in shown and "44.2" in shown,
        shown,
        go_on=True,
    )
    checks.true(
        "the person is told",
        "never came to the end" in world.login_notice(),
        world.login_notice(),
        go_on=True,
    )
    checks.true("healthy again", world.wait_healthy(), world.grub_environment(), go_on=True)
    world.run_program("veilor-update")
    checks.equal("it is not staged again by itself", world.bootc_status()["staged"], None)
    world.check_console(frozenset({allowed}))


def start_broken_update(world: World, checks: Checks, mutate: Callable[[Path], None], said: bytes) -> Machine:
    """Start the next update, changed by MUTATE so that the control is missing; the machine.

    It goes wrong, which is SAID on the console.
    """
    stage_update(world, checks, "44.3", mutate)
    world.machine.power_off()
    machine = world.power_on()
    at = world.type_passphrase()
    machine.wait_console(said, UNLOCK_TIMEOUT, "the start to go wrong", at)
    return machine


def check_machine_stays_broken(
    world: World, checks: Checks, mutate: Callable[[Path], None], said: bytes
) -> None:
    """Check that after `start_broken_update` the machine stays there, since the control is missing."""
    machine = start_broken_update(world, checks, mutate, said)
    time.sleep(STAYS_SECONDS)
    checks.equal("without the control the machine does not restart", machine.console.count(COUNTED), 1)
    world.cut_power()


@phase(
    "panics",
    "A kernel that panics restarts, is counted and left",
    starts_from="second-boot",
    independent=True,
)
def panics(world: World, checks: Checks) -> None:
    check_machine_comes_back(
        world, checks, add_unit(PANICS, "multi-user.target"), rb"Rebooting in 30 seconds", "kernel panic"
    )
    # QEMU's machine was seen to restart here all the same, so it is the kernel's own word that counts.
    unlimited = PANICS.replace("echo c", "echo 0 > /proc/sys/kernel/panic; echo c")
    machine = start_broken_update(
        world, checks, add_unit(unlimited, "multi-user.target"), rb"end Kernel panic"
    )
    checks.true(
        "without the control the kernel does not say that it restarts",
        b"Rebooting in" not in bytes(machine.console.buffer),
    )
    world.cut_power()


@phase("hangs", "Start-up that hangs is ended by the time limit", starts_from="second-boot", independent=True)
def hangs(world: World, checks: Checks) -> None:
    check_machine_comes_back(
        world, checks, add_unit(HANGS, "multi-user.target", limit=SHORT_LIMIT), RESTARTING
    )
    timer = "sysinit.target.wants/veilor-health-deadline.timer"
    check_machine_stays_broken(
        world,
        checks,
        add_unit(HANGS, "multi-user.target", limit=SHORT_LIMIT, without=timer),
        b"This start never ends",
    )


@phase("emergency", "Emergency mode is left for a restart", starts_from="second-boot", independent=True)
def emergency(world: World, checks: Checks) -> None:
    check_machine_comes_back(
        world, checks, add_unit(EMERGENCY, "local-fs.target", "requires"), RESTARTING, "emergency mode"
    )
    service = "emergency.target.wants/veilor-health-deadline.service"
    check_machine_stays_broken(
        world,
        checks,
        add_unit(EMERGENCY, "local-fs.target", "requires", without=service),
        b"emergency mode|account is locked",
    )
