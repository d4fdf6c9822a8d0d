"""One file for the objects of many scenes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from affine import Affine
from pyproj import CRS

from rstinynet.errors import UsageError
from rstinynet.model.metadata import WeightsMetadata
from rstinynet.scenes import georef, writers
from rstinynet.scenes.features import Header
from rstinynet.scenes.raster import RasterSource
from rstinynet.scenes.reader import check_place
from rstinynet.scenes.result import Result
from rstinynet.scenes.sources import Source


class Merged:
    """A file that takes one scene's result after another; made by `create`."""

    def __init__(self, file: writers.DetectionFile, path: Path, crs: CRS | None) -> None:
        self._file = file
        self.path = path
        self.crs = crs
        """Coordinate system of the file; None where positions are pixels."""

        self.broken = False
        """Whether writing failed, which no later scene can mend."""

    def check(self, source: Source) -> None:
        """Refuse a scene that cannot be part of the file, before it is searched.

        UsageError, or DataError for one that lies outside of its own coordinate system.
        """
        writers.refuse_source(str(source), self.path)
        if self.crs is None:
            return
        scene = RasterSource(source)
        scene.close()
        if scene.crs is None:
            raise UsageError(
                f"{scene.name} has no coordinate system, which {self.path.name} needs, since other "
                "scenes have one: search it apart"
            )
        if not georef.leads(scene.crs, self.crs):
            raise UsageError(
                f"no way leads from the coordinate system of {scene.name} to that of "
                f"{self.path.name} ({self.crs.name}): search it apart"
            )
        if scene.crs != self.crs:
            check_place(scene)

    def add(self, result: Result, *, image_id: int = 1, label: str | None = None) -> None:
        """Take a scene's objects; the attribute `source` tells which are its own.

        It says `label`, by default the name of the scene's file.
        """
        self.broken = True
        header = replace(result.header(image_id), label=label)
        for chunk in result.found.chunks(writers.CHUNK):
            self._file.add(chunk, header)
        self.broken = False


def kind_of(path: Path) -> str:
    """The format that the path's suffix stands for. UsageError where there is none."""
    for kind, suffix in writers.SUFFIXES.items():
        if path.suffix.lower() == suffix:
            return kind
    known = ", ".join(writers.SUFFIXES.values())
    raise UsageError(f"{path} must end with one of {known}, not {path.suffix or 'nothing'!r}")


def named(path: Path) -> Path:
    """The path as its format has it: a shapefile's parts end in small letters. See `kind_of`."""
    return path.with_suffix(".shp") if kind_of(path) == "shp" else path


@contextmanager
def create(path: Path, crs: CRS | None, metadata: WeightsMetadata) -> Iterator[Merged]:
    """The file at `path`, complete and renamed when the block ends without error.

    Positions are in `crs`, that of `survey`; pixels where it is None. A style for QGIS goes beside
    it where there can be one.
    """
    kind = kind_of(path)
    names = tuple(metadata.names)
    # Each scene brings its own header; this one says where and of what classes the file is.
    first = Header(
        source=f"merged file {path.name}",
        class_names=names,
        category_ids=tuple(metadata.category_ids),
        crs=crs,
        transform=None if crs is None else Affine.identity(),
    )
    with writers.create(path, kind, first) as file:
        yield Merged(file, path, crs)
    writers.write_style(path, kind, names)
