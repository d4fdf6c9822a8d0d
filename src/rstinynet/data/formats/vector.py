"""Boxes as map features over georeferenced scenes: GeoJSON, GeoPackage, or what else OGR reads.

A feature's box is the upright one, in the scene's pixels, around its outline: each vertex goes from
the file's CRS to the scene's and back through the scene's full affine, so rotated and geographic
scenes are right too. A feature belongs to the scene that its column `source` (or `image`) names;
without such a column, or where it is empty, to every scene that it touches.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet, fingerprint_of
from rstinynet.data.formats.coco import INTEGERS
from rstinynet.data.formats.common import (
    Georeference,
    categories_of,
    fingerprint_of_files,
    georeference,
    images_in,
    labelled_image,
    utf8_fault,
)
from rstinynet.errors import DataError
from rstinynet.files import unparsed

CLASS_COLUMNS = ("class_name", "label", "class", "category", "type", "name")
SOURCE_COLUMNS = ("source", "image", "image_path", "file_name", "scene")
LEAST_PX = 0.01
"""Pixels of a feature that must lie on a scene for it to be one of its objects."""
Float64Array = npt.NDArray[np.float64]
Row = tuple[int, tuple[float, float, float, float], bool]


@dataclass(frozen=True, kw_only=True)
class _Features:
    path: Path
    crs: CRS
    outlines: npt.NDArray[np.object_]
    kinds: list[str]
    sources: list[str] | None
    columns: Mapping[str, npt.NDArray[Any]]

    @cached_property
    def crowd(self) -> npt.NDArray[np.bool_]:
        """(N,) regions to ignore."""
        return _crowd(self)

    @cached_property
    def areas(self) -> Float64Array:
        """(N,) own areas in square pixels, NaN where there is none."""
        return _areas(self)


def read_vector(
    path: Path | str, images: Path | str, *, also: Mapping[str, int | None] | None = None
) -> LabelledSet:
    """The labelled set of a vector file over the scenes under a folder.

    `also` are classes of other splits, with their ids where they have them: a set's splits have
    the same classes, and one without a feature has those. Every scene of the folder belongs to the
    set; those without a feature have no objects. Class ids are those of a column `class_id`, else
    counted from 1 in alphabetical order.

    Raises:
        DataError: no layer, CRS, outlines or classes at all; a scene without a CRS; a feature that
            names no scene of the folder or touches none.
    """
    path, images = Path(path), Path(images)
    features = _read(path)
    scenes = images_in(images)
    if not scenes:
        raise DataError(f"{images}: no images for the features of {path}")
    categories = _categories(features, also or {})
    if not categories:
        raise DataError(f"{path}: no features; a label file needs at least one object")
    label_of = {category.name: label for label, category in enumerate(categories)}
    used = np.zeros(len(features.kinds), np.bool_)
    pictures = [
        _on_scene(features, scene, number, label_of, used) for number, scene in enumerate(scenes, 1)
    ]
    if not used.all():
        first = int(np.argmin(used))
        named = "" if features.sources is None else f" of '{features.sources[first]}'"
        raise DataError(
            f"{path}: {int((~used).sum())} features lie on no scene of {images}, the first is "
            f"number {first + 1}{named}; check the CRS, and that each split has its scenes in a "
            "folder images/SPLIT of its own"
        )
    return LabelledSet(
        images=tuple(pictures), categories=categories, fingerprint=_fingerprint(path, scenes)
    )


def _fingerprint(path: Path, scenes: Sequence[Path]) -> str:
    """Of the labels, and of which scenes there are."""
    names = [fingerprint_of_files([path]), *(scene.name for scene in scenes)]
    return fingerprint_of("\0".join(names).encode())


def classes_in(path: Path | str) -> dict[str, int | None]:
    """The classes of a vector file, with their ids where it has a column of them."""
    features = _read(Path(path))
    known = _column(features.columns, ("class_id",)) is not None
    return {each.name: each.id if known else None for each in _categories(features, {})}


def _read(path: Path) -> _Features:
    try:
        with warnings.catch_warnings(), unparsed(path) as plain:
            warnings.simplefilter("ignore", RuntimeWarning)  # outlines are looked at below
            meta, _, wkb, data = pyogrio.raw.read(plain, layer=_layer(path, plain))
    except (DataSourceError, DataLayerError) as error:
        why = "it is a folder; give a file" if path.is_dir() else str(error)
        raise DataError(f"{path}: not a readable vector file: {why}") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: not a readable vector file: {utf8_fault(path, error)}; save it as UTF-8"
        ) from error
    wkb = [] if wkb is None else wkb
    with np.errstate(invalid="ignore"):
        outlines = np.asarray(shapely.from_wkb(wkb, on_invalid="ignore"), object)
    columns = {str(name): values for name, values in zip(meta["fields"], data, strict=True)}
    if not meta["crs"]:
        raise DataError(
            f"{path}: has no CRS, so its features cannot be placed; set it, in QGIS say"
        )
    broken = shapely.is_missing(outlines) & np.array([each is not None for each in wkb], np.bool_)
    points, owner = shapely.get_coordinates(outlines, return_index=True)
    broken[owner[~np.isfinite(points).all(axis=1)]] = True
    if broken.any():
        raise DataError(
            f"{path}: feature {int(np.argmax(broken)) + 1} has no closed outline of finite "
            "coordinates; draw it anew, or remove it"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # of outlines as wide as numbers go
        flat = shapely.is_missing(outlines) | ~(shapely.area(outlines) > 0)
    if flat.any():
        raise DataError(
            f"{path}: feature {int(np.argmax(flat)) + 1} has no area; objects are polygons "
            "(points and lines have no size: give each a box)"
        )
    kind = _column(columns, CLASS_COLUMNS)
    if kind is None and not len(outlines):
        kind = np.zeros(0, object)  # GeoJSON without a feature has no columns either
    if kind is None:
        raise DataError(
            f"{path}: no column with classes among {sorted(columns)}; name it one of "
            f"{', '.join(CLASS_COLUMNS)}"
        )
    kinds = ["" if _is_null(value) else str(value).strip() for value in kind.tolist()]
    if not all(kinds):
        raise DataError(f"{path}: feature {kinds.index('') + 1} has no class; name it")
    source = _column(columns, SOURCE_COLUMNS)
    return _Features(
        path=path,
        crs=CRS.from_user_input(meta["crs"]),
        outlines=outlines,
        kinds=kinds,
        sources=None if source is None else [_name_of(value) for value in source.tolist()],
        columns=columns,
    )


def _layer(path: Path, plain: str) -> str:
    """The one layer with outlines, read at `plain`; others, such as QGIS's styles, have none."""
    layers = pyogrio.list_layers(plain).tolist()
    if not layers:
        raise DataError(f"{path}: has no layer; labels are one layer of polygons")
    spatial = [str(name) for name, geometry in layers if geometry is not None]
    if len(spatial) > 1:
        raise DataError(
            f"{path}: has the layers {', '.join(spatial)}; labels are one layer: save it alone"
        )
    return spatial[0] if spatial else str(layers[0][0])


def _is_null(value: object) -> bool:
    """Whether a field is empty; OGR gives NaN for numbers."""
    return value is None or value != value


def _name_of(value: Any) -> str:
    """A scene's name as text; OGR gives floats for whole numbers where one is empty."""
    if _is_null(value):
        return ""
    whole = isinstance(value, float) and value.is_integer()
    return str(int(value) if whole else value)


def _column(
    columns: Mapping[str, npt.NDArray[Any]], names: Sequence[str]
) -> npt.NDArray[Any] | None:
    lower = {name.lower(): values for name, values in columns.items()}
    return next((lower[name] for name in names if name in lower), None)


def _categories(features: _Features, also: Mapping[str, int | None]) -> tuple[Category, ...]:
    """Classes with their ids; what was drawn by hand has none and takes its class's, or a new."""
    ids = _column(features.columns, ("class_id",))
    names = sorted(set(features.kinds) | set(also))
    known = [None] * len(features.kinds) if ids is None else ids.tolist()
    given = {name: at for name, at in also.items() if at is not None}
    if ids is None and not given:
        return categories_of(names)
    for at, (kind, value) in enumerate(zip(features.kinds, known, strict=True)):
        if _is_null(value):
            continue
        number = _number(features, at, "class_id", value)
        whole = number == int(number) and number < INTEGERS
        if not whole or given.setdefault(kind, int(number)) != int(number):
            raise DataError(
                f"{features.path}: 'class_id' must name each class by an id of its own; feature "
                f"{at + 1}, '{kind}', has {value!r}"
            )
    if len(set(given.values())) != len(given):
        raise DataError(
            f"{features.path}: 'class_id' must name each class by an id of its own: {given}"
        )
    first = max(given.values(), default=0) + 1
    new = {name: first + at for at, name in enumerate(n for n in names if n not in given)}
    by_id = sorted((number, name) for name, number in (given | new).items())
    return tuple(Category(id=number, name=name) for number, name in by_id)


def _number(features: _Features, at: int, column: str, value: object) -> float:
    try:
        number = float(str(value))
    except ValueError:
        number = math.nan
    if not (math.isfinite(number) and number >= 0):
        raise DataError(
            f"{features.path}: '{column}' must be a number from 0; feature {at + 1} has {value!r}"
        )
    return number


def _crowd(features: _Features) -> npt.NDArray[np.bool_]:
    """(N,) regions to ignore; a feature whose column is empty is an object."""
    flags = np.zeros(len(features.kinds), np.bool_)
    column = _column(features.columns, ("iscrowd",))
    for at, value in enumerate([] if column is None else column.tolist()):
        text = "" if _is_null(value) else str(value).strip().lower()
        if text not in ("", "0", "1", "0.0", "1.0", "true", "false"):
            raise DataError(
                f"{features.path}: 'iscrowd' must be 0 or 1; feature {at + 1} has {value!r}"
            )
        flags[at] = text in ("1", "1.0", "true")
    return flags


def _areas(features: _Features) -> Float64Array:
    """(N,) the features' own areas in square pixels; NaN where they have none."""
    column = _column(features.columns, ("area_px",))
    areas = np.full(len(features.kinds), np.nan)
    for at, value in enumerate([] if column is None else column.tolist()):
        if not _is_null(value):
            areas[at] = _number(features, at, "area_px", value)
    return areas


def _on_scene(
    features: _Features,
    scene: Path,
    number: int,
    label_of: Mapping[str, int],
    used: npt.NDArray[np.bool_],
) -> LabelledImage:
    place = georeference(scene)
    if place.crs is None:
        raise DataError(
            f"{scene}: has no CRS, so features of {features.path} cannot be placed on it"
        )
    mine = np.arange(len(features.kinds))
    if features.sources is not None:
        mine = np.array(
            [at for at, source in enumerate(features.sources) if _names(source, scene)], np.int64
        )
    boxes = _pixel_boxes(features, mine, place)
    size = np.array([place.width, place.height])
    inside = np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0)
    touching = (inside > LEAST_PX).all(axis=1)  # not by a rounding error beyond its own scene
    mine, boxes = mine[touching], boxes[touching]
    used[mine] = True
    rows: list[Row] = [
        (
            label_of[features.kinds[at]],
            (box[0], box[1], box[2], box[3]),
            bool(features.crowd[at]),
        )
        for at, box in zip(mine.tolist(), boxes.tolist(), strict=True)
    ]
    return labelled_image(
        scene,
        number,
        (place.width, place.height),
        rows,
        classes=len(label_of),
        where=features.path,
        areas=features.areas[mine],
    )


def _names(source: str, scene: Path) -> bool:
    """Whether a feature's source is this file, by its name or that without the suffix, or empty."""
    name = PurePosixPath(source.replace("\\", "/")).name
    return not name or name in (scene.name, scene.stem)


def _pixel_boxes(
    features: _Features, mine: npt.NDArray[np.int64], place: Georeference
) -> Float64Array:
    """(N, 4) XYXY pixels around each outline; NaN-free, or the feature is far outside."""
    boxes = np.full((len(mine), 4), -1.0)
    if not len(mine):
        return boxes
    points, owner = shapely.get_coordinates(features.outlines[mine], return_index=True)
    try:
        if place.crs != features.crs:
            transformer = Transformer.from_crs(features.crs, place.crs, always_xy=True)
            points = np.stack(transformer.transform(points[:, 0], points[:, 1]), axis=-1)
        back = ~place.transform
    except (ProjError, ArithmeticError) as error:
        raise DataError(f"{features.path}: no way to the scene's pixels: {error}") from error
    with np.errstate(over="ignore", invalid="ignore"):  # what the scene's CRS cannot hold
        x = back.a * points[:, 0] + back.b * points[:, 1] + back.c
        y = back.d * points[:, 0] + back.e * points[:, 1] + back.f
        for column, (values, reduce) in enumerate(
            ((x, np.minimum), (y, np.minimum), (x, np.maximum), (y, np.maximum))
        ):
            start = np.inf if reduce is np.minimum else -np.inf
            boxes[:, column] = start
            reduce.at(boxes[:, column], owner, values)
    boxes[~np.isfinite(boxes).all(axis=1)] = -1.0
    return boxes
