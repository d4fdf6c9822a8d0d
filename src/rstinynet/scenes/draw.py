"""Pictures of what was found: the scene with boxes by class, and close-ups of the densest places.

Objects of eight pixels vanish under an ordinary outline, so boxes are drawn just outside the
object, thin, with a dark edge that keeps them visible on bright ground; small images are
enlarged. A scene larger than the picture is drawn reduced. Close-ups at full resolution go onto a
second sheet.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.detections import Detections
from rstinynet.errors import RSTinyNetError
from rstinynet.files import write_bytes
from rstinynet.scenes.palette import colour_of
from rstinynet.scenes.reader import Scene, UInt8Image
from rstinynet.scenes.windows import Window
from rstinynet.scenes.writers import refuse_source

if TYPE_CHECKING:
    from rstinynet.scenes.result import Result

PICTURE = 1600
"""Longest side of the picture, pixels."""
ENLARGE = 4
"""Most that a small image is enlarged."""
CROP = 256
"""Side of a close-up in pixels of the scene."""
CROPS = 6
"""Most close-ups on the sheet."""
DRAWN = 500_000
"""Most objects drawn, the best: more could not be told apart, nor held in bounded memory."""
_CROP_ZOOM = 2
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_LINE = 26

Colour = tuple[int, int, int]


def write_pictures(result: Result, stem: Path) -> dict[str, Path]:
    """Write the picture and, for scenes over `4 * CROP` with objects, the close-ups."""
    picture_path = stem.with_name(stem.name + ".png")
    refuse_source(result.source, picture_path)
    files = {"png": picture_path}
    with result.open_scene() as scene:
        places = densest(result.found.best(DRAWN), result.size)
        _write_png(picture_path, picture(result, scene, places))
        if places:
            crops_path = stem.with_name(stem.name + "_closeups.png")
            refuse_source(result.source, crops_path)
            _write_png(crops_path, closeups(result, scene, places))
            files["closeups"] = crops_path
    return files


def picture(result: Result, scene: Scene, places: list[Window]) -> UInt8Image:
    """The whole scene with all boxes, a legend with counts, and `places` marked by number."""
    width, height = result.size
    factor = min(PICTURE / max(width, height), ENLARGE)
    factor = int(factor) if factor >= 1 else factor
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    if factor < 1:
        canvas = scene.overview(*size)
    else:
        pixels = scene.read(Window(0, 0, width, height, (0, 0, width, height))).image
        way = cv2.INTER_NEAREST if factor >= 3 else cv2.INTER_CUBIC
        canvas = np.asarray(cv2.resize(pixels, size, interpolation=way), np.uint8)
    draw_boxes(canvas, result.found.best(DRAWN), factor=factor)
    for number, place in enumerate(places, 1):
        low = (round(place.x * factor), round(place.y * factor))
        high = (
            round((place.x + place.width) * factor),
            round((place.y + place.height) * factor),
        )
        cv2.rectangle(canvas, low, high, (255, 255, 255), 1, cv2.LINE_AA)
        _text(canvas, str(number), (low[0] + 4, low[1] + 18), (255, 255, 255))
    return with_legend(canvas, result)


def closeups(result: Result, scene: Scene, places: list[Window]) -> UInt8Image:
    """A sheet of `places` at full resolution, enlarged, numbered as on the picture."""
    tiles = []
    best = result.found.best(DRAWN)
    for number, place in enumerate(places, 1):
        pixels = scene.read(place).image
        side = CROP * _CROP_ZOOM
        crop = np.asarray(
            cv2.resize(pixels, None, fx=_CROP_ZOOM, fy=_CROP_ZOOM, interpolation=cv2.INTER_CUBIC),
            np.uint8,
        )
        found = best.shifted(-place.x, -place.y)
        draw_boxes(crop, found, factor=_CROP_ZOOM)
        framed = np.full((side + 8, side + 8, 3), 255, np.uint8)
        framed[4 : 4 + crop.shape[0], 4 : 4 + crop.shape[1]] = crop
        _text(framed, str(number), (12, 28), (255, 255, 255))
        tiles.append(framed)
    columns = min(3, len(tiles))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[i : i + columns]) for i in range(0, len(tiles), columns)]
    return with_legend(np.vstack(rows), result)


def draw_boxes(canvas: UInt8Image, found: Detections, *, factor: float) -> None:
    """Draw boxes, given in pixels of the source, onto `canvas`, which is `factor` times as large.

    The best are drawn last, so that they stay on top.
    """
    height, width = canvas.shape[:2]
    line = 1 if factor < 1 else 2
    scaled = found.boxes * factor
    visible = (scaled[:, 2:] >= 0).all(axis=1) & (scaled[:, :2] <= (width, height)).all(axis=1)
    corners = np.concatenate([np.floor(scaled[:, :2]), np.ceil(scaled[:, 2:])], axis=1)
    corners = corners[visible].astype(np.int64)
    for box, label in zip(corners[::-1].tolist(), found.labels[visible][::-1], strict=True):
        if factor >= 1:
            _frame(canvas, box, line + 1, (0, 0, 0))
        _frame(canvas, box, line, colour_of(int(label)))


def _frame(canvas: UInt8Image, box: list[int], thickness: int, colour: Colour) -> None:
    """A line of `thickness` pixels round `box` (XYXY), a pixel off it, all of it outside."""
    x0, y0, x1, y1 = box
    for step in range(1, thickness + 1):
        cv2.rectangle(canvas, (x0 - step - 1, y0 - step - 1), (x1 + step, y1 + step), colour, 1)


def densest(found: Detections, size: tuple[int, int]) -> list[Window]:
    """Up to `CROPS` places of `CROP` pixels that hold most objects, which do not overlap.

    None where the scene is not much larger than a place: the picture shows enough.
    """
    width, height = size
    if not len(found) or max(width, height) <= 4 * CROP:
        return []
    side_x, side_y = min(CROP, width), min(CROP, height)
    # Centres not yet looked at; cells are half a place wide, so that a place can sit on a crowd.
    left = (found.boxes[:, :2] + found.boxes[:, 2:]) / 2
    places: list[Window] = []
    while len(left) and len(places) < CROPS:
        cells = np.floor(left / (CROP / 2)).astype(np.int64)
        across = int(cells[:, 0].max()) + 1
        index = int(np.argmax(np.bincount(cells[:, 1] * across + cells[:, 0])))
        fullest = (np.array([index % across, index // across]) + 0.5) * (CROP / 2)
        near = np.abs(left - fullest).max(axis=1) <= CROP / 2
        middle = left[near].mean(axis=0)
        x = int(np.clip(middle[0] - side_x / 2, 0, width - side_x))
        y = int(np.clip(middle[1] - side_y / 2, 0, height - side_y))
        place = Window(x, y, side_x, side_y, (x, y, x + side_x, y + side_y))
        inside = ((left >= (x, y)) & (left < (x + side_x, y + side_y))).all(axis=1)
        apart = all(abs(other.x - x) >= side_x or abs(other.y - y) >= side_y for other in places)
        if apart:
            places.append(place)
        left = left[~(inside | near)]
    return places


def with_legend(canvas: UInt8Image, result: Result) -> UInt8Image:
    """`canvas` with a band below it: each class's colour, name and count."""
    counts = result.counts()
    entries = [(colour_of(result.class_names.index(n)), f"{n}: {c}") for n, c in counts.items()]
    entries = entries or [((90, 90, 90), "nothing found")]
    width = max(canvas.shape[1], 160)
    lines: list[list[tuple[int, Colour, str]]] = [[]]
    x = 10
    for colour, text in entries:
        needed = 34 + cv2.getTextSize(text, _FONT, 0.6, 1)[0][0] + 20
        if x > 10 and x + needed > width:
            lines.append([])
            x = 10
        lines[-1].append((x, colour, text))
        x += needed
    band = np.full((_LINE * len(lines) + 10, canvas.shape[1], 3), 255, np.uint8)
    for row, line in enumerate(lines):
        y = 5 + row * _LINE
        for x, colour, text in line:
            cv2.rectangle(band, (x, y + 4), (x + 18, y + 20), colour, -1)
            cv2.rectangle(band, (x, y + 4), (x + 18, y + 20), (60, 60, 60), 1)
            cv2.putText(band, text, (x + 26, y + 19), _FONT, 0.6, (20, 20, 20), 1, cv2.LINE_AA)
    return np.vstack([canvas, band])


def _text(canvas: UInt8Image, text: str, at: tuple[int, int], colour: Colour) -> None:
    """Text that can be read on any ground."""
    cv2.putText(canvas, text, at, _FONT, 0.6, (0, 0, 0), 4, cv2.LINE_AA)
    cv2.putText(canvas, text, at, _FONT, 0.6, colour, 1, cv2.LINE_AA)


def _write_png(path: Path, image: npt.NDArray[np.uint8]) -> None:
    done, encoded = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise RSTinyNetError(f"{path}: the picture of {image.shape} could not be encoded as PNG")
    write_bytes(path, encoded.tobytes())
