"""The colours: read from artwork/palette.toml, put into files by name, and measured against each other."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path

from veilor.build.errors import BuildError

MODES = ("dark", "light")
COLOUR = re.compile(r"#[0-9a-f]{6}")
NAME = re.compile(r"@([a-zA-Z][\w.-]*?)(:rgb|:float)?@")


def load_palette(path: Path) -> dict:
    """{"dark": {name: "#rrggbb"}, "light": …, "pair": [{"text", "on", "ratio"}]} from the file PATH.

    Raises BuildError when it is missing or unfit: a colour that is none, or a name that only one mode has.
    """
    try:
        data = tomllib.loads(path.read_text())
        wrong = [name for mode in MODES for name, value in data[mode].items() if not COLOUR.fullmatch(value)]
        wrong += sorted(set(data["dark"]) ^ set(data["light"]))
        wrong += [
            name for pair in data["pair"] for name in [*pair["text"], *pair["on"]] if name not in data["dark"]
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BuildError(f"{path} cannot be used ({error}); it needs [dark], [light] and [[pair]]") from None
    if wrong:
        raise BuildError(f"{path}: {', '.join(wrong)} must be a colour like #54c7b5, in both modes")
    return data


def rgb(colour: str) -> tuple[int, int, int]:
    """Red, green and blue of "#rrggbb", each 0 to 255."""
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def luminance(colour: str) -> float:
    """Relative luminance, 0 to 1, as WCAG 2.2 defines it for sRGB."""
    parts = [part / 255 for part in rgb(colour)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """WCAG's contrast ratio of two colours, 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def too_faint(palette: Mapping) -> list[str]:
    """Every pair of the palette that has less contrast than it says it needs, as one line each."""
    return [
        f"{mode}: {text} on {ground} has {found:.2f}, {pair['ratio']} is needed"
        for mode in MODES
        for pair in palette["pair"]
        for text in pair["text"]
        for ground in pair["on"]
        if (found := contrast(palette[mode][text], palette[mode][ground])) < pair["ratio"]
    ]


def fill_in(text: str, words: Mapping[str, str], where: str) -> str:
    """TEXT with each @name@ replaced by its word.

    @accent@ is #54c7b5, @accent:rgb@ 84,199,181 and @accent:float@ 0.329, 0.780, 0.710. Raises BuildError,
    naming the file WHERE, on a name that WORDS lacks.
    """

    def word(found: re.Match[str]) -> str:
        """What takes the place of the name FOUND."""
        name, form = found.groups()
        if name not in words:
            raise BuildError(f"{where} names @{name}@, which neither palette.toml nor product.toml has")
        if not form:
            return words[name]
        parts = rgb(words[name])
        return (
            ",".join(map(str, parts)) if form == ":rgb" else ", ".join(f"{part / 255:.3f}" for part in parts)
        )

    return NAME.sub(word, text)
