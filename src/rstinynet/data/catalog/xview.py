"""The part of AI-TOD that comes from xView: scenes cut to tiles, 60 classes mapped to 4.

Facts of the published toolkit (github.com/jwwangchn/AI-TOD, aitodtoolkit): scenes are cut to 800
pixels with a step of 600; the last window of a row or column is moved back to the scene's edge;
what the other windows lack beyond the edge is black; a tile is called `{scene}__{x}_{y}.png`; a
tile has the objects whose centre lies in it. The toolkit reads red, green, blue and writes as if
it were blue, green, red, so that its tiles have red and blue exchanged.
"""

from __future__ import annotations

import json
import re
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import rasterio
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from rstinynet import files
from rstinynet.errors import DataError

TILE_PX = 800
STRIDE_PX = 600
TILE_NAME = re.compile(r"^(\d+)__(\d+)_(\d+)\.png$")
"""Scene, left and top of a tile."""

Channels = Literal["toolkit", "rgb"]
"""Order of the channels in the tiles: as the published toolkit writes them, or true colours."""

AIRPLANE = frozenset({11, 12, 13})
SHIP = frozenset({40, 41, 42, 44, 45, 47, 49, 50, 51, 52})
STORAGE_TANK = frozenset({86})
VEHICLE = frozenset({17, 18, 19, 20, 21, 23, 24, 25, 26, 27, 28, 29, 32, 33, 34, 35, 36, 37, 38})
ENGINEERING = frozenset({53, 59, 60, 61, 62, 63, 64, 65, 66})
OTHERS = frozenset({15, 54, 55, 56, 57, 71, 72, 73, 74, 75, 76, 77, 79, 82, 83, 84, 89, 91, 93, 94})
"""xView's classes that AI-TOD leaves out."""

CLASS_OF: dict[int, str] = {
    **dict.fromkeys(AIRPLANE, "airplane"),
    **dict.fromkeys(SHIP, "ship"),
    **dict.fromkeys(STORAGE_TANK, "storage-tank"),
    **dict.fromkeys(VEHICLE | ENGINEERING, "vehicle"),
}
"""AI-TOD's class of xView's `type_id`."""

Objects = list[tuple[str, tuple[float, float, float, float]]]
"""(class, XYXY pixels) of the objects of a scene or tile."""


def window_starts(length: int, *, tile: int = TILE_PX, stride: int = STRIDE_PX) -> list[int]:
    """Where the windows of one axis begin; the last one ends at the edge where it can."""
    starts = list(range(0, length, stride))
    if length - starts[-1] <= tile:
        starts[-1] = max(0, length - tile)
    return starts


def cut_tiles(
    scene: Path, starts: Iterable[tuple[int, int]], out: Path, *, channels: Channels = "toolkit"
) -> list[Path]:
    """Cut tiles at (left, top) out of one scene into `out`; black beyond the scene's edge.

    Raises:
        DataError: the scene cannot be read, has not three 8-bit bands, or is of another size than
            the one that the tiles were named after.
    """
    written = []
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(scene) as raster:
                if raster.count < 3 or raster.dtypes[0] != "uint8":
                    raise DataError(
                        f"{scene}: {raster.count} bands of {raster.dtypes[0]}; xView's scenes have "
                        "three of uint8: download the training images (not the 8-band set)"
                    )
                lefts, tops = window_starts(raster.width), window_starts(raster.height)
                for left, top in starts:
                    if left not in lefts or top not in tops:
                        raise DataError(
                            f"{scene}: no tile begins at {left}, {top} in a scene of "
                            f"{raster.width} x {raster.height}; it is not xView's own file"
                        )
                    across = min(TILE_PX, raster.width - left)
                    down = min(TILE_PX, raster.height - top)
                    tile = np.zeros((TILE_PX, TILE_PX, 3), np.uint8)
                    bands = raster.read([1, 2, 3], window=Window(left, top, across, down))
                    tile[:down, :across] = np.moveaxis(bands, 0, 2)
                    if channels == "rgb":
                        tile = np.ascontiguousarray(tile[..., ::-1])
                    target = out / f"{scene.stem}__{left}_{top}.png"
                    files.write_bytes(target, cv2.imencode(".png", tile)[1].tobytes())
                    written.append(target)
    except RasterioError as error:
        raise DataError(f"{scene}: cannot be read: {error}; download it again") from error
    return written


def read_geojson(path: Path) -> dict[str, Objects]:
    """The objects of AI-TOD's classes by scene file name, from xView's own annotation file.

    Raises:
        DataError: the file is damaged or not xView's.
    """
    try:
        features = json.loads(path.read_bytes())["features"]
        records = [each["properties"] for each in features]
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise DataError(f"{path}: not xView's GeoJSON ({error!r}); download it again") from error
    found: defaultdict[str, Objects] = defaultdict(list)
    for number, record in enumerate(records):
        try:
            name, kind = str(record["image_id"]), int(record["type_id"])
            corners = [float(text) for text in str(record["bounds_imcoords"]).split(",")]
        except (KeyError, ValueError, TypeError) as error:
            if record.get("bounds_imcoords") == []:
                continue
            raise DataError(f"{path}: feature {number}: {error!r}; download it again") from error
        if len(corners) == 4 and kind in CLASS_OF:
            left, top, right, bottom = corners
            found[name].append((CLASS_OF[kind], (left, top, right, bottom)))
    return dict(found)


def objects_of_tile(objects: Objects, left: int, top: int) -> Objects:
    """The objects of a scene whose centre lies in a tile, in the tile's pixels, not cut."""
    inside: Objects = []
    for name, (x0, y0, x1, y1) in objects:
        centre_x, centre_y = (x0 + x1) / 2 - left, (y0 + y1) / 2 - top
        if 0 <= centre_x < TILE_PX and 0 <= centre_y < TILE_PX and x1 > x0 and y1 > y0:
            inside.append((name, (x0 - left, y0 - top, x1 - left, y1 - top)))
    return inside


def add_tiles(
    content: dict[str, Any], names: Iterable[str], objects: Mapping[str, Objects]
) -> None:
    """Add tiles and their objects to a COCO content, with new ids after those there."""
    ids = {each["name"]: each["id"] for each in content["categories"]}
    next_image = 1 + max((each["id"] for each in content["images"]), default=0)
    next_box = 1 + max((each["id"] for each in content["annotations"]), default=0)
    for name in names:
        match = TILE_NAME.match(name)
        if match is None:
            raise DataError(f"'{name}' is not the name of an xView tile (scene__left_top.png)")
        scene, left, top = match.groups()
        size = {"width": TILE_PX, "height": TILE_PX}
        content["images"].append({"id": next_image, "file_name": name, **size})
        for kind, (x0, y0, x1, y1) in objects_of_tile(
            objects.get(f"{scene}.tif", []), int(left), int(top)
        ):
            box = [x0, y0, x1 - x0, y1 - y0]
            record = {"id": next_box, "image_id": next_image, "category_id": ids[kind]}
            content["annotations"].append(
                {**record, "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
            )
            next_box += 1
        next_image += 1
