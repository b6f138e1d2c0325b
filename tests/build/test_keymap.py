"""What the boot screen is told of the keyboard layout."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = (
    Path(__file__).resolve().parents[2] / "overlay/usr/lib/dracut/modules.d/51veilor-keymap/veilor-keymap.sh"
)
THEME = Path(__file__).resolve().parents[2] / "artwork/tree/usr/share/plymouth/themes/veilor/veilor.script"


def told(tmp_path: Path, cmdline: str, vconsole: str | None) -> list[str]:
    """What plymouth is called with on a machine with this kernel command line and vconsole.conf."""
    for folder in ("proc", "etc", "bin"):
        (tmp_path / folder).mkdir()
    (tmp_path / "proc/cmdline").write_text(cmdline)
    if vconsole is not None:
        (tmp_path / "etc/vconsole.conf").write_text(vconsole)
    fake = tmp_path / "bin/plymouth"
    # The third time the initramfs has ended, and with it Plymouth's part there.
    fake.write_text(
        f'#!/bin/sh\nprintf "%s\\n" "$*" >>{tmp_path}/said\ntest "$(wc -l <{tmp_path}/said)" -lt 3\n'
    )
    fake.chmod(0o755)
    (tmp_path / "bin/sleep").write_text("#!/bin/sh\n")
    (tmp_path / "bin/sleep").chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "VEILOR_ROOT": str(tmp_path)}
    subprocess.run(["sh", SCRIPT], env=env, check=True, timeout=20)
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
