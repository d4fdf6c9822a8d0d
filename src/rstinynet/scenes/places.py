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
from pyproj.exceptions import CRSError

from rstinynet.data.formats.common import utf8_fault
from rstinynet.errors import DataError, UsageError
from rstinynet.files import unparsed
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
    """(N, 2) in the coordinate system that comes with them, or pixels; NaN for one of no place."""
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
        return self.at(keep)

    def at(self, keep: npt.NDArray[np.bool_]) -> Places:
        """Those for which `keep` (N,) is true."""
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
    with _reading(path), unparsed(path) as plain:
        crs = pyogrio.read_info(plain, layer=_layer(path))["crs"]
    return None if crs is None else CRS.from_user_input(crs)


def read(path: Path) -> Iterator[Places]:
    """The objects of a file, `CHUNK` at a time, in its own coordinate system.

    Those that were written without a place, as `predict` does beyond what a system maps, have none.
    """
    _check(path)
    kind = path.suffix.lower()
    if kind == ".csv":
        yield from _read_csv(path)
    elif kind == ".parquet":
        yield from _read_parquet(path)
    else:
        yield from _read_ogr(path)


def _checked(
    path: Path, places: Places, absent: npt.NDArray[np.bool_], *, first: int, degrees: bool
) -> Places:
    """The objects, of the file's from number `first` on.

    DataError for one without a class, and for a place that is none, unless it is `absent` (N,).
    """
    nameless = np.array([not isinstance(name, str) or not name for name in places.names], bool)
    if nameless.any():
        raise DataError(
            f"{path}: object {int(nameless.argmax()) + first} has no class_name: name its class"
        )
    lost = ~np.isfinite(places.xy).all(axis=1)
    if degrees:
        # Up to a turn on: what lies across the 180th meridian.
        lost |= (np.abs(places.xy) > (540, 90)).any(axis=1)
    lost &= ~absent
    if lost.any():
        at = int(lost.argmax())
        raise DataError(
            f"{path}: object {at + first} lies nowhere, at {places.xy[at].tolist()}: give it a "
            "place, or remove it"
        )
    return places


def middles(shapes: npt.NDArray[np.object_], *, degrees: bool) -> Floats:
    """(N, 2) middles of boxes; of one cut at the 180th meridian that of the whole."""
    points = np.full((len(shapes), 2), np.nan)
    bounds = shapely.bounds(shapes) if len(shapes) else np.zeros((0, 4))
    there = np.isfinite(bounds).all(axis=1)
    with np.errstate(over="ignore", invalid="ignore"):  # of boxes as wide as numbers go
        points[there] = shapely.get_coordinates(shapely.centroid(shapes[there]))
        wide = there & (bounds[:, 2] - bounds[:, 0] > 180)
    if degrees:
        for at in np.flatnonzero(wide):
            whole = shapely.transform(
                shapes[at], lambda c: np.stack([c[:, 0] % 360, c[:, 1]], axis=1)
            )
            x, y = shapely.get_coordinates(shapely.centroid(whole))[0]
            points[at] = ((x + 180) % 360 - 180, y)
    return np.asarray(points, np.float64)


def _read_ogr(path: Path) -> Iterator[Places]:
    layer, start = _layer(path), 0
    while True:
        with _reading(path), unparsed(path) as plain:
            meta, _, geometry, columns = pyogrio.raw.read(
                plain, layer=layer, columns=list(_NEEDED), skip_features=start, max_features=CHUNK
            )
        values = dict(zip(meta["fields"].tolist(), columns, strict=True))
        _require(path, list(values))
        count = len(columns[0])
        if not count:
            return
        if geometry is None:  # where none of a layer's objects has a place
            geometry = np.full(count, None, object)
        degrees = meta["crs"] is not None and CRS.from_user_input(meta["crs"]).is_geographic
        xy = middles(_shapes(path, geometry), degrees=degrees)
        scores = _scores(path, values["score"], first=start + 1)
        places = Places(xy, values["class_name"], scores)
        yield _checked(path, places, _absent(geometry), first=start + 1, degrees=degrees)
        start += count


def _absent(wkb: npt.NDArray[np.object_]) -> npt.NDArray[np.bool_]:
    """(N,) which objects have no geometry at all."""
    return np.array([each is None for each in wkb], np.bool_)


def _shapes(path: Path, wkb: npt.NDArray[np.object_]) -> npt.NDArray[np.object_]:
    """The outlines; None, which lies nowhere, for what is no outline."""
    try:
        with np.errstate(invalid="ignore"):
            return np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), object)
    except TypeError as error:
        raise DataError(f"{path}: its geometry is no WKB: {error}") from error


def _scores(path: Path, values: npt.NDArray[Any], *, first: int) -> Floats:
    """As numbers, NaN where there is none; DataError, with the object's number, for a text."""
    try:
        return np.asarray(values, np.float64)
    except (TypeError, ValueError):
        pass
    for at, value in enumerate(values.tolist()):
        try:
            float("nan" if value is None else value)
        except (TypeError, ValueError):
            raise DataError(
                f"{path}: object {first + at} has the score {value!r}: give it a number, or none"
            ) from None
    raise DataError(f"{path}: the column score holds no numbers")


def _read_parquet(path: Path) -> Iterator[Places]:
    import pyarrow

    crs = _parquet_crs(path)
    degrees, first = crs is not None and crs.is_geographic, 1
    try:
        file = pyarrow_parquet().ParquetFile(path)
        _require(path, file.schema_arrow.names)
        for batch in file.iter_batches(CHUNK, columns=[*_NEEDED, "geometry"]):
            geometry = batch["geometry"].to_numpy(zero_copy_only=False)
            places = Places(
                middles(_shapes(path, geometry), degrees=degrees),
                np.array(batch["class_name"].to_pylist(), dtype=object),
                _scores(path, batch["score"].to_numpy(zero_copy_only=False), first=first),
            )
            yield _checked(path, places, _absent(geometry), first=first, degrees=degrees)
            first += len(places)
    except (pyarrow.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"{path}: damaged from object {first} on, or without geometry: {error}"
        ) from error


def _read_csv(path: Path) -> Iterator[Places]:
    first = 1
    try:
        # Spreadsheets put a mark before the first column's name.
        with path.open(encoding="utf-8-sig", newline="") as file:
            table = csv.DictReader(file)
            _require(path, table.fieldnames or [])
            while rows := list(islice(table, CHUNK)):
                places, absent = _of_rows(path, rows, first)
                yield _checked(path, places, absent, first=first, degrees=True)
                first += len(rows)
    except csv.Error as error:
        raise DataError(
            f"{path}, line {table.reader.line_num}: not a row of a CSV: {error}"
        ) from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: a table must be text in UTF-8: {utf8_fault(path, error)}"
        ) from error


def _of_rows(
    path: Path, rows: Sequence[Mapping[str, str]], first: int
) -> tuple[Places, npt.NDArray[np.bool_]]:
    """The objects, and (N,) which of them have neither lon nor lat."""
    try:
        lonlat = [[(row[name] or "").strip() for name in ("lon", "lat")] for row in rows]
    except KeyError as error:
        raise DataError(
            f"{path}: a CSV is counted by its columns lon and lat, and it has no {error}: use the "
            "GeoPackage"
        ) from error
    try:
        xy = np.array([[text or "nan" for text in each] for each in lonlat], np.float64)
    except ValueError as error:
        raise DataError(
            f"{path}: the columns lon and lat of a CSV hold degrees, not text ({error})"
        ) from error
    absent = np.array([not any(each) for each in lonlat], np.bool_)
    scores = np.array([row["score"] for row in rows], object)
    names = np.array([row["class_name"] for row in rows], object)
    return Places(xy, names, _scores(path, scores, first=first)), absent


def _parquet_crs(path: Path) -> CRS | None:
    import json

    parquet = pyarrow_parquet()
    import pyarrow

    try:
        metadata = parquet.read_metadata(path).metadata or {}
        geometry = json.loads(metadata[b"geo"])["columns"]["geometry"]
        # GeoParquet: without the key it is longitude and latitude, null is unknown.
        crs = geometry.get("crs", "OGC:CRS84")
        return None if crs is None else CRS.from_user_input(crs)
    except (
        pyarrow.ArrowException, OSError, AttributeError, KeyError, TypeError, ValueError, CRSError
    ) as error:  # fmt: skip
        raise DataError(f"{path}: not GeoParquet that can be read: {error}") from error


def _layer(path: Path) -> str | int:
    return LAYER if path.suffix.lower() == ".gpkg" else 0


def _check(path: Path) -> None:
    if not path.exists():
        raise DataError(f"{path}: there is no such file; check the path")
    if path.is_dir():
        raise DataError(f"{path}: is a folder; give a file of objects")
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
    """Turns errors of reading by OGR into DataError."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, DataSourceError | DataLayerError | UnicodeDecodeError):
            why = str(error)
            if isinstance(error, UnicodeDecodeError):
                why = utf8_fault(self._path, error)
            raise DataError(
                f"{self._path}: not a file of detections that can be read: {why}"
            ) from error
