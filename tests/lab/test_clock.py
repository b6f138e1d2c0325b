"""The guest's clock: it stands still while others have the processor, and goes on all the same."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time

import pytest

from veilor.lab import clock
from veilor.lab.agent import Agent, AgentGone
from veilor.lab.console import Console

SPIN = "import os; os.sched_setaffinity(0, {%d})\nwhile True: pass"


@pytest.fixture
def busy():
    """Three programs that want the same processor."""
    one = min(os.sched_getaffinity(0))
    started = [subprocess.Popen([sys.executable, "-c", SPIN % one]) for _ in range(3)]
    yield started
    for program in started:
        program.kill()
        program.wait()


def test_what_others_took_is_not_counted(busy):
    if not clock.seconds_kept_waiting(os.getpid()):
        pytest.skip("NOT RUN: this kernel keeps no account of waiting")
    guest, began = clock.Clock(busy[0].pid), time.monotonic()
    while guest.lost < 2:
        assert time.monotonic() - began < 60, (
            "a program that shares a processor with two others never waited for it"
        )
        time.sleep(0.2)
        guest()
    passed = time.monotonic() - began
    assert passed * clock.SLOWEST_RATE - 0.5 <= guest() <= passed - 1.5


def test_a_host_that_gives_nothing_does_not_stop_the_clock(monkeypatch):
    monkeypatch.setattr(clock, "seconds_kept_waiting", lambda _: 1e9)
    guest = clock.Clock(os.getpid())
    time.sleep(0.4)
    assert guest() >= 0.1


def test_what_a_program_starts_belongs_to_it():
    program = subprocess.Popen(["sh", "-c", "sleep 60 & wait"])
    try:
        until = time.monotonic() + 30
        while len(clock.process_tree(program.pid)) < 2 and time.monotonic() < until:
            time.sleep(0.1)
        assert len(found := clock.process_tree(program.pid)) == 2 and found[0] == program.pid
    finally:
        for one in reversed(clock.process_tree(program.pid)):
            os.kill(one, 9)
        program.wait()


def test_limits_are_in_the_guests_time(tmp_path):
    """A guest's hour of silence ends a wait at once, whatever the wall clock says."""
    hours = iter(range(0, 10**9, 3600))
    servers = [socket.socket(socket.AF_UNIX) for _ in range(2)]
    for server, name in zip(servers, ("serial", "agent"), strict=True):
        server.bind(str(tmp_path / name))
        server.listen()
    began = time.monotonic()
    console = Console(tmp_path / "serial", tmp_path / "log", lambda: next(hours))
    assert console.wait_for(b"never", 5000) is None
    with pytest.raises(AgentGone, match="did not answer in time"):
        Agent(tmp_path / "agent", lambda: next(hours)).wait_hello(5000)
    assert time.monotonic() - began < 60
    for server in servers:
        server.close()
