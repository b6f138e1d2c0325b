"""The list of settings without effect in the lab names what there is, for reasons that hold."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from veilor.lab import debian_base
from veilor.lab.flavour import DESKTOPS
from veilor.lab.report import load_not_applied

ROOT = Path(__file__).resolve().parents[2]
LIST = tomllib.loads((ROOT / "src/veilor/lab/not_applied.toml").read_text())["setting"]


@pytest.mark.parametrize("entry", LIST, ids=lambda entry: entry["path"])
def test_it_is_in_the_overlay_and_what_it_needs_is_not_in_the_base(entry):
    path, _, argument = entry["path"].partition("#")
    found = list((ROOT / "overlay").glob(path))
    assert found and entry["why"]
    assert entry["needs"] not in debian_base.PACKAGES
    if argument:
        assert argument in (line.strip().strip('",') for line in found[0].read_text().splitlines())


def test_what_the_base_reads_is_not_listed():
    listed = {entry["path"] for entry in LIST}
    for name in (
        "usr/lib/sysctl.d/60-veilor.conf",
        "usr/lib/modprobe.d/veilor.conf",
        "usr/lib/tmpfiles.d/veilor-usbguard.conf",
    ):
        assert (ROOT / "overlay" / name).is_file() and name not in listed


def test_the_report_is_given_all_of_it():
    assert [one.path for one in load_not_applied()] == [entry["path"] for entry in LIST]


def test_what_a_desktop_reads_is_not_said_to_be_without_effect_on_one():
    left = {one.path for one in load_not_applied(has=DESKTOPS["desktop"])}
    assert left < {entry["path"] for entry in LIST}
    assert "etc/xdg/**/*" not in left and "etc/plymouth/plymouthd.conf" in left
