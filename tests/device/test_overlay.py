"""The overlay and the staged tree: what the programs need to be started at the right moment on a machine."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from veilor.device.health import MOMENTS
from veilor.device.main import PROGRAMS

ROOT = Path(__file__).resolve().parents[2]
OVERLAY = ROOT / "overlay"
UNITS = OVERLAY / "usr/lib/systemd/system"
ETC = OVERLAY / "etc/systemd/system"


def unit(name: str) -> configparser.ConfigParser:
    found = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
    found.optionxform = str
    found.read_string((UNITS / name).read_text())
    return found


def started() -> list[tuple[str, str]]:
    """Every place that starts a program of ours, and with which words."""
    folders = (UNITS, OVERLAY / "usr/lib/systemd/user")
    places = [
        *(path for folder in folders for path in folder.glob("*.service")),
        *(OVERLAY / "usr/bin").iterdir(),
    ]
    return [
        (str(place.relative_to(OVERLAY)), words)
        for place in places
        for words in re.findall(r"/usr/bin/python3 -I -S /usr/lib/veilor/app (.*)", place.read_text())
    ]


def test_everything_started_exists_and_every_program_is_started():
    asked = {words for place, words in started() if "/veilor-ask-" in place}
    assert asked == {
        "status --json",
        "update --check --json",
        "update --download-only --json",
        "update --json",
        "update --now --json",
        "rollback --yes --json",
    }
    words = {
        words.removesuffix(' "$@"').removesuffix(" --due").removesuffix(" --announce")
        for _, words in started()
    } - asked
    assert words == {name for name in PROGRAMS if name not in ("health", "as-shipped")} | {
        f"health {moment}" for moment in MOMENTS
    }
    assert len(started()) == len(list(UNITS.glob("*.service"))) + 1 + 6


SCRIPTS = [*(OVERLAY / "usr/bin").iterdir()]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_can_be_run(path):
    assert os.access(path, os.X_OK) and path.read_text().startswith("#!/bin/")


def test_every_unit_with_an_install_section_is_enabled_by_a_link_and_kept_by_the_preset():
    links = {(link.parent.name, link.name): os.readlink(link) for link in ETC.glob("*.*/*")}
    for path in filter(Path.is_file, UNITS.iterdir()):
        install = dict(unit(path.name)["Install"]) if "Install" in unit(path.name) else {}
        for kind, word in (("wants", "WantedBy"), ("requires", "RequiredBy")):
            for target in install.get(word, "").split():
                assert links.pop((f"{target}.{kind}", path.name)) == f"/usr/lib/systemd/system/{path.name}"
    assert not links
    preset = (OVERLAY / "usr/lib/systemd/system-preset/10-veilor.preset").read_text()
    assert "enable veilor-*.service\nenable veilor-*.timer\nenable veilor-*.path\n" in preset


def test_competing_updaters_are_masked():
    for name in (
        "bootc-fetch-apply-updates.timer",
        "bootc-upgrade.timer",
        "rpm-ostreed-automatic.timer",
    ):
        assert os.readlink(ETC / name) == "/dev/null"


def test_the_first_boot_holds_nobody_up_and_ends_for_good():
    first = unit("veilor-firstboot-rebase.service")
    assert (
        first["Service"]["Type"],
        first["Service"]["Restart"],
        first["Unit"]["StartLimitIntervalSec"],
    ) == ("exec", "on-failure", "0")
    assert {"plasma-setup.service", "display-manager.service"} <= set(first["Unit"]["Before"].split())
    assert first["Unit"]["ConditionPathExists"] == "!/var/lib/veilor/firstboot-done"
    assert "veilor-boot-check.service" in unit("veilor-update-stage.service")["Unit"]["After"]


WAITED_FOR = {
    "display-manager.service",
    "plasma-setup.service",
    "getty@tty1.service",
    "NetworkManager.service",
}


def waits_for_the_check(orders: dict[str, tuple[set[str], set[str]]]) -> set[str]:
    """Of units with their After= and Before=, all that start only once the check of a boot has ended."""
    late = {"veilor-boot-check.service", "boot-complete.target"}
    while True:
        more = {name for name, (after, _) in orders.items() if after & late}
        more |= {name for one, (_, before) in orders.items() if one in late for name in before}
        if more <= late:
            return late
        late |= more


def order_of(name: str) -> tuple[set[str], set[str]]:
    section = unit(name)["Unit"]
    return set(section.get("After", "").split()), set(section.get("Before", "").split())


def test_nothing_that_the_check_waits_for_waits_for_the_check():
    """systemd holds a start job back while a unit that it is After has one, whatever its conditions say."""
    orders = {path.name: order_of(path.name) for path in UNITS.glob("veilor-*.service")}
    assert not waits_for_the_check(orders) & WAITED_FOR
    first = orders["veilor-firstboot-rebase.service"]
    orders["veilor-firstboot-rebase.service"] = ({*first[0], "veilor-boot-check.service"}, first[1])
    assert waits_for_the_check(orders) & WAITED_FOR, "the search has become blind"


def test_the_first_start_enrols_by_itself_just_once_and_only_where_there_is_usb():
    enrol = unit("veilor-usbguard-enroll.service")
    assert enrol["Unit"]["ConditionFileNotEmpty"] == "!/etc/usbguard/rules.conf"
    assert enrol["Unit"]["ConditionPathExistsGlob"] == "/sys/bus/usb/devices/usb*"
    assert "usbguard.service" in enrol["Unit"]["After"].split(), (
        "it would wait for itself: the enrolment restarts usbguard"
    )
    assert (enrol["Service"]["Type"], enrol["Service"]["Restart"]) == ("exec", "on-failure")


def test_a_return_is_dealt_with_before_the_health_check_and_settled_after_it():
    for name in ("veilor-unlocked.service", "veilor-health-return.service"):
        assert "veilor-boot-check.service" in unit(name)["Unit"]["Before"]
    assert "sysinit.target" in unit("veilor-unlocked.service")["Unit"]["Before"].split(), (
        "what comes later may panic before the note"
    )
    assert "ostree-finalize-staged.service" in unit("veilor-count-starts.service")["Unit"]["After"].split(), (
        "what starts after another stops before it"
    )
    settles = unit("veilor-settle-counter.service")["Unit"]
    assert "ostree-finalize-staged.service" in settles["Before"].split(), "and the other way round"
    assert settles["DefaultDependencies"] == "no", "it would stop with the services, before ostree's work"
    assert "veilor-unlocked.service" in unit("veilor-health-deadline.timer")["Unit"]["After"]


def test_kernel_arguments():
    assert (
        "panic=30" in tomllib.loads((OVERLAY / "usr/lib/bootc/kargs.d/10-veilor.toml").read_text())["kargs"]
    )


@pytest.fixture(scope="module")
def tree(staged, tmp_path_factory):
    """A copy of its own, since programs started in it leave their bytecode there."""
    return shutil.copytree(staged, tmp_path_factory.mktemp("stage") / "tree", symlinks=True)


def test_the_staged_programs_start_alone_and_explain_themselves(tree):
    start = [sys.executable, "-I", str(tree / "usr/lib/veilor/app")]
    for program in PROGRAMS:
        done = subprocess.run(
            [*start, program, "--help"],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            cwd="/",
            env={},
        )
        assert done.returncode == 0 and "exit codes:" in done.stdout, done.stderr
    assert subprocess.run([*start, "nonsense"], capture_output=True, timeout=60, check=False).returncode == 2


def test_every_service_that_asks_the_network_knows_of_a_proxy():
    """A network with a proxy alone: /etc/environment is the one place, for the services as for logins."""
    online = re.compile(r"/app (update|firstboot-rebase|status)\b")
    found = [
        path
        for path in (OVERLAY / "usr/lib/systemd/system").glob("*.service")
        if online.search(path.read_text())
    ]
    assert len(found) == 7
    assert [
        path.name for path in found if "\nEnvironmentFile=-/etc/environment\n" not in path.read_text()
    ] == []


def test_every_program_starts_without_the_folders_of_packages():
    """-I leaves out what the caller sets, -S what somebody put into site-packages, .pth files too."""
    names = sorted(set(PROGRAMS.values()))
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT / 'src')!r}); import importlib\n"
        f"for name in {names!r}: importlib.import_module('veilor.device.' + name)\n"
        "print([path for path in sys.path if 'packages' in path], 'site' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=False
    )
    assert done.stdout == "[] False\n", done.stderr
