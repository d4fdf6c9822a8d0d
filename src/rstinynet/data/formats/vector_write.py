"""Boxes written as map features: GeoJSON or GeoPackage, as `vector.read_vector` reads them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from rstinynet import files
from rstinynet.data.annotations import LabelledImage, LabelledSet
from rstinynet.data.formats.common import (
    Georeference,
    georeference,
    losses,
    place_images,
    unseen_classes,
)
from rstinynet.errors import DataError

DRIVERS = {".gpkg": "GPKG", ".geojson": "GeoJSON"}
GEOJSON_DIGITS = 9
"""Decimals of longitude and latitude: a tenth of a millimetre, below a pixel of any scene."""
Float64Array = npt.NDArray[np.float64]


def write_vector(
    labelled: LabelledSet,
    out: Path | str,
    *,
    split: str,
    suffix: str,
    link: bool = False,
    labels: Path | None = None,
) -> list[str]:
    """Write `{split}{suffix}` and `images/{split}/`; returns what the features cannot hold.

    With `labels` the features are written into that folder instead of `out`.
    Footprints are in the scenes' CRS where they share one and the format can hold it (GeoJSON is
    always WGS 84), else in WGS 84.

    Raises:
        DataError: an image is not georeferenced.
    """
    out = Path(out)
    folder = out / "images" / split
    places = [georeference(image.path) for image in labelled.images]
    for image, place in zip(labelled.images, places, strict=True):
        if place.crs is None:
            raise DataError(
                f"{image.path}: has no CRS, so its boxes cannot be map features; "
                "write coco, yolo, voc, dota or csv"
            )
    placed = place_images(labelled, folder, link=link)
    wgs84 = CRS.from_epsg(4326)
    shared = {place.crs for place in places if place.crs is not None}
    crs = shared.pop() if len(shared) == 1 and suffix != ".geojson" else wgs84
    rings = [_ring(image, place, crs) for image, place in zip(placed.images, places, strict=True)]
    outlines = shapely.polygons(np.concatenate([np.zeros((0, 5, 2)), *rings]))
    kinds = np.concatenate([np.zeros(0, np.int64), *(image.labels for image in placed.images)])
    ids = np.array([each.id for each in labelled.categories], np.int64)
    names = np.array(labelled.names, object)
    sources = [[image.path.name] * len(image.boxes) for image in placed.images]
    columns: dict[str, npt.NDArray[Any]] = {
        "class_id": ids[kinds] if len(kinds) else kinds,
        "class_name": names[kinds] if len(kinds) else np.zeros(0, object),
        "source": np.array([name for each in sources for name in each], object),
        "iscrowd": _of(placed, "crowd").astype(np.int32),
        "area_px": _of(placed, "areas").astype(np.float64),
    }
    options = {"COORDINATE_PRECISION": str(GEOJSON_DIGITS)} if suffix == ".geojson" else {}
    with (
        files.replacing((labels or out) / f"{split}{suffix}") as beside,
        files.unparsed(beside) as plain,
        warnings.catch_warnings(),
    ):
        warnings.simplefilter("error", RuntimeWarning)  # a driver that drops a field says it so
        pyogrio.raw.write(
            plain,
            shapely.to_wkb(outlines),
            list(columns.values()),
            list(columns),
            layer="labels" if suffix == ".gpkg" else None,
            driver=DRIVERS[suffix],
            geometry_type="Polygon",
            crs=crs.to_wkt(),
            **options,
        )
    return losses(labelled, ids=False, crowd=False, areas=False) + unseen_classes(labelled)


def _of(labelled: LabelledSet, name: str) -> npt.NDArray[Any]:
    return np.concatenate([np.zeros(0), *(getattr(image, name) for image in labelled.images)])


def _ring(image: LabelledImage, place: Georeference, crs: CRS) -> Float64Array:
    """(N, 5, 2) closed footprints of an image's boxes in a CRS."""
    x0, y0, x1, y1 = image.boxes.astype(np.float64).T
    x = np.stack([x0, x0, x1, x1, x0], axis=-1)
    y = np.stack([y0, y1, y1, y0, y0], axis=-1)
    t = place.transform
    points = np.stack([t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f], axis=-1)
    if place.crs != crs and len(points):
        try:
            transformer = Transformer.from_crs(place.crs, crs, always_xy=True)
        except ProjError as error:
            why = f"no way leads from its coordinate system to {crs.name}; write coco or csv"
            raise DataError(f"{image.path}: {why}") from error
        points = np.stack(transformer.transform(points[..., 0], points[..., 1]), axis=-1)
    return points
