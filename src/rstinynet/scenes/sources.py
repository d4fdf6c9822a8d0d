"""Which scenes a command is to search, and the names their results get.

A source is a file, a folder, a glob, a URL or GDAL path (`/vsi...`), a text file with one of these
a line, or STAC: an item, an item collection, a catalog (https://stacspec.org, 1.0 and 1.1).
"""

from __future__ import annotations

import glob
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from urllib.parse import unquote

import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError

from rstinynet.errors import DataError, RSTinyNetError, UsageError
from rstinynet.scenes import stac
from rstinynet.scenes.raster import is_dataset_name, without_query

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".jp2", ".bmp", ".webp", ".vrt"})
"""Files of a folder that are taken for images."""
LISTS = frozenset({".txt", ".lst"})
"""Files that list sources, one a line."""
_REMOTE = {
    "http://": "/vsicurl/http://",
    "https://": "/vsicurl/https://",
    "s3://": "/vsis3/",
    "gs://": "/vsigs/",
    "az://": "/vsiaz/",
}

_RESULT = re.compile(r"(.+)_detections(?:_closeups)?\.png", re.IGNORECASE)
_GRID = "_grid.tif"
GRID_UNIT = "objects per square kilometre"
"""Tag `unit` of a grid of counts, by which it is known not to be a scene."""
_NUMBERED = re.compile(r"_\d+$")

Source = Path | str
"""A file here, or a GDAL path (`/vsi...`), which is no path to the file system."""


@dataclass(frozen=True, slots=True)
class Listing:
    """What sources come to."""

    scenes: list[Source] = field(default_factory=list)
    """In the order named, each once. A file that does not exist is kept, to be reported."""
    refused: dict[str, RSTinyNetError] = field(default_factory=dict)
    """What gave no scene, and why."""


def listing(sources: Iterable[str | Path], *, asset: str | None = None) -> Listing:
    """All scenes that `sources` name; of STAC items the asset of this name or role."""
    found: dict[Source, Source] = {}
    refused: dict[str, RSTinyNetError] = {}
    for source in sources:
        for one in _each(str(source), asset):
            if isinstance(one, stac.Refused):
                refused[one.item] = one.error
            else:
                # A file named from here and from the root is one.
                found.setdefault(one if isinstance(one, str) else Path(os.path.abspath(one)), one)
    return Listing(list(found.values()), refused)


def names(scenes: Sequence[Source]) -> list[str]:
    """A name for each scene's results: its stem, or more of the path where stems are the same.

    Names differ even where the file system does not tell upper from lower case.
    """
    paths = [_pure(scene) for scene in scenes]
    chosen = [path.stem for path in paths]
    for widen in (_with_suffix, _with_folder):
        same = Counter(name.casefold() for name in chosen)
        chosen = [
            widen(path) if same[name.casefold()] > 1 else name
            for path, name in zip(paths, chosen, strict=True)
        ]
    taken: set[str] = set()
    for index, name in enumerate(chosen):
        unique, number = name, 2
        while unique.casefold() in taken:
            unique, number = f"{name}_{number}", number + 1
        taken.add(unique.casefold())
        chosen[index] = unique
    return chosen


def labels(scenes: Sequence[Source]) -> list[str]:
    """What tells the scenes apart in one file of all: a file's name, or more of its path where
    several have that name."""
    parts = [PurePath(without_query(str(scene))).parts for scene in scenes]
    chosen = [path[-1] if path else "" for path in parts]
    for depth in range(2, max(map(len, parts), default=0) + 1):
        same = Counter(chosen)
        chosen = [
            PurePath(*path[-depth:]).as_posix() if same[label] > 1 else label
            for path, label in zip(parts, chosen, strict=True)
        ]
    return chosen


def scene_at(href: str, folder: Path) -> Source:
    """The scene that a list or STAC file in `folder` means by `href`."""
    if href.startswith("/vsi") or is_dataset_name(href):
        return href
    if href.startswith("file://"):
        return _decoded(Path(href.removeprefix("file://")))
    for scheme, gdal in _REMOTE.items():
        if href.startswith(scheme):
            return gdal + href.removeprefix(scheme)
    return folder / href


def _decoded(path: Path) -> Path:
    """The file that an address with `%20` for a space means; as it is where that is its name."""
    plain = Path(unquote(str(path)))
    return plain if os.path.exists(plain) and not os.path.exists(path) else path


def _each(source: str, asset: str | None) -> Iterator[Source | stac.Refused]:
    """What the source comes to, or why it comes to nothing (any more)."""
    try:
        yield from _expand(source, asset)
    except RSTinyNetError as error:
        yield stac.Refused(source, error)
    except OSError as error:
        words = f"{source}: cannot be listed: {error.strerror or error}; check the path"
        yield stac.Refused(source, DataError(words))


def _expand(source: str, asset: str | None) -> Iterator[Source | stac.Refused]:
    path = Path(source)
    if isinstance(scene_at(source, Path()), str):
        yield scene_at(source, Path())
    elif path.is_dir():
        yield from _images_of(path)
    elif path.is_file() and path.suffix.lower() in LISTS:
        for line in _lines(path):
            yield from _each(line, asset)
    elif path.is_file() and path.suffix.lower() in stac.SUFFIXES:
        for href in stac.assets(path, asset):
            if isinstance(href, stac.Refused):
                yield href
                continue
            scene = scene_at(href, path.parent)
            yield _decoded(scene) if isinstance(scene, Path) else scene
    elif not path.exists() and glob.has_magic(source):
        yield from _matches(source)
    else:
        yield path


def _images_of(folder: Path) -> list[Path]:
    every = sorted(p for p in folder.iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    images = _without_results(every)
    if not images:
        raise DataError(
            f"{folder}: the folder has no images ({', '.join(sorted(SUFFIXES))}); images in "
            f"subfolders are found by a glob such as '{folder / '**' / '*.tif'}'"
        )
    return images


def _matches(pattern: str) -> list[Path]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True))
    images = _without_results([match for match in matches if match.is_file()])
    if not images:
        raise DataError(f"{pattern}: no file matches this pattern; check it and its quotes")
    return images


def _without_results(images: Sequence[Path]) -> list[Path]:
    """Without the pictures that an earlier run into the same folder drew of images in it, or grids.

    Boxes drawn on them would be found as objects, and a run that is resumed would have sources
    that the first one had not.
    """
    drawn = {path: _RESULT.fullmatch(path.name) for path in images if not _is_grid(path)}
    own = {
        path.parent / name
        for path, match in drawn.items()
        if match is None
        for name in (path.stem, _with_suffix(path), _with_folder(path))
    }
    return [
        path
        for path, match in drawn.items()
        if match is None
        or (
            path.parent / _NUMBERED.sub("", match[1]) not in own
            and path.parent / match[1] not in own
        )
    ]


def _is_grid(path: Path) -> bool:
    """Whether the file is a grid of counts (see `density.Grid.write`)."""
    if not path.name.lower().endswith(_GRID):
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                return bool(file.tags().get("unit") == GRID_UNIT)
    except (RasterioError, UnicodeError):
        return False


def _lines(path: Path) -> list[str]:
    """The list's sources, relative ones seen from its folder; `#` begins a comment line."""
    try:
        lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines()]
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: a list of scenes must be text in UTF-8, a path a line") from error
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise DataError(f"{path}: the list names no scene; write one path a line")
    nested = [line for line in named if PurePath(line).suffix.lower() in LISTS]
    if nested:
        raise UsageError(f"{path}: a list cannot name another list ({nested[0]}); give both")
    # A folder is as it is, whatever characters of patterns its name has.
    folder = Path(glob.escape(str(path.parent)))
    return [
        str(scene_at(line, path.parent if os.path.exists(path.parent / line) else folder))
        if glob.has_magic(line)
        else str(scene_at(line, path.parent))
        for line in named
    ]


def _pure(scene: Source) -> PurePath:
    """The scene as a path, without what follows a URL's question mark; of a GDAL dataset's name,
    as `NETCDF:"folder/a.nc":band`, the file's name and the rest, `a_band`."""
    if isinstance(scene, PurePath):
        return scene
    if is_dataset_name(scene):
        parts = scene.replace('"', "").split(":")[1:]
        return PurePath("_".join(PurePath(part).stem for part in parts if part))
    return PurePath(without_query(scene))


def _with_suffix(path: PurePath) -> str:
    return f"{path.stem}_{path.suffix.lstrip('.').lower()}"


def _with_folder(path: PurePath) -> str:
    parent = path.resolve().parent if isinstance(path, Path) else path.parent
    return f"{parent.name}_{_with_suffix(path)}"
