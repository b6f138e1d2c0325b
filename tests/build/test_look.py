"""The look: every colour is from the palette and has the contrast it needs, every file that another names is
there.
"""

from __future__ import annotations

import configparser
import json
import re
import shutil
import struct
from pathlib import Path

import pytest

from veilor.build import palette as palettes
from veilor.build.errors import BuildError
from veilor.build.stage import stage

ROOT = Path(__file__).resolve().parents[2]
PALETTE = ROOT / "artwork/palette.toml"
THEME = "usr/share/plymouth/themes/veilor"
LOOKS = [f"org.veilor.{mode}.desktop" for mode in palettes.MODES]


@pytest.fixture(scope="module")
def tree(staged):
    return staged


def ini(path: Path) -> configparser.RawConfigParser:
    """A KDE or desktop file. Raises configparser.Error on one that does not parse."""
    parser = configparser.RawConfigParser(
        strict=True, delimiters=("=",), comment_prefixes=("#",), interpolation=None
    )
    parser.optionxform = str
    parser.read_string(path.read_text().replace("][", "/"))
    return parser


def missing(tree: Path) -> list[str]:
    """What the files of the look name and TREE lacks, one line each."""
    wanted = {
        "usr/share/icons/hicolor/scalable/apps/veilor-os.svg": "os-release's LOGO and every desktop file"
    }
    theme = ini(tree / THEME / "veilor.plymouth")
    assert theme["script"]["ImageDir"] == f"/{THEME}"
    wanted[theme["script"]["ScriptFile"].lstrip("/")] = "veilor.plymouth"
    script = tree / THEME / "veilor.script"
    if script.exists():
        wanted |= {
            f"{THEME}/{name}": "veilor.script"
            for name in re.findall(r'Image\("([\w.-]+)"\)', script.read_text())
        }
    chosen = ini(tree / "etc/plymouth/plymouthd.conf")["Daemon"]["Theme"]
    wanted[f"usr/share/plymouth/themes/{chosen}/{chosen}.plymouth"] = "plymouthd.conf"
    globals_ = ini(tree / "etc/xdg/kdeglobals")["KDE"]
    for look in {
        globals_[key] for key in ("LookAndFeelPackage", "DefaultLightLookAndFeel", "DefaultDarkLookAndFeel")
    } | set(LOOKS):
        folder = f"usr/share/plasma/look-and-feel/{look}"
        wanted |= {
            f"{folder}/{name}": "kdeglobals"
            for name in (
                "metadata.json",
                "contents/defaults",
                "contents/layouts/org.kde.plasma.desktop-layout.js",
                "contents/splash/Splash.qml",
            )
        }
        if not (tree / folder / "contents/defaults").exists():
            continue
        defaults = ini(tree / folder / "contents/defaults")
        wanted[f"usr/share/color-schemes/{defaults['kdeglobals/General']['ColorScheme']}.colors"] = (
            f"{look}'s defaults"
        )
        wanted[f"usr/share/wallpapers/{defaults['Wallpaper']['Image']}/metadata.json"] = f"{look}'s defaults"
    for splash in sorted(tree.glob("usr/share/plasma/look-and-feel/*/contents/splash/Splash.qml")):
        wanted |= {
            str((splash.parent / name).relative_to(tree)): "Splash.qml"
            for name in re.findall(r'source: "([^"]+)"', splash.read_text())
        }
    for folder in ("images", "images_dark"):
        wanted[f"usr/share/wallpapers/veilor/contents/{folder}/2560x1440.png"] = "the wallpaper's metadata"
    profile = ini(tree / "etc/xdg/konsolerc")["Desktop Entry"]["DefaultProfile"]
    wanted[f"usr/share/konsole/{profile}"] = "konsolerc"
    if (tree / f"usr/share/konsole/{profile}").exists():
        scheme = ini(tree / f"usr/share/konsole/{profile}")["Appearance"]["ColorScheme"]
        wanted[f"usr/share/konsole/{scheme}.colorscheme"] = profile
    sddm = ini(tree / "usr/lib/sddm/sddm.conf.d/veilor.conf")["Theme"]["Current"]
    wanted |= {
        f"usr/share/sddm/themes/{sddm}/{name}": "sddm.conf.d/veilor.conf"
        for name in ("metadata.desktop", "Main.qml", "theme.conf")
    }
    greeter = tree / f"usr/share/sddm/themes/{sddm}/Main.qml"
    if greeter.exists():
        wanted |= {
            f"usr/share/sddm/themes/{sddm}/{name}": "Main.qml"
            for name in re.findall(r'source: "([^"]+)"', greeter.read_text())
        }
    if (greeter.parent / "theme.conf").exists():
        wanted[ini(greeter.parent / "theme.conf")["General"]["background"].lstrip("/")] = "theme.conf"
    image = ini(tree / "etc/plasmalogin.conf")["Greeter/Wallpaper/org.kde.image/General"]["Image"]
    wanted[image.removeprefix("file:///").rstrip("/") + "/metadata.json"] = "plasmalogin.conf"
    return [
        f"{name}, which {by} names, is missing" for name, by in wanted.items() if not (tree / name).exists()
    ]


def test_every_pair_has_the_contrast_it_needs():
    assert not palettes.too_faint(palettes.load_palette(PALETTE))


@pytest.mark.parametrize(
    ("mode", "name", "colour"),
    [("dark", "muted", "#5a6472"), ("light", "neutral", "#b98a2f"), ("light", "border", "#c3cad2")],
)
def test_a_colour_too_faint_is_noticed(mode, name, colour):
    palette = palettes.load_palette(PALETTE)
    palette[mode][name] = colour
    assert any(line.startswith(f"{mode}: {name} on ") for line in palettes.too_faint(palette))


def test_contrast_is_wcags():
    assert palettes.contrast("#000000", "#ffffff") == pytest.approx(21)
    assert palettes.contrast("#767676", "#ffffff") == pytest.approx(
        4.54, abs=0.01
    )  # the grey that WCAG's own pages take


def test_only_the_palette_says_a_colour():
    for path in sorted((ROOT / "artwork").rglob("*")):
        if path.is_file() and path != PALETTE:
            assert not re.search(r"(?m)#[0-9a-fA-F]{6}\b|=\d+,\d+,\d+$", path.read_text()), path


@pytest.mark.parametrize("broken", ['[dark]\nred = "red"\n', '[dark]\na = "#000000"\n[light]\n', "nonsense"])
def test_an_unfit_palette_is_refused(tmp_path, broken):
    (tmp_path / "p.toml").write_text(broken)
    with pytest.raises(BuildError, match="p.toml"):
        palettes.load_palette(tmp_path / "p.toml")


def test_every_file_that_another_names_is_there(tree):
    assert not missing(tree)


@pytest.mark.parametrize(
    "gone",
    [
        f"{THEME}/bullet.png",
        f"{THEME}/veilor.script",
        "usr/share/color-schemes/VeilorLight.colors",
        "usr/share/konsole/veilor.profile",
        "usr/share/wallpapers/veilor/contents/images_dark/2560x1440.png",
        "usr/share/icons/hicolor/scalable/apps/veilor-os.svg",
        "usr/share/plasma/look-and-feel/org.veilor.light.desktop/contents/splash/images/symbol.svg",
        "usr/share/plasma/look-and-feel/org.veilor.dark.desktop/contents/defaults",
        "usr/share/sddm/themes/veilor/symbol.svg",
        "usr/share/sddm/themes/veilor/Main.qml",
        "usr/share/wallpapers/veilor/metadata.json",
    ],
)
def test_a_file_taken_away_is_noticed(tree, tmp_path, gone):
    copy = tmp_path / "tree"
    shutil.copytree(tree, copy, symlinks=True)
    (copy / gone).unlink()
    assert any(line.startswith(gone) for line in missing(copy))


def test_a_colour_nobody_has_is_refused(source, tmp_path):
    (source / "artwork/tree/usr/share/konsole/veilor.profile").write_text("Name=@nobody@\n")
    with pytest.raises(BuildError, match="@nobody@"):
        stage(source, tmp_path / "tree")


def test_a_file_in_overlay_and_artwork_is_refused(source, tmp_path):
    twice = source / "overlay/usr/share/konsole/veilor.profile"
    twice.parent.mkdir(parents=True)
    twice.write_text("[General]\n")
    with pytest.raises(BuildError, match="both have it|keep one"):
        stage(source, tmp_path / "tree")


def test_no_name_is_left_unfilled(tree):
    for path in sorted(tree.rglob("*")):
        if path.is_file() and path.suffix in (
            ".colors",
            ".colorscheme",
            ".script",
            ".qml",
            ".js",
            ".svg",
            ".conf",
            ".json",
        ):
            assert not palettes.NAME.search(path.read_text()), path


def test_both_modes_have_the_same_groups_and_keys(tree):
    for pattern in ("usr/share/color-schemes/Veilor{}.colors", "usr/share/konsole/Veilor{}.colorscheme"):
        dark, light = (ini(tree / pattern.format(mode)) for mode in ("Dark", "Light"))
        assert {name: list(dark[name]) for name in dark.sections()} == {
            name: list(light[name]) for name in light.sections()
        }


def test_packages_are_named_as_their_folders(tree):
    for path in sorted(tree.glob("usr/share/plasma/look-and-feel/*/metadata.json")):
        assert json.loads(path.read_text())["KPlugin"]["Id"] == path.parent.name
    assert (
        json.loads((tree / "usr/share/wallpapers/veilor/metadata.json").read_text())["KPlugin"]["Id"]
        == "veilor"
    )


def test_pictures_have_the_size_their_place_says_and_stay_small(tree):
    def size(path):
        return struct.unpack(">II", path.read_bytes()[16:24])

    for path in sorted(tree.glob("usr/share/icons/hicolor/*/apps/*.png")):
        assert f"{size(path)[0]}x{size(path)[1]}" == path.parts[-3]
    for path in sorted(tree.glob("usr/share/wallpapers/veilor/contents/*/*.png")):
        assert "x".join(map(str, size(path))) == path.stem
    assert sum(path.stat().st_size for path in tree.rglob("*") if path.is_file()) < 5_000_000


def test_the_bases_ban_on_themes_from_the_internet_is_kept(tree):
    assert ini(tree / "etc/xdg/kdeglobals")["KDE Action Restrictions/$i"]["ghns"] == "false"


def test_the_page_about_the_look_says_the_palettes_colours():
    palette = palettes.load_palette(PALETTE)
    rows = re.findall(
        r"^\| ([^|]+) \| (`#[^|]+) \| (`#[^|]+) \|$", (ROOT / "docs/BRAND.md").read_text(), re.M
    )
    names = {
        "windows": ["window"],
        "text": ["text"],
        "accent: focus, links, the mark": ["accent"],
        "good, careful, wrong": ["positive", "neutral", "negative"],
    }
    assert {row[0] for row in rows} == set(names)
    for what, *modes in rows:
        for mode, said in zip(palettes.MODES, modes, strict=True):
            assert re.findall("#[0-9a-f]{6}", said) == [palette[mode][name] for name in names[what]]
