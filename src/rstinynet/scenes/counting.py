"""Counts of one run or of one file of detections: by zone, on a grid, in H3 cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pyproj import CRS
from pyproj.exceptions import ProjError

from rstinynet.errors import DataError, UsageError
from rstinynet.scenes import density, features, georef, zones
from rstinynet.scenes.density import Grid, Hexagons, projected
from rstinynet.scenes.features import Header
from rstinynet.scenes.places import Floats, Places
from rstinynet.scenes.raster import RasterSource
from rstinynet.scenes.reader import check_place
from rstinynet.scenes.result import Result
from rstinynet.scenes.sources import Source
from rstinynet.scenes.survey import Bounds, moved
from rstinynet.scenes.vector_files import refuse_layers
from rstinynet.scenes.zones import Zones


@dataclass(frozen=True, slots=True, kw_only=True)
class CountOptions:
    """What to count by; None: not."""

    zones: Path | None = None
    """File of polygons."""
    grid_m: float | None = None
    """Side of a square cell, metres."""
    h3: int | None = None
    """Resolution of H3, 0 to 15."""

    @property
    def any(self) -> bool:
        """Whether anything is asked for."""
        return any(value is not None for value in (self.zones, self.grid_m, self.h3))


class Counting:
    """Takes objects and counts them by their centres."""

    def __init__(self, options: CountOptions, crs: CRS | None, extent: Bounds | None) -> None:
        """For objects in `crs` (None: pixels) within about `extent` of it.

        Raises UsageError for a grid or cells without a CRS, DataError for zones that cannot be
        read.
        """
        if crs is None and (options.grid_m is not None or options.h3 is not None):
            raise UsageError(
                "a grid or H3 cells need objects with a coordinate system: count by --zones in "
                "pixels, or give the scenes a place on the ground (`gdal_translate -a_srs`)"
            )
        if options.h3 is not None and crs is not None and not georef.leads(crs, georef.WGS84):
            raise UsageError(
                f"H3 cells need longitude and latitude, to which no way leads from {crs.name}: "
                "count by --grid or --zones"
            )
        self._crs = crs
        self.zones = None if options.zones is None else Zones(options.zones)
        self.hexagons = None if options.h3 is None else Hexagons(options.h3)
        self.grid: Grid | None = None
        if options.grid_m is not None and crs is not None:
            self.grid = _grid(options.grid_m, crs, extent)
        if self.zones is not None:
            self.zones.check(crs, "what is counted")
        self.by_class: Counter[str] = Counter()
        """Objects counted, by class."""
        self.unplaced = 0
        """Objects that are not counted: they have no place, or none that the systems map."""

    @property
    def count(self) -> int:
        """Objects counted."""
        return self.by_class.total()

    def add(self, places: Places, crs: CRS | None, *, source: str | None = None) -> None:
        """Count those of these objects, in `crs`, that have a place.

        DataError if all that are said to have one lie outside of the system of the file `source`;
        None: of a scene, whose own place has been looked at (`check`).
        """
        given = np.isfinite(places.xy).all(axis=1)
        try:
            placed = given & self._mapped(places.xy, crs)
            if source is not None and given.any() and not placed.any():
                raise ProjError("none of them is mapped")
            self.unplaced += int((~placed).sum())
            places = places.at(placed)
            if self.zones is not None:
                self.zones.add(places, crs)
            for cells in (self.grid, self.hexagons):
                if cells is not None and crs is not None:
                    cells.add(places, crs)
        except ProjError as error:
            assert crs is not None
            raise DataError(
                f"{source or 'what is counted'}: objects lie outside of their coordinate system "
                f"{crs.name}, so they cannot be counted; it may be the wrong one: assign the right "
                f"one ({error})"
            ) from error
        self.by_class.update(places.names.tolist())

    def _mapped(self, xy: Floats, crs: CRS | None) -> npt.NDArray[np.bool_]:
        """(N,) which points of `crs` lie in the systems that count, too.

        A detector finds things off the disk of the Earth, and one must not cost the others.
        """
        found = np.ones(len(xy), np.bool_)
        for target in self._targets().values():
            if crs is not None and target is not None and target != crs:
                found &= np.isfinite(georef.mapped(xy, crs, target)).all(axis=1)
        return found

    def _targets(self) -> dict[str, CRS | None]:
        """The systems that count, by whose they are."""
        return {
            "the zones'": None if self.zones is None else self.zones.crs,
            "the grid's": None if self.grid is None else self.grid.crs,
            "H3's": None if self.hexagons is None else georef.WGS84,
        }

    def add_result(self, result: Result) -> None:
        """Count what was found in a scene. UsageError where only this scene has no CRS."""
        header: Header = result.header()
        crs = header.ground_crs
        names = np.array(result.class_names, dtype=object)
        for found in result.found.chunks():
            xy = features.centres(found, header, crs)
            places = Places(xy, names[found.labels], found.scores.astype(np.float64))
            self.add(places, crs)

    def check(self, source: Source) -> None:
        """Refuse a scene that cannot be counted among the others, before its search.

        UsageError, or DataError for one that lies outside of its own coordinate system.
        """
        if self._crs is None:
            return
        opened = RasterSource(source)
        opened.close()
        crs = opened.crs
        if crs is None:
            raise UsageError(f"{opened.name} has no coordinate system, which counting needs")
        for whose, target in self._targets().items():
            if target is not None and not georef.leads(crs, target):
                raise UsageError(
                    f"no way leads from the coordinate system of {opened.name} to {whose} "
                    f"({target.name}), so its objects cannot be counted: search it apart"
                )
            if target is not None and (target != crs or whose == "H3's"):
                check_place(opened)

    def files(self, stem: Path, *, beside: Path | None = None) -> dict[str, Path]:
        """The files that `write` makes, by kind.

        UsageError where one of them, or what is written `beside` them, is the file of zones, and
        where one would replace a GeoPackage with other layers.
        """
        parts = {"zones": self.zones, "grid": self.grid, "h3": self.hexagons}
        files = {
            kind: stem.with_name(f"{stem.name}_{kind}{'.tif' if kind == 'grid' else '.gpkg'}")
            for kind, part in parts.items()
            if part is not None
        }
        if self.zones is not None:
            for path in (*files.values(), *([] if beside is None else [beside])):
                self.zones.refuse(path)
        for kind, layer in (("zones", zones.LAYER), ("h3", density.LAYER)):
            if kind in files:
                refuse_layers(files[kind], (layer,))
        return files

    def write(self, stem: Path, classes: Sequence[str] = ()) -> dict[str, Path]:
        """Write what was asked for, into files whose names begin with `stem`."""
        files = self.files(stem)
        for kind, part in (("zones", self.zones), ("grid", self.grid), ("h3", self.hexagons)):
            if part is not None:
                part.write(files[kind], classes)
        return files


def _grid(size_m: float, crs: CRS, extent: Bounds | None) -> Grid:
    """The grid over about `extent` of `crs`; of one cell where nothing is known of that."""
    if extent is None:
        return Grid(size_m, projected(crs, None))
    try:
        target = projected(crs, extent)
        over = moved(extent, crs, target)
    except ProjError as error:
        raise UsageError(
            f"a grid cannot be laid over x {extent[0]:g} to {extent[2]:g}, y {extent[1]:g} to "
            f"{extent[3]:g} of {crs.name}, which goes beyond the ground ({error}): count by --zones"
        ) from error
    return Grid(size_m, target, over)
