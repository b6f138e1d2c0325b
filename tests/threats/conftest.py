"""The machine that the doctor's tests look at."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from veilor.device import run

sys.path.insert(0, str(Path(__file__).parent))
from box import Box


@pytest.fixture
def box(tmp_path, monkeypatch):
    made = Box(tmp_path)
    made.make_good()
    monkeypatch.setattr(run, "ROOT", made.root)
    monkeypatch.setattr(run, "PATH", f"{tmp_path}/bin:{run.PATH}")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "statvfs", lambda path: type("Answer", (), {"f_flag": os.ST_RDONLY}))
    monkeypatch.setattr(os, "getxattr", lambda path, name: b"system_u:object_r:brave_exec_t:s0\0")
    return made
