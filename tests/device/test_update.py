"""veilor-update: every refusal beside the same run without its cause, and what is never done."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from veilor.device import bootc, preflight


def staged(machine):
    now = machine.status["staged"]
    return now and (now["image"]["version"], now["downloadOnly"])


def verbs(machine):
    return [
        " ".join(arg for arg in argv[1:] if not arg.isdigit())
        for argv in machine.calls("bootc")
        if argv[1] != "status"
    ]


def test_a_new_version_is_downloaded_locked_compared_counted_and_let_go(v1):
    done = v1.program("update")
    assert done.code == 0 and "44.2 is ready" in done.out and "restart when you like" in done.out.lower()
    assert staged(v1) == ("44.2", False)
    assert verbs(v1) == ["upgrade --download-only --progress-fd", "upgrade --from-downloaded"]
    assert v1.grub == {}, "counted from the shutdown on that puts it in place"
    assert v1.armed == v1.digest("44.2")
    armed = v1.json("var/lib/veilor/health.json")["armed"]
    assert (armed["target"]["version"], armed["from"]["version"], armed["by"]) == ("44.2", "44.1", "update")
    assert "44.2 is ready" in v1.text("run/motd.d/50-veilor")
    assert v1.json("run/veilor/notice.json")["notices"]["update"]["code"] == 0


def test_the_counter_is_armed_before_the_version_can_boot(v1, monkeypatch):
    armed = []
    unlock = bootc.unlock

    def watched():
        armed.append(v1.armed)
        unlock()

    monkeypatch.setattr(bootc, "unlock", watched)
    assert v1.program("update").code == 0
    assert armed == [v1.digest("44.2")]


def test_nothing_newer_asks_bootc_only_for_its_status(v1):
    v1.release("44.1")
    done = v1.program("update")
    assert done.code == 0 and "nothing newer" in done.out and verbs(v1) == [] and len(v1.calls("bootc")) == 1


def test_the_tag_ahead_of_the_statement_is_no_news(v1):
    v1.announce("44.1")
    assert v1.program("update").code == 0 and verbs(v1) == []


def test_staged_already_asks_bootc_only_for_its_status(v1):
    v1.program("update")
    v1.forget_calls()
    assert v1.program("update").code == 0 and verbs(v1) == [] and staged(v1) == ("44.2", False)


def test_download_only_stops_at_the_lock_and_the_next_run_lets_go(v1):
    done = v1.program("update", "--download-only")
    assert done.code == 0 and staged(v1) == ("44.2", True) and v1.armed is None
    assert v1.power_on() == "44.1"
    assert v1.program("update", "--download-only").code == 0 and staged(v1) == ("44.2", True)
    v1.forget_calls()
    assert v1.program("update").code == 0 and staged(v1) == ("44.2", False)
    assert verbs(v1) == ["upgrade --from-downloaded"]


def test_check_changes_nothing(v1):
    done = v1.program("update", "--check", "--json")
    assert done.code == 0 and done.data["state"] == "stage" and done.data["announced"]["version"] == "44.2"
    assert verbs(v1) == [] and staged(v1) is None


def test_a_tag_ahead_of_its_statement_costs_one_manifest_and_no_alarm(v1):
    v1.announce("44.2b")
    done = v1.program("update", "--json")
    assert (
        done.code == 3 and done.data["finding"] == "ahead" and "nothing was downloaded" in done.data["means"]
    )
    assert verbs(v1) == [] and staged(v1) is None and len(v1.calls("skopeo", "inspect")) == 1
    assert not v1.text("run/motd.d/50-veilor"), "it ends by itself"
    v1.release("44.3")
    assert v1.program("update").code == 0 and staged(v1) == ("44.3", False)


def test_a_registry_that_does_not_say_what_its_tag_means_is_asked_for_the_image(v1):
    v1.change("fail", **{"skopeo inspect": "error reading manifest: unexpected EOF"})
    assert v1.program("update").code == 0 and staged(v1) == ("44.2", False)


def test_another_digest_than_announced_is_dropped_and_never_unlocked(v1):
    """The tag moves after it was asked for."""
    v1.announce("44.2b")
    v1.change("registry", manifest="44.2b")
    done = v1.program("update")
    assert done.code == 4 and "44.2b" in done.err and "44.2" in done.err
    assert staged(v1) is None and verbs(v1) == ["upgrade --download-only --progress-fd"]
    assert v1.calls("ostree", "admin", "undeploy") and v1.armed is None
    assert "Refused" in v1.text("run/motd.d/50-veilor")
    assert v1.power_on(clean=True) == "44.1"
    v1.release("44.2")
    assert v1.program("update").code == 0 and staged(v1) == ("44.2", False)


def test_what_cannot_be_dropped_stays_locked_and_is_reported(v1):
    v1.announce("44.2b")
    v1.change("registry", manifest="44.2b")
    v1.change("fail", **{"ostree admin undeploy": "error: no"})
    done = v1.program("update")
    assert done.code == 4 and "stays locked" in done.err and staged(v1) == ("44.2", True)
    assert v1.power_on(clean=True) == "44.1"


def test_a_staged_image_without_verification_is_dropped(v1, monkeypatch):
    v1.change("registry", checksum="c" * 64)
    booted = v1.status["booted"]
    v1.deployments(booted, rollback=v1.bootstrap())
    from veilor.device import bootc

    download = bootc.download

    def careless(quiet):
        download(quiet)
        v1.load()
        del v1.world["status"]["status"]["staged"]["image"]["image"]["signature"]
        v1.save()

    monkeypatch.setattr(bootc, "download", careless)
    done = v1.program("update")
    assert done.code == 4 and "did not record" in done.err and staged(v1) is None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sequence": 0}, "older than"),
        ({"tag": "43"}, "not for"),
        ({"repository": "ghcr.io/veilor/other"}, "not for"),
        ({"digest": "sha256:short"}, "cannot be understood"),
        ({"schema": 2}, "cannot be understood"),
    ],
)
def test_a_statement_that_must_not_be_followed(v1, changes, words):
    v1.announce("44.2", **changes)
    done = v1.program("update")
    assert done.code == 4 and words in done.err and staged(v1) is None and verbs(v1) == []
    v1.announce("44.2", sequence=5)
    assert v1.program("update").code == 0 and staged(v1) == ("44.2", False)


def test_the_same_number_with_another_digest_is_refused(v1):
    v1.program("update", "--check")
    v1.release("44.3", sequence=v1.sequence)
    assert v1.program("update").code == 4 and staged(v1) is None
    v1.release("44.3")
    assert v1.program("update").code == 0 and staged(v1) == ("44.3", False)


def test_the_floor_of_the_image_counts_when_nothing_was_seen(v1):
    v1.put("var/lib/veilor/state.json", "{}")
    v1.put("usr/lib/veilor/channel-floor.json", '{"schema": 1, "sequence": 9}')
    done = v1.program("update")
    assert done.code == 4 and "older than 9" in done.err
    v1.release("44.2", sequence=9)
    assert v1.program("update").code == 0


def test_a_floor_that_cannot_be_read_is_no_floor_of_zero(v1):
    v1.put("usr/lib/veilor/channel-floor.json", "[]")
    assert v1.program("update").code == 4 and staged(v1) is None


def test_only_a_verified_statement_is_remembered(v1):
    before = v1.json("var/lib/veilor/state.json")["channels"]["44"]
    v1.announce("44.9", sequence=99)
    v1.change("channel", error="Source image rejected: A signature was required, but no signature exists")
    done = v1.program("update")
    assert done.code == 4 and "no signature exists" in done.err
    v1.announce("44.9", sequence=99, tag="43")
    assert v1.program("update").code == 4
    assert v1.json("var/lib/veilor/state.json")["channels"]["44"] == before
    v1.release("44.2", sequence=7)
    assert v1.program("update").code == 0
    assert v1.json("var/lib/veilor/state.json")["channels"]["44"]["sequence"] == 7


@pytest.mark.parametrize(
    "broken",
    [
        {"digest": "sha256:" + "0" * 64},
        {"digest": "../../x"},
        {"layers": 2},
        {"layers": 0},
        {"raw": "x" * 70000},
    ],
)
def test_an_artefact_that_is_no_statement_is_refused(v1, broken):
    v1.change("channel", **broken)
    done = v1.program("update")
    assert done.code == 4 and "cannot be understood" in done.err and staged(v1) is None


def test_an_expired_statement_warns_and_still_brings_what_is_newer(v1):
    v1.release("44.2", expires_in=-10)
    done = v1.program("update", "--json")
    assert (
        done.code == 0 and staged(v1) == ("44.2", False) and "ran out 10 days ago" in done.data["warnings"][0]
    )
    v1.release("44.3")
    assert v1.program("update", "--json").data["warnings"] == []


@pytest.mark.parametrize(
    "sabotage",
    [
        ("etc/containers/policy.json", '{"default": [{"type": "insecureAcceptAnything"}]}'),
        ("etc/containers/registries.d/veilor.yaml", "docker: {}\n"),
        ("usr/share/pki/containers/veilor-image-a.pub", ""),
    ],
)
def test_without_intact_trust_nothing_is_fetched(v1, sabotage):
    shipped = v1.text(sabotage[0])
    v1.put(*sabotage)
    assert v1.program("update").code == 4 and not v1.calls("skopeo") and staged(v1) is None
    v1.put(sabotage[0], shipped)
    assert v1.program("update").code == 0


def test_the_policy_is_named_so_that_roots_home_cannot_weaken_it(v1):
    v1.program("update")
    [call] = [argv for argv in v1.calls("skopeo") if "copy" in argv]
    assert call[1:3] == [
        f"--policy={v1.root}/etc/containers/policy.json",
        f"--registries.d={v1.root}/etc/containers/registries.d",
    ]


def test_an_image_signed_by_a_stranger_is_refused(v1):
    v1.change(
        "registry", error="Fetching manifest: cryptographic signature verification failed: invalid signature"
    )
    done = v1.program("update")
    assert done.code == 4 and staged(v1) is None and v1.armed is None
    v1.change("registry", error="Fetching manifest: dial tcp: lookup ghcr.io: no such host")
    assert v1.program("update").code == 3
    v1.change("registry", error=None)
    assert v1.program("update").code == 0


def test_the_registry_behind_the_statement_is_later_not_refused(v1):
    v1.release("44.1")
    v1.announce("44.2")
    assert v1.program("update").code == 3 and staged(v1) is None


def test_a_withdrawn_update_is_taken_away_by_one_statement(v1):
    v1.program("update")
    v1.announce("44.1")
    done = v1.program("update")
    assert done.code == 0 and staged(v1) is None and v1.armed is None
    assert v1.power_on(clean=True) == "44.1"


def test_one_at_a_time(v1):
    import fcntl

    lock = v1.root / "run/veilor/lock"
    with lock.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        done = v1.program("update")
    assert done.code == 3 and "Another veilor program" in done.err and staged(v1) is None
    assert v1.program("update").code == 0


def test_without_a_counter_the_update_still_comes_with_a_warning(v1):
    (v1.root / "boot/grub2/grubenv").unlink()
    done = v1.program("update")
    assert done.code == 0 and staged(v1) == ("44.2", False) and "cannot go back by itself" in done.err


@pytest.mark.parametrize(
    ("prepare", "code", "words"),
    [
        (lambda m: m.deployments(None), 5, "erasing"),
        (lambda m: m.deployments(m.entry("44.1", incompatible=True)), 5, "layered"),
        (
            lambda m: m.deployments(m.entry("1", reference="ghcr.io/other/os:1")),
            5,
            "follows ghcr.io/other/os:1",
        ),
        (
            lambda m: m.deployments(m.entry("44.1"), staged=m.entry("9", signed=False)),
            5,
            "Somebody has put it there",
        ),
        (
            lambda m: m.deployments(m.entry("44.1"), staged=m.entry("9", reference="ghcr.io/other/os:1")),
            5,
            "Somebody has put it there",
        ),
    ],
)
def test_machines_it_is_not_for_are_left_alone(v1, prepare, code, words):
    prepare(v1)
    before = v1.status
    done = v1.program("update")
    assert done.code == code and words in done.err and v1.status == before and verbs(v1) == []


def test_a_machine_that_went_back_to_the_bootstrap_is_moved_by_switch(v1):
    v1.deployments(v1.bootstrap())
    assert v1.program("update").code == 0 and staged(v1) == ("44.2", False)
    assert verbs(v1)[0].startswith("switch") and v1.armed == v1.status["staged"]["image"]["imageDigest"]


def test_a_blocked_status_says_why(v1, monkeypatch):
    from veilor.device import bootc

    monkeypatch.setattr(bootc, "STATUS_TIMEOUT", 0.3)
    (v1.folder / "bin/bootc").write_text("#!/bin/sh\nsleep 60\n")
    done = v1.program("update")
    assert done.code == 3 and "holds the lock" in done.err


def test_bootc_says_nonsense(v1):
    (v1.folder / "bin/bootc").write_text("#!/bin/sh\necho '{}'\n")
    done = v1.program("update")
    assert done.code == 1 and "cannot be understood" in done.err and done.err.count("\n") == 1


def test_not_root(v1, monkeypatch):
    import os

    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    v1.change("fail", **{"systemctl start": "Interactive authentication required."})
    done = v1.program("status")
    assert done.code == 6 and done.err.count("\n") == 1 and "sudo" in done.err and not v1.calls("bootc")


def test_unknown_fields_stay_and_a_sequence_is_never_lowered(v1):
    path = v1.root / "var/lib/veilor/state.json"
    data = json.loads(path.read_text())
    data |= {"schema": 3, "later": {"x": 1}}
    data["channels"]["44"] |= {"more": True, "sequence": 50}
    path.write_text(json.dumps(data))
    assert v1.program("update").code == 4
    v1.release("44.2", sequence=51)
    assert v1.program("update").code == 0
    now = v1.json("var/lib/veilor/state.json")
    assert (
        now["schema"],
        now["later"],
        now["channels"]["44"]["more"],
        now["channels"]["44"]["sequence"],
    ) == (
        3,
        {"x": 1},
        True,
        51,
    )


def test_a_damaged_memory_is_put_aside_and_the_floor_still_counts(v1):
    v1.put("var/lib/veilor/state.json", "{ torn")
    v1.put("usr/lib/veilor/channel-floor.json", '{"schema": 1, "sequence": 2}')
    assert v1.program("update").code == 0 and v1.text("var/lib/veilor/state.json.damaged") == "{ torn"


def test_progress_goes_through_a_pipe_as_plain_lines(v1):
    done = v1.program("update")
    assert "downloading  50%" in done.err and "downloading 100%" in done.err and "\r" not in done.err


def test_words_of_a_registry_cannot_move_the_cursor(v1):
    v1.change("registry", error="no \x1b[2Jsignature\x07 here")
    done = v1.program("update")
    assert (
        done.code == 4
        and "\x1b" not in done.text
        and "\x07" not in done.text
        and done.err.rstrip().count("\n") <= 3
    )


@pytest.mark.parametrize(("days", "told"), [(2, False), (4, True)])
def test_what_keeps_updates_away_for_days_is_told(v1, monkeypatch, days, told):
    from veilor.device import update

    monkeypatch.setattr(preflight, "free", lambda path: 2 << 30)
    v1.release("44.2")
    assert v1.program("update").code == 3
    look = v1.json("var/lib/veilor/state.json")["look"]
    assert look["finding"] == "space" and look["since"]
    since = datetime.now(UTC) - timedelta(days=days)
    older = {
        **v1.json("var/lib/veilor/state.json"),
        "look": {**look, "since": update.state.format_time(since)},
    }
    v1.put("var/lib/veilor/state.json", json.dumps(older))
    assert v1.program("update").code == 3
    assert ("make room" in v1.text("run/motd.d/50-veilor")) is told
    monkeypatch.setattr(preflight, "free", lambda path: 1 << 40)
    assert v1.program("update").code == 0 and v1.json("var/lib/veilor/state.json")["look"]["since"] is None


def test_no_answer_says_nothing_against_an_update_that_is_ready(v1):
    v1.release("44.2")
    assert v1.program("update").code == 0
    ready = v1.text("run/motd.d/50-veilor")
    v1.change("channel", raw="", error="dial tcp: i/o timeout")
    assert v1.program("update").code == 3 and v1.text("run/motd.d/50-veilor") == ready != ""


def test_the_first_move_is_not_downloaded_alone(machine):
    machine.deployments(machine.bootstrap())
    machine.announce("44.1")
    done = machine.program("update", "--download-only", "--json")
    assert done.code == 2 and not machine.calls("bootc", "switch") and machine.status["staged"] is None
    assert machine.program("update", "--json").data["state"] == "ready"
