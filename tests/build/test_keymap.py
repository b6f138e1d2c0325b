"""What the boot screen is told of the keyboard layout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = (
    Path(__file__).resolve().parents[2] / "overlay/usr/lib/dracut/modules.d/51veilor-keymap/veilor-keymap.sh"
)
WRITE = SCRIPT.with_name("veilor-keymap-write.sh")
THEME = Path(__file__).resolve().parents[2] / "artwork/tree/usr/share/plymouth/themes/veilor/veilor.script"


# Lines of systemd's own table (src/locale/kbd-model-map, systemd 257).
TABLE = """# console layout\txlayout\txmodel\txvariant\txoptions
us\t\tus\tpc105+inet\t-\tterminate:ctrl_alt_bksp
de\t\tde\tpc105\t-\tterminate:ctrl_alt_bksp
de-nodeadkeys\tde\tpc105\tnodeadkeys\tterminate:ctrl_alt_bksp
"""


def lay_out(root: Path, cmdline: str, vconsole: str | None) -> None:
    """An initramfs below ROOT with this kernel command line and vconsole.conf."""
    for folder in ("proc", "etc", "bin", "run", "usr/lib"):
        (root / folder).mkdir(parents=True)
    (root / "usr/lib/veilor-kbd-model-map").write_text(TABLE)
    (root / "proc/cmdline").write_text(cmdline)
    if vconsole is not None:
        (root / "etc/vconsole.conf").write_text(vconsole)


def told(tmp_path: Path, cmdline: str, vconsole: str | None) -> list[str]:
    """What plymouth is called with on a machine with this kernel command line and vconsole.conf."""
    lay_out(tmp_path, cmdline, vconsole)
    fake = tmp_path / "bin/plymouth"
    # The third time the initramfs has ended, and with it Plymouth's part there.
    fake.write_text(
        '#!/bin/sh\n[ "$1" != --version ] || exit 0\n'
        f'printf "%s\\n" "$*" >>{tmp_path}/said\ntest "$(wc -l <{tmp_path}/said)" -lt 3\n'
    )
    fake.chmod(0o755)
    (tmp_path / "bin/sleep").write_text("#!/bin/sh\n")
    (tmp_path / "bin/sleep").chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "VEILOR_ROOT": str(tmp_path)}
    for script in (WRITE, SCRIPT):
        subprocess.run(["sh", script], env=env, check=True, timeout=20)
    return (tmp_path / "said").read_text().splitlines()


@pytest.mark.parametrize(
    ("cmdline", "vconsole", "keymap"),
    [
        ("root=x rhgb quiet vconsole.keymap=de-nodeadkeys\n", 'KEYMAP="fr"\n', "de-nodeadkeys"),
        ("root=x rd.vconsole.keymap=ch", None, "ch"),
        ("root=x\n", 'FONT=eurlatgr\nKEYMAP="fr"\n', "fr"),
        ("root=x\n", "KEYMAP='cz-qwerty'", "cz-qwerty"),  # its last line has no end
        ("root=x\n", None, "us"),
    ],
)
def test_the_argument_wins_then_the_file_then_us(tmp_path, cmdline, vconsole, keymap):
    assert (
        told(tmp_path, cmdline, vconsole) == [f"update --status=keymap={keymap}"] * 3
    )  # what came too early is said again


def test_the_theme_reads_what_the_script_says():
    assert '"keymap="' in THEME.read_text() and "SubString(7" in THEME.read_text()
    assert len("keymap=") == 7


def written(tmp_path: Path, cmdline: str, vconsole: str | None, plymouth: str) -> tuple[dict[str, str], str]:
    """What vconsole.conf then says, and the name that the screen is given, by Plymouth of this version."""
    lay_out(tmp_path, cmdline, vconsole)
    fake = tmp_path / "bin/plymouth"
    fake.write_text(
        f'#!/bin/sh\nif [ "$1" = --version ]; then echo "{plymouth}"; exit; fi\n'
        f'echo "$*" >>{tmp_path}/said\nexit 1\n'
    )
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "VEILOR_ROOT": str(tmp_path)}
    for script in (WRITE, SCRIPT):
        subprocess.run(["sh", script], env=env, check=True, timeout=20)
    file = tmp_path / "etc/vconsole.conf"
    lines = file.read_text().splitlines() if file.exists() else []
    said = (tmp_path / "said").read_text().strip().removeprefix("update --status=keymap=")
    return dict(line.split("=", 1) for line in lines), said


@pytest.mark.parametrize("plymouth", ["24.004.60", "26.134.222"])
def test_plymouth_is_told_the_layout_before_it_starts(tmp_path, plymouth):
    found, said = written(
        tmp_path, "root=x vconsole.keymap=de-nodeadkeys\n", 'KEYMAP="fr"\nFONT=eurlatgr\n', plymouth
    )
    assert found == {
        "KEYMAP": "de-nodeadkeys",
        "XKBLAYOUT": "de",
        "XKBMODEL": "pc105",
        "XKBVARIANT": "nodeadkeys",
        "XKBOPTIONS": "terminate:ctrl_alt_bksp",
        "FONT": "eurlatgr",
    }
    assert said == "de-nodeadkeys"


def test_a_machine_without_the_file_and_one_whose_file_says_it_all(tmp_path):
    found, said = written(tmp_path / "none", "vconsole.keymap=de", None, "26.1")
    assert (found["XKBLAYOUT"], said) == ("de", "de") and "XKBVARIANT" not in found
    own = "KEYMAP=fr-x\nXKBLAYOUT=fr\nXKBVARIANT=x\n"
    found, said = written(tmp_path / "own", "root=x", own, "26.1")
    assert (found, said) == ({"KEYMAP": "fr-x", "XKBLAYOUT": "fr", "XKBVARIANT": "x"}, "fr-x")


@pytest.mark.parametrize(
    ("plymouth", "said"), [("24.004.60", "dvorak-x"), ("26.134.222", "us"), ("100.1", "us"), ("", "dvorak-x")]
)
def test_of_a_layout_that_the_table_lacks_the_screen_names_what_plymouth_uses(tmp_path, plymouth, said):
    assert written(tmp_path, "vconsole.keymap=dvorak-x", "KEYMAP=us\n", plymouth)[1] == said


def test_it_is_written_before_plymouth_starts():
    unit = SCRIPT.with_name("veilor-keymap-write.service").read_text()
    assert "Before=plymouth-start.service" in unit and "veilor-keymap-write.sh" in unit
    assert "inst_simple /usr/share/systemd/kbd-model-map" in SCRIPT.with_name("module-setup.sh").read_text()
    assert "veilor-keymap-write.service" in SCRIPT.with_name("module-setup.sh").read_text()
