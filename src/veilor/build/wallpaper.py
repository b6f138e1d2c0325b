"""The wallpaper: six folds of a veil, one flat tone each, from the upper left to the lower right.

Flat tones draw sharply at every size and leave no bands on a dark screen, as a gradient does; and the picture
stays small.
"""

from __future__ import annotations

from collections.abc import Mapping

WALLPAPER_WIDTH = 2560
WIDTH, HEIGHT = 3840, 2160
FOLDS = 6


def fold(number: int) -> str:
    """The outline of the fold NUMBER: an S-shaped edge, and all right of it.

    Number 1 is behind all others and fills the picture.
    """
    if number == 1:
        return f"M0 0H{WIDTH}V{HEIGHT}H0Z"
    step = number - 2
    top, bottom = 2050 + step * 400, 640 + step * 560  # where the edge meets the picture's top and bottom
    swing = 420 - step * 30  # how far it swings to either side in between
    return (
        f"M{top} 0C{top - swing * 1.9:.0f} {HEIGHT * 0.36:.0f} {bottom + swing * 2.1:.0f} "
        f"{HEIGHT * 0.58:.0f} "
        f"{bottom} {HEIGHT}H{WIDTH}V0Z"
    )


def draw_wallpaper(colours: Mapping[str, str]) -> str:
    """The wallpaper as an SVG of 3840 × 2160, in the tones fold-1 to fold-6 of COLOURS."""
    folds = "".join(
        f'<path d="{fold(number)}" fill="{colours[f"fold-{number}"]}"/>' for number in range(1, FOLDS + 1)
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}">{folds}</svg>'
