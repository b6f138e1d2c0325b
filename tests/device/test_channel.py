"""The channel over time: a rollout, a withdrawal, growing staleness, a long absence, keys that rotate, the
owner's settings.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from veilor.core import rollout
from veilor.core.statement import stale_words

MACHINE = "0123456789abcdef0123456789abcdef"  # as conftest.py writes it


@pytest.fixture
def v1(machine):
    """A machine that runs 44.1, announced so far."""
    machine.deployments(machine.entry("44.1"), rollback=machine.entry("44.0"))
    machine.release("44.1")
    assert machine.program("update").code == 0
    return machine


def window(hours_ago, hours):
    return {"start": f"{datetime.now(UTC) - timedelta(hours=hours_ago):%Y-%m-%dT%H:%M:%SZ}", "hours": hours}


def staged(machine):
    now = machine.status["staged"]
    return now and now["image"]["version"]


def test_it_takes_its_turn_and_the_setting_moves_that(v1):
    place = rollout.window_position(MACHINE, "44.2")
    assert 0.15 < place < 0.85, "choose another machine id for this test"
    v1.release("44.2", rollout=window(place * 100 - 5, 100))
    done = v1.program("update", "--json")
    assert (
        done.code == 3
        and staged(v1) is None
        and "turn is on" in done.data["what"]
        and "--now" in done.data["next"]
    )
    wait = datetime.fromisoformat(done.data["turn"]) - datetime.now(UTC)
    assert timedelta(hours=4.9) < wait < timedelta(hours=5.1)
    v1.put("etc/veilor/veilor.toml", '[update]\nrollout = "late"\n')
    assert v1.program("update").code == 3
    v1.put("etc/veilor/veilor.toml", '[update]\nrollout = "early"\n')
    assert v1.program("update").code == (0 if place * 100 - 5 > 10 else 3)
    v1.put("etc/veilor/veilor.toml", "")
    v1.release("44.3", rollout=window(rollout.window_position(MACHINE, "44.3") * 100 + 1, 100))
    assert v1.program("update").code == 0 and staged(v1) == "44.3"


@pytest.mark.parametrize(
    "text",
    ["[", "[update]\nrollout = 1\n", '[update]\nrollout = "never"\n', 'update = "x"\n', "\x00", "a." * 3000],
)
def test_settings_that_cannot_be_read_are_said_and_passed_over(v1, text):
    v1.put("etc/veilor/veilor.toml", text)
    v1.release("44.2")
    done = v1.program("update")
    assert done.code == 0 and staged(v1) == "44.2" and "veilor.toml is passed over" in done.err


def test_who_slept_through_its_turn_takes_another_by_itself_but_never_keeps_a_person_waiting(v1):
    place = rollout.window_position(MACHINE, "44.2")
    v1.release("44.2", rollout=window(place * 10 + 3, 10))
    data = v1.json("var/lib/veilor/state.json")
    data["look"] = {"when": "2026-01-01T00:00:00Z", "failed": False, "turn": None}
    v1.put("var/lib/veilor/state.json", json.dumps(data))
    done = v1.program("update", "--due", "--json")
    wait = datetime.fromisoformat(done.data["turn"]) - datetime.now(UTC)
    assert done.code == 3 and staged(v1) is None and timedelta(0) < wait <= rollout.SECOND
    assert v1.program("update", "--due", "--json").data["state"] == "too early"
    now = datetime.now(UTC)
    data["look"] = {
        "when": f"{now - timedelta(hours=9):%Y-%m-%dT%H:%M:%SZ}",
        "failed": False,
        "turn": f"{now:%Y-%m-%dT%H:%M:%SZ}",
    }
    v1.put("var/lib/veilor/state.json", json.dumps(data))
    assert v1.program("update", "--due").code == 0 and staged(v1) == "44.2"


def test_a_person_is_not_sent_to_a_second_turn(v1):
    place = rollout.window_position(MACHINE, "44.2")
    v1.release("44.2", rollout=window(place * 10 + 3, 10))
    assert v1.program("update").code == 0 and staged(v1) == "44.2"


def test_a_machine_without_an_id_takes_some_turn(v1):
    (v1.root / "etc/machine-id").unlink()
    v1.release("44.2", rollout=window(101, 100))
    assert v1.program("update").code == 0 and staged(v1) == "44.2"


# -- a release that is withdrawn
# ----------------------------------------------------------------------------


def test_what_was_withdrawn_is_taken_away_also_where_the_next_one_has_to_wait(v1):
    v1.release("44.2")
    assert v1.program("update").code == 0 and staged(v1) == "44.2"
    bad = v1.digest("44.2")
    v1.release("44.3", rollout=window(-1, 100))
    assert v1.program("update").code == 3 and staged(v1) == "44.2", "only superseded: better than what runs"
    v1.release("44.3", rollout=window(-1, 100), withdrawn=[bad])
    done = v1.program("update")
    assert done.code == 3 and staged(v1) is None and v1.armed is None
    assert v1.power_on(clean=True) == "44.1"


def test_a_machine_that_already_runs_what_was_withdrawn_does_not_wait_for_its_turn(v1):
    v1.deployments(v1.entry("44.2"), rollback=v1.entry("44.1"))
    v1.release("44.3", rollout=window(-1, 100))
    assert v1.program("update").code == 3 and staged(v1) is None
    v1.release("44.3", rollout=window(-1, 100), withdrawn=[v1.digest("44.2")])
    assert v1.program("update").code == 0 and staged(v1) == "44.3"


def test_a_withdrawal_that_leads_back_to_the_version_before(v1):
    v1.deployments(v1.entry("44.2"), rollback=v1.entry("44.1"))
    v1.release("44.1", withdrawn=[v1.digest("44.2")])
    assert v1.program("update").code == 0 and staged(v1) == "44.1"


def test_check_only_tells_of_a_withdrawal(v1):
    v1.release("44.2")
    v1.program("update")
    v1.release("44.1")
    done = v1.program("update", "--check", "--json")
    assert done.code == 0 and done.data["state"] == "withdrawn" and staged(v1) == "44.2"


@pytest.mark.parametrize("withdrawn", ["x", ["sha256:short"], [1], {"a": 1}])
def test_a_withdrawal_that_cannot_be_read_is_refused(v1, withdrawn):
    v1.release("44.2", withdrawn=withdrawn)
    assert v1.program("update").code == 4 and staged(v1) is None


# -- time
# ----------------------------------------------------------------------------


def test_the_warning_grows_plainer_with_age():
    texts = [stale_words(timedelta(days=days, hours=1)) for days in (0, 1, 8, 31, 400)]
    assert (
        "less than a day ago" in texts[0]
        and "1 day ago" in texts[1]
        and "may be missing security updates" in texts[2]
    )
    assert "most likely" in texts[3] and "400 days ago" in texts[4] and len(set(texts)) == 5


def heard(machine, days_ago):
    """The newest statement seen ran out DAYS_AGO."""
    now = datetime.now(UTC)
    data = machine.json("var/lib/veilor/state.json")
    data["channels"]["44"] |= {"expires": f"{now - timedelta(days=days_ago):%Y-%m-%dT%H:%M:%SZ}"}
    machine.put("var/lib/veilor/state.json", json.dumps(data))


@pytest.mark.parametrize(("days", "told"), [(1, False), (8, True), (40, True)])
def test_a_machine_that_is_cut_off_says_so_by_itself(v1, days, told):
    heard(v1, days)
    v1.change("channel", error="dial tcp: i/o timeout")
    assert v1.program("update").code == 3
    assert ("hears no news" in v1.text("run/motd.d/50-veilor")) is told
    assert (
        f"ran out {days} day" in v1.program("status").out
        and v1.program("status", "--json").data["stale_days"] == days
    )
    v1.release("44.1")
    v1.change("channel", error=None)
    assert v1.program("update").code == 0 and "hears no news" not in v1.text("run/motd.d/50-veilor")
    assert v1.program("status", "--json").data["stale_days"] is None


def test_a_year_of_absence_ends_with_the_newest_version_in_one_step(v1):
    heard(v1, 351)
    v1.release("44.60", sequence=400)
    done = v1.program("update")
    assert done.code == 0 and staged(v1) == "44.60" and "ran out" not in done.err
    assert v1.power_on(clean=True) == "44.60"


def test_a_year_of_absence_and_an_expired_statement_still_bring_the_newer_one(v1):
    heard(v1, 351)
    v1.release("44.60", sequence=400, expires_in=-25)
    done = v1.program("update")
    assert done.code == 0 and staged(v1) == "44.60" and "ran out 25 days ago" in done.err


def test_a_clock_that_is_behind_what_is_known_is_said_and_stops_nothing(v1):
    """Known: when the statement was issued, and when what runs was built."""
    v1.release("44.2", issued=f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}")
    assert "set it, or certificates" in v1.program("update").err and staged(v1) == "44.2"
    built = v1.entry("44.1")
    built["image"]["timestamp"] = f"{datetime.now(UTC) + timedelta(days=3):%Y-%m-%dT%H:%M:%SZ}"
    v1.deployments(built)
    v1.release("44.3")
    assert "set it, or certificates" in v1.program("update").err and staged(v1) == "44.3"
    v1.deployments(v1.entry("44.1"))
    v1.release("44.4")
    assert "set it" not in v1.program("update").err and staged(v1) == "44.4"


# -- keys
# ----------------------------------------------------------------------------


def key(name):
    return f"-----BEGIN PUBLIC KEY-----\n{name}\n-----END PUBLIC KEY-----\n"


def slots(machine, **kept):
    """What the booted image has in its slots, by name such as channel_a."""
    for slot, name in kept.items():
        machine.put(f"usr/share/pki/containers/veilor-{slot.replace('_', '-')}.pub", key(name))


def sign(machine, channel, image):
    machine.change("channel", signed_by=key(channel))
    machine.change("registry", signed_by=key(image))


@pytest.fixture
def signed(v1):
    slots(v1, image_a="image 1", image_b="image 2", channel_a="channel 1", channel_b="channel 2")
    return v1


def test_the_second_slot_is_as_good_as_the_first(signed):
    """Key A lost: everything is signed by B, and no machine notices."""
    signed.release("44.2")
    sign(signed, "channel 2", "image 2")
    assert signed.program("update").code == 0 and staged(signed) == "44.2"


@pytest.mark.parametrize(
    ("channel", "image"),
    [("stranger", "image 1"), ("channel 1", "stranger"), ("image 1", "image 1"), ("channel 1", "channel 1")],
)
def test_any_other_key_is_refused(signed, channel, image):
    signed.release("44.2")
    sign(signed, channel, image)
    assert signed.program("update").code == 4 and staged(signed) is None


def test_a_rotation_step_by_step_leaves_no_machine_behind_that_missed_all_but_the_last_step(signed):
    """1 → 3 in slot A, signed by 2 until everybody has it; then a machine that
    comes back late still knows 2.
    """
    signed.release("44.2")
    sign(signed, "channel 2", "image 2")
    assert signed.program("update").code == 0
    assert signed.power_on(clean=True) == "44.2"
    slots(signed, image_a="image 3", channel_a="channel 3")
    signed.judge_boot()
    signed.release("44.3")
    sign(signed, "channel 3", "image 3")
    assert signed.program("update").code == 0 and staged(signed) == "44.3"


def test_a_machine_that_missed_the_rotation_of_both_keys_is_told_the_way_forward(signed):
    signed.release("44.60")
    sign(signed, "channel 4", "image 4")
    soon = signed.program("update", "--json")
    assert soon.code == 4 and "medium" not in soon.data["next"]
    heard(signed, 300)
    late = signed.program("update", "--json")
    assert (
        late.code == 4
        and "keys" in late.data["means"]
        and "current medium" in late.data["next"]
        and staged(signed) is None
    )
    assert signed.status["booted"]["image"]["version"] == "44.1", "what runs goes on running"


def test_after_the_rotation_the_lost_key_opens_nothing(signed):
    slots(signed, image_a="image 3", channel_a="channel 3")
    signed.release("44.2")
    sign(signed, "channel 1", "image 1")
    assert signed.program("update").code == 4 and staged(signed) is None


def test_a_fault_of_the_machine_is_not_called_one_of_the_network(machine, monkeypatch):
    from veilor.device import state
    from veilor.device.run import DeviceError

    def no_room(*_):
        raise DeviceError("The disk is full")

    monkeypatch.setattr(state, "record_statement", no_room)
    machine.deployments(machine.bootstrap())
    machine.release("44.1")
    done = machine.program("firstboot-rebase")
    assert (
        done.code == 1
        and "disk is full" in machine.text("run/motd.d/50-veilor")
        and "network" not in done.text
    )
