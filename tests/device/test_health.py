"""A new version that fails, hangs or is never unlocked: the machine's boots
one by one, with GRUB's counter.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import time
from types import SimpleNamespace

import pytest

from veilor.device import checks
from veilor.device.run import DeviceError

OPEN = '{"default": [{"type": "insecureAcceptAnything"}]}'


def policy_broken_in(machine, version):
    """The check fails wherever VERSION runs, as if its image had shipped another policy."""
    shipped = machine.text("etc/containers/policy.json")

    def prepare(booted):
        machine.put("etc/containers/policy.json", OPEN if booted == version else shipped)

    return prepare


def test_a_good_version_stays_and_the_counter_goes(updated):
    assert updated.power_on(clean=True) == "44.2" and updated.grub["veilor_counter"] == "2"
    updated.judge_boot()
    assert updated.grub == {}
    record = updated.json("var/lib/veilor/health.json")
    assert record["armed"] is None and record["healthy"] == [
        {"digest": updated.digest("44.2"), "by": "update"}
    ]
    assert updated.power_on() == "44.2"


def test_the_counter_is_gone_when_a_boot_was_called_good(updated):
    updated.power_on(clean=True)
    updated.moment("healthy")
    assert "veilor_counter" not in updated.grub


def test_three_bad_boots_lead_back_and_it_is_said_and_remembered(updated):
    image = policy_broken_in(updated, "44.2")
    for number in range(3):
        booted = updated.power_on(clean=number == 0)
        assert booted == "44.2"
        image(booted)
        updated.judge_boot()
        assert updated.world_reboots() == number + 1, (
            "each failed start ends in a restart: GRUB goes back when the tries are used up"
        )
    booted = updated.power_on()
    image(booted)
    assert booted == "44.1"
    now = updated.status
    assert (
        not now["rollbackQueued"]
        and len(updated.calls("bootc", "rollback")) == 1
        and "veilor_counter" not in updated.grub
    )
    told = updated.text("run/motd.d/50-veilor")
    assert (
        "44.2 was started 3 times and failed its health check (the container policy" in told
        and "back to 44.1" in told
    )
    shown = updated.program("status")
    assert "failed its health check" in shown.out and "44.2" in shown.out
    assert updated.program("status", "--json").data["automatic_return"]["version"] == "44.2"
    updated.judge_boot()
    for _ in range(2):
        again = updated.program("update", "--json")
        assert again.code == 0 and again.data["state"] == "held" and updated.status["staged"] is None
        updated.announce("44.2")  # a daily new number for the same image is nothing newer
    assert updated.power_on() == "44.1"
    updated.release("44.3")
    assert updated.program("update", "--json").data["state"] == "ready"
    assert updated.json("var/lib/veilor/state.json")["held_back"] == {}


def test_a_hang_after_the_unlock_is_counted_too(updated):
    for number in range(3):
        assert updated.power_on(clean=number == 0) == "44.2"
    assert updated.power_on() == "44.1"
    assert "never came to the end of its health check" in updated.text("run/motd.d/50-veilor")
    assert updated.program("update", "--json").data["state"] == "held"


def test_three_power_ons_that_nobody_unlocks_turn_nothing_away(updated):
    for number in range(3):
        assert updated.power_on(clean=number == 0, unlock=False) == "44.2"
    assert updated.power_on() == "44.1"
    said = "not seen to be unlocked"
    assert said in updated.text("run/motd.d/50-veilor") and said in updated.program("status").out
    updated.judge_boot()
    assert updated.program("update", "--json").data["state"] == "ready"
    assert updated.power_on(clean=True) == "44.2"
    updated.judge_boot()
    assert updated.power_on() == "44.2"


def test_never_unlocked_twice_in_a_row_is_taken_for_a_version_that_stops_there(updated):
    for _ in range(2):
        for number in range(3):
            assert updated.power_on(clean=number == 0, unlock=False) == "44.2"
        assert updated.power_on() == "44.1"
        updated.judge_boot()
        again = updated.program("update", "--json").data["state"]
    assert again == "held" and "stops right after it" in updated.text("run/motd.d/50-veilor")
    updated.release("44.3")
    assert updated.program("update", "--json").data["state"] == "ready"


def test_what_is_downloaded_while_a_boot_is_judged_is_made_ready_after_it(updated):
    assert updated.power_on(clean=True) == "44.2"
    updated.release("44.3")
    assert updated.program("update", "--json").data["state"] == "downloaded"
    updated.judge_boot()
    assert updated.program("update", "--json").data["state"] == "ready"
    armed = updated.json("var/lib/veilor/health.json")["armed"]
    assert armed["target"]["digest"] == updated.digest("44.3")
    assert updated.power_on(clean=True) == "44.3"
    assert updated.grub["veilor_counter"] == "2"


@pytest.mark.parametrize(("number", "blamed"), [(errno.ENOSPC, 0), (errno.EDQUOT, 0), (errno.EROFS, 1)])
@pytest.mark.parametrize("name", ["memory", "home"])
def test_a_full_disk_is_not_held_against_a_version(updated, monkeypatch, name, number, blamed):
    def refuse(path, data, mode):
        raise DeviceError(f"{path} cannot be written", facts={"errno": number})

    monkeypatch.setattr(checks.state, "replace_file", refuse)
    assert len(checks.find_faults(name)) == blamed


@pytest.mark.parametrize("without", ["var", "boot", "both"])
def test_emergency_mode_before_var_or_boot_are_mounted_restarts_too(updated, without):
    updated.power_on(clean=True)
    if without != "boot":
        kept = updated.root / "sysroot/ostree/deploy/veilor/var/lib/veilor"
        kept.parent.mkdir(parents=True)
        (updated.root / "var/lib/veilor").rename(kept)
    if without != "var":
        shutil.rmtree(updated.root / "boot/grub2")
    updated.moment("deadline")
    assert updated.world_reboots() == 1


def test_one_unlocked_boot_among_them_is_enough_to_turn_it_away(updated):
    for number in range(3):
        updated.power_on(clean=number == 0, unlock=number == 1)
    assert updated.power_on() == "44.1"
    assert updated.program("update", "--json").data["state"] == "held"


def test_a_staged_version_that_a_power_cut_lost_is_not_held_against_anything(updated):
    assert updated.power_on() == "44.1"
    assert updated.json("var/lib/veilor/health.json")["armed"] is None
    updated.judge_boot()
    assert "veilor_counter" not in updated.grub
    assert updated.program("update", "--json").data["state"] == "ready"


def test_lost_and_then_not_unlocked_the_oldest_version_is_never_started(updated):
    """What was staged is lost in a power cut before the shutdown: nothing is counted, so nothing goes further
    back.
    """
    for _ in range(5):
        assert updated.power_on(unlock=False) == "44.1"
    assert "veilor_counter" not in updated.grub
    assert updated.power_on() == "44.1"
    assert not updated.calls("bootc", "rollback")
    updated.judge_boot()
    assert updated.program("update", "--json").data["state"] == "ready"


def test_a_running_version_that_fails_later_is_kept(updated):
    """A counter for any failure would lead a machine with a full disk back through three
    restarts.
    """
    updated.power_on(clean=True)
    updated.judge_boot()
    updated.put("etc/containers/policy.json", OPEN)
    for _ in range(5):
        assert updated.power_on() == "44.2"
        updated.judge_boot()
        assert "veilor_counter" not in updated.grub and not updated.world_reboots()
    assert "it is kept" in updated.text("run/motd.d/50-veilor").lower()


def test_settle_counts_only_what_was_put_in_place(updated):
    updated.moment("count")
    assert updated.grub["veilor_counter"] == "3"
    updated.moment("settle")  # ostree has failed to put it in place: entry 0 is still the version that runs
    assert "veilor_counter" not in updated.grub
    assert updated.json("var/lib/veilor/health.json")["missed"]["times"] == 1
    assert updated.program("update").code == 0
    updated.power_on(clean=True)
    updated.moment("settle")
    assert updated.grub["veilor_counter"] == "2"


def test_a_return_that_could_not_be_finished_keeps_the_loader_here_and_is_finished_later(updated):
    for number in range(3):
        updated.power_on(clean=number == 0)
    updated.change("fail", **{"bootc rollback": "error: no"})
    for _ in range(2):
        assert updated.power_on() == "44.1"
        updated.judge_boot()
        assert updated.grub["veilor_counter"] == "0", "the next start is of this version again"
    updated.load()
    updated.world["fail"].clear()
    updated.save()
    assert updated.power_on() == "44.1"
    updated.judge_boot()
    assert not updated.status["rollbackQueued"] and "veilor_counter" not in updated.grub
    assert updated.power_on() == "44.1" and len(updated.calls("bootc", "rollback")) == 3


def test_the_bootstrap_is_unpinned_after_two_good_updates(updated):
    def pinned():
        now = updated.status
        return [
            one["image"]["version"]
            for one in (now["booted"], now["rollback"], *now["otherDeployments"])
            if one and one["pinned"]
        ]

    record = {
        "schema": 1,
        "armed": updated.json("var/lib/veilor/health.json")["armed"],
        "bootstrap": {
            "checksum": updated.bootstrap()["ostree"]["checksum"],
            "serial": 0,
            "digest": updated.digest("44.0"),
            "version": "44.0",
        },
    }
    updated.put("var/lib/veilor/health.json", json.dumps(record))
    updated.power_on(clean=True)
    updated.judge_boot()
    assert pinned() == ["44.0"]
    for _ in range(2):  # the same version healthy again is no second update
        updated.power_on()
        updated.judge_boot()
    assert pinned() == ["44.0"]
    updated.release("44.3")
    updated.program("update")
    updated.power_on(clean=True)
    assert pinned() == ["44.0"]
    updated.judge_boot()
    assert pinned() == [] and updated.calls("ostree", "admin", "pin", "--unpin")[0][-1] == "2"


@pytest.mark.parametrize(("boots", "restarts"), [("target", 1), ("healthy", 0), ("source", 0)])
def test_the_time_limit_restarts_only_a_version_on_trial(updated, boots, restarts):
    if boots != "source":
        updated.power_on(clean=True)
    if boots == "healthy":
        updated.judge_boot()
    updated.moment("deadline")
    assert updated.world_reboots() == restarts


def test_emergency_mode_counts_as_unlocked(updated):
    """It comes before the unlocking was noted, and a version that ends there must not be offered again."""
    updated.power_on(clean=True)
    record = json.loads((updated.root / "var/lib/veilor/health.json").read_text())
    record["armed"]["unlocked"] = 0
    updated.put("var/lib/veilor/health.json", json.dumps(record))
    updated.moment("deadline")
    assert json.loads((updated.root / "var/lib/veilor/health.json").read_text())["armed"]["unlocked"] == 1


def test_arming_waits_for_the_health_check_of_this_boot(machine, monkeypatch):
    """What a check says that began before would be taken for a verdict on what is armed now."""
    from veilor.device import health

    answers = ["activating", "activating", "active"]
    (machine.folder / "answers").write_text("\n".join(answers))
    (machine.folder / "bin/systemctl").write_text(
        f"#!/bin/sh\nhead -n1 {machine.folder}/answers\nsed -i 1d {machine.folder}/answers\n"
    )
    naps = []
    monkeypatch.setattr(health, "time", SimpleNamespace(sleep=naps.append, monotonic=time.monotonic))
    health.wait_for_verdict()
    assert naps == [1, 1]


@pytest.mark.parametrize(
    ("sabotage", "words"),
    [
        (lambda m: m.put("etc/containers/policy.json", OPEN), "container policy"),
        (lambda m: m.put("etc/containers/registries.d/veilor.yaml", ""), "where the signatures are"),
        (
            lambda m: (m.root / "usr/share/pki/containers/veilor-channel-b.pub").unlink(),
            "veilor-channel-b.pub is missing",
        ),
        (lambda m: m.put("usr/lib/veilor/product.toml", "x"), "product.toml"),
        (lambda m: m.put("usr/lib/veilor/channel-floor.json", "x"), "channel-floor.json"),
        (lambda m: m.change("fail", **{"bootc status": "error: broken"}), "bootc status"),
        (lambda m: m.put("var/lib", "no folder"), "cannot be written"),
    ],
)
def test_each_check_can_fail(machine, sabotage, words):
    machine.deployments(machine.entry("44.1"))
    assert machine.moment("check").code == 0
    shutil.rmtree(machine.root / "var/lib")
    sabotage(machine)
    done = machine.moment("check")
    assert done.code == 1 and words in done.err and "FAILED" in done.out


def test_no_check_asks_the_network(machine):
    machine.deployments(machine.entry("44.1"))
    machine.moment("check")
    assert {argv[0] for argv in machine.calls()} == {"bootc", "systemctl"}


def test_a_read_only_boot_is_made_writable_first(machine, monkeypatch):
    real, read_only = os.statvfs, SimpleNamespace(f_flag=os.ST_RDONLY)
    monkeypatch.setattr(os, "statvfs", lambda path: read_only if str(path).endswith("/boot") else real(path))
    machine.deployments(machine.entry("44.1"))
    machine.release("44.2")
    assert machine.program("update").code == 0
    machine.moment("count")
    assert machine.calls("mount")[0][1:3] == ["-o", "remount,rw"] and machine.grub["veilor_counter"] == "3"


def test_fields_of_a_newer_release_stay_where_they_are(updated):
    """At each level of the record, through a boot that is counted, three bad ones and the return."""
    path = updated.root / "var/lib/veilor/health.json"
    record = json.loads(path.read_text())
    record |= {"schema": 3, "later": {"x": 1}, "healthy": [{"digest": "d", "by": "update", "later": 2}]}
    record["armed"] |= {"later": 3}
    record["armed"]["target"] |= {"later": 4}
    path.write_text(json.dumps(record))
    for number in range(3):
        assert updated.power_on(clean=number == 0) == "44.2"
    armed = json.loads(path.read_text())["armed"]
    assert armed == record["armed"] | {"unlocked": 3}
    assert updated.power_on() == "44.1"
    now = json.loads(path.read_text())
    assert (now["schema"], now["later"], now["healthy"], now["armed"]) == (
        3,
        {"x": 1},
        record["healthy"],
        None,
    )
    assert (now["return"]["later"], now["return"]["target"]) == (3, record["armed"]["target"])
    assert set(now["return"]) == {*armed, "handled", "again", "reason"} and now["return"]["handled"] is True


@pytest.mark.parametrize("damage", [5, True, ["c"], {"c": 1}, ""])
def test_a_damaged_checksum_never_means_that_any_deployment_is_the_target(updated, damage):
    """No checksum means that it was not staged yet; then whatever is not the source is the target."""
    path = updated.root / "var/lib/veilor/health.json"
    updated.power_on(clean=True)
    record = json.loads(path.read_text())
    for checksum, restarts in ((damage, 0), (None, 1)):
        record["armed"]["target"]["checksum"] = checksum
        path.write_text(json.dumps(record))
        updated.moment("deadline")
        assert updated.world_reboots() == restarts
