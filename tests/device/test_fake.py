"""The fake bootc does what the recordings of the real one show, as far as the product sees it."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from veilor.core.host import parse

TRACES = Path(__file__).resolve().parents[1] / "data/bootc"
CASES = [
    "02a",
    "02b",
    "02c",
    "03",
    "03a",
    "05a",
    "05c",
    "05e",
    "05f",
    "05g",
    "05i",
    "05l",
    "06a",
    "06b",
    "06c",
    "06d",
    "06e",
    "07a",
    "07b",
]


def seen(status: dict) -> tuple:
    """What the product looks at."""
    host = parse(json.dumps(status))
    parts = [
        entry and (entry.digest, entry.reference, entry.signature, entry.locked, entry.pinned)
        for entry in (host.booted, host.staged, host.rollback, *host.others)
    ]
    return (*parts, host.rollback_queued)


@pytest.mark.parametrize("case", CASES)
def test_the_fake_answers_as_recorded(machine, case):
    [path] = TRACES.glob(f"{case}-*.json")
    trace = json.loads(path.read_text())
    now = trace["status_before"]
    machine.world["status"] = now
    after = (trace["status_after"]["status"]["staged"] or trace["status_after"]["status"]["booted"])["image"]
    machine.world["registry"] = {
        "digest": after["imageDigest"],
        "version": after["version"],
        "error": "no" if trace["exit"] else None,
    }
    machine.save()
    argv = [arg for arg in trace["argv"] if arg not in ("--progress-fd", "5")]
    env = {"PATH": machine.path}
    done = subprocess.run(
        argv, env=env, capture_output=True, timeout=60, check=False, cwd=os.path.dirname(path)
    )
    assert done.returncode == trace["exit"], done.stderr
    machine.load()
    assert seen(machine.world["status"]) == seen(trace["status_after"])


def test_a_caller_that_is_killed_while_it_reads_its_answer_ends_only_itself(tmp_path, monkeypatch):
    """Else every program that a later test starts would wait for its answer for ever."""
    import fake

    reply = tmp_path / "reply"
    os.mkfifo(reply)
    reader = os.open(reply, os.O_RDONLY | os.O_NONBLOCK)
    write = os.write

    def write_to_nobody(pipe: int, data: bytes) -> int:
        os.close(reader)
        return write(pipe, data)

    monkeypatch.setattr(fake.os, "write", write_to_nobody)
    monkeypatch.setattr(fake, "CALLER", os.getpid())
    fake.send(reply, 0)
    assert not reply.exists()
