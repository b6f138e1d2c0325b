"""Builds the site as `make site` does, once for all tests that look at it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def build_site(docs: Path, out: Path) -> subprocess.CompletedProcess:
    """The site of the folder DOCS in OUT, strictly; whoever should ask the network comes to a closed door."""
    argv = [
        sys.executable,
        "-m",
        "sphinx",
        "-W",
        "--keep-going",
        "-q",
        "-b",
        "html",
        "-d",
        str(out) + "-cache",
        str(docs),
        str(out),
    ]
    nowhere = {"http_proxy": "http://127.0.0.1:1", "https_proxy": "http://127.0.0.1:1"}
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=120, check=False, env={**os.environ, **nowhere}
    )


@pytest.fixture(scope="session")
def build():
    """`build_site`, for sites of a test's own."""
    return build_site


@pytest.fixture(scope="session")
def site_folder(once):
    """The project's own site, only to be read."""

    def make(out: Path) -> None:
        done = build_site(ROOT / "docs", out)
        assert done.returncode == 0, done.stderr

    return once("site", make)
