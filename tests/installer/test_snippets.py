"""The kickstart's last scripts: root must be on LUKS2 with argon2id, and logs
go wherever there is a place.
"""

from __future__ import annotations

import json
import os
import tarfile

import keep_logs
import leave_notes
import offer_mok
import pytest
import require_luks

DISK = {"path": "/dev/vdb", "type": "disk"}
PART = {"path": "/dev/vdb3", "type": "part", "children": [DISK]}


@pytest.mark.parametrize(
    ("tree", "found"),
    [
        ([{"path": "/dev/mapper/luks-x", "type": "crypt", "children": [PART]}], "/dev/vdb3"),
        (
            [
                {
                    "path": "/dev/vg/root",
                    "type": "lvm",
                    "children": [{"path": "/dev/dm-0", "type": "crypt", "children": [PART]}],
                }
            ],
            "/dev/vdb3",
        ),
        ([PART], None),
        ([], None),
    ],
)
def test_the_container_below_the_root(tree, found):
    assert require_luks.find_container(tree) == found


def slots(*kinds):
    return {"keyslots": {str(n): {"kdf": {"type": kind}} for n, kind in enumerate(kinds)}}


@pytest.mark.parametrize(
    ("metadata", "problem"),
    [
        (slots("argon2id"), ""),
        (slots("argon2id", "argon2id"), ""),
        (slots(), "no key slot"),
        ({}, "no key slot"),
        (slots("pbkdf2"), "slot 0 uses pbkdf2"),
        (slots("argon2id", "argon2i"), "slot 1 uses argon2i"),
    ],
)
def test_the_header_is_judged(metadata, problem):
    if not problem:
        require_luks.check_header(metadata)
        return
    with pytest.raises(require_luks.Unprotected, match=problem):
        require_luks.check_header(metadata)


FAKE = {
    "findmnt": "echo /dev/mapper/luks-x",
    "lsblk": """echo '{"blockdevices": [{"path": "/dev/mapper/luks-x", "type": "TYPE",
                       "children": [{"path": "/dev/vdb3", "type": "part"}]}]}'""",
    "cryptsetup": """case "$*" in "isLuks --type luks2 /dev/vdb3") exit CODE;; esac
                     echo '{"keyslots": {"0": {"kdf": {"type": "KDF"}}}}'""",
}


@pytest.mark.parametrize(
    ("kind", "code", "kdf", "exit_code", "said"),
    [
        ("crypt", 0, "argon2id", 0, "is on LUKS2 with argon2id (/dev/vdb3)"),
        ("lvm", 0, "argon2id", 1, "is not encrypted"),
        ("crypt", 1, "argon2id", 1, "is not LUKS2"),
        ("crypt", 0, "pbkdf2", 1, "uses pbkdf2"),
    ],
)
def test_the_whole_script(kind, code, kdf, exit_code, said, tmp_path, monkeypatch, capsys):
    for name, text in FAKE.items():
        program = tmp_path / name
        program.write_text(
            "#!/bin/sh\n" + text.replace("TYPE", kind).replace("CODE", str(code)).replace("KDF", kdf) + "\n"
        )
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
    monkeypatch.setattr(
        keep_logs,
        "LOGS",
        tuple(f"{tmp_path}/{name}" for name in ("program.log", "ks-script-*.log", "none.log")),
    )
    return tmp_path


def test_logs_go_to_the_new_system(logs, monkeypatch):
    var = logs / "var"
    var.mkdir()
    monkeypatch.setattr(keep_logs, "TARGETS", (str(logs / "absent"), str(var)))
    assert keep_logs.keep_in_target() == str(var)
    kept = var / "log/veilor-install"
    assert sorted(path.name for path in kept.iterdir()) == ["ks-script-abc.log", "program.log"]
    assert kept.stat().st_mode & 0o777 == 0o700 and all(
        path.stat().st_mode & 0o777 == 0o600 for path in kept.iterdir()
    )


@pytest.mark.parametrize("stateroot", ["veilor", "default"])
def test_logs_go_to_the_stateroot_whatever_its_name(stateroot, logs, monkeypatch):
    var = logs / "ostree/deploy" / stateroot / "var"
    var.mkdir(parents=True)
    monkeypatch.setattr(
        keep_logs,
        "TARGETS",
        tuple(place.replace("/mnt/sysimage", str(logs)) for place in keep_logs.TARGETS[1:]),
    )
    assert keep_logs.keep_in_target() == str(var)
    assert (var / "log/veilor-install/program.log").exists()


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


@pytest.fixture
def share(logs, monkeypatch):
    """A host's shared folder, and programs that note how they are called; the folder, the calls, and the
    tag's file.
    """
    programs, calls, tag = logs / "bin", logs / "calls", logs / "virtio3/mount_tag"
    for folder in (programs, tag.parent):
        folder.mkdir()
    for name in ("modprobe", "mount", "umount"):
        (programs / name).write_text(f'#!/bin/sh\necho "{name} $*" >>{calls}\n')
        (programs / name).chmod(0o755)
    tag.write_text("veilor-logs\0")
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setattr(keep_logs, "TAGS", str(logs / "virtio*/mount_tag"))
    monkeypatch.setattr(keep_logs, "SHARE", str(logs / "share"))
    return logs / "share", calls, tag


def test_logs_go_to_the_hosts_folder(share):
    place, calls, _ = share
    assert keep_logs.keep_on_share() == "veilor-logs"
    assert sorted(path.name for path in place.iterdir()) == ["ks-script-abc.log", "program.log"]
    mounted = f"mount -t 9p -o trans=virtio,version=9p2000.L veilor-logs {place}"
    assert calls.read_text().splitlines() == ["modprobe --quiet 9pnet_virtio", mounted, f"umount {place}"]


def test_a_folder_that_fills_up_is_given_back(share, monkeypatch):
    def full(folder):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keep_logs, "copy_to", full)
    with pytest.raises(OSError, match="No space"):
        keep_logs.keep_on_share()
    assert share[1].read_text().splitlines()[-1].startswith("umount")


def test_another_folder_of_the_hosts_is_not_written_to(share):
    share[2].write_text("somebodys-home\0")
    assert keep_logs.keep_on_share() is None and not share[0].exists()


def test_a_full_folder_keeps_no_other_place_from_its_logs(share, logs, monkeypatch, capsys):
    (logs / "var").mkdir()
    monkeypatch.setattr(keep_logs, "TARGETS", (str(logs / "var"),))
    monkeypatch.setattr(keep_logs, "PORT", str(logs / "no-port"))
    (logs / "bin/mount").write_text("#!/bin/sh\nexit 32\n")
    keep_logs.main()
    said = capsys.readouterr().out
    assert (
        f"keep_in_target: {logs / 'var'}" in said
        and "keep_on_share: Command" in said
        and "keep_on_port: no such place" in said
    )


def test_no_place_is_no_error(logs, monkeypatch, capsys):
    monkeypatch.setattr(keep_logs, "TARGETS", ())
    monkeypatch.setattr(keep_logs, "PORT", str(logs / "no-port"))
    monkeypatch.setenv("PATH", str(logs))
    keep_logs.main()
    said = capsys.readouterr().out
    assert "keep_in_target: no such place" in said and "keep_on_port: no such place" in said


@pytest.fixture
def firmware(tmp_path, monkeypatch):
    """A firmware with Secure Boot on, the image's key, and a mokutil that notes its calls."""
    (tmp_path / "SecureBoot").write_bytes(b"\x06\0\0\0\1")
    (tmp_path / "key.der").write_bytes(b"key")
    calls = tmp_path / "calls"
    program = tmp_path / "mokutil"
    program.write_text(f"""#!/bin/sh
echo "$1" >>{calls}
case "$1" in
  --test-key) test -e {tmp_path}/enrolled && echo "already enrolled" && exit 1; exit 0;;
  --generate-hash=*) echo '$6$hash';;
  --import) cat "$4" >{tmp_path}/asked;;
  --list-new) test -e {tmp_path}/asked && echo "[key 1]";;
esac
""")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(offer_mok, "SECURE_BOOT", str(tmp_path / "SecureBoot"))
    monkeypatch.setattr(offer_mok, "KEY", str(tmp_path / "key.der"))
    return tmp_path


def talk(*answers):
    said, left = [], list(answers)
    offer_mok.offer(lambda prompt: left.pop(0) if left else None, said.append)
    return "\n".join(said)


def test_a_key_that_is_wanted_waits_for_the_next_start(firmware):
    assert offer_mok.why_not_to_offer() == ""
    said = talk("yes\n", "\n")
    assert (firmware / "asked").read_text() == "$6$hash\n"
    code = said.splitlines()[-1].strip()
    assert code.isdigit() and len(code) == 8 and f"--generate-hash={code}" in (firmware / "calls").read_text()


@pytest.mark.parametrize("answer", ["no\n", "\n", None, "maybe\n"])
def test_nothing_is_enrolled_unasked(firmware, answer):
    said = talk(answer)
    assert not (firmware / "asked").exists() and "will not start" in said and "mokutil --import" in said


def test_a_firmware_that_takes_nothing_is_told_of(firmware):
    (firmware / "mokutil").write_text("#!/bin/sh\nexit 0\n")
    assert "took no request" in talk("yes\n")


@pytest.mark.parametrize("failing", ["--generate-hash", "--import", "--list-new"])
def test_a_step_that_fails_without_a_word_is_no_request(firmware, failing):
    program = firmware / "mokutil"
    program.write_text(
        program.read_text().replace('case "$1"', f'case "$1" in {failing}*) exit 1;; esac\ncase "$1"')
    )
    assert "took no request" in talk("yes\n")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (lambda place: (place / "SecureBoot").write_bytes(b"\x06\0\0\0\0"), "Secure Boot is off"),
        (lambda place: (place / "SecureBoot").unlink(), "Secure Boot is off"),
        (lambda place: (place / "key.der").unlink(), "not in this image"),
        (lambda place: (place / "enrolled").touch(), "already enrolled"),
    ],
)
def test_where_there_is_nothing_to_offer_nobody_is_asked(firmware, spoil, why, capsys, monkeypatch):
    spoil(firmware)
    monkeypatch.setattr(offer_mok, "open_terminal", lambda: pytest.fail("somebody was asked"))
    offer_mok.main()
    assert why in capsys.readouterr().out


DISKS = [
    {
        "path": "/dev/vdb",
        "fstype": None,
        "uuid": None,
        "children": [
            {"path": "/dev/vdb2", "fstype": "ext4", "uuid": "b0"},
            {"path": "/dev/vdb3", "fstype": "crypto_LUKS", "uuid": "c0ffee"},
        ],
    }
]


def test_recovery_notes_name_the_disk_and_the_keyboard(tmp_path, monkeypatch):
    program = tmp_path / "lsblk"
    program.write_text(f"#!/bin/sh\necho '{json.dumps({'blockdevices': DISKS})}'\n")
    program.chmod(0o755)
    (tmp_path / "vconsole.conf").write_text('KEYMAP="de"\nFONT=x\n')
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(leave_notes, "NOTES_PATH", str(tmp_path / "notes"))
    monkeypatch.setattr(leave_notes.read_keymap, "__defaults__", (str(tmp_path / "vconsole.conf"),))
    leave_notes.main()
    text = (tmp_path / "notes").read_text()
    assert "cryptsetup open /dev/disk/by-uuid/c0ffee veilor" in text and "prompt is de." in text


@pytest.mark.parametrize(
    ("stateroots", "home"),
    [
        (["veilor"], "/mnt/ostree/deploy/veilor/var/home"),
        (["default"], "/mnt/ostree/deploy/default/var/home"),
        (["a", "b"], "/mnt/ostree/deploy/*/var/home"),
        (None, "/mnt/home"),
    ],
)
def test_recovery_notes_say_where_the_files_are(stateroots, home, tmp_path, monkeypatch):
    for name in stateroots or ():
        (tmp_path / "deploy" / name / "var").mkdir(parents=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(leave_notes, "NOTES_PATH", str(tmp_path / "notes"))
    monkeypatch.setattr(leave_notes.find_home, "__defaults__", (str(tmp_path / "deploy"),))
    leave_notes.main()
    assert f"Your files are in {home}.\n" in (tmp_path / "notes").read_text()


def test_notes_are_left_whatever_is_missing_and_never_fail(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(leave_notes, "NOTES_PATH", str(tmp_path / "notes"))
    leave_notes.main()
    assert "THE-LARGEST-PARTITION" in (tmp_path / "notes").read_text()
    monkeypatch.setattr(leave_notes, "NOTES_PATH", str(tmp_path / "no/notes"))
    leave_notes.main()
    assert "no recovery notes" in capsys.readouterr().out
