"""The pictures' stand-in for bootc: our programs take it for a machine of ours."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from veilor.core import host
from veilor.core.product import load
from veilor.device import bootc, status
from veilor.pictures.desktop import BOOTC
from veilor.pictures.scenes import SHOWN_IN_TERMINAL

ROOT = Path(__file__).resolve().parents[2]
MACHINES = "/usr/lib/veilor/product.toml"  # where the stand-in reads the product's facts


def answer(*argv: str) -> subprocess.CompletedProcess:
    """What the stand-in says to ARGV, with this clone's product.toml in the place of a machine's."""
    program = BOOTC.read_text()
    assert program.count(MACHINES) == 1
    return subprocess.run(
        [sys.executable, "-I", "-c", program.replace(MACHINES, str(ROOT / "product.toml")), *argv],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def status_lines(text: str) -> list[str]:
    """What veilor-status says of the deployments in TEXT, by its own parser and words."""
    seen, reference = host.parse(text), load(ROOT / "product.toml").image_ref
    return [
        status.line(title, status.entry_facts(entry, reference, entry is seen.next, False), datetime.now(UTC))
        for title, entry in (("runs now", seen.booted), ("staged", seen.staged), ("kept", seen.rollback))
    ]


def test_the_programs_take_it_for_a_verified_machine_with_an_update_ready():
    lines = status_lines(answer(*bootc.STATUS[1:]).stdout)
    assert [line.split(":")[0] for line in lines] == ["runs now", "staged", "kept"]
    assert all("verified by policy" in line and "unverified" not in line for line in lines)
    assert [line.endswith("boots next") for line in lines] == [False, True, False] and "6 days old" in lines[
        0
    ]


def test_a_status_without_a_signature_would_be_seen():
    data = json.loads(answer(*bootc.STATUS[1:]).stdout)
    del data["status"]["booted"]["image"]["image"]["signature"]
    assert "unverified" in status_lines(json.dumps(data))[0]


def test_it_answers_nothing_but_status():
    done = answer("rollback")
    assert done.returncode == 1 and done.stdout == "" and "stands in for bootc" in done.stderr


def test_the_terminal_shows_the_program_itself():
    assert "veilor-status" in SHOWN_IN_TERMINAL and "--help" not in SHOWN_IN_TERMINAL
