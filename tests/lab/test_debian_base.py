"""The stand-in base with the real bootc in the place of the front."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.lab import debian_base, rehearse
from veilor.lab.tools import Finished
from veilor.lab.verdict import EXIT_USAGE

ROOT = Path(__file__).resolve().parents[2]


def test_the_real_bootc_leaves_nothing_of_the_front():
    made = Path("/programs"), Path("/grub")
    plain = {entry.name: entry.content for entry in debian_base.added_files(ROOT, *made)}
    real = {
        entry.name: entry.content for entry in debian_base.added_files(ROOT, *made, bootc=Path("/made/bootc"))
    }
    assert (
        plain["usr/bin/bootc"] == ROOT / "stand-ins/bootc/bootc" and "usr/lib/bootc-front/verbs.py" in plain
    )
    assert real["usr/bin/bootc"] == Path("/made/bootc")
    assert {name for name in plain if name not in real} == {
        name for name in plain if name.startswith("usr/lib/bootc-front/")
    }


PLAIN = ["base-system", "kernel", "boot-loader", "no-selinux"]


@pytest.mark.parametrize(
    ("label", "named"),
    [
        (
            "base-system kernel boot-loader no-selinux no-desktop bootc-front",
            [*PLAIN, "no-desktop", debian_base.FRONT],
        ),
        ("base-system kernel boot-loader no-selinux no-desktop", [*PLAIN, "no-desktop"]),
        (
            "base-system kernel boot-loader no-selinux other-desktop bootc-front",
            [*PLAIN, "other-desktop", debian_base.FRONT],
        ),
        (None, []),
    ],
)
def test_a_report_names_what_the_base_itself_says_it_stands_in_for(label, named):
    labels = {} if label is None else {debian_base.STAND_IN: label}
    assert rehearse.named_stand_ins({"config": {"Labels": labels}}) == named
    assert rehearse.named_stand_ins({}) == []


@pytest.mark.parametrize("answer", [Finished(1, b"", b"bwrap: execvp"), Finished(0, b"systemd 257", b"")])
def test_what_is_no_bootc_is_refused_before_anything_is_made(answer, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(rehearse, "check_host", lambda cache: None)
    monkeypatch.setattr(rehearse, "cache_root", lambda: tmp_path)
    monkeypatch.setattr(rehearse, "tools_tree", lambda cache: SimpleNamespace(run=lambda *a, **k: answer))
    monkeypatch.setattr(rehearse.debian_base, "base_layout", lambda *a: pytest.fail("made all the same"))
    assert rehearse.write_base(tmp_path / "base", ROOT, tmp_path / "bootc") == EXIT_USAGE
    assert "is no bootc that runs on Debian 13" in capsys.readouterr().err
    assert not (tmp_path / "base").exists()
