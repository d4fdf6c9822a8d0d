"""COCO results files: lists of {image_id, category_id, bbox, score}, read and written."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rstinynet.data.annotations import LabelledSet
from rstinynet.detections import Detections, Int64Array
from rstinynet.errors import DataError
from rstinynet.files import write_bytes


@dataclass(frozen=True, slots=True)
class CocoDetections:
    """Objects of one image as a results file gives them, in double precision.

    Single precision would merge scores that the file tells apart and so change their order.
    """

    boxes_xywh: npt.NDArray[np.float64]
    """(N, 4) left, top, width, height in pixels."""
    scores: npt.NDArray[np.float64]
    """(N,)"""
    labels: Int64Array
    """(N,) class index into the set's categories."""

    def __len__(self) -> int:
        return len(self.boxes_xywh)


def read_results(path: Path | str, labelled: LabelledSet) -> dict[int, CocoDetections]:
    """Detections by image id, of a COCO results file made on the images of `labelled`.

    Raises DataError, naming the entry, for a file that cannot be read, an image or category that
    the set lacks, and boxes or scores that are not finite numbers.
    """
    try:
        content = json.loads(Path(path).read_bytes())
    except OSError as error:
        reason = error.strerror
        raise DataError(f"a results file must be readable; {path} is not: {reason}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"a results file must be JSON; {path} is not: {error}") from error
    if not isinstance(content, list):
        raise DataError(
            f"a results file must hold a list of detections; {path} holds a "
            f"{type(content).__name__}: give the detections, not the annotations"
        )
    label_of = {category.id: at for at, category in enumerate(labelled.categories)}
    images = {image.id for image in labelled.images}
    rows: dict[int, list[tuple[list[float], float, int]]] = {}
    for at, entry in enumerate(content):
        where = f"{path}, entry {at}"
        image_id, category_id, bbox, score = _fields(entry, where)
        if image_id not in images:
            raise DataError(
                f"image_id must be one of the split's images; {where} has {image_id!r}: were the "
                "results made on another split?"
            )
        if category_id not in label_of:
            raise DataError(
                f"category_id must be one of {sorted(label_of)}; {where} has {category_id!r}: "
                "results use the annotation file's ids, not positions"
            )
        rows.setdefault(image_id, []).append((bbox, score, label_of[category_id]))
    return {
        image_id: CocoDetections(
            np.array([bbox for bbox, _, _ in found], np.float64),
            np.array([score for _, score, _ in found], np.float64),
            np.array([label for _, _, label in found], np.int64),
        )
        for image_id, found in rows.items()
    }


def write_results(path: Path | str, found: Mapping[int, Detections], labelled: LabelledSet) -> None:
    """Write `found` by image id as a COCO results file with the set's category ids, unrounded."""
    ids = [category.id for category in labelled.categories]
    entries = []
    for image_id in sorted(found):
        detections = found[image_id]
        boxes = detections.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        for bbox, score, label in zip(
            boxes.tolist(), detections.scores.tolist(), detections.labels.tolist(), strict=True
        ):
            entries.append(
                {"image_id": image_id, "category_id": ids[label], "bbox": bbox, "score": score}
            )
    lines = ",\n".join(json.dumps(entry, allow_nan=False) for entry in entries)
    write_bytes(path, f"[{lines}]\n".encode())


def _fields(entry: Any, where: str) -> tuple[int, int, list[float], float]:
    if not isinstance(entry, dict):
        raise DataError(f"a detection must be an object, not {type(entry).__name__}: {where}")
    missing = [key for key in ("image_id", "category_id", "bbox", "score") if key not in entry]
    if missing:
        raise DataError(f"a detection must have {', '.join(missing)}; {where} does not")
    bbox, score = entry["bbox"], entry["score"]
    if not (isinstance(bbox, list) and len(bbox) == 4 and all(map(_finite, bbox))):
        raise DataError(
            f"bbox must be four finite numbers (left, top, width, height); {where} has {bbox!r}"
        )
    if bbox[2] < 0 or bbox[3] < 0:
        raise DataError(f"width and height must not be negative; {where} has {bbox!r}")
    if not _finite(score):
        raise DataError(f"score must be a finite number; {where} has {score!r}")
    return (
        _whole(entry["image_id"], "image_id", where),
        _whole(entry["category_id"], "category_id", where),
        [float(value) for value in bbox],
        float(score),
    )


def _whole(value: Any, key: str, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise DataError(f"{key} must be a whole number; {where} has {value!r}")
    return value


def _finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
