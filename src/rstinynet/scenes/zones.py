"""Objects counted by polygon: a copy of the zones with how many there are of each class."""

from __future__ import annotations

import math
import re
import struct
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Geod
from pyproj.exceptions import ProjError

from rstinynet.errors import DataError, UsageError
from rstinynet.files import replacing, unparsed
from rstinynet.scenes import georef
from rstinynet.scenes.places import Places

LAYER = "zones"
_DRIVERS = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".geojson": "GeoJSON"}
_DOMAIN = b"GDAL:OGR:domain_name"
_PARTS = 64
"""Pieces that the extent of a zone is divided into for its area on the ellipsoid."""

Indices = npt.NDArray[np.int64]
Counts = dict[str, npt.NDArray[np.int64]]


class Zones:
    """Polygons that count the centres inside them.

    Where zones overlap, each counts; a centre on a border belongs to all zones that it touches.
    """

    def __init__(self, path: Path) -> None:
        """Read all polygons: of the first layer, or of the only one that has some.

        Raises DataError where there are none or the file cannot be read, UsageError without
        pyarrow.
        """
        self.path = path
        if not path.exists():
            raise DataError(f"{path}: there is no such file of zones; check the path")
        self._meta, self._fields, self._wkb = _read(path)
        try:
            with np.errstate(invalid="ignore"):  # of corners that are no numbers, refused below
                self.shapes = shapely.from_wkb(self._wkb)
        except shapely.errors.GEOSException as error:
            raise DataError(f"{path}: zones cannot be read: {error}") from error
        kinds = set(shapely.get_type_id(self.shapes[~shapely.is_missing(self.shapes)]).tolist())
        if not kinds or kinds - {3, 6}:
            raise DataError(f"{path}: zones must be polygons, which its first layer has not")
        self._kind = self._meta["geometry_type"]
        if 6 in kinds:
            # Shapefiles call both polygons; a GeoPackage must not.
            self._wkb = np.array([wkb and _multi(wkb) for wkb in self._wkb], object)
            self._kind = re.sub(r"\bPolygon", "MultiPolygon", self._kind)
        bent = [i for i, shape in enumerate(self.shapes, 1) if not _is_finite(shape)]
        if bent:
            raise DataError(
                f"{path}: zone {bent[0]} has a corner that is no number or infinite; correct or "
                "remove it"
            )
        crs = self._meta["crs"]
        try:
            self.crs = None if crs is None else CRS.from_user_input(crs)
        except ProjError as error:
            raise DataError(f"{path}: its coordinate system is not known: {error}") from error
        try:
            self._area = areas_km2(self.shapes, self.crs)
        except ProjError as error:
            assert self.crs is not None
            raise DataError(
                f"{path}: zones lie outside of their coordinate system {self.crs.name}, which may "
                f"be the wrong one: assign the right one with `ogr2ogr -a_srs EPSG:...` ({error})"
            ) from error
        valid = shapely.make_valid(self.shapes)
        self._tree = shapely.STRtree(valid)
        west, _, east, _ = shapely.total_bounds(self.shapes)
        self._span = (west, east)
        self._turn = _turn(self.crs)
        self._counts: Counts = {}
        self.outside = 0
        """Objects in no zone."""

    def __len__(self) -> int:
        return len(self.shapes)

    def check(self, crs: CRS | None, name: str) -> None:
        """UsageError where objects of `name` in `crs` cannot be brought together with the zones."""
        if (crs is None) == (self.crs is None):
            return
        lacks, has = (self.path, name) if self.crs is None else (name, self.path)
        raise UsageError(
            f"{lacks} has no coordinate system, but {has} has one: assign it with "
            "`ogr2ogr -a_srs EPSG:...`, or with `gdal_edit.py -a_srs` for a scene"
        )

    def refuse(self, path: Path) -> None:
        """UsageError where `path`, that is to be written, is the file of zones itself."""
        if path.exists() and path.samefile(self.path):
            raise UsageError(f"{path} is the file of zones itself: choose another place to write")

    def add(self, places: Places, crs: CRS | None) -> None:
        """Count these objects, in `crs`."""
        xy = places.xy
        if crs is not None and self.crs is not None and crs != self.crs:
            xy = georef.to_crs(xy, crs, self.crs)
        point, zone = self._around(xy)
        for name in dict.fromkeys(places.names.tolist()):
            inside = zone[places.names[point] == name]
            counts = np.bincount(inside, minlength=len(self))
            self._counts[name] = self._counts.get(name, np.zeros(len(self), np.int64)) + counts
        self.outside += len(places) - len(np.unique(point))

    def _around(self, xy: npt.NDArray[np.float64]) -> tuple[Indices, Indices]:
        """Pairs of a point and a zone that it lies in; of degrees whatever turn either counts by.

        Longitudes go from -180 to 180 in some files, from 0 to 360 in others.
        """
        low, high = self._span
        pairs = []
        for turn in (0.0, -self._turn, self._turn) if self._turn else (0.0,):
            x = xy[:, 0] + turn
            near = np.flatnonzero((x >= low) & (x <= high))
            points = shapely.points(x[near], xy[near, 1])
            point, zone = self._tree.query(points, predicate="intersects")
            pairs.append(np.stack([near[point], zone]))
        # A point on the edge of a zone around the globe is found twice in it.
        point, zone = np.unique(np.concatenate(pairs, axis=1), axis=1)
        return point, zone

    def counts(self, classes: Sequence[str] = ()) -> Counts:
        """(Z,) objects by class: those of `classes` first, then what else was seen, by name."""
        names = [*classes, *sorted(set(self._counts) - set(classes))]
        none = np.zeros(len(self), np.int64)
        return {name: self._counts.get(name, none) for name in names}

    def write(self, path: Path, classes: Sequence[str] = ()) -> None:
        """The zones with their own attributes and the counts, in the format of the suffix."""
        kind = path.suffix.lower()
        if kind not in _DRIVERS:
            raise UsageError(f"{path} must end with one of {', '.join(_DRIVERS)}")
        self.refuse(path)
        # SQL knows no case, nor an attribute beside a column of the format's own of that name.
        # What Arrow calls OGC_FID, OGR takes for the number of the feature, unless told another.
        numbers = [] if kind == ".gpkg" else ["OGC_FID"]
        own = _unique(self._fields.column_names, taken=numbers)
        made = columns(self.counts(classes), self._area, taken=own)
        fid, geom = _unique(["fid", "geom"], taken=[*own, *made])
        options = {
            ".gpkg": {"FID": fid, "GEOMETRY_NAME": geom},
            ".fgb": {"SPATIAL_INDEX": "NO"},
            ".geojson": {},
        }
        with replacing(path) as beside, unparsed(beside) as target:
            pyogrio.write_arrow(
                _table(self._fields, own, made | {geom: self._wkb}),
                target,
                geometry_name=geom,
                geometry_type=self._kind,
                crs=None if self.crs is None else self.crs.to_wkt(),
                layer=LAYER,
                driver=_DRIVERS[kind],
                **options[kind],
            )


def _read(path: Path) -> tuple[dict[str, Any], Any, npt.NDArray[np.object_]]:
    """What OGR says of the zones, their attributes as an Arrow table, and (Z,) WKB.

    Arrow keeps what arrays cannot hold: whole numbers beside none, time zones, lists. Raises as
    `Zones`.
    """
    # A shapefile that does not say its encoding is UTF-8 or, as the format began, Latin 1.
    encodings = (None, "ISO-8859-1") if path.suffix.lower() == ".shp" else (None,)
    try:
        with unparsed(path) as plain:
            meta, table = _read_layer(plain, 0, encodings)
            if not _may_be_polygons(meta["geometry_type"]) and len(pyogrio.list_layers(plain)) > 1:
                meta, table = _read_layer(plain, _polygon_layer(path, plain), encodings)
    except (DataSourceError, DataLayerError) as error:
        hint = "; give .gpkg, .fgb or .geojson" if path.suffix.lower() == ".parquet" else ""
        raise DataError(f"{path}: zones cannot be read: {error}{hint}") from error
    except UnicodeError as error:
        raise DataError(
            f"{path}: zones cannot be read, since a text in it is not UTF-8 ({error}): save it as "
            "UTF-8"
        ) from error
    if meta["geometry_type"] is None:
        raise DataError(f"{path}: zones must be polygons, and this file is a table without any")
    # The shapes come last; an attribute may have the name of theirs.
    last = table.num_columns - 1
    wkb = table.column(last).to_numpy(zero_copy_only=False)
    return meta, table.select(list(range(last))), wkb


def _read_layer(
    path: str, layer: str | int, encodings: Sequence[str | None]
) -> tuple[dict[str, Any], Any]:
    """A layer by the first of the encodings that suits it. UnicodeError where none does."""
    try:
        import pyarrow
    except ImportError as error:
        raise UsageError("zones need pyarrow: pip install 'rs-tinynet[geo]'") from error
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Non-conformant.*successfully parsed")
        for encoding in encodings:
            try:
                meta, table = pyogrio.read_arrow(path, layer=layer, encoding=encoding)
                table.validate(full=True)
            except (UnicodeDecodeError, pyarrow.ArrowInvalid) as error:
                fault = error
            else:
                return meta, table
    raise UnicodeError(str(fault))


def _may_be_polygons(kind: str | None) -> bool:
    return kind is not None and ("Polygon" in kind or kind == "Unknown")


def _polygon_layer(path: Path, plain: str) -> str:
    """The only layer of the file, at `plain`, that has polygons, whatever the first one has."""
    layers = {str(name): kind for name, kind in pyogrio.list_layers(plain)}
    of_polygons = [name for name, kind in layers.items() if "Polygon" in (kind or "")]
    if len(of_polygons) == 1:
        return of_polygons[0]
    listed = ", ".join(f"{name} ({kind or 'no shapes'})" for name, kind in layers.items())
    raise DataError(
        f"{path}: zones must be the polygons of the first layer, or of the only one that has some: "
        f"there are {listed}. Copy the one with the zones (`ogr2ogr zones.gpkg FILE LAYER`)"
    )


def _table(fields: Any, names: Sequence[str], further: dict[str, npt.NDArray[Any]]) -> Any:
    """An Arrow table of the attributes, by new names, and of further columns, whose NaN is none."""
    import pyarrow

    made = {name: pyarrow.array(values, from_pandas=True) for name, values in further.items()}
    schema = [
        _undomained(field.with_name(name)) for name, field in zip(names, fields.schema, strict=True)
    ]
    schema += [pyarrow.field(name, values.type) for name, values in made.items()]
    return pyarrow.Table.from_arrays(
        [*fields.columns, *made.values()], schema=pyarrow.schema(schema)
    )


def _undomained(field: Any) -> Any:
    """The field without the name of its list of allowed values, which is not copied."""
    metadata = field.metadata or {}
    return field.with_metadata({k: v for k, v in metadata.items() if k != _DOMAIN})


def columns(
    counts: Counts, area_km2: npt.NDArray[np.float64], *, taken: Sequence[str] = ()
) -> dict[str, npt.NDArray[Any]]:
    """km2, n_total, n_CLASS ..., per_km2, km2_CLASS ...: names that differ from those `taken`."""
    total = sum(counts.values(), np.zeros(len(area_km2), np.int64))
    with np.errstate(divide="ignore", invalid="ignore"):
        made: list[tuple[str, npt.NDArray[Any]]] = [
            ("km2", area_km2),
            ("n_total", total),
            *((f"n_{_plain(name)}", count) for name, count in counts.items()),
            ("per_km2", total / area_km2),
            *((f"km2_{_plain(name)}", count / area_km2) for name, count in counts.items()),
        ]
    names = _unique([name for name, _ in made], taken=taken)
    return dict(zip(names, (values for _, values in made), strict=True))


def _unique(names: Sequence[str], *, taken: Sequence[str] = ()) -> list[str]:
    """The names, numbered from 2 where, but for case, an earlier one or one `taken` is the same."""
    used = {name.casefold() for name in taken}
    result = []
    for name in names:
        unique, number = name, 2
        while unique.casefold() in used:
            unique, number = f"{name}_{number}", number + 1
        used.add(unique.casefold())
        result.append(unique)
    return result


def areas_km2(shapes: npt.NDArray[np.object_], crs: CRS | None) -> npt.NDArray[np.float64]:
    """(Z,) areas on the WGS 84 ellipsoid, square kilometres; NaN where no CRS leads there.

    Raises pyproj's ProjError for shapes outside of their CRS.
    """
    if crs is None or not georef.leads(crs, georef.WGS84):
        return np.full(len(shapes), np.nan)
    geod = Geod(ellps="WGS84")
    found = []
    for shape in shapes:
        if shape is None or shape.is_empty:
            found.append(0.0)
            continue
        x0, y0, x1, y1 = shape.bounds
        step = max(x1 - x0, y1 - y0) / _PARTS
        if step == 0:
            found.append(0.0)
            continue
        # Edges are straight in their own system, and geodesics between the points given here.
        fine = shapely.segmentize(shape, step)
        lonlat = shapely.transform(fine, lambda c: georef.to_lonlat(c, crs))
        polygons = shapely.get_parts(lonlat)
        found.append(sum(_area(geod, polygon) for polygon in polygons) / 1e6)
    return np.array(found, np.float64)


def _turn(crs: CRS | None) -> float:
    """What once around the globe is in the longitudes of `crs`, 360 mostly; 0 where it has none."""
    if crs is None or not crs.is_geographic or not crs.axis_info:
        return 0.0
    return round(math.tau / crs.axis_info[0].unit_conversion_factor, 6)


def _is_finite(shape: Any) -> bool:
    """Whether every corner is a number; true of a zone without any."""
    return bool(np.isfinite(shapely.get_coordinates(shape)).all())


def _area(geod: Geod, polygon: Any) -> float:
    """Square metres of one polygon, whatever way its rings turn."""

    def ring(line: Any) -> float:
        x, y = line.coords.xy
        return abs(geod.polygon_area_perimeter(x, y)[0])

    return float(ring(polygon.exterior) - sum(ring(hole) for hole in polygon.interiors))


def _multi(wkb: bytes) -> bytes:
    """A polygon as a multipolygon of one part, an empty one of none; what is one already as is."""
    order = "<" if wkb[0] else ">"
    kind, rings = struct.unpack_from(f"{order}II", wkb, 1)
    if (kind & 0xFFFF) % 1000 == 6:  # with Z and M in the thousands or the highest bits
        return wkb
    return wkb[:1] + struct.pack(f"{order}II", kind + 3, min(rings, 1)) + (wkb if rings else b"")


def _plain(name: str) -> str:
    return re.sub(r"\W+", "_", name).strip("_") or "class"
