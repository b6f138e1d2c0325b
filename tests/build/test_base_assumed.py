"""What our scripts take the base for: each row is missed when gone, and nothing new starts unnoticed."""

from __future__ import annotations

import re
import shutil
import stat
import tomllib
from pathlib import Path

import pytest

from veilor.build.check import image_tree

ROOT = Path(__file__).resolve().parents[2]
BASE = ROOT / "bluebuild/files/base"
ROWS = tomllib.loads((BASE / "assumed.toml").read_text())["row"]
SCRIPT = ROOT / "bluebuild/files/scripts/base-assumed.py"


@pytest.fixture
def look(run_script):
    """Whether the base is one to build on, and what is said."""
    return lambda: run_script("base-assumed.py")


def path_of(base: Path, row: dict) -> Path:
    if row["kind"] == "package":
        return base / ".packages" / row["path"]
    return next(base.glob(row["path"]))


def test_the_base_that_we_know_is_built_on(base, look):
    good, said = look()
    assert good and "starts nothing that is unknown" in said


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_row_that_is_gone_is_named_with_the_script_that_rests_on_it(row, base, look):
    path = path_of(base, row)
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    good, said = look()
    assert f"base-assumed: {row['id']}: " in said
    if "may_go" in row:
        assert good and row["may_go"] in said
    else:
        assert not good and re.search(r"[\w-]+\.(sh|py) rests on it", said)


@pytest.mark.parametrize(
    "row", [row for row in ROWS if row["kind"] != "link" and "mode" in row], ids=lambda row: row["id"]
)
def test_another_mode_is_named(row, base, look):
    path = path_of(base, row)
    path.chmod(stat.S_IMODE(path.stat().st_mode) ^ (0o4000 if row["mode"] == "u+s" else 0o040))
    _, said = look()
    assert row["id"] in said and "has the mode" in said


@pytest.mark.parametrize("row", [row for row in ROWS if "has" in row], ids=lambda row: row["id"])
def test_another_content_is_named(row, base, look):
    path = path_of(base, row)
    mode = path.stat().st_mode
    path.write_text("nothing of it\n")
    path.chmod(mode)
    good, said = look()
    assert not good and row["id"] in said


SERVICE = "usr/lib/systemd/system/new.service"


@pytest.mark.parametrize(
    ("files", "name"),
    [
        (
            {"usr/lib/systemd/system/timers.target.wants/new.timer": "[Timer]\n"},
            "system/new.timer is a timer",
        ),
        ({"etc/systemd/user/timers.target.wants/new.timer": "[Timer]\n"}, "user/new.timer is a timer"),
        ({SERVICE: "[Service]\nExecStart=/usr/bin/bootc upgrade --apply\n"}, "system/new.service is a unit"),
        (
            {SERVICE: "[Service]\nExecStart=-/usr/bin/rpm-ostree\\\n  upgrade\n"},
            "system/new.service is a unit",
        ),
        (
            {
                SERVICE: "[Service]\nExecStart=!/usr/bin/it\n",
                "usr/bin/it": "#!/bin/sh\nexec rpm-ostree -q rebase x\n",
            },
            "system/new.service is a unit",
        ),
        (
            {
                "etc/systemd/user/new.service": "[Service]\nExecStartPre=/usr/bin/it\n",
                "usr/bin/it": '#!/usr/bin/python3\nrun(["bootc", "switch", image])\n',
            },
            "user/new.service is a unit",
        ),
        ({SERVICE: "[Service]\n# as bootc upgrade does\nExecStart=/usr/bin/bootc status\n"}, None),
        ({"usr/libexec/new": "a program"}, "usr/libexec/new is a file that runs with others' rights"),
    ],
    ids=[
        "a timer",
        "a person's timer",
        "bootc",
        "a verb on the next line",
        "a script",
        "Python",
        "no updater",
        "setuid",
    ],
)
def test_what_is_new_and_starts_by_itself_or_has_rights_stops_the_build(files, name, base, look):
    for where, text in files.items():
        path = base / where
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o4755 if where == "usr/libexec/new" else 0o755)
    good, said = look()
    assert good if name is None else not good and name in said and "known.toml" in said


def test_each_known_thing_says_what_becomes_of_it():
    known = tomllib.loads((BASE / "known.toml").read_text())
    assert set(known) == {"timers", "updaters", "setuid"}
    assert all(text.strip() for table in known.values() for text in table.values())
    masked = {name for name, text in known["timers"].items() if text.startswith("masked")}
    overlay = {
        f"system/{path.name}" for path in (ROOT / "overlay/etc/systemd/system").iterdir() if path.is_symlink()
    }
    assert masked <= overlay | set(image_tree.MASKED)
