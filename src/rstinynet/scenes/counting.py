"""Counts of one run or of one file of detections: by zone, on a grid, in H3 cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pyproj import CRS

from rstinynet.errors import UsageError
from rstinynet.scenes import features, georef
from rstinynet.scenes.density import Grid, Hexagons, projected
from rstinynet.scenes.features import Header
from rstinynet.scenes.places import Places
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.result import Result
from rstinynet.scenes.sources import Source
from rstinynet.scenes.survey import Bounds, moved
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
            bounds = extent or (0.0, 0.0, 0.0, 0.0)
            target = projected(crs, bounds)
            over = moved(bounds, crs, target) if extent is not None else None
            self.grid = Grid(options.grid_m, target, over)
        if self.zones is not None:
            self.zones.check(crs, "what is counted")
        self.count = 0

    def add(self, places: Places, crs: CRS | None) -> None:
        """Count these objects, in `crs`."""
        self.count += len(places)
        if self.zones is not None:
            self.zones.add(places, crs)
        if crs is None:
            return
        for cells in (self.grid, self.hexagons):
            if cells is not None:
                cells.add(places, crs)

    def add_result(self, result: Result) -> None:
        """Count what was found in a scene. UsageError where only this scene has no CRS."""
        header: Header = result.header()
        crs = header.ground_crs
        names = np.array(result.class_names, dtype=object)
        for found in result.found.chunks():
            xy = features.centres(found, header, crs)
            self.add(Places(xy, names[found.labels], found.scores.astype(np.float64)), crs)

    def check(self, source: Source) -> None:
        """UsageError for a scene that cannot be counted among the others, before its search."""
        if self._crs is None:
            return
        with Scene(source) as scene:
            crs = scene.source.crs
        if crs is None:
            raise UsageError(f"{source} has no coordinate system, which counting needs")
        needed = {
            "the zones'": None if self.zones is None else self.zones.crs,
            "the grid's": None if self.grid is None else self.grid.crs,
            "H3's": None if self.hexagons is None else georef.WGS84,
        }
        for whose, target in needed.items():
            if target is not None and not georef.leads(crs, target):
                raise UsageError(
                    f"no way leads from the coordinate system of {source} to {whose} "
                    f"({target.name}), so its objects cannot be counted: search it apart"
                )

    def files(self, stem: Path, *, beside: Path | None = None) -> dict[str, Path]:
        """The files that `write` makes, by kind.

        UsageError where one of them, or what is written `beside` them, is the file of zones.
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
        return files

    def write(self, stem: Path, classes: Sequence[str] = ()) -> dict[str, Path]:
        """Write what was asked for, into files whose names begin with `stem`."""
        files = self.files(stem)
        for kind, part in (("zones", self.zones), ("grid", self.grid), ("h3", self.hexagons)):
            if part is not None:
                part.write(files[kind], classes)
        return files
