"""Scenes of STAC files: which asset of each item is the picture to search.

STAC is the SpatioTemporal Asset Catalog (https://stacspec.org). Files are read as they are on disk;
only local catalogs are followed to their items.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rstinynet.errors import DataError, RSTinyNetError, UsageError

SUFFIXES = frozenset({".json", ".geojson"})
"""Files that may be STAC."""
ROLES = ("visual", "data")
"""Names and roles by which an asset is chosen where none is asked for."""
_PREVIEWS = frozenset({"thumbnail", "overview"})
"""Roles and names of pictures that are no scenes."""
_RASTERS = ("image/tiff", "image/jp2", "image/png", "image/jpeg", "image/vnd.stac.geotiff")
_MALFORMED = (AttributeError, LookupError, TypeError, ValueError, RecursionError, OSError)
"""What pystac raises for content of other types than STAC has, or that goes round in circles."""
_RASTER_SUFFIXES = (".tif", ".tiff", ".jp2", ".png", ".jpg", ".jpeg", ".vrt")


@dataclass(frozen=True, slots=True)
class Refused:
    """A source, or an item of one, that gives no scene."""

    item: str
    error: RSTinyNetError


def assets(path: Path, wanted: str | None) -> Iterator[str | Refused]:
    """The address of one asset of every item of the STAC file, relative ones from its folder.

    `wanted` is an asset's name or role; without it the asset is that of the name or role `visual`,
    then `data`, then the only picture; never a thumbnail or an overview. Raises DataError for a
    file that is not STAC or has no items, UsageError without pystac.
    """
    count = 0
    for item in _items(path):
        count += 1
        if isinstance(item, Refused):
            yield item
            continue
        name = f"{path}#{item.id}"
        try:
            yield _chosen(item, wanted, path)
        except DataError as error:
            yield Refused(name, error)
        except _MALFORMED as error:
            yield Refused(name, DataError(f"{name}: its assets cannot be read: {error}"))
    if not count:
        raise DataError(f"{path}: the STAC file has no items")


def _items(path: Path) -> Iterator[Any]:
    content = _content(path)
    pystac = _pystac()
    if content.get("type") == "FeatureCollection":
        for number, feature in enumerate(content["features"], 1):
            try:
                yield pystac.Item.from_dict(feature, preserve_dict=False)
            except (pystac.errors.STACError, pystac.errors.STACTypeError, *_MALFORMED) as error:
                name = f"{path}#{feature.get('id', number)}"
                yield Refused(name, DataError(f"{name}: not a STAC item that can be read: {error}"))
        return
    try:
        if content.get("type") == "Feature":
            item = pystac.Item.from_dict(content)
            item.set_self_href(str(path.resolve()))
            yield item
        else:
            catalog = pystac.read_file(str(path.resolve()))
            yield from catalog.get_items(recursive=True)
    except (pystac.errors.STACError, pystac.errors.STACTypeError, *_MALFORMED) as error:
        raise DataError(f"{path}: not STAC that can be read: {error}") from error


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON, so not STAC: {error}") from error
    parts = content.get("features", [content]) if isinstance(content, dict) else []
    if not (isinstance(parts, list) and parts) or not all(
        isinstance(part, dict) and "stac_version" in part for part in parts
    ):
        raise DataError(
            f"{path}: not a STAC item, item collection or catalog (no stac_version); scenes are "
            "given as images, folders, globs, text lists or STAC"
        )
    return dict(content)


def _chosen(item: Any, wanted: str | None, path: Path) -> str:
    have = item.assets
    pictures = {name: asset for name, asset in have.items() if _is_picture(asset)}
    listed = ", ".join(
        f"{name} ({'/'.join(asset.roles or ['no role'])})" for name, asset in have.items()
    )
    if wanted is not None:
        if wanted in have:
            return _address(have[wanted])
        of_role = [asset for asset in pictures.values() if wanted in (asset.roles or [])]
        if not of_role:
            raise DataError(
                f"{path}: item {item.id} has no asset or picture of a role {wanted!r}: "
                f"it has {listed or 'none'}"
            )
        return _address(of_role[0])
    pictures = {n: a for n, a in pictures.items() if not _PREVIEWS & {n, *(a.roles or [])}}
    for role in ROLES:
        if role in pictures:
            return _address(pictures[role])
        of_role = [asset for asset in pictures.values() if role in (asset.roles or [])]
        if len(of_role) == 1:
            return _address(of_role[0])
        if of_role:
            break  # one of these is meant, and no asset of a later role
    if len(pictures) == 1:
        return _address(next(iter(pictures.values())))
    raise DataError(
        f"{path}: item {item.id} has {len(pictures)} pictures to choose from: name one by "
        f"--asset out of {listed or 'none'}"
    )


def _address(asset: Any) -> str:
    """Absolute where the item knows where it is itself."""
    return str(asset.get_absolute_href() or asset.href)


def _is_picture(asset: Any) -> bool:
    if asset.media_type:
        return str(asset.media_type).startswith(_RASTERS)
    return str(asset.href).lower().split("?", 1)[0].endswith(_RASTER_SUFFIXES)


def _pystac() -> Any:
    try:
        import pystac
    except ImportError as error:
        raise UsageError("STAC sources need pystac: pip install 'rs-tinynet[geo]'") from error
    return pystac
