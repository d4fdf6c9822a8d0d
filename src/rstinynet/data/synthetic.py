"""A small data set drawn from a seed, for tests and for trying things out.

Soft textured ground with small bright or dark rectangles ("vehicle") and ellipses
("storage-tank"), none overlapping, as PNG images and COCO JSON in the folder layout of
`rstinynet.data.folder`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np

from rstinynet import files
from rstinynet.data.image import RgbArray
from rstinynet.errors import UsageError

CATEGORIES = ((1, "storage-tank"), (4, "vehicle"))
"""Ids, with a gap as real files have, and names."""

_SIDES_PX = (8, 22)
_GAP_PX = 4


def make_synthetic(
    folder: Path | str,
    *,
    images: int = 8,
    size: int = 128,
    seed: int = 0,
    split: str = "train",
    partial: bool = False,
) -> Path:
    """Write `images` square images of side `size` and their annotations; the same for a seed.

    With `partial`, each image's labels know one class only, in turn; objects of the other are
    drawn and not labelled. Returns the path of `{split}.json`; the images lie in `images/`.

    Raises:
        UsageError: no images, or images too small to hold an object.
    """
    if images < 1 or size < 2 * _SIDES_PX[1]:
        raise UsageError(
            f"a synthetic set needs at least 1 image of at least {2 * _SIDES_PX[1]} pixels, "
            f"not {images} of {size}"
        )
    folder = Path(folder)
    records: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number in range(images):
        rng = np.random.default_rng([seed, number, *split.encode()])
        pixels = _ground(size, rng)
        objects = _draw_objects(pixels, rng)
        name = f"{split}_{number:04d}.png"
        _write_png(folder / "images" / name, pixels)
        record: dict[str, Any] = {
            "id": number + 1,
            "file_name": name,
            "width": size,
            "height": size,
        }
        if partial:
            label = number % len(CATEGORIES)
            objects = [each for each in objects if each[0] == label]
            record["neg_category_ids"] = [] if objects else [CATEGORIES[label][0]]
        records.append(record)
        for label, box_xywh in objects:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number + 1,
                    "category_id": CATEGORIES[label][0],
                    "bbox": box_xywh,
                    "area": box_xywh[2] * box_xywh[3],
                    "iscrowd": 0,
                }
            )
    path = folder / f"{split}.json"
    categories = [{"id": id_, "name": name} for id_, name in CATEGORIES]
    files.write_json(
        path, {"images": records, "annotations": annotations, "categories": categories}
    )
    return path


def _ground(size: int, rng: np.random.Generator) -> RgbArray:
    """Coarse and fine noise around one mid tone."""
    coarse = rng.normal(0, 14, (max(2, size // 24), max(2, size // 24), 3)).astype(np.float32)
    smooth = cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    fine = rng.normal(0, 5, (size, size, 1))
    tone = rng.uniform(95, 140, 3)
    return np.asarray(np.clip(tone + smooth + fine, 0, 255), np.uint8)


def _draw_objects(pixels: RgbArray, rng: np.random.Generator) -> list[tuple[int, list[float]]]:
    """Draw onto `pixels` and return (label, left-top-width-height box) of each object."""
    size = len(pixels)
    wanted = max(2, round(size * size / 2500))
    taken = np.zeros((size, size), np.bool_)
    objects: list[tuple[int, list[float]]] = []
    for number in range(20 * wanted):
        if len(objects) == wanted:
            break
        label = number % len(CATEGORIES)
        width, height = (int(side) for side in rng.integers(*_SIDES_PX, 2))
        if label == 0:
            height = width
        left = int(rng.integers(0, size - width + 1))
        top = int(rng.integers(0, size - height + 1))
        around = np.s_[
            max(0, top - _GAP_PX) : top + height + _GAP_PX,
            max(0, left - _GAP_PX) : left + width + _GAP_PX,
        ]
        if taken[around].any():
            continue
        taken[top : top + height, left : left + width] = True
        bright = rng.random() < 0.6
        colour = rng.uniform(215, 255, 3) if bright else rng.uniform(5, 40, 3)
        inside = _ellipse(height, width) if label == 0 else np.ones((height, width), np.bool_)
        pixels[top : top + height, left : left + width][inside] = colour.astype(np.uint8)
        objects.append((label, [float(left), float(top), float(width), float(height)]))
    return objects


def _ellipse(height: int, width: int) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """(height, width) true inside the ellipse that touches all four sides."""
    y = (np.arange(height) + 0.5) / height * 2 - 1
    x = (np.arange(width) + 0.5) / width * 2 - 1
    return np.asarray(np.hypot(y[:, None], x[None, :]) <= 1, np.bool_)


def _write_png(path: Path, pixels: RgbArray) -> None:
    encoded = cv2.imencode(".png", np.ascontiguousarray(pixels[..., ::-1]))[1]
    files.write_bytes(path, encoded.tobytes())
