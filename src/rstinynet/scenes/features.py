"""Detections as map features: the columns that every format has, and the shapes on the ground."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
import numpy.typing as npt
from affine import Affine
from pyproj import CRS

from rstinynet import boxes as box
from rstinynet.detections import Detections
from rstinynet.scenes import georef

Columns = dict[str, npt.NDArray[Any]]
Shapes = npt.NDArray[np.object_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """What a file says of the scene that its detections come from."""

    source: str
    """The path searched, or "array"."""
    class_names: tuple[str, ...]
    """By label."""
    category_ids: tuple[int, ...]
    """Category id of each label in the training data."""
    crs: CRS | None
    """Coordinate system of the scene; None where it has none."""
    transform: Affine | None
    """Pixels to `crs`; None where the scene has no place on the ground."""
    source_gsd: float | None = None
    """Metres a pixel, as given for a scene that does not say them."""
    image_id: int = 1
    """In the COCO results."""
    label: str | None = None
    """What the attribute `source` says; None: the name of the scene's file."""

    @property
    def ground_crs(self) -> CRS | None:
        """The system that positions can be given in; None where they are pixels."""
        return None if self.transform is None else self.crs


def columns(found: Detections, header: Header, *, first_id: int = 1) -> Columns:
    """The attributes, each (N,), ten characters at most so that any format can hold their names.

    `det_id` counts from `first_id`; width_m and height_m are NaN without a CRS
    and without `source_gsd`.
    """
    n = len(found)
    width, height = georef.sizes_m(found.boxes, header.transform, header.crs, header.source_gsd)
    names = np.array(header.class_names, dtype=object)
    label = PurePath(header.source).name if header.label is None else header.label
    pixels = found.boxes.astype(np.float64)
    return {
        "det_id": np.arange(first_id, first_id + n, dtype=np.int64),
        "class_id": found.labels,
        "class_name": names[found.labels],
        "score": found.scores.astype(np.float64).round(6),
        "px_xmin": pixels[:, 0],
        "px_ymin": pixels[:, 1],
        "px_xmax": pixels[:, 2],
        "px_ymax": pixels[:, 3],
        "width_m": width.round(4),
        "height_m": height.round(4),
        "source": np.full(n, label, dtype=object),
    }


def shapes(found: Detections, header: Header, crs: CRS | None) -> Shapes:
    """(N,) polygons, counter-clockwise, in `crs` (None: pixels), through the full affine.

    One that another system than the scene's puts across the 180th meridian goes on beyond 180
    degrees, so that it stays in one piece; one that it does not map is None.
    """
    if crs is None:
        return georef.polygons(georef.corners(found.boxes, None))
    points = georef.corners(found.boxes, header.transform)
    if header.crs is not None and header.crs != crs:
        points = georef.mapped(points, header.crs, crs)
        if crs.is_geographic:
            points = georef.unwrapped(points)
    return georef.polygons(points)


def centres(found: Detections, header: Header, crs: CRS | None) -> npt.NDArray[np.float64]:
    """(N, 2) middles of the boxes in `crs` (None: pixels), NaN where it does not map them."""
    points = georef.corners(found.boxes, header.transform if crs is not None else None)
    middles = np.asarray(points.mean(axis=1), np.float64)
    if crs is not None and header.crs is not None and header.crs != crs:
        return georef.mapped(middles, header.crs, crs)
    return middles


def coco_results(found: Detections, header: Header) -> list[dict[str, Any]]:
    """COCO results: image_id, category_id, bbox [x, y, w, h] in pixels, score."""
    bboxes = box.to_xywh(found.boxes).astype(np.float64).round(3).tolist()
    scores = found.scores.astype(np.float64).round(6).tolist()
    return [
        {
            "image_id": header.image_id,
            "category_id": header.category_ids[label],
            "bbox": bbox,
            "score": score,
        }
        for bbox, score, label in zip(bboxes, scores, found.labels.tolist(), strict=True)
    ]
