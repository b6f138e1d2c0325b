"""What `make checkers` and `make test-all` put in place, and what they say where they cannot."""

from __future__ import annotations

import os

import pytest

from veilor.build.check import programs


@pytest.fixture
def bare(tmp_path, monkeypatch):
    """A machine without a Chromium, whose apt-get notes how it was called and then does TEXT."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("VEILOR_CHROMIUM", raising=False)

    def apt(text: str = "") -> None:
        program = tmp_path / "apt-get"
        program.write_text(f'#!/bin/sh\necho "$*" >>{tmp_path}/calls\n{text}\n')
        program.chmod(0o755)

    apt()
    return apt


def test_a_chromium_comes_from_debian_where_there_is_none(bare, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    bare(f"case $* in *install*) : >{tmp_path}/chromium; /bin/chmod 755 {tmp_path}/chromium;; esac")
    assert programs.install_browser() == ""
    assert [line.split()[2] for line in (tmp_path / "calls").read_text().splitlines()] == [
        "update",
        "install",
    ]


@pytest.mark.parametrize("user", [0, 1000])
def test_one_that_cannot_be_installed_is_said_with_the_remedy(bare, tmp_path, monkeypatch, user):
    monkeypatch.setattr(os, "geteuid", lambda: user)
    assert "apt-get install chromium" in programs.install_browser()
    assert (tmp_path / "calls").exists() == (user == 0), "only root is asked to install something"


def test_one_that_is_there_is_left_alone(bare, tmp_path, monkeypatch):
    monkeypatch.setenv("VEILOR_CHROMIUM", "/opt/mine")
    assert programs.install_browser() == "" and not (tmp_path / "calls").exists()
