"""A self-contained HTML page of a check, with pictures of the worst cases."""

from __future__ import annotations

import base64
from html import escape
from pathlib import Path

import cv2
import numpy as np

from rstinynet import files
from rstinynet.data.convert import open_any
from rstinynet.data.findings import Example, Finding, Report
from rstinynet.data.formats.common import images_in
from rstinynet.data.image import RgbArray, read_rgb
from rstinynet.data.stats import Stats
from rstinynet.errors import DataError

CROP_PX = 96
"""Side of the ground shown around a box."""
SHOWN_PX = 288
"""Side of a picture on the page."""

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1c2024; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse } td, th { padding: .2rem .8rem .2rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.error { color: #b3261e } .warning { color: #8a5a00 }
.cases { display: flex; flex-wrap: wrap; gap: 1rem } figure { margin: 0; max-width: 592px }
img { width: 288px; height: 288px; image-rendering: pixelated; border: 1px solid #ccd0d4 }
figcaption { font-size: .8rem; color: #555c63; max-width: 288px; overflow-wrap: anywhere }
.bar { background: #3b7dd8; height: .8rem; min-width: 1px }
"""


def write_page(report: Report, path: Path | str) -> None:
    """Write the page; it needs no other file and no network."""
    folder = _image_paths(report)
    errors, warnings = report.errors, len(report.findings) - report.errors
    body = [
        f"<h1>{escape(report.data)}</h1>",
        f"<p>{errors} findings that would spoil a training run, {warnings} warnings.</p>",
    ]
    body += [_section(finding, folder) for finding in report.findings]
    body += [_counts(split, stats) for split, stats in report.stats.items()]
    page = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        f"<title>Data check: {escape(report.data)}</title><style>{_STYLE}</style>"
        + "\n".join(body)
        + "</html>\n"
    )
    # Names of files may be of any bytes.
    files.write_bytes(path, page.encode("utf-8", "backslashreplace"))


def _image_paths(report: Report) -> dict[tuple[str, str], Path]:
    """Where an image named as in its annotation file lies, by (split, name)."""
    found: dict[tuple[str, str], Path] = {}
    wanted = {(each.split, each.image) for finding in report.findings for each in finding.examples}
    for split in {split for split, _ in wanted}:
        names = {name for own, name in wanted if own == split}
        try:
            paths = [image.path for image in open_any(report.data, split).images]
        except DataError:
            # Boxes that cannot be used: the images lie where they do all the same.
            paths = images_in(Path(report.data)) if Path(report.data).is_dir() else []
        for name in names:
            tail = Path(name).parts
            path = next((path for path in paths if path.parts[-len(tail) :] == tail), None)
            if path is not None:
                found[split, name] = path
    return found


def _section(finding: Finding, folder: dict[tuple[str, str], Path]) -> str:
    figures = [_figure(example, folder) for example in finding.examples]
    return (
        f'<h2><span class="{finding.severity}">{finding.severity}</span> '
        f"{escape(finding.kind)} in {escape(finding.split)}</h2>"
        f"<p>{escape(finding.message)}</p><div class=cases>{''.join(figures)}</div>"
    )


def _figure(example: Example, folder: dict[tuple[str, str], Path]) -> str:
    path = folder.get((example.split, example.image), Path(example.image))
    pictures = [_picture(path, example.box_xyxy)]
    caption = Path(example.image).name
    if example.other is not None:
        pictures.append(_picture(Path(example.other), None))
        caption += f" and {Path(example.other).name}"
    if example.box_xyxy is not None:
        caption += " at " + ", ".join(f"{value:.1f}" for value in example.box_xyxy)
    note = f"<br>{escape(example.note)}" if example.note else ""
    shown = "".join(pictures)
    return f"<figure>{shown}<figcaption>{escape(caption)}{note}</figcaption></figure>"


def _picture(path: Path, box: tuple[float, float, float, float] | None) -> str:
    try:
        pixels = read_rgb(path)
    except DataError:
        return ""
    shown = _whole(pixels) if box is None else _crop(pixels, box)
    encoded = cv2.imencode(".png", np.ascontiguousarray(shown[..., ::-1]))[1].tobytes()
    text = base64.b64encode(encoded).decode()
    return f'<img alt="" src="data:image/png;base64,{text}">'


def _whole(pixels: RgbArray) -> RgbArray:
    scaled = cv2.resize(pixels, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_AREA)
    return np.asarray(scaled, np.uint8)


def _crop(pixels: RgbArray, box: tuple[float, float, float, float]) -> RgbArray:
    """The ground around a box, enlarged, with the box drawn around its pixels."""
    height, width = pixels.shape[:2]
    left, top, right, bottom = box
    side = int(min(max(CROP_PX, 1.5 * max(right - left, bottom - top)), max(width, height)))
    x = int(np.clip((left + right) / 2 - side / 2, 0, max(0, width - side)))
    y = int(np.clip((top + bottom) / 2 - side / 2, 0, max(0, height - side)))
    part = np.zeros((side, side, 3), np.uint8)
    inside = pixels[y : y + side, x : x + side]
    part[: inside.shape[0], : inside.shape[1]] = inside
    scale = SHOWN_PX / side
    shown = cv2.resize(part, (SHOWN_PX, SHOWN_PX), interpolation=cv2.INTER_NEAREST)
    # Boxes far outside would overflow OpenCV's integers.
    near = np.clip(np.array(box) - (x, y, x, y), -4 * side, 4 * side)
    corners = [round(float(value)) for value in near * scale]
    cv2.rectangle(shown, tuple(corners[:2]), tuple(corners[2:]), (255, 64, 64), 1)
    return np.asarray(shown, np.uint8)


def _counts(split: str, stats: Stats) -> str:
    head = f"<h2>{escape(split)}: {stats.boxes} boxes on {stats.images} images</h2>"
    classes = "".join(
        f"<tr><td>{escape(name)}<td class=n>{number}" for name, number in stats.classes.items()
    )
    most = max(1, *stats.sides_px.values())
    sides = "".join(
        f"<tr><td>{name} px<td class=n>{number}"
        f'<td><div class=bar style="width:{300 * number / most:.0f}px"></div>'
        for name, number in stats.sides_px.items()
    )
    anchors = "".join(
        f"<tr><td>{name}<td class=n>{share:.1%}" for name, share in stats.no_anchor.items()
    )
    return (
        f"{head}<table><tr><th>class<th>boxes{classes}</table>"
        f"<p>Side of the boxes (square root of the area):</p><table>{sides}</table>"
        f"<p>Boxes in which no anchor lies, by detection levels:</p><table>{anchors}</table>"
    )
