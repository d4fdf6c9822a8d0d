"""Objects counted on a grid: a raster of square cells, or hexagons of H3.

A raster has objects per square kilometre, a band for all and one a class. H3
(https://h3geo.org) gives cells that are the same for every data set.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio.raw
import rasterio
import shapely
from affine import Affine
from pyproj import CRS, Proj
from pyproj.aoi import AreaOfInterest
from pyproj.database import query_utm_crs_info
from pyproj.exceptions import ProjError
from rasterio.windows import Window

from rstinynet.errors import UsageError
from rstinynet.files import replacing, replacing_set, unparsed
from rstinynet.scenes import georef, zones
from rstinynet.scenes.places import Places
from rstinynet.scenes.sources import GRID_UNIT
from rstinynet.scenes.survey import Bounds, moved
from rstinynet.scenes.vector_files import GeoParquetFile

LAYER = "cells"
"""Name of the layer of H3 cells, in formats that have layers."""
MOST_CELLS = 400_000_000
"""Most cells of a raster, a band."""
EQUAL_AREA = CRS.from_epsg(6933)
"""For what is wider than a UTM zone."""
MOST_STRETCHED = 0.02
"""Most by which a projection may stretch areas for its cells to be square metres of the ground."""
_ZONE_DEGREES = 6
_ROWS = 256


class Grid:
    """Square cells of one size, whose edges lie at whole multiples of it."""

    def __init__(self, size_m: float, crs: CRS, extent: Bounds | None = None) -> None:
        """Cells of `size_m` metres in the projected `crs`, at least over `extent`."""
        if not 0 < size_m < 1e7:
            raise UsageError(f"the cell of a grid must be over 0 metres, not {size_m}")
        self.crs = crs
        self.size_m = size_m
        unit = crs.axis_info[0].unit_conversion_factor if crs.axis_info else 1.0
        self._size = size_m / unit
        self._counts: Counter[tuple[int, int, str]] = Counter()
        self._extent = extent
        self._check(self._cells())

    def add(self, places: Places, crs: CRS) -> None:
        """Count these objects, in `crs`."""
        xy = places.xy if crs == self.crs else georef.to_crs(places.xy, crs, self.crs)
        cells = np.floor(xy / self._size).astype(np.int64)
        for name in dict.fromkeys(places.names.tolist()):
            unique, n = np.unique(cells[places.names == name], axis=0, return_counts=True)
            for (x, y), count in zip(unique.tolist(), n.tolist(), strict=True):
                self._counts[x, y, name] += count

    def write(self, path: Path, classes: Sequence[str] = ()) -> None:
        """A GeoTIFF of objects per square kilometre: band 1 all, then a band a class."""
        seen = {name for _, _, name in self._counts}
        names = [*classes, *sorted(seen - set(classes))]
        left, bottom, right, top = self._cells()
        self._check((left, bottom, right, top))
        width, height = right - left, top - bottom
        rows = np.array([top - 1 - y for _, y, _ in self._counts], np.int64)
        columns = np.array([x - left for x, _, _ in self._counts], np.int64)
        bands = np.array([names.index(name) + 1 for _, _, name in self._counts], np.int64)
        values = np.fromiter(self._counts.values(), np.float64, len(self._counts))
        values /= (self.size_m / 1000) ** 2
        with (
            replacing_set(path) as beside,
            rasterio.open(
                beside,
                "w",
                driver="GTiff",
                width=width,
                height=height,
                count=1 + len(names),
                dtype="float32",
                crs=self.crs.to_wkt(),
                transform=Affine(
                    self._size, 0, left * self._size, 0, -self._size, top * self._size
                ),
                compress="deflate",
                tiled=True,
                blockxsize=_ROWS,
                blockysize=_ROWS,
                BIGTIFF="IF_SAFER",
            ) as file,
        ):
            file.update_tags(unit=GRID_UNIT, cell_m=f"{self.size_m:g}")
            for band, name in enumerate(["total", *names], 1):
                file.set_band_description(band, name)
            for start in range(0, height, _ROWS):
                deep = min(_ROWS, height - start)
                block = np.zeros((1 + len(names), deep, width), np.float32)
                here = (rows >= start) & (rows < start + deep)
                at = (rows[here] - start, columns[here])
                np.add.at(block, (bands[here], *at), values[here])
                np.add.at(block[0], at, values[here])
                file.write(block, window=Window(0, start, width, deep))

    def _check(self, cells: tuple[int, int, int, int]) -> None:
        """UsageError for more cells than a raster should have."""
        left, bottom, right, top = cells
        width, height = right - left, top - bottom
        if width * height > MOST_CELLS:
            raise UsageError(
                f"a grid of {self.size_m:g} m has {width} by {height} cells here, over "
                f"{MOST_CELLS}: choose larger cells, or --h3"
            )

    def _cells(self) -> tuple[int, int, int, int]:
        """Left, bottom, right and top of the raster, in cells."""
        if self._counts:
            x, y = np.array([cell[:2] for cell in self._counts], np.int64).T
            found = (x.min(), y.min(), x.max() + 1, y.max() + 1)
        elif self._extent is None:
            found = (0, 0, 1, 1)
        else:
            middle = np.floor(np.array(self._extent[:2]) / self._size).astype(int)
            found = (*middle, *(middle + 1))
        if self._extent is not None:
            low = np.floor(np.array(self._extent[:2]) / self._size)
            high = np.ceil(np.array(self._extent[2:]) / self._size)
            found = (*np.minimum(found[:2], low), *np.maximum(found[2:], high))
        left, bottom, right, top = (int(value) for value in found)
        return left, bottom, right, top


class Hexagons:
    """Cells of H3 at one resolution: 9 is about 0.1 square kilometres, 7 about 5."""

    def __init__(self, resolution: int) -> None:
        """UsageError for a resolution there is not, or without the package h3."""
        if not 0 <= resolution <= 15:
            raise UsageError(f"an H3 resolution is from 0 to 15, not {resolution}")
        self._h3 = _h3()
        self._resolution = resolution
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, places: Places, crs: CRS) -> None:
        """Count these objects, in `crs`."""
        cell = self._h3.latlng_to_cell
        lonlat = georef.to_lonlat(places.xy, crs)
        for (lon, lat), name in zip(lonlat.tolist(), places.names.tolist(), strict=True):
            self._counts[cell(lat, lon, self._resolution), name] += 1

    def write(self, path: Path, classes: Sequence[str] = ()) -> None:
        """Cells with any object, in longitude and latitude: GeoPackage, FlatGeobuf, GeoParquet."""
        cells = sorted({cell for cell, _ in self._counts})
        seen = {name for _, name in self._counts}
        names = [*classes, *sorted(seen - set(classes))]
        at = {cell: index for index, cell in enumerate(cells)}
        counts = {name: np.zeros(len(cells), np.int64) for name in names}
        for (cell, name), count in self._counts.items():
            counts[name][at[cell]] += count
        rings = [[(lon, lat) for lat, lon in self._h3.cell_to_boundary(cell)] for cell in cells]
        shapes = np.array([_hexagon(ring) for ring in rings], dtype=object)
        area = np.array([self._h3.cell_area(cell, unit="km^2") for cell in cells], np.float64)
        made: dict[str, npt.NDArray[Any]] = {"h3": np.array(cells, dtype=object)}
        made |= zones.columns(counts, area, taken=["h3"])
        kinds = {".gpkg": "GPKG", ".fgb": "FlatGeobuf", ".parquet": None}
        if path.suffix.lower() not in kinds:
            raise UsageError(f"{path} must end with one of {', '.join(kinds)}")
        with replacing(path) as beside:
            if path.suffix.lower() == ".parquet":
                file = GeoParquetFile(beside, georef.WGS84)
                file.write(made, shapes)
                file.close()
                return
            with unparsed(beside) as target:
                pyogrio.raw.write(
                    target,
                    geometry=shapely.to_wkb(shapes),
                    field_data=list(made.values()),
                    fields=np.array(list(made), dtype=object),
                    geometry_type="Polygon",
                    crs="EPSG:4326",
                    layer=LAYER,
                    driver=kinds[path.suffix.lower()],
                )


def projected(crs: CRS, extent: Bounds | None) -> CRS:
    """A system whose unit is a length on the ground, for what lies in `extent` of `crs`.

    `crs` itself, unless it is geographic or stretches areas there by more than a fiftieth, as
    Mercator's do: then the UTM zone of the middle, or the equal-area EPSG:6933 where the extent is
    wider than a zone. Where the extent is not known, `crs` if it is projected, else EPSG:6933. A
    site's own system that leads to no longitude stays as it is; UsageError for degrees that lead to
    none.
    """
    if not georef.leads(crs, georef.WGS84):
        if crs.is_geographic:
            raise UsageError(
                f"a grid needs metres, to which no way leads from {crs.name}: count by --zones"
            )
        return crs
    if extent is None:
        return crs if crs.is_projected else EQUAL_AREA
    x0, y0, x1, y1 = extent
    corners = np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], np.float64)
    lonlat = georef.to_crs(corners, crs, georef.WGS84)
    if crs.is_projected and _keeps_areas(crs, lonlat):
        return crs
    west, south, east, north = moved(extent, crs, georef.WGS84)
    if east - west > _ZONE_DEGREES or max(abs(south), abs(north)) > 80:
        return EQUAL_AREA
    # UTM zones are known by longitudes from -180 to 180 only.
    lon, lat = georef.wrapped(np.array([(west + east) / 2, (south + north) / 2])).tolist()
    area = AreaOfInterest(lon, lat, lon, lat)
    known = query_utm_crs_info(datum_name="WGS 84", area_of_interest=area)
    return CRS.from_authority(known[0].auth_name, known[0].code) if known else EQUAL_AREA


def _keeps_areas(crs: CRS, lonlat: npt.NDArray[np.float64]) -> bool:
    """Whether areas at these places (N, 2) are those on the ground to a fiftieth."""
    try:
        scale = np.asarray(Proj(crs).get_factors(*lonlat.T).areal_scale)
    except ProjError:  # of a projection that PROJ knows no factors of
        return True
    return bool((np.abs(scale - 1) < MOST_STRETCHED).all())


def _hexagon(ring: list[tuple[float, float]]) -> Any:
    """One piece even across the 180th meridian, where it goes on beyond 180 degrees."""
    if max(lon for lon, _ in ring) - min(lon for lon, _ in ring) > 180:
        ring = [(lon % 360, lat) for lon, lat in ring]
    return shapely.geometry.polygon.orient(shapely.Polygon(ring), 1.0)


def _h3() -> Any:
    try:
        import h3
    except ImportError as error:
        raise UsageError("H3 cells need the package h3: pip install 'rs-tinynet[geo]'") from error
    return h3
