"""Who may have what done, when units start, and how swap is made: asked of the programs that decide it."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from veilor.build.check.guards import POLKIT

ADMIN = {"local": True, "active": True, "groups": ["wheel"]}
ASK = """
function decide(id, details, who) {
  var action = {id: id, lookup: function (name) { return details[name]; }};
  var subject = {local: who.local, active: who.active, isInGroup: function (name) { return who.groups.indexOf(name) !== -1; }};
  for (var i = 0; i < polkit.rules.length; i++) {
    var answer = polkit.rules[i](action, subject);
    if (answer) { return answer; }
  }
  return "left to the base";
}
"""  # noqa: E501


@pytest.fixture
def decide(machine, run, tmp_path):
    """What our rules answer for an action's ID with DETAILS asked by WHO."""

    def go(action, who, **details):
        files = sorted((machine / "usr/share/polkit-1/rules.d").iterdir())  # by name, as polkit reads them
        rules = "".join(path.read_text() for path in files)
        question = f"print(decide({json.dumps(action)}, {json.dumps(details)}, {json.dumps(who)}));\n"
        (tmp_path / "ask.js").write_text(POLKIT + rules + ASK + question)
        code, said, errors = run(f"duk {tmp_path}/ask.js")
        assert code == 0, errors
        return said.strip()

    return go


# What rpm-ostree asks polkit for, and something that it does not know yet; the rest of its actions are looks.
MOVES = (
    "upgrade",
    "deploy",
    "rebase",
    "rollback",
    "cleanup",
    "cancel",
    "reload-daemon",
    "bootconfig",
    "override",
    "repo-modify",
    "install-uninstall-packages",
    "install-local-packages",
    "finalize-deployment",
    "another-day",
)


@pytest.mark.parametrize(
    "action",
    [
        *(f"org.projectatomic.rpmostree1.{move}" for move in MOVES),
        "org.usbguard.Devices1.applyDevicePolicy",
        "org.usbguard.Policy1.appendRule",
        "org.usbguard1.setParameter",
    ],
)
def test_a_password_is_asked_for_each_time(decide, machine, action):
    assert decide(action, ADMIN) == "auth_admin"
    rules = machine / "usr/share/polkit-1/rules.d/10-veilor-guard.rules"
    rules.write_text("")
    assert decide(action, ADMIN) == "left to the base"


@pytest.mark.parametrize(
    "action",
    [
        "org.usbguard.Devices1.listDevices",
        "org.projectatomic.rpmostree1.client-management",
        "org.projectatomic.rpmostree1.repo-refresh",
    ],
)
def test_looking_is_left_to_the_base(decide, action):
    assert decide(action, ADMIN) == "left to the base"


MANAGE = "org.freedesktop.systemd1.manage-units"
ASKED = {
    "status": "yes",
    "check": "yes",
    "download": "yes",
    "update": "yes",
    "update-now": "yes",
    "rollback": "auth_admin",
}


def test_the_units_for_people_are_those_whose_answer_is_known_here(machine):
    units = (machine / "usr/lib/systemd/system").glob("veilor-ask-*.service")
    assert {unit.stem.removeprefix("veilor-ask-") for unit in units} == set(ASKED)


@pytest.mark.parametrize("name", ASKED)
def test_who_sits_at_the_machine_may_ask_for_what_installs_only_what_is_announced(decide, name):
    unit = f"veilor-ask-{name}.service"
    person = {"local": True, "active": True, "groups": []}
    assert decide(MANAGE, person, unit=unit, verb="start") == ASKED[name]
    for elsewhere in ({"local": False}, {"active": False}):
        assert decide(MANAGE, {**person, **elsewhere}, unit=unit, verb="start") == "left to the base"
    for verb in ("stop", "restart", "set-property"):
        assert decide(MANAGE, person, unit=unit, verb=verb) == "left to the base"
    assert decide("org.freedesktop.systemd1.manage-unit-files", person, unit=unit) == "left to the base"


@pytest.mark.parametrize("unit", ["veilor-update-stage.service", "veilor-ask-apply.service", "sshd.service"])
def test_other_units_are_left_to_the_base(decide, unit):
    assert decide(MANAGE, ADMIN, unit=unit, verb="start") == "left to the base"


@pytest.fixture
def cycles(machine, run, tmp_path):
    """Ordering cycles that systemd finds on the way to graphical.target, with Fedora's login units in their
    shape.
    """

    def go():
        place = tmp_path / "units"
        shutil.copytree(machine / "usr/lib/systemd/system", place)
        simple = "[Service]\nType=oneshot\nExecStart=/usr/bin/true\n"
        (place / "plasma-setup.service").write_text("[Unit]\nBefore=display-manager.service\n" + simple)
        (place / "display-manager.service").write_text(
            "[Unit]\nAfter=systemd-user-sessions.service\n[Service]\nExecStart=/usr/bin/true\n"
        )
        wants = [link for link in (machine / "etc/systemd/system").glob("*.wants/*") if link.is_symlink()]
        for folder, unit in [(link.parent.name, link.name) for link in wants] + [
            ("graphical.target.wants", "display-manager.service"),
            ("multi-user.target.wants", "plasma-setup.service"),
        ]:
            (place / folder).mkdir(exist_ok=True)
            if not os.path.lexists(place / folder / unit):
                (place / folder / unit).symlink_to(f"../{unit}")
        _, said, errors = run(
            f"env SYSTEMD_UNIT_PATH={place}: systemd-analyze verify --man=no --generators=no graphical.target"
        )
        return [line for line in (said + errors).splitlines() if "cycle" in line]

    return go


def test_the_first_boot_has_its_place_before_the_login(cycles):
    assert cycles() == []


def test_after_the_graphical_target_it_would_have_none(cycles, machine):
    """What 0.5.32 came to: the target waits for the login, which waits for the unit, which waits for the
    target.
    """
    unit = machine / "usr/lib/systemd/system/veilor-firstboot-rebase.service"
    unit.write_text(unit.read_text().replace("\nAfter=", "\nAfter=graphical.target "))
    assert cycles()


@pytest.fixture
def swap(machine, run):
    """Whether zram-generator makes a swap unit on a machine of MEMORY KiB, and what it says."""

    def go(memory):
        (machine / "proc").mkdir()
        (machine / "proc/meminfo").write_text(f"MemTotal: {memory} kB\n")
        (machine / "proc/cmdline").write_text("\n")
        start = f"ZRAM_GENERATOR_ROOT={machine} /usr/lib/systemd/system-generators/zram-generator"
        code, *said = run(
            f"mkdir /tmp/out; {start} /tmp/out /tmp/out /tmp/out; test -e /tmp/out/dev-zram0.swap"
        )
        return code == 0, "".join(said)

    return go


@pytest.mark.parametrize(("memory", "size"), [(8 << 20, 8192), (64 << 20, 16384)])
def test_swap_is_memory_as_large_as_memory_up_to_16_gib(swap, memory, size):
    made, said = swap(memory)
    assert made and f"with {size}MB" in said


def test_no_swap_without_the_configuration(swap, machine):
    shutil.rmtree(machine / "usr/lib/systemd/zram-generator.conf.d")
    assert not swap(8 << 20)[0]
