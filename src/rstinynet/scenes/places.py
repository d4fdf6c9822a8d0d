"""Where objects are, as points with a class: out of a result, or of a file of detections."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import pyogrio.raw
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS

from rstinynet.errors import DataError, UsageError
from rstinynet.scenes import georef
from rstinynet.scenes.vector_files import LAYER, pyarrow_parquet

CHUNK = 100_000
"""Objects read at once."""
SUFFIXES = (".gpkg", ".fgb", ".shp", ".geojson", ".parquet", ".csv")
_NEEDED = ("class_name", "score")

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Places:
    """Centres of objects."""

    xy: Floats
    """(N, 2) in the coordinate system that comes with them, or pixels."""
    names: npt.NDArray[np.object_]
    """(N,) class names."""
    scores: Floats
    """(N,) confidence."""

    def __len__(self) -> int:
        return len(self.xy)

    def of(self, classes: Sequence[str] | None, conf: float) -> Places:
        """Those of `classes` (None: all) with at least this confidence."""
        # Objects drawn by hand have no score: nothing is below a confidence of 0.
        keep = np.nan_to_num(self.scores, nan=0.0) >= conf
        if classes is not None:
            keep &= np.isin(self.names.astype(str), list(classes))
        return Places(self.xy[keep], self.names[keep], self.scores[keep])


def system(path: Path) -> CRS | None:
    """The coordinate system of a file of detections; None for pixels.

    Raises DataError for a file that is not one of those that `predict` writes.
    """
    _check(path)
    if path.suffix.lower() == ".csv":
        return georef.WGS84
    if path.suffix.lower() == ".parquet":
        return _parquet_crs(path)
    with _reading(path):
        crs = pyogrio.read_info(path, layer=_layer(path))["crs"]
    return None if crs is None else CRS.from_user_input(crs)


def read(path: Path) -> Iterator[Places]:
    """The objects of a file, `CHUNK` at a time, in its own coordinate system."""
    _check(path)
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _read_csv(path)
    elif kind == ".parquet":
        yield from _read_parquet(path)
    else:
        yield from _read_ogr(path)


def _checked(path: Path, places: Places, *, degrees: bool) -> Places:
    """The objects; DataError where one has no class or no place."""
    nameless = np.array([not isinstance(name, str) or not name for name in places.names], bool)
    if nameless.any():
        raise DataError(
            f"{path}: object {int(nameless.argmax()) + 1} has no class_name: name its class"
        )
    lost = ~np.isfinite(places.xy).all(axis=1)
    if degrees:
        # Up to a turn on: what lies across the 180th meridian.
        lost |= (np.abs(places.xy) > (540, 90)).any(axis=1)
    if lost.any():
        at = int(lost.argmax())
        raise DataError(
            f"{path}: object {at + 1} lies nowhere, at {places.xy[at].tolist()}: give it a place, "
            "or remove it"
        )
    return places


def middles(shapes: npt.NDArray[np.object_], *, degrees: bool) -> Floats:
    """(N, 2) middles of boxes; of one cut at the 180th meridian that of the whole."""
    points = np.full((len(shapes), 2), np.nan)
    there = ~(shapely.is_missing(shapes) | shapely.is_empty(shapes))
    points[there] = shapely.get_coordinates(shapely.centroid(shapes[there]))
    if degrees and len(shapes):
        bounds = shapely.bounds(shapes)
        for at in np.flatnonzero(bounds[:, 2] - bounds[:, 0] > 180):
            whole = shapely.transform(
                shapes[at], lambda c: np.stack([c[:, 0] % 360, c[:, 1]], axis=1)
            )
            x, y = shapely.get_coordinates(shapely.centroid(whole))[0]
            points[at] = ((x + 180) % 360 - 180, y)
    return np.asarray(points, np.float64)


def _read_ogr(path: Path) -> Iterator[Places]:
    layer, start = _layer(path), 0
    while True:
        with _reading(path):
            meta, _, geometry, columns = pyogrio.raw.read(
                path, layer=layer, columns=list(_NEEDED), skip_features=start, max_features=CHUNK
            )
        values = dict(zip(meta["fields"].tolist(), columns, strict=True))
        _require(path, list(values))
        if not len(geometry):
            return
        degrees = meta["crs"] is not None and CRS.from_user_input(meta["crs"]).is_geographic
        xy = middles(shapely.from_wkb(geometry), degrees=degrees)
        places = Places(xy, values["class_name"], values["score"].astype(np.float64))
        yield _checked(path, places, degrees=degrees)
        start += len(geometry)


def _read_parquet(path: Path) -> Iterator[Places]:
    crs = _parquet_crs(path)
    file = pyarrow_parquet().ParquetFile(path)
    _require(path, file.schema_arrow.names)
    for batch in file.iter_batches(CHUNK, columns=[*_NEEDED, "geometry"]):
        shapes = shapely.from_wkb(batch["geometry"].to_numpy(zero_copy_only=False))
        degrees = crs is not None and crs.is_geographic
        places = Places(
            middles(shapes, degrees=degrees),
            np.array(batch["class_name"].to_pylist(), dtype=object),
            batch["score"].to_numpy(zero_copy_only=False).astype(np.float64),
        )
        yield _checked(path, places, degrees=degrees)


def _read_csv(path: Path) -> Iterator[Places]:
    try:
        # Spreadsheets put a mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            _require(path, table.fieldnames or [])
            while rows := list(islice(table, CHUNK)):
                yield _checked(path, _of_rows(path, rows), degrees=True)
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a table must be text in UTF-8: {error}") from error


def _of_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> Places:
    try:
        xy = np.array([(row["lon"], row["lat"]) for row in rows], np.float64)
        scores = np.array([row["score"] for row in rows], np.float64)
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(
            f"{path}: a CSV is counted by its columns lon and lat, which it lacks or has "
            f"as text ({error}): use the GeoPackage"
        ) from error
    return Places(xy, np.array([row["class_name"] for row in rows], object), scores)


def _parquet_crs(path: Path) -> CRS | None:
    import json

    parquet = pyarrow_parquet()
    import pyarrow

    try:
        metadata = parquet.read_metadata(path).metadata or {}
        geometry = json.loads(metadata[b"geo"])["columns"]["geometry"]
    except (pyarrow.ArrowInvalid, KeyError, ValueError) as error:
        raise DataError(f"{path}: not GeoParquet that can be read: {error}") from error
    # GeoParquet: without the key it is longitude and latitude, null is unknown.
    crs = geometry.get("crs", "OGC:CRS84")
    return None if crs is None else CRS.from_user_input(crs)


def _layer(path: Path) -> str | int:
    return LAYER if path.suffix.lower() == ".gpkg" else 0


def _check(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path")
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(
            f"{path}: objects are counted from files that end with {', '.join(SUFFIXES)}"
        )


def _require(path: Path, have: Sequence[str]) -> None:
    missing = [name for name in _NEEDED if name not in have]
    if missing:
        raise DataError(
            f"{path}: has no column {', '.join(missing)}: give a file that `rstinynet predict` "
            "wrote"
        )


class _reading:  # noqa: N801
    """Turns OGR's errors into DataError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DataSourceError | DataLayerError):
            raise DataError(
                f"{self._path}: not a file of detections that can be read: {error}"
            ) from error
