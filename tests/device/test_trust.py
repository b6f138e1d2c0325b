"""What a channel can be made to say, by whoever holds a key, a registry, or an old statement: on
a machine with fakes. docs/TRUST.md has the list.
"""

from __future__ import annotations

import json

import pytest

from veilor.core import policy, statement
from veilor.device import channel, rollback, state

REF45 = "ghcr.io/veilor/veilor-os:45"
A, B = (f"-----BEGIN PUBLIC KEY-----\n{name}\n-----END PUBLIC KEY-----\n" for name in "AB")
FAR = 2**53


def staged(machine):
    now = machine.status["staged"]
    return now and now["image"]["version"]


@pytest.fixture
def v1(machine):
    """A machine that runs 44.1 and has seen statement 400, with channel keys A and B."""
    for slot, key in (("a", A), ("b", B)):
        machine.put(f"usr/share/pki/containers/veilor-channel-{slot}.pub", key)
    machine.deployments(machine.entry("44.1"), rollback=machine.entry("44.0"))
    machine.release("44.1", sequence=400)
    machine.change("channel", signed_by=A)
    assert machine.program("update").code == 0
    return machine


def say(machine, key, version, **said):
    """VERSION is released, announced by the channel key KEY; how the update ends."""
    machine.release(version, **said)
    machine.change("channel", signed_by=key)
    return machine.program("update", "--json")


# -- fast-forward
# -----------------------------------------------------------------------------------------


@pytest.fixture
def robbed(v1):
    """Key A was stolen, and its thief has announced our old 44.0 with the largest number there is."""
    assert say(v1, A, "44.0", sequence=FAR).code == 0 and staged(v1) == "44.0"
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("44.0"))
    return v1


def test_one_statement_by_key_b_reaches_a_machine_that_was_led_to_the_largest_number(robbed):
    for number in (401, FAR):
        assert say(robbed, B, "44.3", sequence=number).code == 4, "within the thief's epoch nobody gets past"
    done = say(robbed, B, "44.3", sequence=1, epoch=1)
    assert done.code == 0 and staged(robbed) == "44.3"
    assert robbed.json("var/lib/veilor/state.json")["channels"]["44"]["epoch"] == 1
    robbed.deployments(robbed.entry("44.3"), rollback=robbed.entry("44.1"))
    for said in ({"sequence": FAR}, {"sequence": 9, "epoch": 1}, {"sequence": FAR, "epoch": FAR}):
        assert say(robbed, A, "44.0", **said).code == 4, "the stolen key says nothing any more"
    assert say(robbed, B, "44.4", sequence=2, epoch=1).code == 0 and staged(robbed) == "44.4"


def test_a_machine_that_missed_the_theft_takes_the_same_statement(v1):
    assert say(v1, B, "44.3", sequence=1, epoch=1).code == 0 and staged(v1) == "44.3"


def test_key_a_begins_no_epoch_of_its_own(v1):
    done = say(v1, A, "44.0", sequence=1, epoch=1)
    assert done.code == 4 and "could not be verified" in done.data["what"] and staged(v1) is None
    assert v1.json("var/lib/veilor/state.json")["channels"]["44"]["sequence"] == 400


def test_in_the_images_own_epoch_both_keys_are_good_again(robbed):
    """The image that follows a theft has a new key A, and the epoch as its floor."""
    robbed.put("usr/lib/veilor/channel-floor.json", '{"schema": 1, "epoch": 1, "sequence": 1}')
    assert say(robbed, A, "44.3", sequence=2, epoch=1).code == 0 and staged(robbed) == "44.3"
    assert say(robbed, B, "44.0", sequence=FAR).code == 4
    assert say(robbed, A, "44.4", sequence=1, epoch=2).code == 4


def test_without_the_second_look_key_a_would_begin_epochs(v1, monkeypatch):
    fetch = channel.fetch_statement
    monkeypatch.setattr(channel, "fetch_statement", lambda facts, rules=None: fetch(facts))
    assert say(v1, A, "44.0", sequence=1, epoch=1).code == 0 and staged(v1) == "44.0"


def test_the_rules_for_a_new_epoch_name_one_key_and_leave_nothing_behind(v1):
    facts = channel.product()
    v1.release("44.3", sequence=1, epoch=1)
    v1.change("channel", signed_by=B)
    rules = []
    kept = channel.run

    def look(argv, **more):
        if "copy" in argv:
            with open(argv[1].removeprefix("--policy=")) as file:
                rules.append(json.load(file)["transports"]["docker"][facts.channel_repo][0]["keyPaths"])
        return kept(argv, **more)

    channel.run = look
    try:
        assert v1.program("update").code == 0
    finally:
        channel.run = kept
    both = policy.scopes(facts)[facts.channel_repo]
    assert rules == [both, both[1:]] and len(both) == 2
    assert not list((v1.root / "run/veilor").glob("channel-*"))


@pytest.mark.parametrize("epoch", [-1, True, 1.0, "1", None, FAR + 1])
def test_an_epoch_that_is_no_number_is_refused(v1, epoch):
    assert say(v1, B, "44.3", sequence=500, epoch=epoch).code == 4 and staged(v1) is None


# -- a memory for each tag
# -----------------------------------------------------------------------------------------


def follow(machine, tag):
    """The machine runs, and its image follows, TAG: as after `bootc switch`, decision 0014."""
    text = machine.text("usr/lib/veilor/product.toml")
    for other in ("44", "45"):
        text = text.replace(f'tag = "{other}"', f'tag = "{tag}"')
    assert f'tag = "{tag}"' in text
    machine.put("usr/lib/veilor/product.toml", text)


def test_to_the_next_fedora_and_back(v1):
    follow(v1, "45")
    v1.deployments(v1.entry("45.0", reference=REF45), rollback=v1.entry("44.1"))
    assert say(v1, A, "45.1", sequence=12, tag="45").code == 0 and staged(v1) == "45.1"
    v1.deployments(v1.entry("45.1", reference=REF45), rollback=v1.entry("44.1"))
    assert say(v1, A, "45.1", sequence=900, tag="45").code == 0
    assert say(v1, A, "45.0", sequence=13, tag="45").code == 4, "45 has a memory of its own"
    follow(v1, "44")
    v1.deployments(v1.entry("44.1"), rollback=v1.entry("45.1", reference=REF45))
    assert say(v1, A, "44.0", sequence=399).code == 4, "and 44 has kept its own"
    assert say(v1, A, "44.2", sequence=401).code == 0 and staged(v1) == "44.2"
    assert {
        tag: one["sequence"] for tag, one in v1.json("var/lib/veilor/state.json")["channels"].items()
    } == {
        "44": 401,
        "45": 900,
    }


OLDER = {"digest": "sha256:" + "0" * 64, "expires": "2026-12-01T00:00:00Z", "when": "2026-11-01T00:00:00Z"}


@pytest.mark.parametrize(("version", "counts"), [("44.1", True), (None, True), ("45.1", False)])
def test_a_memory_of_the_older_shape_is_carried_over(v1, version, counts):
    held = {"sha256:" + "1" * 64: {"version": "44.0", "cause": "health", "reason": "r", "when": "w"}}
    memory = {
        "schema": 1,
        "held_back": held,
        "look": {},
        "channel": {**OLDER, "sequence": 500, "version": version},
    }
    v1.put("var/lib/veilor/state.json", json.dumps(memory))
    assert say(v1, A, "44.2", sequence=499).code == (4 if counts else 0)
    v1.put("var/lib/veilor/state.json", json.dumps(memory))
    assert say(v1, A, "44.2", sequence=501).code == 0
    now = v1.json("var/lib/veilor/state.json")
    assert now["channels"]["44"]["sequence"] == 501 and ("channel" in now) is not counts
    assert v1.program("status", "--json").data["channel"]["sequence"] == 501


# -- a statement that has run out
# -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["update", "firstboot-rebase"])
def test_a_new_machine_is_not_moved_by_a_statement_that_has_run_out(machine, program):
    """A new machine from the medium of 44.9, a registry that plays a statement of years ago."""
    machine.deployments(machine.bootstrap("44.9"))
    machine.release("44.1", sequence=3, expires_in=-700, issued="2024-01-01T00:00:00Z")
    for _ in range(2):  # and what was refused is not remembered, so that it does not pass the next time
        done = machine.program(program, "--json")
        assert done.code == 4 and "has run out" in done.data["what"] and "clock" in done.data["next"]
        assert staged(machine) is None
    machine.release("44.10", sequence=300)
    assert machine.program(program).code == 0 and staged(machine) == "44.10"


@pytest.mark.parametrize("memory", ["\0" * 200, "{}", "[]", '{"channels": {"44": {"sequence": "x"}}}'])
def test_a_machine_without_its_memory_is_not_moved_by_one_either(v1, memory):
    v1.put("var/lib/veilor/state.json", memory)
    assert say(v1, A, "44.2", sequence=3, expires_in=-1).code == 4 and staged(v1) is None
    assert say(v1, A, "44.2", sequence=401).code == 0 and staged(v1) == "44.2"


def test_where_nothing_would_move_it_only_warns(v1):
    v1.put("var/lib/veilor/state.json", "{}")
    done = say(v1, A, "44.1", sequence=400, expires_in=-1)
    assert (
        done.code == 0 and done.data["state"] == "current" and "ran out 1 day ago" in done.data["warnings"][0]
    )


def test_one_that_has_run_out_leads_to_nothing_older_than_what_runs(v1):
    v1.deployments(v1.entry("44.9"), rollback=v1.entry("44.1"))
    done = say(v1, A, "44.2", sequence=401, expires_in=-1)
    assert (
        done.code == 4 and "44.2 is older than 44.9, which runs" in done.data["what"] and staged(v1) is None
    )
    assert say(v1, A, "44.2", sequence=401).code == 0, "its makers may go back, while they stand to it"
    assert say(v1, A, "44.10", sequence=402, expires_in=-1).code == 0 and staged(v1) == "44.10"


def test_without_the_check_of_what_has_run_out_the_old_release_is_taken(machine, monkeypatch):
    monkeypatch.setattr(statement, "check_late", lambda *_: None)
    machine.deployments(machine.bootstrap("44.9"))
    machine.release("44.1", sequence=3, expires_in=-700, issued="2024-01-01T00:00:00Z")
    assert machine.program("firstboot-rebase").code == 0 and staged(machine) == "44.1"


# -- what was withdrawn
# -----------------------------------------------------------------------------------------


@pytest.fixture
def withdrawn(v1):
    """44.2 runs, announced by a statement that withdraws 44.1, which is kept as the way back."""
    assert say(v1, A, "44.2", sequence=401, withdrawn=[v1.digest("44.1")]).code == 0
    v1.deployments(v1.entry("44.2"), rollback=v1.entry("44.1"))
    assert say(v1, A, "44.2", sequence=402).code == 0, "later statements need not repeat it"
    return v1


def test_a_rollback_to_what_was_withdrawn_has_to_be_asked_for_by_name(withdrawn):
    done = withdrawn.program("rollback", "--yes", "--json")
    assert (
        done.code == 4
        and "withdrawn by its makers" in done.data["means"]
        and "--withdrawn" in done.data["next"]
    )
    assert not withdrawn.status["rollbackQueued"] and not withdrawn.calls("bootc", "rollback")
    done = withdrawn.program("rollback", "--yes", "--withdrawn", "--json")
    assert done.code == 0 and done.data["withdrawn"] and "withdrawn by its makers" in done.data["what"]
    assert withdrawn.status["rollbackQueued"]
    assert withdrawn.program("rollback", "--yes").code == 0, "forward again needs nothing more"


def test_a_person_at_a_terminal_is_told_before_being_asked(withdrawn, monkeypatch):
    asked = []
    monkeypatch.setattr(rollback.sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "n")
    done = withdrawn.program("rollback")
    assert done.code == 2 and asked and "Beware: 44.1 was withdrawn" in done.out
    assert not withdrawn.calls("bootc", "rollback")


def test_somebody_who_is_not_root_is_told_what_asks_for_it(withdrawn, monkeypatch):
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    done = withdrawn.program("rollback", "--yes", "--withdrawn", "--json")
    assert done.code == 6 and "run0" in done.data["next"] and not withdrawn.calls("systemctl", "start")


def test_the_status_names_it(withdrawn):
    lines = withdrawn.program("status").out.splitlines()
    assert [line for line in lines if "withdrawn by its makers" in line] == [
        line for line in lines if line.startswith("kept:")
    ]
    assert withdrawn.program("status", "--json").data["rollback"]["withdrawn"] is True


def test_what_is_announced_again_is_withdrawn_no_more(withdrawn):
    assert say(withdrawn, A, "44.1", sequence=403).code == 0
    assert withdrawn.program("rollback", "--yes").code == 0


def test_what_a_thief_has_withdrawn_ends_with_the_epoch(withdrawn):
    assert say(withdrawn, B, "44.2", sequence=1, epoch=1).code == 0
    assert withdrawn.program("rollback", "--yes").code == 0


def test_an_automatic_return_to_what_was_withdrawn_says_so(v1):
    assert say(v1, A, "44.2", sequence=401, withdrawn=[v1.digest("44.1")]).code == 0
    version = v1.power_on(clean=True)
    for _ in range(3):
        assert version == "44.2"
        v1.judge_boot(good=False)
        version = v1.power_on()
    assert version == "44.1" and "44.1 was withdrawn by its makers" in v1.text("run/motd.d/50-veilor")


def test_without_the_memory_of_it_nothing_is_said(withdrawn, monkeypatch):
    monkeypatch.setattr(state, "withdrawn", lambda tag=None: set())
    assert withdrawn.program("rollback", "--yes").code == 0


def test_what_was_withdrawn_before_is_not_waited_for_and_not_left_ready(v1):
    """Ready, withdrawn, and not named again by the statement after that: it must not boot."""
    assert say(v1, A, "44.2", sequence=401).code == 0 and staged(v1) == "44.2"
    window = {"start": "2999-01-01T00:00:00Z", "hours": 24}
    v1.release("44.3", sequence=402, withdrawn=[v1.digest("44.2")], rollout=window)
    state.record_statement(
        statement.parse(json.loads((v1.folder / "world.json").read_text())["channel"]["raw"].encode())
    )
    assert say(v1, A, "44.3", sequence=403, rollout=window).code == 3 and staged(v1) is None


def test_the_memory_of_what_was_withdrawn_has_an_end(machine):
    digests = [machine.digest(str(number)) for number in range(400)]
    for number, start in enumerate(range(0, 400, 50)):
        machine.announce("44.1", sequence=number, withdrawn=digests[start : start + 50])
        state.record_statement(statement.parse(machine.world["channel"]["raw"].encode()))
    assert state.withdrawn() == set(digests[-state.MOST_WITHDRAWN :])


# -- hostile statements
# -----------------------------------------------------------------------------------------

DIGEST = "sha256:" + "a" * 64
HOSTILE = {
    "a sequence as text": {"sequence": "9"},
    "a sequence that is true": {"sequence": True},
    "a broken sequence": {"sequence": 9.5},
    "a whole sequence as a float": {"sequence": 9.0},
    "a sequence below zero": {"sequence": -1},
    "a sequence that loses digits": {"sequence": FAR + 1},
    "no sequence": {"sequence": None},
    "another schema": {"schema": 2},
    "a schema that is true": {"schema": True},
    "a digest in capitals": {"digest": "sha256:" + "A" * 64},
    "a digest with a newline": {"digest": DIGEST + "\n"},
    "another algorithm": {"digest": "sha512:" + "a" * 128},
    "withdrawn as text": {"withdrawn": DIGEST},
    "withdrawn with another algorithm": {"withdrawn": ["sha512:" + "a" * 128]},
    "withdrawn with a list in it": {"withdrawn": [[DIGEST]]},
    "too much withdrawn": {"withdrawn": [DIGEST] * 65},
    "another repository": {"repository": "ghcr.io/veilor/veilor-os2"},
    "a repository with a space": {"repository": "ghcr.io/veilor/veilor-os "},
    "another tag": {"tag": "45"},
    "a version that moves the cursor": {"version": "44.2\x1b[2J"},
    "a version written from right to left": {"version": "44.2\u202e"},
    "a lone surrogate": {"version": "\ud800"},
    "no version": {"version": ""},
    "a long version": {"version": "4" * 81},
    "an end before its beginning": {"expires": "2020-01-01T00:00:00Z"},
    "a time zone": {"expires": "2027-01-01T00:00:00+00:00"},
    "digits of another script": {"expires": "\u0662\u0660\u0662\u0667-01-01T00:00:00Z"},
    "the year 1": {"issued": "0001-01-01T00:00:00Z"},
    "the year 9999": {"expires": "9999-12-31T23:59:59Z"},
    "a window at the end of time": {"rollout": {"start": "9999-12-31T23:59:59Z", "hours": 8760}},
    "the 30th of February": {"issued": "2026-02-30T00:00:00Z"},
    "a rollout that is a list": {"rollout": []},
    "hours as text": {"rollout": {"start": "2026-01-01T00:00:00Z", "hours": "1"}},
    "hours below zero": {"rollout": {"start": "2026-01-01T00:00:00Z", "hours": -1}},
    "hours without end": {"rollout": {"start": "2026-01-01T00:00:00Z", "hours": 10**400}},
}
TEXTS = {
    "NaN": lambda raw: raw.replace('"hours": 0', '"hours": NaN'),
    "infinity": lambda raw: raw.replace('"hours": 0', '"hours": -Infinity'),
    "a number beyond floats": lambda raw: raw.replace('"hours": 0', '"hours": 1e400'),
    "a sequence that is NaN": lambda raw: raw.replace('"sequence": 401', '"sequence": NaN'),
    "a number of 5000 digits": lambda raw: raw.replace('"sequence": 401', '"sequence": ' + "9" * 5000),
    "a number of 5000 digits in a field that is not known": lambda raw: (
        raw[:-1] + ', "x": ' + "9" * 5000 + "}"
    ),
    "a key twice": lambda raw: raw[:-1] + ', "sequence": 999}',
    "a key twice inside": lambda raw: raw.replace('"hours": 0', '"hours": 0, "hours": 1'),
    "deep lists": lambda raw: "[" * 60000,
    "deep objects": lambda raw: '{"a":' * 9000 + "1" + "}" * 9000,
    "deep in a field that is not known": lambda raw: raw[:-1] + ', "x": ' + "[" * 20000 + "]" * 20000 + "}",
    "too long": lambda raw: raw + " " * 70000,
    "a list": lambda raw: "[]",
    "nothing": lambda raw: "",
    "a mark of byte order": lambda raw: "\ufeff" + raw,
    "half of it": lambda raw: raw[: len(raw) // 2],
}


def refused_in_a_line(machine):
    done = machine.program("update")
    assert done.code == 4 and staged(machine) is None, done.text
    assert (
        done.err.count("\n") == 1 and "Refused" in done.err and len(done.err) < 600 and "\x1b" not in done.err
    )
    data = machine.json("var/lib/veilor/state.json")["channels"]["44"]
    assert data["sequence"] == 400, "what was refused is not remembered"


@pytest.mark.parametrize("changes", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_is_refused_in_a_line(v1, changes):
    v1.release("44.2", sequence=401)
    said = json.loads(v1.world["channel"]["raw"])
    v1.change("channel", raw=json.dumps(said | changes), signed_by=A)
    refused_in_a_line(v1)


@pytest.mark.parametrize("change", TEXTS.values(), ids=TEXTS)
def test_a_hostile_text_is_refused_in_a_line(v1, change):
    v1.release("44.2", sequence=401)
    v1.change("channel", raw=change(v1.world["channel"]["raw"]), signed_by=A)
    refused_in_a_line(v1)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32", "latin-1"])
def test_what_is_not_utf_8_is_refused_in_a_sentence(v1, encoding):
    v1.release("44.2", sequence=401)
    said = json.loads(v1.world["channel"]["raw"]) | {"version": "B\u00fcro"}
    raw = json.dumps(said, ensure_ascii=False).encode(encoding)
    with pytest.raises(ValueError, match="not UTF-8"):
        statement.parse(raw)


def test_the_same_statement_unharmed_is_taken(v1):
    assert say(v1, A, "44.2", sequence=401).code == 0 and staged(v1) == "44.2"


@pytest.mark.parametrize("digest", ["sha512:" + "a" * 128, "blake3:x\x1b[2J", "", "sha256:"])
@pytest.mark.parametrize("place", ["rollback", "others", "staged"])
def test_a_foreign_deployment_with_another_kind_of_digest_stops_nothing(v1, digest, place):
    foreign = v1.entry("1", reference="quay.io/other/os:1")
    foreign["image"]["imageDigest"] = digest
    kept = {"rollback": v1.entry("44.0"), place: [foreign] if place == "others" else foreign}
    v1.deployments(v1.entry("44.1"), **kept)
    done = v1.program("status")
    assert done.code == 0 and "\x1b" not in done.out
    assert say(v1, A, "44.2", sequence=401).code == (5 if place == "staged" else 0)
    assert v1.program("rollback", "--yes").code == 0
