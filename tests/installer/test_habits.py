"""The lab's installer does what Anaconda was seen to do, and our kickstart makes good for it.

Recordings are in data/anaconda-44.35. With a mending taken out, the harm is seen in the new system.
"""

from __future__ import annotations

import os
import pty
import shutil
import threading
from pathlib import Path

import choose_disk
import ending
import habits
import ks
import pytest
import system
import terminal

from veilor.build.kickstart import flatten
from veilor.device import main, run
from veilor.device.shipped import program as shipped

ROOT = Path(__file__).resolve().parents[2]
RECORDINGS = Path(__file__).parent / "data/anaconda-44.35"
SHIPPED = flatten(ROOT / "kickstart/install.ks")
NODE = {"name": "vdb", "path": "/dev/vdb", "type": "disk", "pttype": None}


@pytest.fixture
def boot(monkeypatch):
    """The function that gives the installer its boot arguments, inst.text by default."""

    def say(arguments):
        words = [word.partition("=") for word in arguments.split()]
        monkeypatch.setattr(habits, "kernel_arguments", lambda: {name: value for name, _, value in words})
        modes = [name[5:] for name, _, _ in words if name in ("inst.text", "inst.graphical")]
        monkeypatch.setattr(habits, "display_mode", lambda: modes[-1] if modes else "graphical")

    say("inst.text")
    return say


@pytest.fixture
def read(tmp_path):
    """The function that reads the shipped kickstart, changed, as the lab's installer does."""
    target, guided = tmp_path / "target.ks", tmp_path / "guided.ks"
    target.write_text(choose_disk.target_text(NODE, "de", "de_DE.UTF-8"))
    guided.write_text((ROOT / "kickstart/snippets/storage.ks").read_text())

    def parse(*taken_out):
        text = SHIPPED
        for line in taken_out:
            assert f"\n{line}\n" in text
            text = text.replace(f"\n{line}\n", "\n", 1)
        text = text.replace("/tmp/veilor-target.ks", str(target)).replace(
            "/tmp/veilor-guided.ks", str(guided)
        )
        return ks.read_kickstart(text)

    return parse


@pytest.fixture
def deployed(tmp_path, monkeypatch):
    """A new system as it was deployed, with the settings that the overlay ships; its root."""
    root = tmp_path / "system"
    shutil.copytree(ROOT / "overlay/etc", root / "usr/etc", symlinks=True)
    shutil.copytree(ROOT / "overlay/usr/lib/firewalld", root / "usr/lib/firewalld")
    (root / "usr/etc/shadow").write_text("root:!*::0:99999:7:::\n")
    shutil.copytree(root / "usr/etc", root / "etc", symlinks=True)
    for folder in ("sysroot/ostree/repo", "var/roothome"):
        (root / folder).mkdir(parents=True)
    (root / "sysroot/ostree/repo/config").write_text("[core]\nmode=bare\n")
    monkeypatch.setattr(run, "ROOT", root)
    monkeypatch.setattr(habits, "INPUT", str(tmp_path / "ks.cfg"))
    (tmp_path / "ks.cfg").write_text("poweroff\n")
    return root


def install(root, kickstart, *, last_script=True):
    """What happens to the system at ROOT beside what is asked for, in the order of Anaconda."""
    config = root / "sysroot/ostree/repo/config"
    config.write_text(config.read_text() + habits.remote_text(kickstart))
    habits.write_settings(kickstart, root / "etc")
    habits.leave_kickstart("poweroff\n", root / "var/roothome")
    if last_script:
        assert main.main(["as-shipped", "--put-back"]) == 0
        (root.parent / "ks.cfg").unlink()  # as complete.py does
    habits.leave_logs(root)


def harms(root):
    """What is wrong with the system at ROOT, a word each."""
    etc, found = root / "etc", []
    zones = list((etc / "firewalld/zones").glob("*.xml")) if (etc / "firewalld/zones").is_dir() else []
    if any('"ssh"' in path.read_text() for path in zones):
        found.append("ssh")
    target = etc / "systemd/system/default.target"
    if target.is_symlink() and "multi-user" in os.readlink(target):
        found.append("no login screen")
    conf = (etc / "chrony.conf").read_text()
    if " nts" not in conf or "fritz.box" in conf:
        found.append("clock")
    if "gpg-verify=false" in (root / "sysroot/ostree/repo/config").read_text():
        found.append("remote")
    if list((root / "var/roothome").iterdir()):
        found.append("kickstart")
    if (etc / "sysconfig/anaconda").exists():
        found.append("settings of the installer")
    if (root / "var/log/anaconda").exists():
        found.append("logs")
    return found


def test_an_installation_of_ours_leaves_the_image_as_it_is(deployed, read, boot):
    boot("inst.text inst.nosave=all")
    install(deployed, read())
    assert harms(deployed) == []
    assert 'KEYMAP="de"' in (deployed / "etc/vconsole.conf").read_text()
    assert 'LANG="de_DE.UTF-8"' in (deployed / "etc/locale.conf").read_text()


LINES = ("firewall --use-system-defaults", "xconfig --startxonboot")
EVERY = ["ssh", "no login screen", "clock", "remote", "kickstart", "settings of the installer", "logs"]


def test_without_any_mending_all_of_it_is_seen(deployed, read, boot):
    install(deployed, read(*LINES), last_script=False)
    assert harms(deployed) == EVERY


@pytest.mark.parametrize(
    ("lines", "last_script", "arguments", "seen"),
    [
        ((LINES[0],), False, "inst.text inst.nosave=all", ["ssh", "clock", "remote", EVERY[5]]),
        ((LINES[1],), False, "inst.text inst.nosave=all", ["no login screen", "clock", "remote", EVERY[5]]),
        ((), False, "inst.text inst.nosave=all", ["clock", "remote", EVERY[5]]),
        ((), True, "inst.text", ["logs"]),  # a medium of image-builder's: named in docs/INSTALL.md
        ((), False, "inst.text", ["clock", "remote", "kickstart", EVERY[5], "logs"]),
        (LINES, True, "inst.text inst.nosave=all", []),  # the last script alone is enough for /etc
        (
            (LINES[1],),
            False,
            "inst.nosave=all",
            ["clock", "remote", EVERY[5]],
        ),  # windows start a login screen
    ],
)
def test_with_one_mending_taken_out_what_it_is_for_is_seen(
    lines, last_script, arguments, seen, deployed, read, boot
):
    boot(arguments)
    install(deployed, read(*lines), last_script=last_script)
    assert harms(deployed) == seen


def test_a_last_script_that_looks_at_less_is_seen(deployed, read, boot, monkeypatch):
    """Its comparison is what the end state hangs on: with a path more allowed, the harm stays."""
    boot("inst.text inst.nosave=all")
    monkeypatch.setitem(shipped.ALLOWED, "chrony.conf", "taken out")
    monkeypatch.setitem(shipped.ALLOWED, "firewalld/zones/veilor.xml", "taken out")
    install(deployed, read(LINES[0]))
    assert harms(deployed) == ["ssh", "clock"]


def test_the_clock_is_spoilt_as_it_was_recorded(deployed):
    """The recording is the head of the file: five lines are gone, and the network's server is there."""
    habits.keep_clock_of_the_network(deployed / "etc/chrony.conf")
    recorded = (RECORDINGS / "chrony-after-dhcp-server.conf").read_text()
    made = (deployed / "etc/chrony.conf").read_text()
    assert made.startswith("\n".join(recorded.splitlines()[:3]) + "\n")
    assert not [line for line in made.splitlines() if line.startswith("server") and "fritz" not in line]
    assert "authselectmode require" in made and "authselectmode require" in recorded


def test_the_kickstart_that_it_leaves_is_recorded():
    """The remote of the recording is the one that the lab's installer adds, and it is not verified."""
    recorded = (RECORDINGS / "kickstart-it-leaves.ks").read_text()
    assert '--remote="veilor" --no-signature-verification' in recorded


@pytest.mark.parametrize(
    ("cmdline", "mode"),
    [
        ("quiet", "graphical"),
        ("inst.text", "text"),
        ("inst.text inst.graphical", "graphical"),
        ("inst.graphical inst.text", "text"),
    ],
)
def test_the_display_mode_comes_from_the_boot_arguments_alone(cmdline, mode, monkeypatch, tmp_path):
    (tmp_path / "cmdline").write_text(cmdline + "\n")
    opening = open
    monkeypatch.setattr("builtins.open", lambda *_, **__: opening(tmp_path / "cmdline"))
    assert system.display_mode() == mode
    assert ending.windows_open(cmdline) is (mode == "graphical")  # ours understands it the same way


@pytest.mark.parametrize(
    ("given", "saved"),
    [
        ("", [1, 1, 1]),
        ("all", [0, 0, 0]),
        ("logs", [0, 1, 1]),
        ("all_ks", [1, 0, 0]),
        ("input_ks", [1, 0, 1]),
    ],
)
def test_what_is_left_goes_by_the_boot_argument(given, saved, boot):
    boot(f"inst.text inst.nosave={given}" if given else "inst.text")
    assert [habits.saved(what) for what in habits.SAVED] == saved


@pytest.fixture
def program():
    """The lab's installer as a program: its functions, which run only when it is started."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("lab_installer", ROOT / "stand-ins/installer/__main__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WORDS = habits.SEEN["passphrase"]
PASSPHRASES = [  # what is typed, what is taken, what is said meanwhile
    (["correct horse 44", "correct horse 44"], b"correct horse 44", []),
    (
        ["correct horse 44", "another", "correct horse 44", "correct horse 44"],
        b"correct horse 44",
        ["different"],
    ),
    (["short", "short", "long enough 1", "long enough 1"], b"long enough 1", ["short"]),
    (["sesame", "sesame", "yes"], b"sesame", ["weak"]),
    (["sesame", "sesame", "no", "long enough 1", "long enough 1"], b"long enough 1", ["weak"]),
]


@pytest.mark.parametrize(("typed", "taken", "said"), PASSPHRASES)
def test_a_passphrase_is_judged_in_anacondas_words(typed, taken, said, program, monkeypatch):
    lines, shown = [line.encode() for line in typed], []
    monkeypatch.setattr(program, "ask_secret", lambda prompt: lines.pop(0))
    monkeypatch.setattr(program, "ask", lambda prompt: lines.pop(0) + b"\n")
    monkeypatch.setattr(program, "say", shown.append)
    assert program.ask_passphrase() == taken and not lines
    assert [
        key for key in ("different", "short", "weak") if any(WORDS[key] in line for line in shown)
    ] == said


def test_an_empty_passphrase_is_refused_before_anything_is_written(program, monkeypatch):
    monkeypatch.setattr(program, "ask_secret", lambda prompt: b"")
    with pytest.raises(system.Failed, match="nothing was changed"):
        program.ask_passphrase()


@pytest.mark.parametrize(("early", "scripts"), [(True, 0), (False, 1)])
def test_after_a_failure_it_stays_on_as_anaconda_does(early, scripts, program, monkeypatch, capsys):
    """Only a script of ours can end it in a sentence and a shutdown."""
    ran, off = [], []
    monkeypatch.setattr(system, "LOG", os.devnull)
    monkeypatch.setattr(program, "run_scripts", lambda *_, **__: ran.append(1))
    monkeypatch.setattr(program.storage, "take_down", lambda luks: None)
    monkeypatch.setattr(program.subprocess, "run", lambda *_, **__: off.append(1))
    monkeypatch.setattr(program.signal, "pause", lambda: ran.append("pause"))
    program.give_up(program.Attempt(SHIPPED), "no disk was chosen", early=early)
    assert ran == [1] * scripts + ["pause"] and not off
    said = capsys.readouterr().out
    assert ("Pane is dead" in said) is early and ("Report Bug" in said) is not early
    assert "VEILOR-INSTALL: FAILED no disk was chosen" in said


def test_a_line_is_asked_for_on_the_terminal(monkeypatch):
    master, slave = pty.openpty()
    opening = open
    monkeypatch.setattr(
        "builtins.open", lambda path, *more, **named: opening(os.ttyname(slave), *more, **named)
    )
    thread = threading.Thread(target=os.write, args=(master, b"yes\n"), daemon=True)
    thread.start()
    assert terminal.ask("Please respond: ") == b"yes\n"
    thread.join(5)
