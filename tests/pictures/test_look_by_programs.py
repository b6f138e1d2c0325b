"""The look, read by the programs that it is for, in the desktop tree that `veilor pictures` makes."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from veilor.lab.tools import Tools


def run(desktop: Tools, tree: Path, argv: list[str]) -> subprocess.CompletedProcess:
    """Run ARGV in the desktop tree with TREE at its own path and its data and settings first."""
    env = {
        "XDG_DATA_DIRS": f"{tree}/usr/share:/usr/share",
        "XDG_CONFIG_DIRS": f"{tree}/etc/xdg:/etc/xdg",
        "QT_QPA_PLATFORM": "offscreen",
    }
    return desktop.run(argv, binds=[tree], env=env, timeout=90, check=False)


def takes_scheme(desktop: Tools, tree: Path, name: str) -> bool:
    """Whether Plasma's own program applies the colour scheme NAME.

    It ends with 0 either way, so its output decides.
    """
    return (
        b"Successfully applied"
        in run(desktop, tree, ["dbus-run-session", "--", "plasma-apply-colorscheme", name]).stdout
    )


@pytest.mark.parametrize("mode", ["Dark", "Light"])
def test_plasma_takes_the_colour_schemes(desktop, tree, mode):
    assert takes_scheme(desktop, tree, f"Veilor{mode}")


def test_plasma_refuses_a_scheme_that_is_not_there(desktop, tree, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "usr/share/color-schemes/VeilorDark.colors").unlink()
    assert not takes_scheme(desktop, copy, "VeilorDark")


@pytest.mark.parametrize("mode", ["dark", "light"])
def test_plasma_lists_the_look(desktop, tree, mode):
    listed = (
        run(desktop, tree, ["dbus-run-session", "--", "plasma-apply-lookandfeel", "--list"])
        .stdout.decode()
        .split()
    )
    assert f"org.veilor.{mode}.desktop" in listed


def test_plasma_does_not_list_a_look_without_its_metadata(desktop, tree, tmp_path):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / "usr/share/plasma/look-and-feel/org.veilor.dark.desktop/metadata.json").unlink()
    listed = (
        run(desktop, copy, ["dbus-run-session", "--", "plasma-apply-lookandfeel", "--list"])
        .stdout.decode()
        .split()
    )
    assert "org.veilor.dark.desktop" not in listed and "org.veilor.light.desktop" in listed


def test_kde_reads_the_machines_settings(desktop, tree):
    for group, key, value in (
        ("KDE", "LookAndFeelPackage", "org.veilor.dark.desktop"),
        ("KDE Action Restrictions", "ghns", "false"),
    ):
        said = (
            run(desktop, tree, ["kreadconfig6", "--file", "kdeglobals", "--group", group, "--key", key])
            .stdout.decode()
            .strip()
        )
        assert said == value, (group, key)


def lint(desktop: Tools, tree: Path, path: Path) -> str:
    """The syntax errors that qmllint finds in PATH.

    It does not know the types of SDDM and Plasma, so no other error counts.
    """
    done = run(desktop, tree, ["/usr/lib/qt6/bin/qmllint", str(path)])
    return "\n".join(
        line
        for line in (done.stdout + done.stderr).decode().splitlines()
        if "Syntax error" in line or "[syntax" in line
    )


@pytest.mark.parametrize(
    "name",
    [
        "usr/share/sddm/themes/veilor/Main.qml",
        "usr/share/plasma/look-and-feel/org.veilor.dark.desktop/contents/splash/Splash.qml",
    ],
)
def test_the_qml_parses(desktop, tree, tmp_path, name):
    assert not lint(desktop, tree, tree / name)
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    broken = copy / name
    broken.write_text(broken.read_text().replace("{", "", 1))
    assert lint(desktop, copy, broken)


def test_the_desktop_entry_is_valid(desktop, tree, tmp_path):
    entry = tree / "usr/share/applications/org.veilor.notify.desktop"
    assert run(desktop, tree, ["desktop-file-validate", str(entry)]).returncode == 0
    copy = tmp_path / "tree"
    copy.mkdir()
    (copy / entry.name).write_text(entry.read_text().replace("Type=Application", "Type=Aplication"))
    assert run(desktop, copy, ["desktop-file-validate", str(copy / entry.name)]).returncode != 0
