"""How the machine looks: artwork/ with the palette's colours and the product's names filled in.

`artwork/tree/` lies as on the machine. A name between @ is filled in, in paths as in texts: colours of
palette.toml, facts of product.toml. A path with @mode@ or @Mode@ is written twice, dark and light; every
other one is dark. PNGs are drawn from the SVGs by resvg, which needs no library of the host and gives the
same bytes everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import resvg_py

from veilor.build.errors import BuildError
from veilor.build.palette import MODES, fill_in, load_palette
from veilor.build.wallpaper import WALLPAPER_WIDTH, draw_wallpaper
from veilor.core.product import Product

ICON_THEMES = {"dark": "breeze-dark", "light": "breeze"}
PLYMOUTH = "usr/share/plymouth/themes/veilor"
WALLPAPERS = "usr/share/wallpapers/veilor/contents"
ICONS = "usr/share/icons/hicolor"
SDDM = "usr/share/sddm/themes/veilor"
LOOK_AND_FEEL = "usr/share/plasma/look-and-feel/org.veilor.@mode@.desktop/contents"
# What is drawn: source, where it goes, width in pixels, mode. A path with @mode@ is drawn in both.
PICTURES = (
    ("symbol.svg", f"{PLYMOUTH}/symbol.png", 384),
    ("wordmark.svg", f"{PLYMOUTH}/wordmark.png", 744),
    *(
        (f"plymouth/{name}.svg", f"{PLYMOUTH}/{name}.png", width)
        for name, width in (("entry", 960), ("bullet", 48), ("bar", 8))
    ),
    *(
        ("symbol.svg", f"{ICONS}/{size}x{size}/apps/veilor-os.png", size)
        for size in (16, 22, 32, 48, 64, 128, 256)
    ),
)
DRAWINGS = (  # SVGs that the machine takes as they are, once their colours are filled in
    ("symbol.svg", f"{ICONS}/scalable/apps/veilor-os.svg"),
    ("symbol.svg", f"{SDDM}/symbol.svg"),
    ("wordmark.svg", f"{SDDM}/wordmark.svg"),
    ("symbol.svg", f"{LOOK_AND_FEEL}/splash/images/symbol.svg"),
    ("wordmark.svg", f"{LOOK_AND_FEEL}/splash/images/wordmark.svg"),
)


def write_look(tree: Path, source_root: Path, product: Product) -> None:
    """Write every file of the look into the staged tree TREE.

    Raises BuildError when artwork/ is not whole, or when a file is there already: then overlay/ and
    artwork/ both have it.
    """
    artwork = source_root / "artwork"
    palette = load_palette(artwork / "palette.toml")
    facts = {
        "product.id": product.id,
        "product.name": product.name,
        "product.version": product.version,
        "product.pretty-name": product.pretty_name,
        **{f"url.{name}": url for name, url in product.urls.items()},
    }

    def both(path: str) -> Iterator[tuple[str, dict[str, str]]]:
        """PATH as it is written in each mode, with the words to fill in there."""
        for mode in MODES if "@mode@" in path.lower() else MODES[:1]:
            words = {
                **facts,
                **palette[mode],
                "mode": mode,
                "Mode": mode.capitalize(),
                "icon-theme": ICON_THEMES[mode],
            }
            yield fill_in(path, words, path), words

    for source in sorted(path for path in (artwork / "tree").rglob("*") if path.is_file()):
        relative = source.relative_to(artwork / "tree").as_posix()
        for path, words in both(relative):
            put(tree / path, fill_in(read(source), words, relative).encode(), relative)
    for name, target in DRAWINGS:
        for path, words in both(target):
            put(tree / path, fill_in(read(artwork / name), words, name).encode(), target)
    for name, target, width in PICTURES:
        for path, words in both(target):
            put(tree / path, rasterise(fill_in(read(artwork / name), words, name), width), target)
    for mode, folder in zip(MODES, ("images_dark", "images"), strict=True):
        height = WALLPAPER_WIDTH * 9 // 16
        picture = rasterise(draw_wallpaper(palette[mode]), WALLPAPER_WIDTH)
        put(tree / f"{WALLPAPERS}/{folder}/{WALLPAPER_WIDTH}x{height}.png", picture, "the wallpaper")


def read(path: Path) -> str:
    """The text of the file at PATH. Raises BuildError when it cannot be read."""
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise BuildError(
            f"{path} cannot be read ({error}); stage from a whole clone of the repository"
        ) from None


def put(path: Path, content: bytes, name: str) -> None:
    """Write CONTENT to the new file PATH, called NAME. Raises BuildError when it is there already."""
    if path.exists():
        raise BuildError(f"{name} is in overlay/ and comes from artwork/ as well; keep one of the two")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


@lru_cache(maxsize=64)
def rasterise(svg: str, width: int) -> bytes:
    """The drawing SVG as a PNG, WIDTH pixels wide.

    The drawings hold no text, so no font of the host gets in. Raises BuildError for what cannot be drawn.
    """
    try:
        return bytes(resvg_py.svg_to_bytes(svg_string=svg, width=width, skip_system_fonts=True))
    except ValueError as error:
        raise BuildError(
            f"a drawing under artwork/ is no SVG that can be drawn ({error}); correct it"
        ) from None
