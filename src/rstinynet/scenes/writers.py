"""Detections as files of every format, chunk by chunk, under their final name only when complete.

    with writers.create(path, "gpkg", header) as file:
        file.add(detections)          # as often as there are some

Attributes are the same everywhere (`rstinynet.scenes.features`). A file is written beside and
renamed when the block ends; an error inside it leaves what was there before. An empty result keeps
its schema and CRS.
"""

from __future__ import annotations

import csv
import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol

import numpy as np
import shapely
from pyproj import CRS

from rstinynet.detections import Detections
from rstinynet.errors import UsageError
from rstinynet.files import replacing, replacing_set, write_bytes
from rstinynet.model.metadata import Scaling
from rstinynet.scenes import features, georef, qgis
from rstinynet.scenes.features import Header
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.vector_files import (
    LAYER,
    LAYERS,
    FlatGeobufFile,
    GeoParquetFile,
    OgrFile,
    pyarrow_parquet,
    refuse_layers,
)

if TYPE_CHECKING:
    from rstinynet.scenes.result import Result

SUFFIXES = {
    "gpkg": ".gpkg",
    "geojson": ".geojson",
    "fgb": ".fgb",
    "parquet": ".parquet",
    "shp": ".shp",
    "coco": ".json",
    "csv": ".csv",
}
"""Format -> what its files end with."""
CHUNK = 20_000
"""Features written at once; what is added is held back until there are so many."""
_STYLED = ("gpkg", "geojson", "fgb", "parquet", "shp")


class _Features(Protocol):
    """One of `rstinynet.scenes.vector_files`."""

    def write(self, columns: features.Columns, shapes: features.Shapes) -> None: ...
    def close(self) -> None: ...


_VECTORS: dict[str, Callable[[Path, CRS | None], _Features]] = {
    "gpkg": OgrFile,
    "shp": OgrFile,
    "fgb": FlatGeobufFile,
    "parquet": GeoParquetFile,
}


class _Sink(Protocol):
    """A file that takes one scene's detections at a time."""

    def take(self, found: Detections, header: Header, first_id: int) -> None: ...
    def end(self) -> None: ...
    def close(self) -> None: ...


class DetectionFile:
    """A file of detections that grows; made by `create`."""

    def __init__(self, sink: _Sink, header: Header) -> None:
        self._sink = sink
        self._header = header
        self._waiting: list[Detections] = []
        self._last: Header = header
        self._written = 0

    def add(self, found: Detections, header: Header | None = None) -> None:
        """Take detections in pixels of their scene: that of `create`, or of `header`."""
        header = header or self._header
        if header is not self._last:
            self._flush()
            self._last = header
        self._waiting.append(found)
        if sum(map(len, self._waiting)) >= CHUNK:
            self._flush()

    def end(self) -> None:
        """Write what is held back and complete the file."""
        self._flush(even_none=not self._written)
        self._sink.end()

    def _flush(self, *, even_none: bool = False) -> None:
        found = Detections.concatenate(self._waiting)
        self._waiting = []
        for start in range(0, len(found), CHUNK):
            part = found[start : start + CHUNK]
            self._sink.take(part, self._last, self._written + 1)
            self._written += len(part)
        if even_none and not self._written:
            self._sink.take(Detections.empty(), self._last, 1)


@contextmanager
def create(
    path: Path, kind: str, header: Header, *, crs: CRS | None = None
) -> Iterator[DetectionFile]:
    """A file of format `kind` at `path`, complete and renamed when the block ends without error.

    Positions are in `crs`, or in the scene's own system without one; in GeoJSON in EPSG:4326.
    Without any they are pixels, and a warning says so. Raises UsageError for a format there is
    not, one that needs a CRS or a package that is missing, or where `path` is the scene itself or
    has layers of the user's (`refuse_layers`).
    """
    check(kind, header.source, header.ground_crs)
    refuse_source(header.source, path)
    if kind == "gpkg":
        refuse_layers(path, LAYERS)
    if header.ground_crs is None and kind in _VECTORS:
        georef.warn_unlocated(header.source)
    target = None if header.ground_crs is None else (crs or header.ground_crs)
    with (replacing_set if kind == "shp" else replacing)(path) as beside:
        sink = _sink(beside, kind, header, target)
        try:
            file = DetectionFile(sink, header)
            yield file
            file.end()
        finally:
            sink.close()


def check(kind: str, source: str, crs: CRS | None) -> None:
    """Raise what `create` would of a scene in `crs`, so that a long search need not come first."""
    if kind not in SUFFIXES:
        raise UsageError(f"format must be of {', '.join(SUFFIXES)}, not {kind!r}")
    if kind == "geojson":
        required_crs(source, crs)
    if kind == "parquet":
        pyarrow_parquet()


def check_scene(
    path: str | Path, kinds: Sequence[str] | None, *, bands: Sequence[int] | None, stem: Path
) -> None:
    """`check` for a scene that is not open yet, and whether it can be opened.

    UsageError too where `write` would replace a GeoPackage with layers of the user's. `kinds` None:
    those that suit the scene.
    """
    # Scaled by its type, since values to scale by take reading.
    with Scene(path, bands=bands, scaling=Scaling(kind="dtype")) as scene:
        suits_gpkg = scene.source.transform is not None
        for kind in kinds or ():
            if kind != "png":
                check(kind, scene.source.name, scene.source.crs)
    if suits_gpkg if kinds is None else "gpkg" in kinds:
        refuse_layers(_path(stem, "gpkg"), LAYERS)


def write(result: Result, stem: Path, kind: str, *, image_id: int = 1) -> dict[str, Path]:
    """Write one format of a whole result; the files by what they are."""
    path = _path(stem, kind)
    with create(path, kind, result.header(image_id)) as file:
        for chunk in result.found.chunks(CHUNK):
            file.add(chunk)
    return {kind: path} | write_style(path, kind, result.class_names)


def _path(stem: Path, kind: str) -> Path:
    return stem.with_name(stem.name + SUFFIXES[kind])


def write_style(path: Path, kind: str, names: tuple[str, ...]) -> dict[str, Path]:
    """The QGIS style beside a file that QGIS takes it up for by itself; one of the user's stays."""
    style = path.with_suffix(".qml")
    if kind not in _STYLED or (style.exists() and not qgis.is_own(style)):
        return {}
    write_bytes(style, qgis.style(names).encode())
    return {"qml": style}


def refuse_source(source: str, path: Path) -> None:
    """UsageError where writing `path` would replace the image that was searched."""
    if path.exists() and os.path.exists(source) and path.samefile(source):
        raise UsageError(f"{path} would replace the source itself: choose another output folder")


def required_crs(source: str, crs: CRS | None) -> CRS:
    """`crs`; UsageError where GeoJSON is wanted and `source` has none that leads to degrees."""
    if crs is None:
        raise UsageError(
            f"{source} has no coordinate system, which GeoJSON needs: use csv, coco or gpkg"
        )
    if not georef.leads(crs, georef.WGS84):
        raise UsageError(
            f"no way leads from the coordinate system of {source} ({crs.name}) to longitude and "
            "latitude, which GeoJSON needs: use csv, coco or gpkg"
        )
    return crs


def _sink(path: Path, kind: str, header: Header, crs: CRS | None) -> _Sink:
    if kind == "geojson":
        return _GeoJSON(path)
    if kind == "coco":
        return _Coco(path)
    if kind == "csv":
        return _Csv(path, located=crs is not None and georef.leads(crs, georef.WGS84))
    return _Vector(path, kind, header, crs)


class _Counts:
    """How many objects of each source something is to be said of, when the file is complete."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._counts: dict[str, int] = {}

    def add(self, source: str, count: int) -> None:
        if count:
            self._counts[source] = self._counts.get(source, 0) + count

    def say(self) -> None:
        for source, count in self._counts.items():
            warnings.warn(f"{source}: {count} objects {self._what}", stacklevel=3)


_LOST = "lie beyond what the coordinate system maps: they are written without a place"


class _Vector:
    """A file that is given columns and shapes."""

    def __init__(self, path: Path, kind: str, header: Header, crs: CRS | None) -> None:
        self._path, self._kind, self._crs = path, kind, crs
        self._names = header.class_names
        self._file = _VECTORS[kind](path, crs)
        self._ended = False
        self._lost = _Counts(_LOST)

    def take(self, found: Detections, header: Header, first_id: int) -> None:
        shapes = features.shapes(found, header, self._crs)
        self._lost.add(header.source, sum(shape is None for shape in shapes))
        self._file.write(features.columns(found, header, first_id=first_id), shapes)

    def end(self) -> None:
        self._ended = True
        self._file.close()
        self._lost.say()
        if self._kind == "gpkg":
            qgis.embed(self._path, LAYER, self._names)

    def close(self) -> None:
        if not self._ended and self._kind == "parquet":
            self._file.close()


class _Text:
    """A text file open from the first chunk to the last."""

    def __init__(self, path: Path) -> None:
        self._file: IO[str] = path.open("w", encoding="utf-8", newline="")

    def close(self) -> None:
        self._file.close()


class _GeoJSON(_Text):
    """RFC 7946: longitude and latitude on WGS 84, 7 decimals, counter-clockwise rings.

    A box across the 180th meridian is cut in two there, one beyond what the scene's system maps has
    no geometry, and warnings count such boxes.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.write('{"type": "FeatureCollection", "features": [')
        self._any = False
        self._cut = _Counts("lie across the 180th meridian and are cut in two there")
        self._lost = _Counts(_LOST)

    def take(self, found: Detections, header: Header, first_id: int) -> None:
        crs = required_crs(header.source, header.ground_crs)
        corners = georef.corners(found.boxes, header.transform)
        lonlat = georef.wrapped(georef.mapped(corners, crs, georef.WGS84))
        across = georef.crossing(lonlat)
        shapes = georef.polygons(georef.unwrapped(lonlat))
        self._cut.add(header.source, int(across.sum()))
        self._lost.add(header.source, sum(shape is None for shape in shapes))
        rows = _rows(features.columns(found, header, first_id=first_id))
        for at, (shape, row) in enumerate(zip(shapes, rows, strict=True)):
            geometry = None
            if across[at]:
                geometry = {"type": "MultiPolygon", "coordinates": _multi(shape)}
            elif shape is not None:
                ring = shapely.get_coordinates(shape).round(7).tolist()
                geometry = {"type": "Polygon", "coordinates": [ring]}
            feature = {
                "type": "Feature",
                "id": first_id + at,
                "geometry": geometry,
                "properties": row,
            }
            self._file.write((",\n" if self._any else "\n") + json.dumps(feature, allow_nan=False))
            self._any = True

    def end(self) -> None:
        self._file.write("\n]}\n")
        self._file.flush()
        self._cut.say()
        self._lost.say()


class _Coco(_Text):
    """COCO results, a list."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._file.write("[")
        self._any = False

    def take(self, found: Detections, header: Header, first_id: int) -> None:
        for one in features.coco_results(found, header):
            self._file.write((",\n" if self._any else "\n") + json.dumps(one, allow_nan=False))
            self._any = True

    def end(self) -> None:
        self._file.write("\n]\n")
        self._file.flush()


class _Csv(_Text):
    """The attributes, and the centre's longitude and latitude where it has them.

    A warning counts the boxes whose centre lies beyond what the scene's system maps.
    """

    def __init__(self, path: Path, *, located: bool) -> None:
        super().__init__(path)
        self._table = csv.writer(self._file, lineterminator="\n")
        self._located = located
        self._any = False
        self._lost = _Counts(_LOST)

    def take(self, found: Detections, header: Header, first_id: int) -> None:
        columns = features.columns(found, header, first_id=first_id)
        if self._located:
            lonlat = georef.wrapped(features.centres(found, header, georef.WGS84)).round(7)
            columns |= {"lon": lonlat[:, 0], "lat": lonlat[:, 1]}
            self._lost.add(header.source, int(np.isnan(lonlat[:, 0]).sum()))
        if not self._any:
            self._table.writerow(columns)
            self._any = True
        for row in _rows(columns):
            self._table.writerow(row.values())

    def end(self) -> None:
        self._file.flush()
        self._lost.say()


def _rows(columns: features.Columns) -> Iterator[dict[str, Any]]:
    """The rows as plain values, None for what is not known."""
    lists = []
    for values in columns.values():
        plain = values.tolist()
        if values.dtype.kind == "f" and np.isnan(values).any():
            plain = [None if value != value else value for value in plain]
        lists.append(plain)
    for row in zip(*lists, strict=True):
        yield dict(zip(columns, row, strict=True))


def _multi(shape: Any) -> list[Any]:
    cut = georef.cut_at_dateline(shape)
    return [[[[round(x, 7), round(y, 7)] for x, y in part.exterior.coords]] for part in cut.geoms]
