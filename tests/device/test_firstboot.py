"""veilor-firstboot-rebase: the table walked, and the two good ends, the refusals and the kills."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import pytest

from veilor.core.host import Host
from veilor.core.host import parse as parse_host
from veilor.core.product import load
from veilor.device import firstboot

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = load(ROOT / "product.toml").image_ref
UNIT = "veilor-firstboot-rebase.service"


@pytest.fixture
def fresh(machine, monkeypatch):
    """A machine as the installer left it, 44.1 released, and no waiting."""
    monkeypatch.setattr(firstboot, "wait_for_change", lambda seconds: None)
    machine.deployments(machine.bootstrap())
    machine.release("44.1")
    return machine


def staged(machine):
    now = machine.status["staged"]
    return now and now["image"]["version"]


def done_with_it(machine):
    machine.load()
    return (
        UNIT in machine.world.get("disabled", [])
        and (machine.root / "var/lib/veilor/firstboot-done").exists()
    )


def test_every_state_has_an_action_for_every_event():
    assert all(set(row) == set(firstboot.EVENTS) for row in firstboot.TABLE.values())
    assert all(
        callable(getattr(firstboot.Walk, action))
        for row in firstboot.TABLE.values()
        for action in row.values()
    )


def test_the_table_ends_well_only_where_the_announced_image_is_verified():
    for (state, row), event in itertools.product(firstboot.TABLE.items(), firstboot.EVENTS):
        action = row[event]
        if action == "finish":
            assert state in ("booted-announced", "staged-announced") and event in (
                "announced",
                "staged",
                "held",
            ), (state, event)
        if action in ("stage", "let_go", "drop"):
            assert event in ("announced", "staged"), "nothing is changed before a statement was verified"
        if event in ("refused", "silent", "failed"):
            assert action in ("stop", "wait", "explain", "drop_and_stop")
        if state in ("package", "layered", "foreign", "others-staged"):
            assert action == "explain"


def test_every_state_is_one_that_a_machine_can_be_in(machine):
    """`find_row` reaches each row of the table, and only those."""
    from types import SimpleNamespace

    e, b, said = machine.entry, machine.bootstrap, SimpleNamespace(digest=machine.digest("44.1"))
    found = {}
    for booted, staged in [
        (None, None),
        (e("1", incompatible=True), None),
        (e("1", reference="ghcr.io/a/b:1"), None),
        (b(), e("1", signed=False)),
        (b(), None),
        (e("44.2"), None),
        (e("44.1"), None),
        (b(), e("44.2")),
        (b(), e("44.1", downloadOnly=True)),
        (b(), e("44.1")),
    ]:
        machine.deployments(booted, staged=staged)
        host = parse_host(json.dumps(machine.world["status"]))
        assert isinstance(host, Host)
        found[firstboot.find_row(host, REFERENCE, said)] = True
    assert set(found) == set(firstboot.TABLE)


def test_a_newer_image_is_verified_staged_counted_and_told(fresh):
    done = fresh.program("firstboot-rebase")
    assert done.code == 0 and staged(fresh) == "44.1" and done_with_it(fresh)
    [switch] = fresh.calls("bootc", "switch")
    assert [arg for arg in switch if not arg.isdigit()] == [
        "bootc",
        "switch",
        "--progress-fd",
        "--enforce-container-sigpolicy",
        REFERENCE,
    ]
    assert fresh.status["booted"]["pinned"]
    assert fresh.armed == fresh.digest("44.1")
    assert fresh.json("var/lib/veilor/health.json")["bootstrap"]["version"] == "44.0"
    for place in ("run/motd.d/50-veilor", "dev/console", "run/veilor/notice.json"):
        assert "restart when you like" in fresh.text(place).lower(), place
    assert fresh.calls("plymouth", "message")
    assert fresh.power_on(clean=True) == "44.1"


def test_the_same_digest_as_on_the_medium_is_still_a_true_change_of_origin(fresh):
    fresh.release("44.0")
    fresh.change("registry", checksum=fresh.status["booted"]["ostree"]["checksum"])
    assert fresh.program("firstboot-rebase").code == 0 and done_with_it(fresh)
    now = fresh.status["staged"]
    assert now["image"]["image"]["signature"] == "containerPolicy" and now["ostree"]["deploySerial"] == 1
    assert fresh.power_on(clean=True) == "44.0"
    assert fresh.json("var/lib/veilor/health.json")["armed"]["unlocked"] == 1


def test_nothing_is_taken_before_the_statement_was_verified(fresh):
    fresh.change("channel", error="Source image rejected: None of the signatures were accepted, reasons: no")
    done = fresh.program("firstboot-rebase")
    assert done.code == 4 and not fresh.calls("bootc", "switch") and not done_with_it(fresh)
    assert not fresh.status["booted"]["pinned"] and "Refused" in fresh.text("run/motd.d/50-veilor")
    fresh.announce("44.1")
    assert fresh.program("firstboot-rebase").code == 0 and done_with_it(fresh)


def test_without_a_network_it_waits_says_so_once_and_leaves_the_rest_to_systemd(fresh, monkeypatch):
    waited = []
    monkeypatch.setattr(firstboot, "wait_for_change", waited.append)
    fresh.change(
        "channel", error="pinging container registry ghcr.io: dial tcp: lookup ghcr.io: no such host"
    )
    done = fresh.program("firstboot-rebase")
    assert done.code == 3 and tuple(waited) == firstboot.DELAYS and waited[0] <= 5
    assert fresh.text("dev/console").count(
        "Waiting to be moved to the signed image"
    ) == 1 and not fresh.calls("bootc", "switch")
    assert not done_with_it(fresh)


def test_without_a_cable_nothing_is_asked_and_it_is_said_at_once(fresh, monkeypatch):
    monkeypatch.setattr(firstboot.network, "connected", lambda: False)
    done = fresh.program("firstboot-rebase")
    assert (
        done.code == 3
        and not fresh.calls("skopeo")
        and "not connected to a network" in fresh.text("dev/console")
    )


def test_a_network_that_comes_later_is_used_in_the_same_run(fresh, monkeypatch):
    fresh.change("channel", error="dial tcp: no such host")
    monkeypatch.setattr(firstboot, "wait_for_change", lambda seconds: fresh.announce("44.1"))
    assert fresh.program("firstboot-rebase").code == 0 and done_with_it(fresh)


def test_waiting_ends_when_a_route_appears(machine, monkeypatch):
    machine.put("proc/net/route", "Iface Destination\n")
    machine.put("proc/net/ipv6_route", "")
    naps = []

    def nap(seconds):
        naps.append(seconds)
        if len(naps) == 2:
            machine.put("proc/net/route", "Iface Destination Gateway\neth0 00000000 0202000A\n")

    monkeypatch.setattr(firstboot.time, "sleep", nap)
    firstboot.wait_for_change(30)
    assert len(naps) == 2


def test_another_digest_than_announced_is_undone(fresh):
    fresh.announce("44.1b")
    assert fresh.program("firstboot-rebase").code == 3 and not fresh.calls("bootc", "switch"), (
        "the tag is ahead"
    )
    fresh.change("registry", manifest="44.1b")  # and if it moves after it was asked for
    done = fresh.program("firstboot-rebase")
    assert done.code == 4 and staged(fresh) is None and not done_with_it(fresh) and fresh.armed is None
    assert fresh.calls("ostree", "admin", "undeploy", "0") and "44.1b" in done.err
    assert fresh.power_on(clean=True) == "44.0"
    fresh.release("44.1")
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1"


def test_what_an_earlier_run_staged_is_dropped_when_something_else_is_announced_by_now(fresh):
    fresh.deployments(fresh.bootstrap(), staged=fresh.entry("44.1"))
    fresh.release("44.2")
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.2" and done_with_it(fresh)


def test_a_machine_that_runs_an_older_verified_image_is_brought_to_the_announced_one(fresh):
    fresh.deployments(fresh.entry("44.0b"))
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1" and done_with_it(fresh)
    assert not fresh.calls("bootc", "switch")


def test_a_machine_that_runs_the_announced_image_only_ends_the_unit(fresh):
    fresh.deployments(fresh.entry("44.1"))
    assert fresh.program("firstboot-rebase").code == 0 and done_with_it(fresh) and staged(fresh) is None
    assert [argv[1] for argv in fresh.calls("bootc")] == ["status", "status"]


def test_ending_well_without_having_switched_is_not_believed(fresh):
    """A bootc that says all is well and does nothing."""
    (fresh.folder / "bin/real").write_text((fresh.folder / "bin/bootc").read_text())
    (fresh.folder / "bin/real").chmod(0o755)
    (fresh.folder / "bin/bootc").write_text(
        f'#!/bin/sh\n[ "$1" = status ] && exec {fresh.folder}/bin/real "$@"\nexit 0\n'
    )
    done = fresh.program("firstboot-rebase")
    assert done.code != 0 and not done_with_it(fresh)


def test_a_unit_that_cannot_be_disabled_is_a_warning_since_the_stamp_keeps_it_from_starting(fresh):
    fresh.change("fail", **{"systemctl disable": "Failed"})
    done = fresh.program("firstboot-rebase", "--json")
    assert done.code == 0 and "does not start again" in done.data["warnings"][0]
    assert (fresh.root / "var/lib/veilor/firstboot-done").exists()
    unit = (ROOT / f"overlay/usr/lib/systemd/system/{UNIT}").read_text()
    assert f"ConditionPathExists=!{firstboot.STAMP}\n" in unit


def test_whoever_is_cut_off_after_the_unit_was_disabled_is_moved_by_the_updates(fresh):
    """The stamp is there before: their unit waits for it."""
    asked = []
    real = firstboot.run
    firstboot.run = lambda argv, **more: (
        asked.append((fresh.root / "var/lib/veilor/firstboot-done").exists()) or real(argv, **more)
    )
    try:
        assert fresh.program("firstboot-rebase").code == 0 and asked == [True]
    finally:
        firstboot.run = real
    fresh.deployments(fresh.status["booted"])  # the power cut: what was staged is gone
    assert fresh.program("update").code == 0 and staged(fresh) == "44.1"
    [first, second] = fresh.calls("bootc", "switch")
    assert first[4:] == second[4:]


def test_what_failed_here_before_is_not_tried_again(fresh):
    from veilor.device import state

    state.hold_back(fresh.digest("44.1"), "44.1", "health", "it failed its health check")
    done = fresh.program("firstboot-rebase")
    assert (
        done.code == 3
        and "failed its health check" in done.err
        and staged(fresh) is None
        and not done_with_it(fresh)
    )
    assert "unverified" in fresh.text("run/motd.d/50-veilor")  # it goes on looking for something newer
    fresh.release("44.2")
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.2"


def test_a_root_that_is_not_replaced_as_a_whole_is_left_alone(fresh):
    (fresh.root / "run/ostree-booted").unlink()
    done = fresh.program("firstboot-rebase")
    assert (
        done.code == 5
        and "install veilor-os anew" in done.err
        and "to-existing-root" in done.err
        and not fresh.calls("bootc")
    )


@pytest.mark.parametrize(
    "prepare",
    [
        lambda m: m.deployments(m.entry("1", incompatible=True)),
        lambda m: m.deployments(m.entry("1", reference="ghcr.io/other/os:1")),
        lambda m: m.deployments(m.bootstrap(), staged=m.entry("1", reference="ghcr.io/other/os:1")),
    ],
)
def test_what_somebody_else_did_is_left_alone(fresh, prepare):
    prepare(fresh)
    before = fresh.status
    assert (
        fresh.program("firstboot-rebase").code == 5 and fresh.status == before and not fresh.calls("skopeo")
    )


def test_status_of_it(fresh):
    assert fresh.program("firstboot-rebase", "--status", "--json").data["done"] is False
    fresh.program("firstboot-rebase")
    assert fresh.program("firstboot-rebase", "--status", "--json").data["version"] == "44.1"


@pytest.mark.parametrize("program", ["firstboot-rebase", "update"])
def test_a_shutdown_in_the_middle_of_the_first_move_leaves_nothing_unannounced(fresh, program):
    """bootc has staged, SIGTERM comes before it was compared, and the shutdown
    puts in place what is staged.
    """
    fresh.announce("44.2")  # while the tag still means 44.1, to which it moves back after it was asked for
    fresh.change("registry", manifest="44.2")
    whole = fresh.program(program)
    assert whole.code == 4 and fresh.status["staged"] is None
    moved = [argv[:2] for argv in fresh.calls()].index(["bootc", "switch"]) + 1
    fresh.forget_calls()
    fresh.world["kill"] = [moved, "after", "asked"]
    fresh.save()
    assert fresh.killed_run(program) == 130
    assert len(fresh.calls("bootc", "switch")) == 1 and fresh.status["staged"] is None
    assert fresh.armed is None


# -- what a person asks of it
# ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("between", "words"),
    [
        ("portal", "login page"),
        ("clock", "clock is most likely wrong"),
        ("intercepted", "registry's place"),
        ("offline", "not connected to a network"),
        ("nothing", "cannot be reached from this network"),
        ("unknown", "cannot be reached"),
        ("answers", "did not give what was asked for"),
    ],
)
def test_what_it_waits_for_is_told_everywhere(fresh, monkeypatch, between, words):
    from veilor.device import network

    monkeypatch.setattr(network, "probe", lambda registry: between)
    fresh.change("channel", error="dial tcp: x")
    assert fresh.program("firstboot-rebase").code == 3
    for place in ("run/motd.d/50-veilor", "dev/console", "run/veilor/notice.json"):
        assert words in fresh.text(place), place
    assert fresh.text("dev/console").count(words) == 1
    asked = fresh.program("firstboot-rebase", "--status", "--json").data
    assert asked["done"] is False and words in asked["last"]


def test_now_waits_for_nothing_and_takes_a_metered_connection(fresh, monkeypatch):
    monkeypatch.setattr(firstboot, "wait_for_change", lambda seconds: pytest.fail("it waited"))
    fresh.change("channel", error="dial tcp: x")
    assert fresh.program("firstboot-rebase", "--now").code == 3
    fresh.change("channel", error=None)
    fresh.world["metered"] = 1
    fresh.save()
    assert (
        fresh.program("firstboot-rebase", "--now").code == 0
        and staged(fresh) == "44.1"
        and done_with_it(fresh)
    )


def test_by_itself_it_defers_on_a_metered_connection_and_says_how_to_go_on(fresh):
    fresh.world["metered"] = 1
    fresh.save()
    done = fresh.program("firstboot-rebase")
    assert done.code == 3 and staged(fresh) is None and not fresh.status["booted"]["pinned"]
    assert "veilor-firstboot-rebase --now" in fresh.text("run/motd.d/50-veilor")
    fresh.world["metered"] = 2
    fresh.save()
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1"


def test_it_does_not_wait_for_its_turn_in_a_rollout(fresh):
    fresh.release("44.1", rollout={"start": "2999-01-01T00:00:00Z", "hours": 1})
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1"


def test_while_it_waits_a_person_may_go_ahead(fresh, monkeypatch):
    fresh.change("channel", error="dial tcp: no such host")
    ends = []

    def person(seconds):
        fresh.change("channel", error=None)
        ends.append(firstboot.main(["--now"]))

    monkeypatch.setattr(firstboot, "wait_for_change", person)
    assert fresh.program("firstboot-rebase").code == 0 and ends == [0] and done_with_it(fresh)
    assert len(fresh.calls("bootc", "switch")) == 1, "the unit finds it done and only ends well"


def test_retry_forgets_what_failed_and_starts_the_unit(fresh):
    from veilor.device import state

    state.hold_back(fresh.digest("44.1"), "44.1", "health", "it failed its health check")
    assert "failed its health check" in fresh.program("firstboot-rebase", "--status").out
    fresh.forget_calls()
    assert fresh.program("firstboot-rebase", "--retry").code == 0
    assert [argv[2] for argv in fresh.calls("systemctl")] == ["enable", "reset-failed", "start"]
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1"
    fresh.forget_calls()
    done = fresh.program("firstboot-rebase", "--retry")
    assert done.code == 0 and "Nothing to begin anew" in done.out and not fresh.calls("systemctl")


def test_retry_that_cannot_start_the_unit_says_the_other_way(fresh):
    fresh.change("fail", **{"systemctl --no-block": "no such unit"})
    done = fresh.program("firstboot-rebase", "--retry")
    assert done.code == 1 and "--now" in done.err


def test_a_pin_that_somebody_else_set_is_none_of_ours(fresh):
    """Neither on what runs, nor on another deployment: both stay, also after
    updates have proved themselves.
    """
    fresh.deployments(fresh.bootstrap(pinned=True), others=[fresh.entry("43.9", pinned=True)])
    assert fresh.program("firstboot-rebase").code == 0 and staged(fresh) == "44.1"
    assert not fresh.json("var/lib/veilor/health.json").get("bootstrap") and not fresh.calls(
        "ostree", "admin", "pin"
    )
    assert [old["pinned"] for old in fresh.status["otherDeployments"]] == [True]
    for version in ("44.1", "44.2", "44.3", "44.4"):
        assert fresh.power_on(clean=True) == version
        fresh.judge_boot()
        fresh.release(f"44.{int(version[3:]) + 1}")
        assert fresh.program("update").code == 0
    kept = [old["image"]["version"] for old in fresh.status["otherDeployments"] if old["pinned"]]
    assert set(kept) == {"44.0", "43.9"} and not fresh.calls("ostree", "admin", "pin")


def test_a_pin_of_our_own_goes_after_two_healthy_updates(fresh):
    assert fresh.program("firstboot-rebase").code == 0
    for version in ("44.1", "44.2", "44.3", "44.4"):
        assert fresh.power_on(clean=True) == version
        fresh.judge_boot()
        fresh.release(f"44.{int(version[3:]) + 1}")
        assert fresh.program("update").code == 0
    assert ["ostree", "admin", "pin", "--unpin"] in [argv[:4] for argv in fresh.calls("ostree")]


def test_a_bootstrap_that_cannot_be_pinned_is_a_warning(fresh):
    fresh.change("fail", **{"ostree admin pin": "error: no", "ostree admin": "error: no"})
    done = fresh.program("firstboot-rebase", "--json")
    assert done.code == 0 and "could not be pinned" in done.data["warnings"][0] and staged(fresh) == "44.1"
