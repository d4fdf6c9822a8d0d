"""Labelled folders of which several test files need one."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def partly_labelled(synthetic, tmp_path):
    """Makes `tmp_path/data`: images 1 to N with one box each of the (image, category) named.

    Every image has `neg_category_ids` and, where given, its source. Vehicle is 6 and ship 4.
    """

    def make(boxes, *, images, sources=None):
        made = synthetic(train=images, val=1, size=64)
        pictures = json.loads((made / "train.json").read_text())["images"]
        coco = {
            "images": [
                dict(picture, id=at, neg_category_ids=[])
                | ({"source": sources[at - 1]} if sources else {})
                for at, picture in enumerate(pictures, start=1)
            ],
            "annotations": [
                {"id": at, "image_id": image, "category_id": category, "bbox": [8, 8, 8, 8]}
                | {"area": 64, "iscrowd": 0}
                for at, (image, category) in enumerate(boxes, start=1)
            ],
            "categories": [{"id": 4, "name": "ship"}, {"id": 6, "name": "vehicle"}],
        }
        folder = tmp_path / "data"
        folder.mkdir()
        (folder / "images").symlink_to(made / "images")
        (folder / "train.json").write_text(json.dumps(coco))
        (folder / "val.json").write_bytes((made / "val.json").read_bytes())
        return folder

    return make
