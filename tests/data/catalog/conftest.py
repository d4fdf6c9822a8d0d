"""Miniature look-alikes of the published layouts."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import rasterio

from rstinynet.data.catalog import aitod

SCENE_PX = (1400, 1100)
"""Width and height of the xView-like scene: windows begin at 0, 600 and 0, 300."""


def png(path, seed, size=800):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((size, size, 3), 40 + seed, np.uint8)
    pixels[10 : 30 + seed, 10:40] = 200
    cv2.imwrite(str(path), pixels)


def coco(names, boxes=1, first_id=0):
    categories = [{"id": n, "name": name} for n, name in enumerate(aitod.CLASSES, 1)]
    images = [
        {"id": first_id + n, "file_name": name, "width": 800, "height": 800}
        for n, name in enumerate(names)
    ]
    annotations = [
        {"image_id": each["id"], "category_id": 6, "bbox": [5 * n, 9, 4, 6], "area": 24}
        for each in images
        for n in range(boxes)
    ]
    for n, each in enumerate(annotations):
        each.update(id=n, iscrowd=0)
    return {"images": images, "annotations": annotations, "categories": categories}


@pytest.fixture
def scene():
    """(height, width, 3) pixels of the xView-like scene, every pixel's red telling its column."""
    width, height = SCENE_PX
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.arange(width) % 251
    pixels[..., 1] = (np.arange(height) % 241)[:, None]
    pixels[..., 2] = 77
    return pixels


@pytest.fixture
def parts(tmp_path, scene):
    """Downloads that make up an AI-TOD of three training images and two test images."""
    root = tmp_path / "parts"
    for folder, name, seed in (
        ("train", "P1.png", 1),
        ("val", "P2.png", 2),
        ("trainval", "P1.png", 1),
        ("trainval", "P2.png", 2),
        ("test", "P9.png", 9),
    ):
        png(root / "aitod" / "images" / folder / name, seed)
    tif = root / "xview" / "train_images" / "5.tif"
    tif.parent.mkdir(parents=True)
    width, height = SCENE_PX
    options = {"driver": "GTiff", "count": 3, "dtype": "uint8", "crs": "EPSG:4326"}
    place = rasterio.Affine(1e-5, 0, 10, 0, -1e-5, 50)
    with rasterio.open(tif, "w", width=width, height=height, transform=place, **options) as file:
        file.write(np.moveaxis(scene, 2, 0))
    folder = root / "annotations"
    folder.mkdir()
    contents = {
        "aitod_train.json": coco(["P1.png", "5__0_300.png"]),
        "aitod_val.json": coco(["P2.png"]),
        "aitod_trainval_v1_1.0.json": coco(["P1.png", "5__0_300.png", "P2.png"], first_id=7),
        "aitod_test_v1_1.0.json": coco(["P9.png", "5__600_0.png"], boxes=2),
        "small_trainval_v2_2.0.json": coco(["P1.png", "5__0_300.png", "P2.png"], boxes=3),
        "small_test_v2_2.0.json": coco(["P9.png", "5__600_0.png"], boxes=4),
    }
    for name, content in contents.items():
        (folder / name).write_text(json.dumps(content))
    return root
