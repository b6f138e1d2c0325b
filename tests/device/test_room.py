"""Room on the disk as ostree judges it, and what is said where there is none."""

from __future__ import annotations

import errno
import os
from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from veilor.core.host import parse
from veilor.device import bootc, health, preflight

MiB, GiB = 1 << 20, 1 << 30
RESERVED = preflight.reserved
TERABYTE = SimpleNamespace(f_blocks=1000 * GiB // 4096, f_frsize=4096)


@pytest.fixture
def disk(v1, monkeypatch):
    """A disk of 1,000 GiB for the system."""
    real = os.statvfs
    monkeypatch.setattr(preflight, "reserved", RESERVED)
    monkeypatch.setattr(
        os, "statvfs", lambda path: TERABYTE if str(path).endswith("/sysroot") else real(path)
    )
    return v1


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (None, 30 * GiB),
        ("[core]\nrepo_version=1\nmode=bare\n", 30 * GiB),
        ("[core]\nmin-free-space-percent=1\n", 10 * GiB),
        ("[core]\nmin-free-space-percent=0\n", 0),
        ("[core]\nmin-free-space-size=500MB\n", 500 * MiB),
        ("[core]\nmin-free-space-size=2GB\nmin-free-space-percent=50\n", 2 * GiB),
        ("[core]\nmin-free-space-size=much\n", 30 * GiB),
        ("[core]\nmin-free-space-percent=%(x)s\n", 30 * GiB),
        ("not a key file", 30 * GiB),
    ],
)
def test_what_ostree_keeps_free(disk, config, expected):
    if config is not None:
        disk.put("sysroot/ostree/repo/config", config)
    assert abs(preflight.reserved() - expected) <= 4096


@pytest.mark.parametrize(
    ("free", "finding"), [(20, "full"), (30.3, "full"), (31, "space"), (32.9, "space"), (33.1, None)]
)
def test_twenty_gibibytes_of_a_large_disk_are_no_room(disk, monkeypatch, free, finding):
    monkeypatch.setattr(
        preflight, "free", lambda path: int(free * GiB) if path.name == "sysroot" else 1 << 40
    )
    done = disk.program("update", "--json")
    assert done.data.get("finding") == finding
    assert not finding or "30.0 GiB that are never filled" in done.data["what"]
    assert bool(disk.calls("bootc", "upgrade")) == (finding is None)


def put_kernel(machine, name: str, mebibytes: int) -> None:
    for file, size in (("vmlinuz", 20), ("initramfs.img", mebibytes - 20)):
        machine.put(f"boot/ostree/{name}/{file}", "")
        os.truncate(machine.root / f"boot/ostree/{name}/{file}", size * MiB)


@pytest.mark.parametrize(
    ("kernels", "pinned", "free", "fits"),
    [
        ([261], False, 230, False),
        ([261], False, 290, True),
        ([261, 261], False, 230, True),  # the older one goes first, as ostree does it
        ([261, 261], True, 230, False),  # the bootstrap is pinned
        ([261, 261, 261], True, 230, True),
        ([60], False, 80, True),
        ([], False, 250, False),
        ([], False, 310, True),
    ],
)
def test_boot_needs_what_a_kernel_and_its_initramfs_take(v1, monkeypatch, kernels, pinned, free, fits):
    v1.deployments(v1.entry("44.1"), rollback=v1.bootstrap(pinned=pinned))
    for number, size in enumerate(kernels):
        put_kernel(v1, f"veilor-{number}", size)
    monkeypatch.setattr(preflight, "free", lambda path: free * MiB if path.name == "boot" else 1 << 40)
    done = v1.program("update", "--json")
    assert done.data.get("finding") == (None if fits else "boot"), done.data


def test_what_stays_is_what_runs_and_what_is_pinned(machine):
    machine.deployments(
        machine.entry("44.2"), rollback=machine.entry("44.1"), others=[machine.bootstrap(pinned=True)]
    )
    import json

    assert parse(json.dumps({"kind": "BootcHost", "status": machine.status})).kept == 2


# -- no room at all

NO_SPACE = "error: Status: Initializing storage: Acquiring Sysroot: No space left on device"


@pytest.fixture(params=["sysroot", "boot"])
def full(v1, request, monkeypatch):
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))
    v1.change("fail", **{"bootc status": NO_SPACE})
    monkeypatch.setattr(preflight, "free", lambda path: 0 if path.name == request.param else 1 << 40)
    v1.full = request.param
    return v1


@pytest.mark.parametrize("program", [["update"], ["status"], ["rollback", "--yes"]])
def test_a_full_disk_is_named_and_no_advice_needs_room(full, program):
    said = full.program(*program, "--json").data
    assert f"The disk is full (/{full.full})" in said["what"]
    assert "neither an update nor a rollback works before there is room" in said["means"]
    assert ("podman system prune" in said["next"]) == (full.full == "sysroot")
    assert "veilor-rollback" not in said["next"]


def test_the_health_check_does_not_send_a_person_to_a_rollback_that_would_fail(full):
    full.load()
    full.world["fail"].clear()
    full.save()
    full.put("etc/containers/policy.json", "{}")
    full.judge_boot()
    [told] = [line for line in full.text("run/motd.d/50-veilor").splitlines() if "health check" in line]
    assert "veilor-rollback" not in told and "Delete what" in told


def test_a_full_disk_is_held_against_no_version(full):
    assert health.checks.find_faults("deployment") == []


@pytest.mark.parametrize("verb", ["upgrade", "rollback"])
def test_a_change_that_fails_on_a_full_disk_says_so(v1, monkeypatch, verb):
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))
    v1.change("fail", **{f"bootc {verb}": "error: x: No space left on device (os error 28)"})
    monkeypatch.setattr(bootc.preflight, "free", lambda path: 1 << 20 if verb == "rollback" else 1 << 40)
    done = v1.program(*(["rollback", "--yes"] if verb == "rollback" else ["update"]), "--json")
    assert ("The disk is full" in done.data["what"]) == (verb == "rollback"), done.data
    assert done.code == 1


# -- a rollback when everything else is broken


BREAKAGES = {
    "state is a folder": lambda m: make_folder(m, "var/lib/veilor/state.json"),
    "state is no JSON": lambda m: m.put("var/lib/veilor/state.json", "\x00"),
    "state has other types": lambda m: m.put(
        "var/lib/veilor/state.json", '{"held_back": [NaN], "look": 1e999, "channel": {"sequence": NaN}}'
    ),
    "dates out of range": lambda m: m.put(
        "var/lib/veilor/state.json",
        '{"look": {"when": "9999-12-31T23:59:59-14:00", "since": "0001-01-01T00:00:00+14:00"}}',
    ),
    "health is a folder": lambda m: make_folder(m, "var/lib/veilor/health.json"),
    "health has other types": lambda m: m.put("var/lib/veilor/health.json", '{"armed": {"target": 1e999}}'),
    "product is gone": lambda m: (m.root / "usr/lib/veilor/product.toml").unlink(),
    "policy is gone": lambda m: (m.root / "etc/containers/policy.json").unlink(),
    "no grubenv": lambda m: (m.root / "boot/grub2/grubenv").unlink(),
    "notices are a folder": lambda m: make_folder(m, "run/veilor/notice.json"),
    "systemctl fails": lambda m: m.change("fail", **{"systemctl stop": "error: no bus"}),
}


def make_folder(machine, path: str) -> None:
    file = machine.root / path
    file.unlink(missing_ok=True)
    file.mkdir(parents=True)


@pytest.mark.parametrize("breakage", BREAKAGES)
def test_a_rollback_works_when_the_rest_is_broken(v1, breakage):
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))
    BREAKAGES[breakage](v1)
    done = v1.program("rollback", "--yes", "--json")
    assert done.code == 0 and v1.status["rollbackQueued"], done.data


@pytest.mark.parametrize("breakage", BREAKAGES)
@pytest.mark.parametrize("program", [["update"], ["status"], ["update", "--due"], ["update", "--check"]])
def test_what_cannot_be_read_is_one_sentence_and_no_fault_of_ours(v1, breakage, program):
    BREAKAGES[breakage](v1)
    assert v1.program(*program).code in (0, 1, 3, 4)


def test_a_memory_that_cannot_be_written_does_not_hold_up_a_rollback(v1, monkeypatch):
    from veilor.device import state
    from veilor.device.run import DeviceError

    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))

    def refuse(path, data, mode):
        raise DeviceError(f"{path} cannot be written", facts={"errno": errno.EROFS})

    monkeypatch.setattr(state, "replace_file", refuse)
    done = v1.program("rollback", "--yes", "--json")
    assert done.code == 0 and v1.status["rollbackQueued"]
    assert "the timer may offer again what you leave" in done.data["warnings"][0]


def test_where_bootc_is_broken_the_boot_menu_is_named(v1):
    v1.change("fail", **{"bootc status": "error: panicked"})
    done = v1.program("rollback", "--yes", "--json")
    assert done.code == 1 and "choose the second entry" in done.data["next"]


def test_a_rollback_ends_a_download_that_runs(v1):
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))
    v1.program("rollback", "--yes")
    [stop] = v1.calls("systemctl", "stop")
    units = {f"{name}" for name in stop[2:]}
    root = os.path.join(os.path.dirname(__file__), "../../overlay/usr/lib/systemd/system")
    downloads = {
        name
        for name in os.listdir(root)
        if name.endswith(".service") and "/usr/lib/veilor/app update" in open(os.path.join(root, name)).read()
    }
    assert units == {name for name in downloads if "check" not in name}


# -- the clock


@pytest.mark.parametrize(("said", "told"), [("no", True), ("yes", False), ("", False)])
def test_a_clock_that_nobody_sets_is_told_after_a_day(v1, said, told):
    from veilor.device import state

    v1.load()
    v1.world["synchronised"] = said
    v1.save()
    v1.program("update", "--due")
    assert "The clock has not been set" not in v1.text("run/motd.d/50-veilor")
    with state.edit_record(state.STATE) as data:
        if data["clock_adrift_since"]:
            data["clock_adrift_since"] = "2026-01-01T00:00:00Z"
    v1.program("update", "--due")
    assert ("The clock has not been set" in v1.text("run/motd.d/50-veilor")) == told
    assert ("no server has set the clock" in v1.program("status").out) == told
    v1.load()
    v1.world["synchronised"] = "yes"
    v1.save()
    v1.program("update", "--due")
    assert "The clock has not been set" not in v1.text("run/motd.d/50-veilor")


def test_a_clock_that_was_set_back_begins_a_new_day(v1):
    from veilor.device import state

    v1.load()
    v1.world["synchronised"] = "no"
    v1.save()
    with state.edit_record(state.STATE) as data:
        data["clock_adrift_since"] = "2999-01-01T00:00:00Z"
    v1.program("update", "--due")
    assert state.parse_time(v1.json("var/lib/veilor/state.json")["clock_adrift_since"]) <= datetime.now(UTC)
