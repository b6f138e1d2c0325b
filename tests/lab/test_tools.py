"""What the lab asks of its host, as far as it can be known without making a tree."""

import os
import pwd
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from veilor.lab import tools
from veilor.lab.tools import Tools, has_id_range, missing_on_host, run_in_own_group
from veilor.lab.verdict import LabFault, NotRun

ME = pwd.getpwuid(os.geteuid()).pw_name


@pytest.mark.parametrize(
    ("text", "enough"),
    [
        (f"{ME}:100000:65536\n", True),
        (f"other:1:2\n{os.geteuid()}:100000:70000", True),
        (f"{ME}:100000:1000", False),
        ("somebody-else:100000:65536", False),
        (f"{ME}:100000", False),
        (f"{ME}:100000:many", False),
        ("", False),
    ],
)
def test_a_range_of_ids_is_ours_and_large_enough(tmp_path, text, enough):
    (tmp_path / "subuid").write_text(text)
    assert has_id_range(tmp_path / "subuid") is enough


def test_without_the_table_there_is_none(tmp_path):
    assert not has_id_range(tmp_path / "subuid")


def test_versions_come_from_dpkgs_record(tmp_path):
    status = tmp_path / "var/lib/dpkg/status"
    status.parent.mkdir(parents=True)
    status.write_text(
        "Package: a\nStatus: ok\nDescription: long\n with more\nVersion: 1-2\n\nPackage: b\nVersion: "
        "3\nDepends: a\n\n"
    )
    assert Tools(tmp_path).versions(("b", "a")) == {"b": "3", "a": "1-2"}
    with pytest.raises(LabFault, match="has no c"):
        Tools(tmp_path).versions(("a", "c"))


def test_a_program_that_starts_others_leaves_none_behind(tmp_path):
    script = f"trap 'echo gone >{tmp_path}/asked; exit 3' TERM; sleep 600 & echo $! >{tmp_path}/child; wait"
    with (tmp_path / "log").open("wb") as out:
        assert (
            run_in_own_group(["bash", "-c", script], out, 6) is None
        )  # it has to have begun, on a busy host as well
        assert run_in_own_group(["bash", "-c", "exit 7"], out, 10) == 7
        # not HUP, by which mmdebstrap does it: that one may be ignored in all that we start, as under nohup
        assert run_in_own_group(["bash", "-c", "kill -USR1 0"], out, 10) == -signal.SIGUSR1, (
            "it ends its own group, not ours"
        )
    assert (tmp_path / "asked").exists()
    child = int((tmp_path / "child").read_text())
    status = Path(f"/proc/{child}/stat")
    assert not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z"


def test_a_host_that_does_not_know_debians_keys_is_told(monkeypatch):
    monkeypatch.setattr("veilor.lab.tools.KEYRINGS", ("/nowhere/keyring.gpg",))
    assert missing_on_host()[-1] == "debian-archive-keyring"


def test_a_disk_without_room_is_told_before_anything_is_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(tools.shutil, "disk_usage", lambda _: SimpleNamespace(free=1 << 30))
    monkeypatch.setattr(tools, "run_in_own_group", lambda *_: pytest.fail("it began all the same"))
    with pytest.raises(NotRun, match="has 1 GiB free and a Debian tree needs 4"):
        tools.bootstrap_debian(tmp_path / "base.tar", ["systemd"])
