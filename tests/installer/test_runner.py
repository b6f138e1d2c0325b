"""The lab's installer: what it takes from a kickstart, what it plans, and that it touches the chosen disk
alone.
"""

from __future__ import annotations

import dataclasses
import os
import pty
import subprocess
import sys
import threading
import tty
from pathlib import Path

import choose_disk
import deploy
import ensure_completion
import ks
import planner
import pytest
import scripts
import storage
import system
import terminal

from veilor.build.kickstart import flatten

SHIPPED = flatten(Path(__file__).resolve().parents[2] / "kickstart/install.ks")
GiB = 1 << 30
VDB = planner.Disk("vdb", "/dev/vdb", 12 * GiB)
NODE = {"name": "vdb", "path": "/dev/vdb", "type": "disk", "pttype": None}


@pytest.fixture(autouse=True)
def log(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "LOG", str(tmp_path / "program.log"))
    return tmp_path / "program.log"


@pytest.fixture
def target(tmp_path):
    """The file that the kickstart includes, as its own %pre script writes it."""
    path = tmp_path / "target.ks"
    path.write_text(choose_disk.target_text(NODE, "de", "en_US.UTF-8"))
    return path


@pytest.fixture
def text(target):
    """The kickstart with what its %pre scripts write: the first is run, the second's is TARGET."""
    text = SHIPPED.replace("/tmp/veilor-target.ks", str(target)).replace(
        "/tmp/veilor-guided.ks", str(target.with_name("guided.ks"))
    )
    return lay_out(text)


def lay_out(text):
    """TEXT, its first %pre script run."""
    subprocess.run(
        ["sh", "-c", ks.read_early_scripts(text)[0][0].text], check=True
    )  # the second is not needed
    return text


@pytest.fixture
def asked(text):
    return ks.read_kickstart(text)


def test_the_shipped_kickstart_is_understood(asked):
    assert (asked.only_use, asked.clear, asked.clear_drives) == (("vdb",), ("vdb",), ("vdb",))
    assert (asked.stateroot, asked.transport, asked.url) == ("veilor", "oci", "/run/install/repo/container")
    assert (asked.keymap, asked.lang, asked.timezone, asked.end) == ("de", "en_US.UTF-8", "UTC", "poweroff")
    assert [(s.in_chroot, s.must_succeed) for s in asked.post] == [
        (False, True),  # everything is encrypted
        (False, False),
        (True, False),
        (False, True),  # it is completed, and the settings are the image's
        (False, False),
    ]
    assert [one.must_succeed for one in asked.pre_install] == [True]
    assert len(asked.onerror) == 1 and asked.firewall_of_the_system and asked.starts_x


def test_the_first_pass_needs_no_include():
    pre, onerror = ks.read_early_scripts(SHIPPED)
    assert [(one.must_succeed, one.log) for one in pre] == [
        (True, None),
        (True, None),
        (True, "/tmp/veilor-choose-disk.log"),
    ] and len(onerror) == 1


REFUSED = [
    ("poweroff\n", "poweroff\nfirewall --enabled\n", "firewall"),
    ("poweroff\n", "poweroff\ntext\n", "text"),
    ("reqpart\n", "autopart --type=lvm\n", "autopart"),
    ("--size=2048", "--size=2048 --label=boot --fsoptions=noatime", "part --fsoptions"),
    ("bootloader", "bootloader --password=x", "--password"),
    ("%onerror", "%packages\n@core\n%end\n%onerror", "%packages"),
    ("%onerror", "%traceback\ntrue\n%end\n%onerror", "%traceback"),
    ("--erroronfail --log=/tmp/veilor-ch", "--nonsense --log=/tmp/veilor-ch", "--nonsense"),
    ("poweroff\n", "poweroff\nuser --name=me\n", "user"),
]


@pytest.mark.parametrize(("old", "new", "named"), REFUSED)
def test_what_it_cannot_do_is_an_error(old, new, named, text):
    assert old in text
    with pytest.raises(system.Failed, match=f"can't do.*{named}.*nothing was changed"):
        ks.read_kickstart(lay_out(text.replace(old, new, 1)))


def test_partitions_by_hand_are_for_the_installers_windows_alone(target, text):
    target.with_name("guided.ks").write_text("graphical\n")
    with pytest.raises(system.Failed, match="can't do.*graphical.*nothing was changed"):
        ks.read_kickstart(text)


@pytest.mark.parametrize("line", ["autopart", "clearpart --all --drives=vdb", "part /x --onpart=vdb1"])
def test_the_included_file_is_looked_at_too(line, target, text):
    target.write_text(target.read_text() + line + "\n")
    with pytest.raises(system.Failed, match="nothing was changed"):
        ks.read_kickstart(text)


def test_a_missing_include_is_an_error(target, text):
    target.unlink()
    with pytest.raises(system.Failed, match="which no script has made"):
        ks.read_kickstart(text)


def test_the_plan_for_uefi(asked):
    made = planner.make_plan(asked, [planner.Disk("vda", "/dev/vda", 40 * GiB), VDB], uefi=True)
    assert made.disk is VDB
    assert [(p.path, p.mount, p.fstype, p.start, p.size) for p in made.partitions] == [
        ("/dev/vdb1", "/boot/efi", "vfat", 1, 600),
        ("/dev/vdb2", "/boot", "ext4", 601, 2048),
        ("/dev/vdb3", "/", "ext4", 2649, 9638),
    ]
    assert made.partitions[-1].start + made.partitions[-1].size == 12 * 1024 - 1
    assert (
        planner.sfdisk_script(made).splitlines()[1] == f"start=1MiB, size=600MiB, type={planner.TYPES['efi']}"
    )


def test_the_plan_for_bios(asked):
    made = planner.make_plan(asked, [VDB], uefi=False)
    assert [(p.mount, p.type == planner.TYPES["bios"]) for p in made.partitions] == [
        ("", True),
        ("/boot", False),
        ("/", False),
    ]


def test_partition_names():
    assert (
        planner.partition_path("/dev/nvme0n1", 3) == "/dev/nvme0n1p3"
        and planner.partition_path("/dev/sda", 1) == "/dev/sda1"
    )


PLANS_REFUSED = [
    ({"only_use": ()}, {}, "exactly one disk"),
    ({"only_use": ("vdb", "vdc")}, {}, "exactly one disk"),
    ({"only_use": ("vdz",)}, {}, "no disk vdz"),
    ({}, {"held": "in use: /home"}, "in use: /home"),
    ({}, {"partitions": ("vdb1",)}, "nobody agreed to erase vdb1"),
    ({"clear": ("vdb", "vda1")}, {}, "names vda1, not on vdb"),
    ({"clear_drives": ("vda",)}, {}, "must name vdb alone"),
    ({"label": "msdos"}, {}, "GPT only"),
    ({}, {"size": 10 * GiB}, "lacks"),
    ({"reqpart": False}, {}, "reqpart is missing"),
    ({"parts": ()}, {}, "makes / and /boot"),
]


@pytest.mark.parametrize(("kickstart", "disk", "why"), PLANS_REFUSED)
def test_plans_that_are_refused(kickstart, disk, why, asked):
    with pytest.raises(system.Failed, match=why):
        planner.make_plan(
            dataclasses.replace(asked, **kickstart), [dataclasses.replace(VDB, **disk)], uefi=True
        )


@pytest.mark.parametrize("change", [{"encrypted": False}, {"luks_version": "luks1"}, {"pbkdf": "pbkdf2"}])
def test_a_root_in_clear_is_refused(change, asked):
    parts = [dataclasses.replace(one, **change) if one.mount == "/" else one for one in asked.parts]
    with pytest.raises(system.Failed, match="encrypted root"):
        planner.make_plan(dataclasses.replace(asked, parts=tuple(parts)), [VDB], uefi=True)


@pytest.mark.parametrize(
    ("node", "held"),
    [
        ({"ro": True}, "read-only"),
        ({"mountpoints": ["/run/initramfs/live"]}, "in use: /run/initramfs/live"),
        (
            {"children": [{"name": "vdb1", "type": "part", "children": [{"name": "dm-0", "type": "crypt"}]}]},
            "still open",
        ),
        ({}, ""),
    ],
)
def test_what_keeps_a_disk_from_being_used(node, held):
    found = storage.disk_from_node(
        {"name": "vdb", "path": "/dev/vdb", "type": "disk", "size": 5, "ro": False, "mountpoints": [None]}
        | node
    )
    assert (held in found.held) if held else found.held == ""


class Recorder:
    """Stands in for `system.run`: notes what would be started."""

    def __init__(self):
        self.calls, self.stdin = [], []

    def __call__(self, *argv, stdin=None, **more):
        self.calls.append(argv)
        self.stdin.append(stdin)
        return "c0ffee\n" if "luksUUID" in argv else ""


@pytest.fixture
def recorder(monkeypatch, tmp_path):
    made = Recorder()
    for module in (storage, deploy):
        monkeypatch.setattr(module, "run", made)
    for name in ("ROOT", "SYSROOT"):
        monkeypatch.setattr(storage, name, str(tmp_path / name))
    monkeypatch.setattr(storage.os.path, "exists", lambda path: True)
    return made


def go(asked, recorder, monkeypatch, settings=None):
    monkeypatch.setattr(storage, "lab_setting", (settings or {}).get)
    made, said = planner.make_plan(asked, [VDB, planner.Disk("vdc", "/dev/vdc", 40 * GiB)], uefi=True), []
    storage.partition_disk(made)
    luks, device = storage.encrypt(made, b"sesame open", said.append)
    done = storage.make_file_systems(made, luks, device)
    storage.mount(done)
    return done, said


def test_only_the_chosen_disk_is_named(asked, recorder, monkeypatch):
    go(asked, recorder, monkeypatch)
    devices = {word for argv in recorder.calls for word in argv if word.startswith("/dev/")}
    assert devices == {"/dev/vdb", "/dev/vdb1", "/dev/vdb2", "/dev/vdb3", "/dev/mapper/luks-c0ffee"}


def test_the_passphrase_goes_by_standard_input_alone(asked, recorder, monkeypatch):
    go(asked, recorder, monkeypatch)
    assert not [argv for argv in recorder.calls if any("sesame" in word for word in argv)]
    fed = [
        argv[1] for argv, stdin in zip(recorder.calls, recorder.stdin, strict=True) if stdin == b"sesame open"
    ]
    assert fed == ["luksFormat", "open"]


def test_key_derivation_is_the_kickstarts_unless_the_lab_says_so(asked, recorder, monkeypatch):
    _, said = go(asked, recorder, monkeypatch)
    (full,) = [argv for argv in recorder.calls if "luksFormat" in argv]
    assert (
        full[full.index("--pbkdf-memory") + 1] == "1048576"
        and "--pbkdf-force-iterations" not in full
        and said == []
    )
    recorder.calls.clear()
    _, said = go(
        asked, recorder, monkeypatch, {"veilor.lab.pbkdf-memory": "65536", "veilor.lab.pbkdf-iterations": "4"}
    )
    (cheap,) = [argv for argv in recorder.calls if "luksFormat" in argv]
    assert (
        cheap[cheap.index("--pbkdf-memory") + 1] == "65536"
        and cheap[cheap.index("--pbkdf-force-iterations") + 1] == "4"
    )
    assert len(said) == 1 and said[0].startswith("STAND-IN:")


def test_mounts_go_from_the_root_outwards(asked, recorder, monkeypatch):
    done, _ = go(asked, recorder, monkeypatch)
    mounted = [argv[-1].removeprefix(storage.ROOT) for argv in recorder.calls if argv[0] == "mount"]
    assert mounted == ["", "/boot", "/boot/efi"]
    text = deploy.fstab_text(done.uuids)
    assert [line.split()[1] for line in text.splitlines()] == ["/", "/boot", "/boot/efi"] and done.uuids[
        "/"
    ] in text


def test_kernel_arguments_are_anacondas(asked, recorder, monkeypatch):
    monkeypatch.setattr(deploy, "console_arguments", lambda: ["console=tty0", "console=ttyS0"])
    deploy.set_kernel_arguments(
        dataclasses.replace(asked, append=("quiet",)), storage.Storage(None, {"/": "f00"}, "c0ffee", "x")
    )
    (argv,) = recorder.calls
    assert argv[2:] == (
        "ostree",
        "admin",
        "instutil",
        "set-kargs",
        "--merge",
        "rd.luks.uuid=luks-c0ffee",
        "quiet",
        "console=tty0",
        "console=ttyS0",
        "root=UUID=f00",
        "vconsole.keymap=de",
        "rw",
    )


def test_programs_are_logged_their_input_never(log):
    assert (
        system.run("cat", stdin=b"sesame open") == "sesame open"
    )  # what a program says of its own is logged, so cat is the worst case
    log.unlink()
    system.run("sh", "-c", "cat >/dev/null; echo fine", stdin=b"sesame open")
    assert "sesame" not in log.read_text() and "fine" in log.read_text()


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("false",), "ended with 1"),
        (("sleep", "9"), "did not end within"),
        (("/no/such",), "can't be started"),
    ],
)
def test_a_program_that_fails_is_one_line(argv, why):
    with pytest.raises(system.Failed, match=why) as error:
        system.run(*argv, timeout=0.2)
    assert "\n" not in str(error.value)


def script(text, **more):
    return ks.Script(
        **(
            {
                "text": text,
                "interpreter": "/bin/sh",
                "in_chroot": False,
                "must_succeed": True,
                "log": None,
                "line": 7,
            }
            | more
        )
    )


def test_scripts(tmp_path):
    log = tmp_path / "log"
    scripts.run_scripts((script("echo one; echo two >&2", log=str(log)),), "%pre")
    assert log.read_text() == "one\ntwo\n" and log.stat().st_mode & 0o777 == 0o600
    with pytest.raises(system.Failed, match="%post script of line 7 ended with 3: why") as late:
        scripts.run_scripts((script("echo why; exit 3", log=str(log)),), "%post")
    with pytest.raises(system.EarlyFailed, match="%pre script of line 7"):
        scripts.run_scripts((script("exit 3", log=str(log)),), "%pre")
    assert not isinstance(late.value, system.EarlyFailed)
    scripts.run_scripts((script("exit 3", log=str(log), must_succeed=False),), "%post")
    scripts.run_scripts(
        (script('test "$ANA_INSTALL_PATH" = /mnt/sysroot', log=str(log)),), "%post"
    )  # bootc asks for it
    with pytest.raises(system.Failed, match="ended with 127"):
        scripts.run_scripts((script("", log=str(log), interpreter="/no/such"),), "%post")


def test_kernel_arguments_from_the_image(tmp_path):
    (tmp_path / "10-a.toml").write_text('kargs = ["a=1", "quiet"]\n')
    (tmp_path / "20-b.toml").write_text('kargs = ["quiet", "b"]\nmatch-architectures = ["x86_64"]\n')
    (tmp_path / "30-c.toml").write_text('kargs = ["c"]\nmatch-architectures = ["aarch64"]\n')
    assert ensure_completion.read_kargs(str(tmp_path), "x86_64") == ["a=1", "quiet", "b"]
    (tmp_path / "40-d.toml").write_text('kargs = []\nkernel = "x"\n')
    with pytest.raises(ValueError, match="unknown key kernel"):
        ensure_completion.read_kargs(str(tmp_path), "x86_64")


def test_one_terminal_on_every_console(monkeypatch):
    """Two consoles: both show everything, either can answer, and a passphrase is shown on neither."""
    pairs = [pty.openpty() for _ in range(2)]
    monkeypatch.setattr(
        terminal, "open_consoles", lambda: [tty.setraw(slave) and None or slave for _, slave in pairs]
    )
    shown = [bytearray(), bytearray()]

    def program():
        with open("/dev/tty") as reading:
            os.write(1, b"Which? ")  # not print: pytest has taken sys.stdout
            os.write(1, b"took " + reading.readline().encode())
        return 7 if terminal.ask_secret("Passphrase: ") == "gehéim".encode() else 1

    def person():
        for number, (prompt, answer) in enumerate(
            ((b"Which? ", b"1\n"), (b"Passphrase: ", "gehéim\r".encode()))
        ):
            while prompt not in shown[number]:
                shown[number] += os.read(pairs[number][0], 4096)
            os.write(pairs[number][0], answer)

    thread = threading.Thread(target=person, daemon=True)
    thread.start()
    assert terminal.relay(program) == 7
    thread.join(5)
    for number, (master, _) in enumerate(pairs):
        os.set_blocking(master, False)
        shown[number] += os.read(master, 65536)
        assert b"took 1" in shown[number] and b"Passphrase: " in shown[number] and b"geh" not in shown[number]


def test_a_bug_says_so_on_the_console(monkeypatch):
    master, slave = pty.openpty()
    monkeypatch.setattr(terminal, "open_consoles", lambda: [slave])

    def program():
        raise ZeroDivisionError("oops")

    assert terminal.relay(program) == 70
    assert b"VEILOR-INSTALL: FAILED ZeroDivisionError: oops" in os.read(master, 65536)


@pytest.fixture
def laid_out(tmp_path):
    """The texts of the %pre scripts, the second one run, and the folder where it lays out."""
    here = tmp_path / "veilor-install"
    texts = [one.text.replace("/run/veilor-install", str(here)) for one in ks.read_early_scripts(SHIPPED)[0]]
    subprocess.run(["sh", "-c", texts[1]], check=True)
    return texts, here


def test_what_later_scripts_share_is_laid_out_as_it_is(laid_out):
    _, here = laid_out
    snippets = Path(__file__).resolve().parents[2] / "kickstart/snippets"
    assert here.stat().st_mode & 0o777 == 0o700
    for name in ("ending.py", "keep_logs.py"):
        made = (here / name).read_text()
        assert made == (snippets / name).read_text().replace("/run/veilor-install", str(here))


def test_a_refused_choice_ends_in_a_shutdown_with_the_logs_kept(laid_out, tmp_path):
    """The script as the installer starts it, without a terminal, among programs that note their calls."""
    texts, here = laid_out
    calls, programs = tmp_path / "calls", tmp_path / "bin"
    programs.mkdir()
    for name in ("systemctl", "chvt", "lsblk", "loadkeys"):
        (programs / name).write_text(f"#!/bin/sh\necho {name} $* >>{calls}\n")
        (programs / name).chmod(0o755)
    (here / "keep_logs.py").write_text(f"open({str(calls)!r}, 'a').write('logs\\n')\n")
    ending = here / "ending.py"
    ending.write_text(
        ending.read_text()
        .replace("PATIENCE = 600", "PATIENCE = 0")
        .replace("GRACE = 300", "GRACE = 0")
        .replace('open("/dev/tty")', 'open("/no/tty")')
        .replace("/sys/class/tty", "/no/tty")
    )
    (tmp_path / "script.py").write_text(texts[2])
    done = subprocess.run(
        [sys.executable, tmp_path / "script.py"],
        env={"PATH": str(programs)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stdout.startswith("Not installed: there is no terminal to ask at; nothing was changed.")
    assert calls.read_text().splitlines() == ["logs", "systemctl --no-block --no-wall poweroff"]
