"""The kickstart's last scripts: what is missing is completed or refused, and logs are kept."""

from __future__ import annotations

import io
import json
import os
import tarfile

import check_room
import complete
import ending
import keep_logs
import leave_notes
import offer_mok
import pytest


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
    """A firmware with Secure Boot on, a code that was asked for, and a mokutil that notes its calls."""
    (tmp_path / "code").write_text("12345678")
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
    monkeypatch.setattr(offer_mok, "MOK_CODE", str(tmp_path / "code"))
    monkeypatch.setattr(offer_mok, "IN_SYSTEM", ())
    monkeypatch.setattr(offer_mok, "SHARED", str(tmp_path))
    monkeypatch.setattr(ending, "Terminal", lambda: pytest.fail("somebody was asked"))
    return tmp_path


def test_a_key_that_is_wanted_waits_for_the_next_start(firmware, capsys):
    assert offer_mok.main() == 0
    assert (firmware / "asked").read_text() == "$6$hash\n" and not (firmware / "code").exists()
    assert "--generate-hash=12345678" in (firmware / "calls").read_text()
    said = capsys.readouterr().out
    assert "asks at the next start" in said and "12345678" not in said


def test_nothing_is_enrolled_that_nobody_asked_for(firmware, capsys):
    (firmware / "code").unlink()
    assert offer_mok.main() == 0 and "nobody asked" in capsys.readouterr().out
    assert not (firmware / "calls").exists()


def test_a_key_that_is_trusted_already_is_left_alone(firmware, capsys):
    (firmware / "enrolled").touch()
    assert offer_mok.main() == 0 and "trusted already" in capsys.readouterr().out
    assert not (firmware / "asked").exists()


class Person:
    """In the terminal's place: what was shown, and nobody who types."""

    def __init__(self):
        self.shown, self.writing = [], True

    def say(self, text):
        self.shown.append(text)

    def ask(self, prompt, patience=None):
        self.shown.append((prompt, patience))


@pytest.fixture
def person(monkeypatch):
    made = Person()
    monkeypatch.setattr(ending, "Terminal", lambda: made)
    return made


@pytest.mark.parametrize("failing", ["--generate-hash", "--import", "--list-new", "*"])
def test_a_firmware_that_takes_nothing_is_told_of_where_it_is_read(failing, firmware, person):
    program = firmware / "mokutil"
    program.write_text(
        program.read_text().replace(
            'case "$1"', f'case "$1" in --test-key) ;; {failing}*) exit 1;; esac\ncase "$1"'
        )
    )
    assert offer_mok.main() == 0
    assert "took no request" in person.shown[0] and "mokutil --import" in person.shown[0]
    assert person.shown[1][1] == ending.PATIENCE


def test_a_system_without_mokutil_is_told_of(firmware, person):
    (firmware / "mokutil").unlink()
    assert offer_mok.main() == 0 and "took no request" in person.shown[0]


@pytest.fixture
def system(tmp_path, monkeypatch):
    """A new system whose programs note that they were called, and end with what a file of their name says."""
    for name in ("bootc", "python3", "systemctl", "chvt"):
        program = tmp_path / "bin" / name
        program.parent.mkdir(exist_ok=True)
        program.write_text(
            f"#!/bin/sh\necho {name} $* >>{tmp_path}/calls\necho {name} says so\n"
            f"test ! -e {tmp_path}/{name}-fails\n"
        )
        program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    steps = tuple(
        ((argv[0].replace("/usr/bin/", ""), *argv[1:]), problem) for argv, problem in complete.STEPS
    )
    monkeypatch.setattr(complete, "STEPS", steps)
    monkeypatch.setattr(complete, "IN_SYSTEM", ())
    for name in ("RESOLV_CONF", "KICKSTART"):
        monkeypatch.setattr(complete, name, str(tmp_path / name))
    (tmp_path / "KICKSTART").touch()
    for name, value in (
        ("KEEP_LOGS", tmp_path / "keep_logs.py"),
        ("ENTRIES", f"{tmp_path}/entries/*.conf"),
        ("GRACE", 0),
        ("PATIENCE", 0),
    ):
        monkeypatch.setattr(ending, name, str(value) if not isinstance(value, int) else value)
    (tmp_path / "keep_logs.py").write_text(f"open('{tmp_path}/calls', 'a').write('logs kept\\n')\n")
    return tmp_path


def test_the_installation_is_completed_by_the_new_systems_own_programs(system, monkeypatch):
    monkeypatch.setattr(ending, "end", lambda why, **_: pytest.fail(why))
    assert complete.main() == 0
    assert (system / "calls").read_text().splitlines() == [
        "bootc install ensure-completion",
        "python3 -I -S /usr/lib/veilor/app as-shipped --put-back",
    ]
    assert (system / "RESOLV_CONF").exists()  # bootc-image-builder#961: bootc fails without one
    assert not (system / "KICKSTART").exists()  # the installer would leave it in root's home


@pytest.mark.parametrize(("needed", "code"), [(1000, 0), (1 << 60, 1)])
def test_a_root_without_room_is_refused_before_the_image_is_copied(needed, code, tmp_path, monkeypatch):
    """The installer asks for 500 MB, and would stop in the middle."""
    ended = []
    monkeypatch.setattr(ending, "end", lambda why: ended.append(why) or 1)
    monkeypatch.setattr(check_room, "ROOT", str(tmp_path))
    monkeypatch.setattr(check_room, "ROOM", str(tmp_path / "room"))
    (tmp_path / "room").write_text(str(needed))
    assert check_room.main() == code and len(ended) == code
    assert not ended or "the image needs 1073741824.0 at least" in ended[0]


def test_room_that_nobody_asked_for_refuses_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(check_room, "ROOM", str(tmp_path / "none"))
    assert check_room.main() == 0 and "was not judged" in capsys.readouterr().out


@pytest.mark.parametrize("failing", ["bootc", "python3"])
def test_what_cannot_be_completed_ends_in_a_sentence_and_a_shutdown(failing, system, person, capsys):
    (system / f"{failing}-fails").touch()
    assert complete.main() == 1
    said = person.shown[0]
    assert (
        said.startswith("\nNot installed: the ") and f"({failing} says so)" in said and "start again" in said
    )
    calls = (system / "calls").read_text().splitlines()
    assert calls[-2:] == ["logs kept", "systemctl --no-block --no-wall poweroff"]
    assert "Not installed: " in capsys.readouterr().out  # for the log


def test_what_was_refused_does_not_start_and_what_was_there_before_does(system, person):
    """Anaconda leaves a disk bootable whose last script has refused it."""
    before, made = system / "entries/old.conf", system / "entries/ostree-1.conf"
    before.parent.mkdir()
    for path, when in ((before, 1), (made, 3)):
        path.write_text("options x\n")
        os.utime(path, (when, when))
    os.utime(system / "keep_logs.py", (2, 2))
    assert ending.end("it is no good", installed=True) == 1
    assert sorted(path.name for path in before.parent.iterdir()) == ["old.conf", "ostree-1.conf.refused"]


def test_a_refusal_without_logs_or_terminal_ends_all_the_same(system, monkeypatch, capsys):
    (system / "keep_logs.py").write_text("raise SystemExit(1)")
    monkeypatch.setattr(ending, "open_terminal", lambda: (_ for _ in ()).throw(OSError(6, "no device")))
    assert ending.end("no disk was chosen") == 1
    assert "systemctl --no-block" in (system / "calls").read_text()
    assert capsys.readouterr().out.startswith("Not installed: no disk was chosen.")


def test_a_machine_that_does_not_go_off_gives_back_the_installer(system, monkeypatch, person):
    monkeypatch.setattr(ending, "GRACE", 1 << 30)
    (system / "bin/systemctl").unlink()
    monkeypatch.setenv("PATH", str(system / "bin"))
    assert ending.end("no disk was chosen") == 1


@pytest.mark.parametrize(
    ("arguments", "switched"), [("inst.text", False), ("inst.graphical", True), ("", True)]
)
def test_a_refusal_comes_to_the_front_of_windows(arguments, switched, system, monkeypatch):
    """In a graphical installation nobody looks at the first screen, where a script's terminal is."""
    files = {"/sys/class/tty/console/active": "ttyS0 tty0\n", "/proc/cmdline": f"quiet {arguments}\n"}

    def opening(path, mode="r"):
        if path in files:
            return io.StringIO(files[path])
        assert path == "/dev/tty"
        return io.StringIO()

    monkeypatch.setattr("builtins.open", opening)
    ending.open_terminal()
    monkeypatch.undo()
    assert ("chvt 1" in ((system / "calls").read_text() if (system / "calls").exists() else "")) is switched


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
