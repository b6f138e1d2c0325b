"""The kickstart's last scripts: root must be on LUKS2 with argon2id, and logs go wherever there is a place."""

from __future__ import annotations

import os
import tarfile

import keep_logs
import pytest
import require_luks

DISK = {"path": "/dev/vdb", "type": "disk"}
PART = {"path": "/dev/vdb3", "type": "part", "children": [DISK]}


@pytest.mark.parametrize(("tree", "found"), [
    ([{"path": "/dev/mapper/luks-x", "type": "crypt", "children": [PART]}], "/dev/vdb3"),
    ([{"path": "/dev/vg/root", "type": "lvm", "children": [{"path": "/dev/dm-0", "type": "crypt", "children": [PART]}]}], "/dev/vdb3"),
    ([PART], None), ([], None),
])
def test_the_container_below_the_root(tree, found):
    assert require_luks.find_container(tree) == found


def slots(*kinds):
    return {"keyslots": {str(n): {"kdf": {"type": kind}} for n, kind in enumerate(kinds)}}


@pytest.mark.parametrize(("metadata", "problem"), [
    (slots("argon2id"), ""), (slots("argon2id", "argon2id"), ""), (slots(), "no key slot"), ({}, "no key slot"),
    (slots("pbkdf2"), "slot 0 uses pbkdf2"), (slots("argon2id", "argon2i"), "slot 1 uses argon2i"),
])
def test_the_header_is_judged(metadata, problem):
    said = require_luks.judge(metadata)
    assert (problem in said) if problem else said == ""


FAKE = {
    "findmnt": "echo /dev/mapper/luks-x",
    "lsblk": """echo '{"blockdevices": [{"path": "/dev/mapper/luks-x", "type": "TYPE",
                       "children": [{"path": "/dev/vdb3", "type": "part"}]}]}'""",
    "cryptsetup": """case "$*" in "isLuks --type luks2 /dev/vdb3") exit CODE;; esac
                     echo '{"keyslots": {"0": {"kdf": {"type": "KDF"}}}}'""",
}


@pytest.mark.parametrize(("kind", "code", "kdf", "exit_code", "said"), [
    ("crypt", 0, "argon2id", 0, "is on LUKS2 with argon2id (/dev/vdb3)"), ("lvm", 0, "argon2id", 1, "is not encrypted"),
    ("crypt", 1, "argon2id", 1, "is not LUKS2"), ("crypt", 0, "pbkdf2", 1, "uses pbkdf2"),
])
def test_the_whole_script(kind, code, kdf, exit_code, said, tmp_path, monkeypatch, capsys):
    for name, text in FAKE.items():
        program = tmp_path / name
        program.write_text("#!/bin/sh\n" + text.replace("TYPE", kind).replace("CODE", str(code)).replace("KDF", kdf) + "\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert require_luks.main() == exit_code
    assert said in capsys.readouterr().out


def test_without_its_programs_it_refuses(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert require_luks.main() == 1 and "could not be looked at" in capsys.readouterr().out


@pytest.fixture
def logs(tmp_path, monkeypatch):
    for name in ("program.log", "ks-script-abc.log", "secret.txt"):
        (tmp_path / name).write_text(name)
    monkeypatch.setattr(keep_logs, "LOGS", tuple(f"{tmp_path}/{name}" for name in ("program.log", "ks-script-*.log", "none.log")))
    return tmp_path


def test_logs_go_to_the_new_system(logs, monkeypatch):
    var = logs / "var"
    var.mkdir()
    monkeypatch.setattr(keep_logs, "TARGETS", (str(logs / "absent"), str(var)))
    assert keep_logs.keep_in_target() == str(var)
    kept = var / "log/veilor-install"
    assert sorted(path.name for path in kept.iterdir()) == ["ks-script-abc.log", "program.log"]
    assert kept.stat().st_mode & 0o777 == 0o700 and all(path.stat().st_mode & 0o777 == 0o600 for path in kept.iterdir())


def test_logs_go_to_the_host_as_a_tar(logs, monkeypatch):
    port = logs / "port"
    os.mkfifo(port)
    reading = os.open(port, os.O_RDONLY | os.O_NONBLOCK)
    monkeypatch.setattr(keep_logs, "PORT", str(port))
    assert keep_logs.keep_on_port() == str(port)
    (logs / "out.tar.gz").write_bytes(os.read(reading, 65536))
    with tarfile.open(logs / "out.tar.gz") as tar:
        assert sorted(tar.getnames()) == ["ks-script-abc.log", "program.log"]
    os.close(reading)


def test_no_place_is_no_error(logs, monkeypatch, capsys):
    monkeypatch.setattr(keep_logs, "TARGETS", ())
    monkeypatch.setattr(keep_logs, "PORT", str(logs / "no-port"))
    monkeypatch.setenv("PATH", str(logs))
    keep_logs.main()
    said = capsys.readouterr().out
    assert "keep_in_target: no such place" in said and "keep_on_port: no such place" in said
