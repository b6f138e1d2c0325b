"""kill -9 and power cuts: from every state that a machine can start in, nothing unannounced boots and the
next run ends well.
"""

from __future__ import annotations

import json
import os
from concurrent.futures import ThreadPoolExecutor

import pytest

UNIT = "veilor-firstboot-rebase.service"
CHANGING = ("switch", "upgrade", "pin", "undeploy", "set", "unset", "disable", "copy")

# Where it starts: what is booted and staged. 44.1 is announced, and what the registry's tag means.
STARTS = {
    "firstboot-rebase": {
        "unverified": lambda m: (m.bootstrap(), None),
        "booted-other": lambda m: (m.entry("44.0"), None),
        "booted-announced": lambda m: (m.entry("44.1"), None),
        "staged-other": lambda m: (m.bootstrap(), m.entry("44.9")),
        "staged-locked": lambda m: (m.bootstrap(), m.entry("44.1", downloadOnly=True)),
        "staged-announced": lambda m: (m.bootstrap(), m.entry("44.1")),
    },
    "update": {
        "stage": lambda m: (m.entry("44.0"), None),
        "unlock": lambda m: (m.entry("44.0"), m.entry("44.1", downloadOnly=True)),
        "stage over another": lambda m: (m.entry("44.0"), m.entry("43.9", downloadOnly=True)),
        "current": lambda m: (m.entry("44.1"), None),
        "unverified": lambda m: (m.bootstrap(), None),
    },
}
WHOLE = [
    ("firstboot-rebase", "unverified"),
    ("update", "stage"),
]  # killed before every program that they start
REST = [
    (program, start)
    for program, starts in STARTS.items()
    for start in starts
    if (program, start) not in WHOLE
]


def runs_or_waits(machine):
    """The version that is to be run: staged, or booted where nothing is."""
    return (machine.status["staged"] or machine.status["booted"])["image"]["version"]


@pytest.mark.parametrize(("program", "start"), WHOLE + REST)
def test_killed_at_any_call_it_goes_on_and_nothing_unannounced_can_boot(
    tmp_path_factory, machine, program, start
):
    """Before every program that it starts, or those that change something, and after these; every second time
    with a power cut.
    """

    def prepare():
        found = type(machine)(tmp_path_factory.mktemp("machine"))
        booted, staged = STARTS[program][start](found)
        found.deployments(booted, staged=staged)
        found.release("44.1")
        return found

    def kill(number, when):
        victim = prepare()
        before = victim.status["staged"]
        victim.world["kill"] = [number, when]
        victim.save()
        assert victim.killed_run(program) == -9, (number, when)
        now = victim.status["staged"]
        assert now in (None, before) or now["image"]["version"] == "44.1"
        if (
            program == "update"
            and now
            and now != before
            and not now["downloadOnly"]
            and now["image"]["version"] == "44.1"
        ):
            assert victim.armed == now["image"]["imageDigest"], "it could boot without being counted"
        victim.world["kill"] = None
        victim.save()
        if number % 2:
            victim.deployments(victim.status["booted"])  # the power cut: what was staged is gone
        assert victim.killed_run(program) == 0, (number, when)
        assert runs_or_waits(victim) == "44.1"
        if victim.status["staged"]:
            assert not victim.status["staged"]["downloadOnly"]
            assert victim.armed == victim.status["staged"]["image"]["imageDigest"]
        if program == "firstboot-rebase":
            assert (
                UNIT in victim.world.get("disabled", [])
                and (victim.root / "var/lib/veilor/firstboot-done").exists()
            )
            assert victim.status["booted"]["pinned"] is (
                victim.status["booted"]["image"]["image"]["transport"] == "oci"
            )

    whole = prepare()
    assert whole.killed_run(program) == 0
    calls = [json.loads(line) for line in (whole.folder / "calls.jsonl").read_text().splitlines()]
    changing = [number for number, argv in enumerate(calls, 1) if set(CHANGING) & set(argv)]
    kills = [(number, "after") for number in changing]
    kills += [
        (number, "before") for number in (range(1, len(calls) + 1) if (program, start) in WHOLE else changing)
    ]
    assert len(kills) > 11 or (program, start) in REST and kills
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda case: kill(*case), kills))
