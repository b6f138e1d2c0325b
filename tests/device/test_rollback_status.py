"""veilor-rollback and veilor-status."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

USE = Path(__file__).resolve().parents[2] / "docs/USE.md"


@pytest.fixture
def v2(machine):
    """A machine that runs 44.2, which is announced, with 44.1 behind it."""
    machine.deployments(
        machine.entry("44.2"), rollback=machine.entry("44.1"), others=[machine.bootstrap(pinned=True)]
    )
    machine.release("44.2")
    machine.program("update")
    return machine


def state_of(machine):
    return machine.program("update", "--json").data["state"]


def test_back_and_forward_again(v2):
    done = v2.program("rollback", "--yes", "--json")
    assert (
        done.code == 0
        and done.data["version"] == "44.1"
        and "/etc goes back" in done.data["what"]
        and "/home" in done.data["what"]
    )
    assert "boots 44.1" in v2.text("run/motd.d/50-veilor")
    assert v2.power_on() == "44.1"
    held = v2.program("update")
    assert held.code == 0 and "rolled back" in held.out and v2.status["staged"] is None
    assert v2.program("rollback", "--yes").code == 0
    assert v2.power_on() == "44.2"
    assert state_of(v2) == "current"


def test_twice_before_the_restart_changes_nothing(v2):
    v2.program("rollback", "--yes")
    assert state_of(v2) == "current" and v2.status["staged"] is None
    assert v2.program("rollback", "--yes").code == 0
    assert not v2.status["rollbackQueued"] and state_of(v2) == "current" and v2.power_on() == "44.2"


def test_what_is_newer_than_what_was_rolled_back_from_is_taken_once_restarted(v2):
    v2.program("rollback", "--yes")
    v2.release("44.3")
    assert state_of(v2) == "queued" and v2.status["staged"] is None, (
        "an update now would undo what the person asked for"
    )
    assert v2.power_on() == "44.1" and state_of(v2) == "ready"


def test_a_staged_update_is_dropped_said_so_and_not_staged_behind_the_persons_back(v2):
    v2.release("44.3")
    v2.program("update")
    done = v2.program("rollback", "--yes")
    assert (
        done.code == 0 and "44.3) is removed" in done.out and v2.status["staged"] is None and v2.armed is None
    )
    assert state_of(v2) == "held" and v2.power_on(clean=True) == "44.1"
    v2.judge_boot()
    assert state_of(v2) == "held" and v2.status["staged"] is None
    v2.release("44.4")
    assert state_of(v2) == "ready"


def test_without_a_yes_nothing_happens(v2):
    done = v2.program("rollback")
    assert (
        done.code == 2
        and "--yes" in done.err
        and "boots 44.1" in done.err
        and not v2.calls("bootc", "rollback")
    )


def test_nothing_to_go_back_to(machine):
    machine.deployments(machine.entry("44.1"))
    assert machine.program("rollback", "--yes").code == 5 and not machine.calls("bootc", "rollback")


def test_a_way_back_that_was_never_verified_is_called_so(machine):
    machine.deployments(machine.entry("44.1"), rollback=machine.bootstrap())
    done = machine.program("rollback", "--yes", "--json")
    assert done.code == 0 and "never verified" in done.data["what"] and done.data["verified"] is False


def test_going_forward_to_what_failed_is_warned_of(v2):
    from veilor.device import state

    state.hold_back(v2.digest("44.1"), "44.1", "health", "44.1 failed its health check")
    assert "Beware: 44.1 failed its health check" in v2.program("rollback", "--yes").out


def test_a_bootc_that_does_nothing_is_noticed(v2):
    (v2.folder / "bin/real").write_text((v2.folder / "bin/bootc").read_text())
    (v2.folder / "bin/real").chmod(0o755)
    (v2.folder / "bin/bootc").write_text(
        f'#!/bin/sh\n[ "$1" = status ] && exec {v2.folder}/bin/real "$@"\nexit 0\n'
    )
    assert v2.program("rollback", "--yes").code == 1


def test_status_says_how_each_was_verified_and_never_infers_it(v2):
    said = v2.program("status")
    assert said.code == 0
    lines = {line.split(":")[0]: line for line in said.out.splitlines()}
    assert "44.2" in lines["runs now"] and "verified by policy" in lines["runs now"]
    assert "unverified: written by the installer" in lines["also kept"] and "pinned" in lines["also kept"]
    data = v2.program("status", "--json").data
    assert (
        data["schema"] == 1 and data["booted"]["verified"] is True and data["others"][0]["verified"] is False
    )
    assert (
        data["next_boot"] == v2.digest("44.2") and data["problems"] == [] and data["channel"]["sequence"] == 1
    )


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"signed": False}, "unverified: not checked by"),
        (
            {
                "signed": False,
                "transport": "oci",
                "reference": "ostree-image-signed:docker://ghcr.io/veilor/veilor-os:44",
            },
            "written by",
        ),
        ({"reference": "ghcr.io/other/os:1"}, "not veilor-os"),
    ],
)
def test_words_in_a_reference_are_no_verification(machine, changes, words):
    machine.deployments(machine.entry("44.1", **changes))
    data = machine.program("status", "--json").data
    assert words in data["booted"]["verification"] and data["booted"]["verified"] is False


@pytest.mark.parametrize("signature", ["insecure", {"ostreeRemote": "fedora"}])
def test_other_kinds_of_signature_are_not_ours(machine, signature):
    booted = machine.entry("44.1")
    booted["image"]["image"]["signature"] = signature
    machine.deployments(booted)
    assert machine.program("status", "--json").data["booted"]["verification"].startswith("unverified")


def test_status_tells_what_is_locked_ready_and_wrong(machine):
    machine.deployments(machine.entry("44.1"), staged=machine.entry("44.2", downloadOnly=True))
    assert "kept from booting" in machine.program("status").out
    machine.deployments(machine.entry("44.1"), staged=machine.entry("44.2"))
    assert "boots next" in machine.program("status").out
    machine.put("etc/containers/policy.json", "{}")
    assert "problem:" in machine.program("status").out


def without_values(output: str) -> list[str]:
    """The lines of OUTPUT with digests, times, ages and versions replaced, in order."""
    output = re.sub(r"\([0-9a-f]{12}\)", "(DIGEST)", output)
    output = re.sub(r"\d{4}-\d\d-\d\dT[\d:]+Z", "TIME", output)
    output = re.sub(r"\d+ days? old|from the future \([^)]*\)", "AGE", output)
    return re.sub(r"\d+\.\d+", "VERSION", output).strip().splitlines()


def test_daily_use_shows_what_the_program_prints_after_the_first_restart(machine):
    machine.deployments(machine.entry("44.1"), rollback=machine.bootstrap(pinned=True))
    machine.announce("44.1", sequence=1)
    assert machine.program("update").code == 0
    machine.put("var/lib/veilor/firstboot-done", '{"schema": 1}')
    [shown] = re.findall(r"^```text\n(.*?)^```$", USE.read_text(), re.M | re.S)
    printed = machine.program("status").out
    assert without_values(shown) == without_values(printed)
    assert without_values(shown.replace("verified by policy", "verified", 1)) != without_values(printed)


def test_a_rollback_that_fails_holds_nothing_back(v2):
    before = v2.text("var/lib/veilor/state.json")
    v2.change("fail", **{"bootc rollback": "error: no"})
    assert v2.program("rollback", "--yes").code == 1
    assert json.loads(v2.text("var/lib/veilor/state.json")).get("held_back", {}) == json.loads(before).get(
        "held_back", {}
    )


@pytest.mark.parametrize("program", [["rollback"], ["update"]])
def test_an_end_of_input_is_a_no(v2, monkeypatch, program):
    import io
    import sys

    terminal = io.StringIO("")
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    if program == ["update"]:
        v2.release("44.3")
        v2.load()
        v2.world["metered"] = 3
        v2.save()
    done = v2.program(*program)
    assert done.code == 2 and "Nothing was changed" in done.text
