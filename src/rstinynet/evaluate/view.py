"""Detectors side by side on one image: what they hit, miss and see where nothing is.

After the RS-TinyNet paper's figures 3 and 4: a column for the truth and one a detector; the whole
image above, and below it the place where most is to be seen, enlarged. Colours are of Okabe and
Ito's set, and each kind has its own line, so that no reader depends on colour.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.image import RgbArray
from rstinynet.detections import Float32Array
from rstinynet.evaluate.verdicts import Verdicts

PANEL = 512
"""Side of a column's pictures, pixels."""
CROP = 128
"""Side of the enlarged place, pixels of the image."""
HIT, MISSED, FALSE, TRUTH = (86, 180, 233), (240, 228, 66), (213, 94, 0), (255, 255, 255)
LEGEND = (
    (TRUTH, "object"),
    (HIT, "hit (solid)"),
    (MISSED, "missed (corners)"),
    (FALSE, "false alarm (crossed)"),
)
_GAP, _HEAD, _FOOT = 8, 52, 40
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK = (20, 20, 20)
Place = tuple[int, int, int]
"""Left, top and side of a square on the image, pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One detector's outcome on the images of a set."""

    name: str
    verdicts: Mapping[int, Verdicts]
    """By image id."""


def worst_images(
    labelled: LabelledSet, shown: Sequence[Shown], *, count: int
) -> list[LabelledImage]:
    """The `count` images where the detectors differ most and err most, in the set's order."""

    def weight(image: LabelledImage) -> int:
        outcomes = [each.verdicts[image.id] for each in shown]
        errors = sum(each.missed + each.false_alarms for each in outcomes)
        found = np.stack([each.found for each in outcomes])
        return errors + 3 * len(shown) * int((found.any(axis=0) & ~found.all(axis=0)).sum())

    ranked = sorted(labelled.images, key=lambda image: (-weight(image), image.id))
    chosen = {image.id for image in ranked[:count]}
    return [image for image in labelled.images if image.id in chosen]


def place_of_interest(image: LabelledImage, outcomes: Sequence[Verdicts]) -> Place:
    """The square that holds most objects and false alarms; errors weigh more."""
    side = min(CROP, image.width, image.height)
    points, weights = [_centres(image.boxes)], [np.ones(len(image.boxes))]
    for each in outcomes:
        weights[0] = weights[0] + 2 * (each.counted & ~each.found)
    for each in outcomes:
        points.append(_centres(each.detections.boxes[~each.hit]))
        weights.append(np.full(each.false_alarms, 2.0))
    centres, values = np.concatenate(points), np.concatenate(weights)
    if not len(centres):
        return (image.width - side) // 2, (image.height - side) // 2, side
    limit = (image.width - side, image.height - side)
    # Trying the busiest few hundred is as good as trying all.
    tried = centres[np.argsort(-values, kind="stable")[:300]]
    corners = np.clip(np.round(tried - side / 2), 0, limit)
    inside = (centres[None] >= corners[:, None]) & (centres[None] < corners[:, None] + side)
    best = int((inside.all(axis=2) * values).sum(axis=1).argmax())
    return int(corners[best, 0]), int(corners[best, 1]), side


def side_by_side(pixels: RgbArray, image: LabelledImage, shown: Sequence[Shown]) -> RgbArray:
    """The picture of one image, (H, W, 3): columns of the truth and of each detector."""
    outcomes = [each.verdicts[image.id] for each in shown]
    place = place_of_interest(image, outcomes)
    objects = int((~image.crowd).sum())
    columns = [
        _column(pixels, place, [(TRUTH, image.boxes[~image.crowd])], "truth", f"{objects} objects")
    ]
    for each, outcome in zip(shown, outcomes, strict=True):
        marks = [
            (FALSE, outcome.detections.boxes[~outcome.hit]),
            (HIT, outcome.detections.boxes[outcome.hit]),
            (MISSED, image.boxes[outcome.counted & ~outcome.found]),
        ]
        counts = f"{outcome.hits} hit, {outcome.missed} missed, {outcome.false_alarms} false"
        columns.append(_column(pixels, place, marks, each.name, counts))
    gap = np.full((len(columns[0]), _GAP, 3), 255, np.uint8)
    parts = [part for column in columns for part in (column, gap)][:-1]
    sheet = np.hstack(parts)
    return np.asarray(np.vstack([sheet, _legend(sheet.shape[1])]), np.uint8)


def _column(
    pixels: RgbArray,
    place: Place,
    marks: Sequence[tuple[tuple[int, int, int], Float32Array]],
    name: str,
    counts: str,
) -> RgbArray:
    head = np.full((_HEAD, PANEL, 3), 255, np.uint8)
    cv2.putText(head, _fitting(name, 0.7), (4, 22), _FONT, 0.7, _INK, 2, cv2.LINE_AA)
    cv2.putText(head, counts, (4, 44), _FONT, 0.55, _INK, 1, cv2.LINE_AA)
    height, width = pixels.shape[:2]
    factor = PANEL / max(height, width)
    whole = _resized(pixels, factor)
    left, top, side = place
    zoom = PANEL / side
    near = _resized(pixels[top : top + side, left : left + side], zoom)
    for colour, boxes in marks:
        _draw(whole, boxes * factor, colour, thickness=1)
        _draw(near, (boxes - np.array([left, top, left, top], np.float32)) * zoom, colour, 2)
    frame = [round(value * factor) for value in (left, top, left + side, top + side)]
    cv2.rectangle(whole, tuple(frame[:2]), tuple(frame[2:]), (0, 0, 0), 3)
    cv2.rectangle(whole, tuple(frame[:2]), tuple(frame[2:]), (255, 255, 255), 1)
    gap = np.full((_GAP, PANEL, 3), 255, np.uint8)
    return np.vstack([head, _padded(whole), gap, _padded(near)])


def _draw(
    canvas: RgbArray, boxes: npt.NDArray[np.float32], colour: tuple[int, int, int], thickness: int
) -> None:
    """Frames just outside the boxes, with a dark edge, drawn as their kind is."""
    height, width = canvas.shape[:2]
    for x0, y0, x1, y1 in boxes.tolist():
        if x1 < 0 or y1 < 0 or x0 > width or y0 > height:
            continue
        # Boxes far outside would overflow OpenCV's integers.
        low = (int(max(x0, -width)) - 2, int(max(y0, -height)) - 2)
        high = (int(min(x1, 2 * width)) + 2, int(min(y1, 2 * height)) + 2)
        if colour == MISSED:
            _corners(canvas, low, high, (0, 0, 0), thickness + 2)
            _corners(canvas, low, high, colour, thickness)
            continue
        cv2.rectangle(canvas, low, high, (0, 0, 0), thickness + 2)
        cv2.rectangle(canvas, low, high, colour, thickness)
        if colour == FALSE:
            cv2.line(canvas, low, high, colour, thickness, cv2.LINE_AA)
            cv2.line(canvas, (low[0], high[1]), (high[0], low[1]), colour, thickness, cv2.LINE_AA)


def _corners(
    canvas: RgbArray,
    low: tuple[int, int],
    high: tuple[int, int],
    colour: tuple[int, int, int],
    thickness: int,
) -> None:
    """A frame of which only the corners are drawn, a third of each side."""
    for x, y, across, down in (
        (low[0], low[1], 1, 1),
        (high[0], low[1], -1, 1),
        (low[0], high[1], 1, -1),
        (high[0], high[1], -1, -1),
    ):
        length = (max(2, (high[0] - low[0]) // 3), max(2, (high[1] - low[1]) // 3))
        cv2.line(canvas, (x, y), (x + across * length[0], y), colour, thickness)
        cv2.line(canvas, (x, y), (x, y + down * length[1]), colour, thickness)


def _legend(width: int) -> RgbArray:
    band = np.full((_FOOT, width, 3), 255, np.uint8)
    x = 4
    for colour, text in LEGEND:
        cv2.rectangle(band, (x, 8), (x + 36, 34), (110, 110, 110), -1)
        box = np.array([[x + 10, 14, x + 26, 28]], np.float32)
        _draw(band, box, colour, 2)
        cv2.putText(band, text, (x + 44, 27), _FONT, 0.55, _INK, 1, cv2.LINE_AA)
        x += 60 + cv2.getTextSize(text, _FONT, 0.55, 1)[0][0]
    return band


def _resized(pixels: RgbArray, factor: float) -> RgbArray:
    way = cv2.INTER_NEAREST if factor >= 3 else cv2.INTER_CUBIC if factor > 1 else cv2.INTER_AREA
    size = (max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor)))
    return np.ascontiguousarray(cv2.resize(pixels, size, interpolation=way), np.uint8)


def _padded(pixels: RgbArray) -> RgbArray:
    wide = np.full((min(len(pixels), PANEL), PANEL, 3), 255, np.uint8)
    wide[:, : pixels.shape[1]] = pixels[:PANEL, :PANEL]
    return wide


def _fitting(text: str, scale: float) -> str:
    """`text` shortened to a column's width."""
    # OpenCV crashes on what is not UTF-8, as a name from the command line may be.
    text = text.encode("utf-8", "replace").decode()
    while len(text) > 4 and cv2.getTextSize(text, _FONT, scale, 2)[0][0] > PANEL - 8:
        text = text[:-4] + "..." if not text.endswith("...") else text[:-6] + "..."
    return text


def _centres(boxes: Float32Array) -> npt.NDArray[np.float64]:
    return np.asarray((boxes[:, :2] + boxes[:, 2:]) / 2, np.float64)
