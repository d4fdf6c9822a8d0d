"""What training sees and what the model finds, as pictures; and the curves of a run.

Ignored regions are grey with a cross; objects have their class's colour.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch

from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.batch import Batch
from rstinynet.data.image import RgbArray, read_rgb
from rstinynet.detections import Detections, Float32Array
from rstinynet.model.detector import DetectorModel
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.draw import draw_boxes
from rstinynet.scenes.palette import colour_of

SHEET = 1920
"""Most pixels across a sheet."""
VAL_IMAGES = 4
VAL_SIDE = 640
"""Largest side of the part of a validation image that is shown, pixels."""
SHOWN_CONF = 0.25
"""Detections under this are not drawn."""
IGNORED = (150, 150, 150)
_FONT = cv2.FONT_HERSHEY_SIMPLEX


def batch_sheet(batch: Batch, names: Sequence[str]) -> RgbArray:
    """The first images of a batch as the model gets them, with objects and ignored regions."""
    images = batch.images_on(torch.device("cpu")).permute(0, 2, 3, 1).contiguous().numpy()
    factor = max(1, min(3, SHEET // 4 // images.shape[2]))
    columns = max(1, min(4, SHEET // (factor * images.shape[2])))
    tiles = []
    for row in range(min(len(batch), columns**2)):
        objects = _certain(batch.boxes[row].numpy(), batch.labels[row].numpy())
        tiles.append(_drawn(images[row], objects, batch.crowds[row].numpy(), factor=factor))
    return _sheet(tiles, columns, names, "training images as the model gets them")


def validation_sheet(
    model: DetectorModel,
    metadata: WeightsMetadata,
    labelled: LabelledSet,
    *,
    device: str,
    fit: int | None = None,
) -> RgbArray | None:
    """Truth at the left, what `model` finds at the right; None if no image has an object.

    `fit` is that of `validate`.
    """
    with_objects = [image for image in labelled.images if (~image.crowd).any()]
    if not with_objects:
        return None
    detector = Detector(model, metadata, device=device)
    places = np.linspace(0, len(with_objects) - 1, min(VAL_IMAGES, len(with_objects))).astype(int)
    tiles = []
    for place in np.unique(places):
        image = with_objects[place]
        pixels = read_rgb(image.path)
        scale = None if fit is None else fit / max(pixels.shape[:2])
        found = detector.detect(pixels, conf=SHOWN_CONF, scale=scale)
        left, top = _busiest(image)
        part = np.ascontiguousarray(pixels[top : top + VAL_SIDE, left : left + VAL_SIDE])
        offset = np.array([left, top, left, top], np.float32)
        crowds = image.boxes[image.crowd] - offset
        truth = _certain(image.boxes[~image.crowd], image.labels[~image.crowd])
        factor = max(1, min(4, VAL_SIDE // max(part.shape[:2])))
        for objects in (truth, found):
            tiles.append(_drawn(part, objects.shifted(-left, -top), crowds, factor=factor))
    title = f"left: labelled, right: found with confidence {SHOWN_CONF} or more"
    return _sheet(tiles, 2, labelled.names, title)


def curves(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Losses, AP by size and the learning rate over the epochs, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(14, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    panels = {
        "loss, mean of the epoch": ("loss", "box", "cls", "dfl"),
        "validation AP": ("ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m"),
        "learning rate": ("lr",),
    }
    for axes, (title, names) in zip(figure.subplots(1, 3), panels.items(), strict=True):
        for name in names:
            points = [(row["epoch"], row[name]) for row in rows if row.get(name) is not None]
            if points:
                axes.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axes.set_title(title)
        axes.set_xlabel("epoch")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend()
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=100)
    return content.getvalue()


def png(image: RgbArray) -> bytes:
    """(H, W, 3) RGB as PNG."""
    _, content = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    return content.tobytes()


def _certain(boxes: Float32Array, labels: Any) -> Detections:
    return Detections(boxes, np.ones(len(boxes), np.float32), labels)


def _drawn(image: RgbArray, objects: Detections, ignored: Float32Array, *, factor: int) -> RgbArray:
    canvas = cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_NEAREST)
    for left, top, right, bottom in np.rint(ignored * factor).astype(int).tolist():
        cv2.rectangle(canvas, (left, top), (right - 1, bottom - 1), IGNORED, 1)
        cv2.line(canvas, (left, top), (right - 1, bottom - 1), IGNORED, 1, cv2.LINE_AA)
        cv2.line(canvas, (left, bottom - 1), (right - 1, top), IGNORED, 1, cv2.LINE_AA)
    drawn = np.asarray(canvas, np.uint8)
    draw_boxes(drawn, objects, factor=factor)
    return drawn


def _busiest(image: LabelledImage) -> tuple[int, int]:
    """Left and top of a part of `VAL_SIDE` pixels around the object in the middle of them all."""
    boxes = image.boxes[~image.crowd]
    middles = (boxes[:, :2] + boxes[:, 2:]) / 2
    nearest = np.abs(middles - np.median(middles, axis=0)).sum(axis=1).argmin()
    spare = np.maximum(0, np.array([image.width, image.height]) - VAL_SIDE)
    left, top = np.clip(middles[nearest] - VAL_SIDE / 2, 0, spare).astype(int)
    return int(left), int(top)


def _sheet(tiles: list[RgbArray], columns: int, names: Sequence[str], title: str) -> RgbArray:
    """Tiles in rows, white between them, with a band below: colours of classes, and a title."""
    height = max(tile.shape[0] for tile in tiles) + 4
    width = max(tile.shape[1] for tile in tiles) + 4
    columns = min(columns, len(tiles))
    cells = []
    for tile in tiles:
        cell = np.full((height, width, 3), 255, np.uint8)
        cell[2 : 2 + tile.shape[0], 2 : 2 + tile.shape[1]] = tile
        cells.append(cell)
    cells += [np.full((height, width, 3), 255, np.uint8)] * (-len(cells) % columns)
    rows = [np.hstack(cells[i : i + columns]) for i in range(0, len(cells), columns)]
    entries = [(title, (235, 235, 235)), ("ignored", IGNORED)]
    entries += [(name, colour_of(label)) for label, name in enumerate(names)]
    return np.vstack([*rows, _legend(entries, columns * width)])


def _legend(entries: Sequence[tuple[str, tuple[int, int, int]]], width: int) -> RgbArray:
    """A dark band of text in colours, as many lines as it takes."""
    lines: list[list[tuple[int, str, tuple[int, int, int]]]] = [[]]
    x = 8
    for text, colour in entries:
        text = text.encode("ascii", "replace").decode()
        wide = cv2.getTextSize(text, _FONT, 0.45, 1)[0][0]
        if lines[-1] and x + wide > width - 8:
            lines.append([])
            x = 8
        lines[-1].append((x, text, colour))
        x += wide + 24
    band = np.full((20 * len(lines) + 8, width, 3), 30, np.uint8)
    for number, line in enumerate(lines):
        for left, text, colour in line:
            place = (left, 20 * number + 18)
            cv2.putText(band, text, place, _FONT, 0.45, colour, 1, cv2.LINE_AA)
    return band
