"""The one runner: limits, environment, progress, and nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from veilor.core.outcome import Code
from veilor.device import run as runner
from veilor.device.run import PIPE, DeviceError, failure_code, run

ROOT = Path(__file__).resolve().parents[2]


def test_outputs_code_and_reason():
    done = run(["sh", "-c", "echo out; echo 'error: why' >&2; exit 3"], timeout=20)
    assert (done.code, done.out, done.reason) == (3, "out\n", "why")
    assert "said nothing" in run(["false"], timeout=20).reason


def test_the_environment_is_ours_but_for_proxies(monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", "/evil")
    monkeypatch.setenv("https_proxy", "http://proxy:1")
    said = run(["env"], timeout=20).out
    assert (
        "XDG" not in said
        and "https_proxy=http://proxy:1" in said
        and "LC_ALL=C.UTF-8" in said
        and "HOME=/run/veilor" in said
    )


def test_a_missing_program_is_one_sentence():
    with pytest.raises(DeviceError) as caught:
        run(["no-such-program"], timeout=5)
    assert caught.value.outcome.code is Code.UNFIT


def test_a_slow_program_and_its_children_are_ended(tmp_path):
    pid = tmp_path / "pid"
    with pytest.raises(DeviceError) as caught:
        run(["sh", "-c", f"sleep 300 & echo $! > {pid}; wait"], timeout=1)
    assert caught.value.outcome.code is Code.LATER
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid.read_text().strip()}").exists() and time.monotonic() < deadline:
        if "State:\tZ" in Path(f"/proc/{pid.read_text().strip()}/status").read_text():
            break
        time.sleep(0.1)
    assert time.monotonic() < deadline


def test_a_grandchild_that_keeps_the_pipes_open_holds_nothing_up():
    started = time.monotonic()
    assert run(["sh", "-c", "sleep 30 & echo done"], timeout=20).out == "done\n"
    assert time.monotonic() - started < 10


def test_output_without_end_is_cut():
    done = run(["sh", "-c", "head -c 3000000 /dev/zero; echo; echo last"], timeout=60)
    assert len(done.out) <= runner.KEPT and done.out.endswith("last\n")


def test_progress_comes_through_a_pipe():
    lines = []
    code = (
        "import os, stat, sys; fd = int(sys.argv[1]); assert stat.S_ISFIFO(os.fstat(fd).st_mode); "
        "os.write(fd, b'one\\ntwo\\nhalf')"
    )
    done = run([sys.executable, "-c", code, PIPE], timeout=20, progress=lines.append)
    assert done.code == 0 and lines == [b"one", b"two"]


def test_no_descriptor_is_left_open():
    before = len(os.listdir("/proc/self/fd"))
    run(["true"], timeout=20, progress=lambda line: None)
    with pytest.raises(DeviceError):
        run(["no-such-program"], timeout=20, progress=lambda line: None)
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("A signature was required, but no signature exists", Code.REFUSED),
        ("is rejected by policy", Code.REFUSED),
        ("dial tcp: lookup ghcr.io: no such host", Code.LATER),
        ("x509: certificate has expired", Code.LATER),
        ('reading signatures: Get "https://ghcr.io/v2/": dial tcp: i/o timeout', Code.LATER),
        ("Source image rejected: a signature was required (connection)", Code.REFUSED),
        ("manifest unknown", Code.LATER),
        ("No space left on device", Code.FAILED),
    ],
)
def test_words_for_people(text, code):
    assert failure_code(text) is code


def test_sigterm_ends_the_child_and_says_so(tmp_path):
    pid = tmp_path / "pid"
    code = f"""import argparse, sys
from pathlib import Path
from veilor.device import run, tell
run.PATH, run.ROOT = '/usr/bin:/bin', Path({str(tmp_path)!r})
argv = ['sh', '-c', 'echo $$ > {pid}; exec sleep 60']
sys.exit(tell.conclude(argparse.ArgumentParser(prog='p'), [], lambda args: run.run(argv, timeout=60)))"""
    child = subprocess.Popen(
        [sys.executable, "-c", code], env={"PYTHONPATH": str(ROOT / "src")}, stderr=subprocess.PIPE, text=True
    )
    while not pid.exists() or not pid.read_text():
        time.sleep(0.05)
    child.terminate()
    said = child.communicate(timeout=30)[1]
    assert child.returncode == 130 and "Interrupted" in said and "Traceback" not in said
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()


def test_a_signal_that_comes_before_the_child_is_known_ends_it_as_well(tmp_path):
    """Else a download would go on alone after a shutdown had begun, and stage what nobody compares."""
    pid = tmp_path / "pid"
    code = f"""import argparse, os, signal, subprocess, sys, time
from pathlib import Path
from veilor.device import run, tell
run.PATH, run.ROOT = '/usr/bin:/bin', Path({str(tmp_path)!r})
class Popen(subprocess.Popen):
    def __init__(self, *argv, **options):
        super().__init__(*argv, **options)
        Path({str(pid)!r}).write_text(str(self.pid))
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(0.05)
run.subprocess.Popen = Popen
work = lambda args: run.run(['sleep', '60'], timeout=60)
sys.exit(tell.conclude(argparse.ArgumentParser(prog='p'), [], work))"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 130 and "Interrupted" in done.stderr and "Traceback" not in done.stderr
    assert not Path(f"/proc/{pid.read_text()}").exists()


def test_what_is_started_blocks_no_signal_and_ignores_what_was_ignored():
    """It would not end at a shutdown; and what runs under nohup(1) goes on in all its parts."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        lines = run(["cat", "/proc/self/status"], timeout=20).out.splitlines()
    finally:
        signal.signal(signal.SIGHUP, ignored)
    masks = {
        line.split(":")[0]: int(line.split()[1], 16)
        for line in lines
        if line.startswith(("SigBlk", "SigIgn"))
    }
    assert masks["SigBlk"] == 0
    assert masks["SigIgn"] & 1 << signal.SIGHUP - 1 and not masks["SigIgn"] & 1 << signal.SIGTERM - 1
