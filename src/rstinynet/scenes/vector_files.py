"""Files of map features that grow chunk by chunk: GeoPackage, FlatGeobuf, shapefile, GeoParquet.

Each class takes columns and polygons of one chunk at a time, so that memory holds one chunk only,
and makes a valid empty file where there are none. They write to the path they are given; that it
is renamed when all is well is the caller's part (`rstinynet.scenes.writers`).
"""

from __future__ import annotations

import json
import sqlite3
import warnings
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio.raw
import shapely
from pyproj import CRS

from rstinynet.errors import RSTinyNetError, UsageError
from rstinynet.files import check_closed, unparsed
from rstinynet.scenes.features import Columns, Shapes

LAYER = "detections"
"""Name of the layer in formats that have layers."""
LAYERS = (LAYER, "layer_styles")
"""The tables that a GeoPackage of detections has: the objects, and their colours."""
_TABLES_OF_FORMAT = ("gpkg_", "rtree_", "sqlite_")
"""What the names of a GeoPackage's own tables begin with."""
_SHAPEFILE_TEXT = 254
_SHAPEFILE_BYTES = 2**31 - 1

_DRIVERS = {".gpkg": "GPKG", ".shp": "ESRI Shapefile"}


class OgrFile:
    """A GeoPackage or shapefile, appended to."""

    def __init__(self, path: Path, crs: CRS | None) -> None:
        self._path = path
        self._crs = None if crs is None else crs.to_wkt()
        self._driver = _DRIVERS[path.suffix.lower()]
        self._started = False

    def write(self, columns: Columns, shapes: Shapes) -> None:
        """Append N features."""
        if self._driver == "ESRI Shapefile":
            columns = {name: _fitting(values) for name, values in columns.items()}
        options = {"layer": LAYER} if self._driver == "GPKG" else {"encoding": "UTF-8"}
        with unparsed(self._path) as path, warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            pyogrio.raw.write(
                path,
                geometry=shapely.to_wkb(shapes),
                field_data=list(columns.values()),
                fields=np.array(list(columns), dtype=object),
                geometry_type="Polygon",
                crs=self._crs,
                driver=self._driver,
                append=self._started,
                **options,
            )
        self._started = True
        if self._driver == "ESRI Shapefile":
            self._check_size()

    def close(self) -> None:
        """Nothing is left open between chunks."""

    def _check_size(self) -> None:
        for part in (self._path, self._path.with_suffix(".dbf")):
            if part.stat().st_size > _SHAPEFILE_BYTES:
                raise RSTinyNetError(
                    f"{self._path.name}: a shapefile holds at most 2 GiB a part, which these "
                    "detections exceed: use gpkg, fgb or parquet"
                )


class FlatGeobufFile:
    """A FlatGeobuf with its spatial index, which the format cannot have of objects without a place.

    The format cannot grow, so a GeoPackage beside it takes the chunks and is streamed into it at
    the end.
    """

    def __init__(self, path: Path, crs: CRS | None) -> None:
        self._path = path
        self._crs = crs
        self._spool = OgrFile(path.with_suffix(".gpkg"), crs)
        self._placed = True

    def write(self, columns: Columns, shapes: Shapes) -> None:
        """Append N features."""
        self._placed &= all(shape is not None for shape in shapes)
        self._spool.write(columns, shapes)

    def close(self) -> None:
        spool = self._path.with_suffix(".gpkg")
        with (
            warnings.catch_warnings(),
            unparsed(spool) as source,
            unparsed(self._path) as target,
            pyogrio.open_arrow(source, layer=LAYER, use_pyarrow=False) as (meta, stream),
        ):
            warnings.filterwarnings("ignore", message="'crs' was not provided")
            pyogrio.write_arrow(
                stream,
                target,
                driver="FlatGeobuf",
                layer=LAYER,
                geometry_name=meta["geometry_name"] or "wkb_geometry",
                geometry_type="Polygon",
                crs=None if self._crs is None else self._crs.to_wkt(),
                SPATIAL_INDEX="YES" if self._placed else "NO",
            )
        spool.unlink()


class GeoParquetFile:
    """GeoParquet 1.1, a row group a chunk; needs pyarrow."""

    def __init__(self, path: Path, crs: CRS | None) -> None:
        self._parquet = pyarrow_parquet()
        self._crs = crs
        # pyarrow would look for a URL in a path.
        self._file = path.open("wb")
        self._writer: Any = None
        self._bounds = np.array([np.inf, np.inf, -np.inf, -np.inf])

    def write(self, columns: Columns, shapes: Shapes) -> None:
        """Append N features."""
        import pyarrow

        table = pyarrow.table(
            {name: pyarrow.array(values, _arrow_type(values)) for name, values in columns.items()}
            | {"geometry": pyarrow.array(shapely.to_wkb(shapes), pyarrow.binary())}
        )
        if self._writer is None:
            schema = table.schema.with_metadata({"geo": self._geo()})
            self._writer = self._parquet.ParquetWriter(self._file, schema, compression="zstd")
        if len(shapes):
            bounds = shapely.total_bounds(shapes)  # NaN where none has a place
            self._bounds[:2] = np.fmin(self._bounds[:2], bounds[:2])
            self._bounds[2:] = np.fmax(self._bounds[2:], bounds[2:])
            self._writer.write_table(table)

    def close(self) -> None:
        with self._file:
            if self._writer is None:
                return
            # The extent is known only now; readers of the Arrow schema find the rest there.
            self._writer.add_key_value_metadata({"geo": self._geo()})
            self._writer.close()

    def _geo(self) -> str:
        geometry: dict[str, Any] = {
            "encoding": "WKB",
            "geometry_types": ["Polygon"],
            "crs": None if self._crs is None else self._crs.to_json_dict(),
            "orientation": "counterclockwise",
        }
        if np.isfinite(self._bounds).all():
            geometry["bbox"] = self._bounds.tolist()
        geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
        return json.dumps(geo)


def refuse_layers(path: Path, ours: Collection[str]) -> None:
    """UsageError where replacing the GeoPackage `path` would lose tables that are not `ours`.

    Layers, rasters, tables without shapes and QGIS's projects are tables alike. What is no
    GeoPackage has none. Raises UsageError too where it cannot be told, and where another program
    has the file open.
    """
    if path.suffix.lower() != ".gpkg" or not path.is_file():
        return
    check_closed(path)
    try:
        with closing(sqlite3.connect(path)) as database:
            rows = database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
            tables = [name for (name,) in rows]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            return
        raise UsageError(
            f"{path} would be replaced as a whole, and whether it has other layers, which would be "
            f"lost, cannot be read ({error}): name another file"
        ) from error
    others = [t for t in tables if t not in ours and not t.startswith(_TABLES_OF_FORMAT)]
    if others:
        raise UsageError(
            f"{path} would be replaced as a whole, and has other layers, which would be lost: "
            f"{', '.join(others[:5])}{' and more' if len(others) > 5 else ''}. Name another file, "
            "or move these layers into another (`ogr2ogr OTHER.gpkg FILE.gpkg LAYER`)"
        )


def pyarrow_parquet() -> Any:
    """pyarrow.parquet; UsageError with the remedy where pyarrow is missing."""
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise UsageError(
            "GeoParquet needs pyarrow: pip install 'rs-tinynet[geo]', or use gpkg or fgb"
        ) from error
    return pyarrow.parquet


def _arrow_type(values: Any) -> Any:
    import pyarrow

    return pyarrow.string() if values.dtype == object else pyarrow.from_numpy_dtype(values.dtype)


def _fitting(values: Any) -> Any:
    """Texts cut to what a shapefile's table holds, at a whole character."""
    if values.dtype != object:
        return values
    cut = [text.encode()[:_SHAPEFILE_TEXT].decode(errors="ignore") for text in values]
    return np.array(cut, dtype=object)
