"""What a prediction gives back, shaped like what people know, and its conversions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from affine import Affine
from pyproj import CRS

from rstinynet.detections import Detections, Float32Array, Int64Array
from rstinynet.errors import UsageError
from rstinynet.scenes import draw, features, writers
from rstinynet.scenes.reader import Scene
from rstinynet.scenes.spill import Spill

FORMATS = (*writers.SUFFIXES, "png")
"""What `Result.save` can write."""


@dataclass(frozen=True, slots=True)
class Boxes:
    """The objects as arrays, best first."""

    xyxy: Float32Array
    """(N, 4) left, top, right, bottom in pixels of the source."""
    conf: Float32Array
    """(N,) confidence in [0, 1]."""
    cls: Int64Array
    """(N,) class index, a key of `Result.names`."""

    @property
    def xywh(self) -> Float32Array:
        """(N, 4) centre x, centre y, width, height in pixels."""
        sides = self.xyxy[:, 2:] - self.xyxy[:, :2]
        return np.concatenate([self.xyxy[:, :2] + sides / 2, sides], axis=1)

    def __len__(self) -> int:
        return len(self.xyxy)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Objects found in one image or scene."""

    found: Spill
    """The objects, in pixels of the source: on disk where they are too many for memory."""
    class_names: tuple[str, ...]
    """By label."""
    category_ids: tuple[int, ...]
    """Category id of each label in the training data."""
    source: str
    """The path searched, or "array"."""
    size: tuple[int, int]
    """Width and height of the source, pixels."""
    crs: CRS | None
    """Coordinate system of the source; None where it has none."""
    transform: Affine | None
    """Pixels to `crs`; None where the source has no place on the ground."""
    source_gsd: float | None
    """Metres a pixel, as given for a source that does not say them."""
    notes: tuple[str, ...]
    """What the user should know about the source."""
    open_scene: Callable[[], Scene]
    """Opens the source again, with the same bands and scaling, to draw on."""

    def __len__(self) -> int:
        return len(self.found)

    @property
    def detections(self) -> Detections:
        """All objects in memory, best first, in pixels of the source."""
        return self.found.all()

    @property
    def boxes(self) -> Boxes:
        """The objects as arrays."""
        found = self.detections
        return Boxes(found.boxes, found.scores, found.labels)

    @property
    def names(self) -> dict[int, str]:
        """Class names by class index."""
        return dict(enumerate(self.class_names))

    def counts(self) -> dict[str, int]:
        """Objects by class name; classes without any are left out."""
        totals = self.found.counts(len(self.class_names))
        return {name: int(n) for name, n in zip(self.class_names, totals, strict=True) if n}

    def header(self, image_id: int = 1) -> features.Header:
        """What a file says of the source."""
        return features.Header(
            source=self.source,
            class_names=self.class_names,
            category_ids=self.category_ids,
            crs=self.crs,
            transform=self.transform,
            source_gsd=self.source_gsd,
            image_id=image_id,
        )

    def to_coco(self, image_id: int = 1) -> list[dict[str, Any]]:
        """COCO results: image_id, category_id, bbox [x, y, w, h] in pixels, score."""
        return features.coco_results(self.detections, self.header(image_id))

    def to_geodataframe(self) -> Any:
        """A geopandas GeoDataFrame in the source's CRS, with the attributes of the GeoPackage.

        Positions are pixels where the source has no CRS. Raises UsageError without geopandas.
        """
        try:
            import geopandas
        except ImportError as error:
            raise UsageError(
                "to_geodataframe needs geopandas: pip install 'rs-tinynet[geo]'"
            ) from error
        header = self.header()
        shapes = features.shapes(self.detections, header, header.ground_crs)
        columns = features.columns(self.detections, header)
        return geopandas.GeoDataFrame(columns, geometry=shapes, crs=self.crs)

    def to_supervision(self) -> Any:
        """A `supervision.Detections`. Raises UsageError without the package supervision."""
        try:
            import supervision
        except ImportError as error:
            raise UsageError("to_supervision needs supervision: pip install supervision") from error
        found = self.detections
        names = np.array(self.class_names, dtype=object)[found.labels].astype(str)
        return supervision.Detections(
            xyxy=found.boxes,
            confidence=found.scores,
            class_id=found.labels,
            data={"class_name": names},
        )

    def default_formats(self) -> tuple[str, ...]:
        """Picture and COCO JSON, and a GeoPackage where the source has a place on the ground."""
        return ("png", "coco") if self.transform is None else ("png", "coco", "gpkg")

    def save(
        self,
        folder: str | Path,
        *,
        formats: Sequence[str] | None = None,
        name: str | None = None,
        image_id: int = 1,
    ) -> dict[str, Path]:
        """Write into `folder` and return the files by what they are.

        `formats` are out of `FORMATS` (default: `default_formats`); `name` (default: the
        source's own) begins every file's name. Raises UsageError for an unknown format or where
        a file would replace the source.
        """
        chosen = tuple(formats) if formats is not None else self.default_formats()
        for one in chosen:
            if one not in FORMATS:
                raise UsageError(f"format must be of {', '.join(FORMATS)}, not {one!r}")
        stem = Path(folder) / f"{name or Path(self.source).stem}_detections"
        files: dict[str, Path] = {}
        for one in chosen:
            if one == "png":
                files |= draw.write_pictures(self, stem)
            else:
                files |= writers.write(self, stem, one, image_id=image_id)
        return files
