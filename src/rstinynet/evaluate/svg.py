"""Curves as inline SVG: lines over the unit square, told apart by colour and by dashes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Okabe and Ito's, without the yellow that is not seen on white."""
_DASHES = ("", "7 3", "2 3", "9 3 2 3")
_SIDE, _LEFT, _TOP, _FOOT = 360, 48, 28, 44
_LINE = 19


def curves_svg(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    title: str,
    axes: tuple[str, str] = ("recall", "precision"),
) -> str:
    """An SVG element of `lines`, each (x, y) in [0, 1]; what is not a number is left out."""
    right = _LEFT + _SIDE
    bottom = _TOP + _SIDE
    width = right + 24 + max([0] + [9 * len(name) + 40 for name in lines])
    height = max(bottom + _FOOT, _TOP + _LINE * (len(lines) + 1))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
        f'viewBox="0 0 {width} {height}" role="img" font-family="sans-serif" font-size="12">',
        f"<title>{escape(title)}</title>",
        f'<text x="{_LEFT}" y="16" font-size="14">{escape(title)}</text>',
    ]
    for step in range(6):
        share = step / 5
        x, y = _LEFT + share * _SIDE, bottom - share * _SIDE
        parts.append(
            f'<path d="M{x:.1f} {_TOP}V{bottom}M{_LEFT} {y:.1f}H{right}" stroke="#ddd"/>'
            f'<text x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{share:.1f}</text>'
            f'<text x="{_LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{share:.1f}</text>'
        )
    middle = _TOP + _SIDE / 2
    parts.append(
        f'<text x="{_LEFT + _SIDE / 2}" y="{bottom + 34}" text-anchor="middle">'
        f"{escape(axes[0])}</text>"
        f'<text transform="rotate(-90 14 {middle})" x="14" y="{middle}" text-anchor="middle">'
        f"{escape(axes[1])}</text>"
    )
    for at, (name, (across, up)) in enumerate(lines.items()):
        colour = COLOURS[at % len(COLOURS)]
        dash = _DASHES[at // len(COLOURS) % len(_DASHES)]
        stroke = f'stroke="{colour}" stroke-width="2" fill="none" stroke-dasharray="{dash}"'
        y = _TOP + _LINE * (at + 1)
        parts.append(
            f'<path class="curve" d="{_path(across, up)}" {stroke}/>'
            f'<path d="M{right + 14} {y - 4}h24" {stroke}/>'
            f'<text x="{right + 44}" y="{y}">{escape(name)}</text>'
        )
    return "".join([*parts, "</svg>"])


def _path(across: Sequence[float], up: Sequence[float]) -> str:
    points = [
        f"{_LEFT + x * _SIDE:.1f} {_TOP + (1 - y) * _SIDE:.1f}"
        for x, y in zip(across, up, strict=True)
        if math.isfinite(x) and math.isfinite(y)
    ]
    return f"M{'L'.join(points)}" if points else ""
