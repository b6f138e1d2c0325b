"""What the programs answer with --json is what the shipped schemas say: over every recorded status, and over
many ends.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path

import jsonschema
import pytest

ROOT = Path(__file__).resolve().parents[2]
SCHEMAS = {
    path.name.removesuffix(".schema.json"): json.loads(path.read_text())
    for path in (ROOT / "overlay/usr/share/veilor/schema").glob("*.schema.json")
}
TRACES = [
    (path.stem, when)
    for path in sorted((ROOT / "tests/data/bootc").glob("*.json"))
    for when in ("status_before", "status_after")
    if json.loads(path.read_text()).get(when)
]


def valid(name: str, data: dict) -> dict:
    jsonschema.Draft202012Validator(SCHEMAS[name]).validate(data)
    return data


def strict(schema: dict) -> dict:
    """SCHEMA without room for fields that it does not name: what is answered today is all in it."""
    found = copy.deepcopy(schema)
    found["additionalProperties"] = False
    return found


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_schemas_are_schemas(name):
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize(("trace", "when"), TRACES)
def test_status_over_every_recording_of_the_real_bootc(machine, trace, when):
    machine.world["status"] = json.loads((ROOT / f"tests/data/bootc/{trace}.json").read_text())[when]
    machine.save()
    done = machine.program("status", "--json")
    assert done.code == 0
    jsonschema.Draft202012Validator(strict(SCHEMAS["status"])).validate(done.data)
    raw = machine.world["status"]["status"]["booted"]["image"]
    assert done.data["booted"]["digest"] == raw["imageDigest"]


@pytest.mark.parametrize("field", ["booted", "next_boot", "held_back", "problems", "code", "what"])
def test_an_answer_without_a_field_is_noticed(machine, field):
    machine.deployments(machine.entry("44.1"))
    data = valid("status", machine.program("status", "--json").data)
    del data[field]
    with pytest.raises(jsonschema.ValidationError):
        valid("status", data)


def test_the_ends_of_an_update(machine):
    schema = jsonschema.Draft202012Validator(strict(SCHEMAS["update"]))
    machine.deployments(machine.entry("44.1"), rollback=machine.entry("44.0"))
    machine.release("44.2")
    states = []

    def ends(*argv):
        done = machine.program("update", "--json", *argv)
        schema.validate(done.data)
        for line in done.err.splitlines():
            valid("progress", json.loads(line))
        states.append(done.data.get("state"))
        valid("notice", machine.json("run/veilor/notice.json"))

    for argv in (["--check"], ["--download-only"], ["--check"], [], ["--check"], ["--due"]):
        ends(*argv)
    machine.announce("44.1")
    ends("--check")
    machine.release("44.2", rollout={"start": "2999-01-01T00:00:00Z", "hours": 1})
    machine.deployments(machine.entry("44.1"))
    ends()
    machine.change("channel", error="dial tcp")
    ends()
    machine.change("channel", error="Source image rejected: no signature exists")
    ends()
    machine.deployments(machine.entry("44.1", incompatible=True))
    ends()
    assert set(states) >= {
        "stage",
        "downloaded",
        "unlock",
        "ready",
        "too early",
        "withdrawn",
        "layered",
        None,
    }
    machine.deployments(None)
    ends()


def test_the_ends_of_a_rollback_and_what_status_says_after_it(machine):
    machine.deployments(
        machine.entry("44.2"), rollback=machine.entry("44.1"), others=[machine.bootstrap(pinned=True)]
    )
    machine.release("44.2")
    machine.program("update")
    schema = jsonschema.Draft202012Validator(strict(SCHEMAS["rollback"]))
    schema.validate(machine.program("rollback", "--json").data)
    done = machine.program("rollback", "--json", "--yes")
    assert done.code == 0
    schema.validate(done.data)
    status = machine.program("status", "--json").data
    jsonschema.Draft202012Validator(strict(SCHEMAS["status"])).validate(status)
    assert status["held_back"] and status["channel"]
    valid("notice", machine.json("run/veilor/notice.json"))


def test_the_ends_of_the_first_boot(machine):
    schema = jsonschema.Draft202012Validator(SCHEMAS["firstboot"])
    machine.deployments(machine.bootstrap())
    machine.release("44.1")
    for argv in (["--status"], ["--now"], ["--status"], ["--retry"]):
        done = machine.program("firstboot-rebase", "--json", *argv)
        assert done.code == 0
        schema.validate(done.data)
