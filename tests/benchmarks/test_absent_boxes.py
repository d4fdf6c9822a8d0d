"""benchmarks/absent_boxes.py: which boxes it counts, and which it does not."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from rstinynet.data.formats.coco import read_coco
from rstinynet.evaluate.results import CocoDetections


@pytest.fixture(scope="module")
def count(load_script):
    return load_script("benchmarks/absent_boxes.py").count


@pytest.fixture
def labelled(tmp_path):
    """Ships labelled on image 1, absent from 2, unknown on 3; vehicles absent from 1 alone."""
    box = {"bbox": [1, 1, 5, 5], "area": 25, "iscrowd": 0}
    coco = {
        "images": [
            {"id": id_, "file_name": f"{id_}.png", "width": 64, "height": 64}
            | {"neg_category_ids": absent}
            for id_, absent in ((1, [6]), (2, [4]), (3, []))
        ],
        "annotations": [{"id": 1, "image_id": 1, "category_id": 4, **box}],
        "categories": [{"id": 4, "name": "ship"}, {"id": 6, "name": "vehicle"}],
    }
    for id_ in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"{id_}.png"), np.zeros((64, 64, 3), np.uint8))
    (tmp_path / "val.json").write_text(json.dumps(coco))
    return read_coco(tmp_path / "val.json", tmp_path)


def found(*scores_and_labels):
    scores, labels = zip(*scores_and_labels, strict=True)
    boxes = np.tile(np.float64([2, 2, 4, 4]), (len(scores), 1))
    return CocoDetections(boxes, np.array(scores, np.float32), np.array(labels, np.int64))


def test_boxes_count_where_the_class_is_known_to_be_absent(count, labelled):
    ship, vehicle = 0, 1
    results = {
        1: found((0.9, ship), (0.6, vehicle), (0.5, vehicle), (0.4, vehicle)),
        2: found((0.3, ship), (0.9, vehicle)),
        3: found((0.9, ship), (0.9, vehicle)),
    }
    assert count(labelled, results, (0.3, 0.5)) == [(1, 1, 1), (1, 1, 2)]


def test_an_image_without_results_counts_as_one_without_boxes(count, labelled):
    assert count(labelled, {}, (0.3, 0.5)) == [(1, 0, 0), (1, 0, 0)]
