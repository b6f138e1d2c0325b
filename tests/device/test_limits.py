"""What nobody but root may hold, how much a registry may send, and that nobody is left without updates
unnoticed.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from datetime import timedelta

import pytest

from veilor.device import run, state, update

NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


@pytest.mark.parametrize("before", [None, 0o644])
def test_nobody_but_root_can_open_a_lock(v1, before):
    """Also one that an older release has left open to everybody."""
    if before:
        for name in ("lock", "state.lock"):
            v1.put(f"run/veilor/{name}", "")
            (v1.root / "run/veilor" / name).chmod(before)
    v1.program("update")
    for name in ("lock", "state.lock"):
        assert stat.S_IMODE((v1.root / "run/veilor" / name).stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="NOT RUN: another account can only be tried as root")
def test_another_account_cannot_hold_up_an_update(v1, tmp_path_factory):
    v1.program("update")
    for folder in (v1.root, *v1.root.parents):
        if not folder.stat().st_mode & 0o001 and "pytest" in str(folder):
            folder.chmod(0o755)
    for name in ("lock", "state.lock"):
        path = str(v1.root / "run/veilor" / name)
        done = subprocess.run(
            [*NOBODY, sys.executable, "-c", f"open({path!r})"], capture_output=True, text=True, check=False
        )
        assert "PermissionError" in done.stderr


def test_a_program_that_writes_without_end_is_stopped(tmp_path):
    file = tmp_path / "blob"
    done = run.run(["dd", "if=/dev/zero", f"of={file}", "bs=4096"], timeout=20, largest_file=1 << 16)
    assert done.code and file.stat().st_size == 1 << 16


def test_a_registry_that_sends_without_end_is_refused_in_one_sentence(v1):
    (v1.folder / "bin/skopeo").write_text(
        '#!/bin/sh\nfor word in "$@"; do folder=${word#dir:}; done\nexec cat /dev/zero >"$folder/blob"\n'
    )
    done = v1.program("update", "--json")
    assert done.code == 4 and "sends more than the channel statement can have" in done.data["what"]


def test_a_grandchild_that_does_not_listen_is_ended(tmp_path):
    pid = tmp_path / "pid"
    script = f"(trap '' TERM; echo $BASHPID >{pid}; exec 1>&- 2>&-; while :; do sleep 1; done) & sleep 97"
    with pytest.raises(run.DeviceError):
        run.run(["bash", "-c", script], timeout=1)
    status = f"/proc/{pid.read_text().strip()}/status"
    deadline = time.monotonic() + 10
    while os.path.exists(status) and "State:\tZ" not in open(status).read():
        assert time.monotonic() < deadline, "it is still there"
        time.sleep(0.1)


@pytest.mark.parametrize("state_of_machine", ["layered", "foreign", "others-staged"])
def test_a_machine_that_takes_no_updates_is_notified_at_once_and_no_network_is_blamed(v1, state_of_machine):
    booted, staged = v1.entry("44.1"), None
    if state_of_machine == "layered":
        booted = v1.entry("44.1", incompatible=True)
    elif state_of_machine == "foreign":
        booted = v1.entry("44.1", reference="ghcr.io/other/os:44")
    else:
        staged = v1.entry("44.9", reference="localhost/other:1")
    v1.deployments(booted, staged=staged, rollback=v1.bootstrap())
    with state.edit_record(state.STATE) as data:  # a statement that ran out long ago
        data["channels"]["44"]["expires"] = "2026-01-01T00:00:00Z"
    assert v1.program("update").code == 5
    notices = v1.json("run/veilor/notice.json")["notices"]
    assert "update" in notices and "channel" not in notices


@pytest.mark.parametrize(
    "error",
    [
        "Importing: min-free-space-percent '3%' would be exceeded, at least 4.2 MB requested",
        "dial tcp: connection refused",
    ],
)
def test_whatever_keeps_updates_away_is_notified_within_days_and_tried_ever_more_rarely(
    v1, monkeypatch, error
):
    monkeypatch.setattr(update, "SETTLED", 0.0)
    v1.put("proc/uptime", "100000.0 1.0\n")
    v1.change("registry", error=error)
    failing = told = None
    for hour in range(24 * 6):
        v1.program("update", "--due")
        if failing is None and v1.calls("bootc", "upgrade"):
            failing = hour
        if told is None and "update" in v1.text("run/veilor/notice.json"):
            told = hour
        data = v1.json("var/lib/veilor/state.json")
        for key in ("when", "since"):
            if data["look"].get(key):
                earlier = state.parse_time(data["look"][key]) - timedelta(hours=1.01)
                data["look"][key] = state.format_time(earlier)
        state.write_record(state.STATE, data)
    assert len(v1.calls("bootc", "upgrade")) < 24
    assert failing is not None and told is not None
    assert 24 <= told - failing <= 24 * 3


def test_an_update_that_comes_ends_the_count(v1):
    v1.change("registry", error="no")
    v1.program("update")
    assert v1.json("var/lib/veilor/state.json")["look"]["since"]
    v1.load()
    del v1.world["registry"]["error"]
    v1.save()
    assert v1.program("update").code == 0
    look = json.loads(v1.text("var/lib/veilor/state.json"))["look"]
    assert look["since"] is None and look["finding"] is None and not look["failed"]
