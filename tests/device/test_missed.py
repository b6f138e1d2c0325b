"""A version that was let go and is not put in place at the shutdown: ostree fails, or the power does."""

from __future__ import annotations

import pytest

from veilor.device import state

STAMP = "Finalizing deployment: Finalizing SELinux policy: Child process exited with code 1\n"


def run_timer(machine):
    """The timer's run of veilor-update, when it is due."""
    machine.put("proc/uptime", "100000.0 1.0\n")
    with state.edit_record(state.STATE) as data:
        data["look"] = {}
    return machine.program("update", "--due", "--json")


def shut_down_without_finalizing(machine, stamp: str | None) -> None:
    """ostree fails to put in place what is staged: it is gone, and what ran boots again."""
    machine.moment("count")
    machine.deployments(machine.status["booted"], rollback=machine.status["rollback"])
    if stamp:
        machine.put("boot/ostree/finalize-failure.stamp", stamp)
    machine.moment("settle")


@pytest.mark.parametrize("stamp", [STAMP, None])
def test_a_version_that_is_never_put_in_place_is_told_as_such(updated, stamp):
    for times in (1, 2):
        shut_down_without_finalizing(updated, stamp)
        assert updated.power_on() == "44.1"
        (updated.root / "boot/ostree/finalize-failure.stamp").unlink(missing_ok=True)  # ostree-boot-complete
        updated.judge_boot()
        for said in (updated.text("run/motd.d/50-veilor"), updated.program("status").out):
            assert "44.2 could not be put in place" in said
            assert not stamp or "Finalizing SELinux policy: Child process exited with code 1" in said
        if times == 1:
            assert run_timer(updated).data["state"] == "ready"
    assert "at 2 shutdowns" in updated.text("run/motd.d/50-veilor")
    updated.forget_calls()
    done = run_timer(updated)
    assert done.code == 1 and "could not be put in place at 2 shutdowns" in done.data["what"]
    assert not updated.calls("bootc", "upgrade"), "a third try by the timer would end as the second did"
    assert updated.program("update", "--json").data["state"] == "ready", "a person may have mended it"
    assert updated.power_on(clean=True) == "44.2"
    updated.judge_boot()
    assert "could not be put in place" not in updated.program("status").out


def test_another_version_is_tried_again_by_the_timer(updated):
    for _ in range(2):
        shut_down_without_finalizing(updated, STAMP)
        updated.power_on()
        updated.program("update")
    updated.release("44.3")
    assert run_timer(updated).data["state"] == "ready"


@pytest.mark.parametrize("times", range(1, 4))
def test_what_a_power_cut_lost_is_no_failure(updated, times):
    for _ in range(times):
        assert updated.power_on() == "44.1"
        updated.judge_boot()
        assert updated.program("update", "--json").data["state"] == "ready"
    assert "could not be put in place" not in updated.program("status").out


@pytest.mark.parametrize("stamp", ["", "\x00\xff", "x" * 100_000])
def test_any_words_of_ostrees_are_told_in_one_line(updated, stamp):
    shut_down_without_finalizing(updated, None)
    (updated.root / "boot/ostree").mkdir(parents=True, exist_ok=True)
    (updated.root / "boot/ostree/finalize-failure.stamp").write_bytes(stamp.encode("latin-1"))
    assert updated.power_on() == "44.1"
    told = updated.text("run/motd.d/50-veilor")
    assert told.count("\n") == 1 and len(told) < 2000


def test_what_was_placed_after_all_is_told_no_more(updated):
    shut_down_without_finalizing(updated, STAMP)
    updated.power_on()
    (updated.root / "boot/ostree/finalize-failure.stamp").unlink()
    updated.judge_boot()
    updated.program("update")
    assert updated.power_on(clean=True) == "44.2"
    updated.judge_boot()
    assert "could not be put in place" not in updated.text("run/motd.d/50-veilor")


def test_a_rollback_from_what_is_on_trial_is_no_failure_of_the_shutdown(updated):
    updated.put("usr/share/wayland-sessions/plasma.desktop", "")
    updated.change("units", **{"default.target": {"Id": "graphical.target"}})
    updated.power_on(clean=True)
    updated.moment("healthy")
    assert updated.armed
    updated.change("status", **{})
    updated.load()
    updated.world["status"]["status"]["rollbackQueued"] = True  # bootc rollback, and the power fails after it
    updated.save()
    assert updated.power_on() == "44.1"
    assert not updated.json("var/lib/veilor/health.json").get("missed")
    assert "could not be put in place" not in updated.text("run/motd.d/50-veilor")
