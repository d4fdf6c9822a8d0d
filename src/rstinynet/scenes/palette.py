"""Colours of classes, the same in pictures and in QGIS."""

from __future__ import annotations

import colorsys

# Okabe and Ito's set, which colour-blind readers can tell apart, brightest on grey ground first.
_FIRST = (
    (255, 214, 0),
    (0, 229, 255),
    (255, 64, 160),
    (0, 224, 120),
    (255, 128, 0),
    (110, 150, 255),
    (200, 110, 255),
    (235, 60, 50),
)


def colour_of(label: int) -> tuple[int, int, int]:
    """Red, green and blue (0-255) of a class index; beyond the set, hues that keep apart."""
    if label < len(_FIRST):
        return _FIRST[label]
    red, green, blue = colorsys.hsv_to_rgb((label * 0.61803398875) % 1.0, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)
