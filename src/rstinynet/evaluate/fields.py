"""What an annotation file says of its images beyond their labels: scale and scene."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rstinynet.data.annotations import LabelledImage
from rstinynet.data.formats.coco import GSD_FIELD, is_gsd, shown
from rstinynet.errors import DataError, UsageError


def image_fields(annotations: Path | None, field: str) -> dict[int, Any]:
    """The values of one field by image id, of the images of a COCO file that have it.

    Empty where the labels lie in files of another kind (None).
    """
    if annotations is None:
        return {}
    text = annotations.read_bytes()
    # Most files lack it, and large ones are slow to parse.
    written = (json.dumps(field, ensure_ascii=ascii_only) for ascii_only in (True, False))
    if not any(name.encode() in text for name in written):
        return {}
    records = json.loads(text)["images"]
    return {record["id"]: record[field] for record in records if field in record}


def scales(annotations: Path | None, ids: list[int], *, default: float | None) -> dict[int, float]:
    """Ground sampling distance in metres by image id: the record's `gsd_m`, else `default`.

    Raises DataError for a value that is no distance, UsageError for such a `default`.
    """
    if default is not None and not (default > 0 and math.isfinite(default)):
        raise UsageError(f"--gsd must be above 0 metres a pixel, not {default}")
    known: dict[int, float] = {} if default is None else dict.fromkeys(ids, default)
    for image_id, value in image_fields(annotations, GSD_FIELD).items():
        if value is None:
            continue
        if not is_gsd(value):
            raise DataError(
                f"{annotations}: image {image_id}: '{GSD_FIELD}' must be metres a pixel, above 0, "
                f"not {shown(value)}; correct it, or leave it out"
            )
        known[image_id] = float(value)
    return known


def by_field(annotations: Path | None, field: str) -> Callable[[LabelledImage], str]:
    """Names the scene of an image by a field of its record.

    Raises DataError where no image has the field, and when asked for an image that lacks it.
    """
    # A null is no name: such images would make a scene "None" of all places.
    values: Mapping[int, Any] = {
        at: value for at, value in image_fields(annotations, field).items() if value is not None
    }
    if not values:
        raise DataError(
            f"{annotations or 'the labels'}: no image record has the field {field!r} that is to "
            "name its scene"
        )

    def scene(image: LabelledImage) -> str:
        if image.id not in values:
            raise DataError(
                f"{annotations}: image {image.id}: lacks the field {field!r} that is to name its "
                "scene"
            )
        return str(values[image.id])

    return scene
