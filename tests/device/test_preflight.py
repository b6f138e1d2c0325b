"""What is looked at before a download: each row of the one table, met by a
machine, with and without --now.
"""

from __future__ import annotations

import fcntl
import io
import sys
from datetime import UTC, datetime, timedelta

import pytest

from veilor.core import preflight as table
from veilor.core.preflight import Does
from veilor.device import preflight, update

MiB = 1 << 20


def supply(machine, name, **values):
    for key, value in values.items():
        machine.put(f"sys/class/power_supply/{name}/{key}", f"{value}\n")


def free(monkeypatch, part, mebibytes):
    monkeypatch.setattr(preflight, "free", lambda path: mebibytes * MiB if path.name == part else 1 << 40)


def hours_from_now(hours):
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:%M:%SZ}"


def rolled_back(machine):
    from veilor.device import state

    state.hold_back(machine.digest("44.2"), "44.2", "rolled back", "it was rolled back by hand")


SITUATIONS = {
    "unfit": lambda m, patch: m.deployments(m.entry("44.1", incompatible=True)),
    "trust": lambda m, patch: m.put("etc/containers/policy.json", "{}"),
    "offline": lambda m, patch: (
        m.put("proc/net/route", "Iface Destination\nlo 0000007F 0\n"),
        m.put("proc/net/ipv6_route", ""),
    ),
    "silent": lambda m, patch: m.change("channel", error="dial tcp: no such host"),
    "statement": lambda m, patch: m.announce("44.2", sequence=0),
    "stale": lambda m, patch: m.release("44.2", expires_in=-3),
    "clock": lambda m, patch: m.release(
        "44.2", issued=hours_from_now(72), rollout={"start": hours_from_now(72), "hours": 24}
    ),
    "held": lambda m, patch: rolled_back(m),
    "queued": lambda m, patch: m.deployments(m.entry("44.1"), rollback=m.entry("44.0"), queued=True),
    "turn": lambda m, patch: m.release("44.2", rollout={"start": hours_from_now(1), "hours": 24}),
    "ahead": lambda m, patch: m.change("registry", manifest="44.3"),
    "metered": lambda m, patch: m.load() or m.world.update(metered=3) or m.save(),
    "battery": lambda m, patch: (
        supply(m, "BAT0", type="Battery", status="Discharging", capacity=17),
        supply(m, "AC", type="Mains", online=0),
    ),
    "space": lambda m, patch: free(patch, "sysroot", 2000),
    "full": lambda m, patch: free(patch, "sysroot", 300),
    "boot": lambda m, patch: free(patch, "boot", 100),
}


def staged(machine):
    now = machine.status["staged"]
    return now and now["image"]["version"]


@pytest.mark.parametrize("now", [False, True], ids=["plain", "now"])
@pytest.mark.parametrize("name", [name for name in table.TABLE if name != "lock"])
def test_each_row_does_what_the_table_says(v1, monkeypatch, name, now):
    SITUATIONS[name](v1, monkeypatch)
    row = table.TABLE[name]
    done = v1.program("update", "--json", *["--now"] * now)
    goes_on = row.does is Does.GO_ON or (now and row.now)
    assert (staged(v1) == "44.2") == goes_on and done.code == (0 if goes_on else row.code)
    assert not goes_on or done.data["warnings"], "what was passed over is said"
    if not goes_on and row.what:
        assert done.data["finding"] == name and not [
            argv for argv in v1.calls("bootc") if argv[1] != "status"
        ]


def test_the_row_of_the_lock(v1):
    with (v1.root / "run/veilor/lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert v1.program("update", "--now").code == table.TABLE["lock"].code and staged(v1) is None


def test_every_row_is_met_by_a_machine():
    assert set(SITUATIONS) | {"lock"} == set(table.TABLE)


ASKED = [name for name, row in table.TABLE.items() if row.does is Does.ASK]


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 2), ("n\n", 2)])
@pytest.mark.parametrize("name", ASKED)
def test_a_person_at_a_terminal_is_asked(v1, monkeypatch, name, answer, code):
    SITUATIONS[name](v1, monkeypatch)
    terminal = io.StringIO(answer)
    terminal.isatty = lambda: True
    monkeypatch.setattr(sys, "stdin", terminal)
    done = v1.program("update")
    assert done.code == code and (staged(v1) == "44.2") == (code == 0) and "Go on?" in done.out


def test_the_gravest_finding_is_the_one_told(v1, monkeypatch):
    for name in ("metered", "full", "turn"):
        SITUATIONS[name](v1, monkeypatch)
    assert v1.program("update", "--json").data["finding"] == "full"
    assert v1.program("update", "--json", "--now").data["finding"] == "full"
    free(monkeypatch, "sysroot", 100_000)
    assert v1.program("update", "--json").data["finding"] == "turn"


def test_check_tells_all_of_them_and_changes_nothing(v1, monkeypatch):
    for name in ("metered", "boot"):
        SITUATIONS[name](v1, monkeypatch)
    done = v1.program("update", "--check", "--json")
    assert (
        done.code == 0
        and {one["finding"] for one in done.data["findings"]} == {"metered", "boot"}
        and staged(v1) is None
    )


def test_nothing_new_asks_nobody_about_anything(v1, monkeypatch):
    for name in ("metered", "full", "battery"):
        SITUATIONS[name](v1, monkeypatch)
    v1.release("44.1")
    assert v1.program("update").code == 0 and not v1.calls("busctl")


EMPTY = {"type": "Battery", "status": "Discharging", "capacity": 5}


@pytest.mark.parametrize(
    "supplies",
    [
        {},
        {"BAT0": EMPTY | {"capacity": 80}},
        {"BAT0": EMPTY | {"status": "Charging"}},
        {"BAT0": EMPTY, "AC": {"type": "Mains", "online": 1}},
        {"BAT0": EMPTY, "C": {"type": "USB", "online": 1}},
        {"BAT0": EMPTY, "BAT1": EMPTY | {"capacity": 60}},
        {"mouse": EMPTY | {"scope": "Device"}},
        {"BAT0": EMPTY | {"capacity": "?"}},
    ],
)
def test_power_that_is_enough_or_cannot_be_told(machine, supplies):
    for name, values in supplies.items():
        supply(machine, name, **values)
    assert preflight.low_battery() is None


@pytest.mark.parametrize(
    "answer", ["", "[]", "{}", '{"data": 4}', '{"data": 0}', '{"data": [1]}', "[" * 5000]
)
def test_a_network_manager_that_does_not_say_metered(machine, answer):
    from veilor.device import network

    (machine.folder / "bin/busctl").write_text(f"#!/bin/sh\ncat <<'EOF'\n{answer}\nEOF\n")
    assert network.metered() is False
    (machine.folder / "bin/busctl").write_text('#!/bin/sh\necho \'{"type":"u","data":1}\'\n')
    assert network.metered() is True


def test_without_any_such_service_the_update_goes_on(v1):
    """As on a system with no NetworkManager, no power supply, and no routing table to read."""
    (v1.folder / "bin/busctl").write_text("#!/bin/sh\nexit 1\n")
    assert v1.program("update").code == 0 and staged(v1) == "44.2"


def route6(target, length, interface):
    """A line of /proc/net/ipv6_route."""
    return f"{target} {length} {'0' * 32} 00 {'0' * 32} 0 0 0 0 {interface}\n"


@pytest.mark.parametrize(
    ("route", "second", "expected"),
    [
        ("Iface Destination\neth0 00000000 0202000A\n", "", True),
        (
            "Iface Destination\neth0 0002000A 00000000\n",
            "",
            True,
        ),  # only its own network, where a registry may be
        ("Iface Destination\n", route6("20" * 16, "40", "eth0"), True),
        ("Iface Destination\nlo 0000007F 00000000\n", route6("fe80" + "0" * 28, "40", "eth0"), False),
        ("Iface Destination\n", route6("0" * 32, "00", "lo") + route6("ff" + "0" * 30, "08", "eth0"), False),
    ],
)
def test_what_counts_as_connected(machine, route, second, expected):
    from veilor.device import network

    machine.put("proc/net/route", route)
    machine.put("proc/net/ipv6_route", second)
    assert network.connected() is expected


def test_the_help_shows_the_table(capsys):
    with pytest.raises(SystemExit):
        update.main(["--help"])
    said = capsys.readouterr().out
    for name, seen, *_ in table.rows():
        assert f"  {name} " in said and seen in said


def test_apply_restarts_when_it_is_ready_and_only_then(v1):
    done = v1.program("update", "--apply")
    assert done.code == 0 and "restarts now" in done.out and v1.world_reboots() == 1
    assert v1.calls()[-1] == ["systemctl", "--no-block", "reboot"], (
        "the last thing, when no lock is held any more"
    )
    v1.deployments(v1.entry("44.2"))
    assert v1.program("update", "--apply").code == 0 and v1.world_reboots() == 1
    v1.announce("44.3", tag="43")
    assert v1.program("update", "--apply").code == 4 and v1.world_reboots() == 1


def test_a_restart_that_is_not_possible_is_a_warning(v1):
    v1.change("fail", **{"systemctl --no-block": "Access denied"})
    done = v1.program("update", "--apply")
    assert (
        done.code == 0
        and "could not be restarted" in done.err
        and "restart when you like" in done.out.lower()
    )


def test_progress_for_a_front_end_is_json_on_standard_error(v1):
    import json

    done = v1.program("update", "--json")
    lines = [json.loads(line)["progress"] for line in done.err.splitlines()]
    assert [(line["task"], line["share"]) for line in lines] == [("downloading", 0.5), ("downloading", 1.0)]


# -- the timer's run
# ---------------------------------------------------------------------------------------------------


def due(machine):
    machine.forget_calls()
    done = machine.program("update", "--due", "--json")
    return done.data.get("state") != "too early"


def looked(machine, hours_ago, failed=False, turn=None):
    import json

    data = machine.json("var/lib/veilor/state.json") | {
        "look": {"when": hours_from_now(-hours_ago), "failed": failed, "turn": turn}
    }
    machine.put("var/lib/veilor/state.json", json.dumps(data))


def test_the_timer_leaves_a_machine_alone_that_has_just_started(v1):
    looked(v1, 48)
    v1.put("proc/uptime", "599.9 100.0\n")
    assert not due(v1) and not v1.calls() and staged(v1) is None
    v1.put("proc/uptime", "601.0 100.0\n")
    assert due(v1) and staged(v1) == "44.2"


def test_the_timer_looks_once_in_twenty_hours(v1):
    assert not due(v1) and not v1.calls()
    looked(v1, 19)
    assert not due(v1)
    looked(v1, 21)
    assert due(v1) and not due(v1)


def test_a_look_that_failed_is_repeated_within_the_hour_and_a_turn_when_it_comes(v1):
    looked(v1, 0.5, failed=True)
    assert not due(v1)
    looked(v1, 1.5, failed=True)
    assert due(v1)
    looked(v1, 2, turn=hours_from_now(1))
    assert not due(v1)
    looked(v1, 2, turn=hours_from_now(-1))
    assert due(v1)
    looked(v1, -5)
    assert due(v1), "a clock that was set back does not stop it"


def test_what_the_timer_remembers(v1):
    v1.release("44.2", rollout={"start": hours_from_now(1), "hours": 24})
    done = v1.program("update", "--json")
    look = v1.json("var/lib/veilor/state.json")["look"]
    assert done.code == 3 and look["turn"] == done.data["turn"] and look["failed"] is False
    v1.release("44.3")
    v1.change("channel", error="dial tcp")
    v1.program("update")
    assert v1.json("var/lib/veilor/state.json")["look"]["failed"] is True
