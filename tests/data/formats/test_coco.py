"""Every way a COCO file can be broken, what is mended, partial labels, and the way back."""

from __future__ import annotations

import copy
import json
import logging

import cv2
import numpy as np
import pytest

from rstinynet.data.formats.coco import (
    read_coco,
    require_annotations,
    write_coco,
)
from rstinynet.errors import DataError

GOOD = {
    "images": [
        {"id": 7, "file_name": "a.png", "width": 40, "height": 30},
        {"id": 9, "file_name": "deep/b.png", "width": 40, "height": 30},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 5, "bbox": [1.5, 2, 10, 8], "area": 60},
        {"id": 2, "image_id": 7, "category_id": 2, "bbox": [20, 10, 6, 6], "iscrowd": 1},
        {"id": 3, "image_id": 9, "category_id": 2, "bbox": [0, 0, 4, 4], "area": 16},
    ],
    "categories": [{"id": 5, "name": "ship"}, {"id": 2, "name": "vehicle"}],
}


@pytest.fixture
def folder(tmp_path):
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    blank = np.zeros((30, 40, 3), np.uint8)
    cv2.imwrite(str(images / "a.png"), blank)
    cv2.imwrite(str(images / "deep" / "b.png"), blank)
    return tmp_path


@pytest.fixture
def content():
    return copy.deepcopy(GOOD)


def read(folder, content):
    path = folder / "train.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return read_coco(path, folder / "images")


def test_reads_boxes_labels_areas_and_crowds(folder, content):
    labelled = read(folder, content)
    assert labelled.names == ("vehicle", "ship")
    first, second = labelled.images
    assert (first.id, second.id) == (7, 9)
    assert first.boxes.tolist() == [[1.5, 2, 11.5, 10], [20, 10, 26, 16]]
    assert first.boxes.dtype == np.float32
    assert first.labels.tolist() == [1, 0]
    assert first.areas.tolist() == [60, 36]
    assert first.crowd.tolist() == [False, True]
    assert second.path == folder / "images" / "deep" / "b.png"
    assert first.known.all()
    assert first.exhaustive.all()
    assert len(labelled.fingerprint) == 64


def test_images_may_lie_in_any_of_several_folders(folder, content):
    (folder / "more").mkdir()
    (folder / "images" / "a.png").rename(folder / "more" / "a.png")
    path = folder / "train.json"
    path.write_text(json.dumps(content))
    labelled = read_coco(path, [folder / "images", folder / "more"])
    assert [image.path.parent.name for image in labelled.images] == ["more", "deep"]


def test_boxes_over_the_edge_are_cut_and_counted(folder, content, caplog):
    content["annotations"][0]["bbox"] = [-5, -5, 10, 10]
    content["annotations"][2]["bbox"] = [38, 28, 10, 10]
    with caplog.at_level(logging.WARNING):
        labelled = read(folder, content)
    assert labelled.images[0].boxes[0].tolist() == [0, 0, 5, 5]
    assert labelled.images[1].boxes[0].tolist() == [38, 28, 40, 30]
    assert "2 boxes reach outside" in caplog.text


def test_boxes_without_area_are_left_out_and_counted(folder, content, caplog):
    content["annotations"][2]["bbox"] = [3, 3, 0, 4]
    with caplog.at_level(logging.WARNING):
        labelled = read(folder, content)
    assert len(labelled.images[1].boxes) == 0
    assert "1 boxes without area" in caplog.text


def broken(change):
    content = copy.deepcopy(GOOD)
    change(content)
    return content


def annotation(**values):
    return lambda content: content["annotations"][0].update(values)


def image(**values):
    return lambda content: content["images"][0].update(values)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda c: c.pop("annotations"), "needs the list 'annotations'"),
        (lambda c: c.update(images={}), "needs the list 'images'"),
        (lambda c: c.update(categories=[]), "at least one class"),
        (lambda c: c["images"].append(3), r"images\[2\] must be an object"),
        (lambda c: c["images"].append(c["images"][0]), "two image records have the id 7"),
        (lambda c: c["annotations"].append(c["annotations"][0]), "two annotations have the id 1"),
        (lambda c: c["categories"].append(c["categories"][0]), "two category records have the id"),
        (lambda c: c["categories"][0].update(name="vehicle"), r"stand twice: \['vehicle'\]"),
        (lambda c: c["categories"][0].pop("name"), "category 5: 'name'"),
        (lambda c: c["annotations"][0].pop("image_id"), "annotation 1: 'image_id'.*missing"),
        (lambda c: c["annotations"][0].pop("bbox"), "annotation 1: 'bbox' must be four"),
        (lambda c: c["images"][0].pop("width"), "image 7: 'width'.*missing"),
        (annotation(category_id=77), r"annotation 1: no category.*77; known are \[2, 5\]"),
        (annotation(image_id=70), "annotation 1: no image has its image_id 70"),
        (annotation(id="x"), "annotation number 0: 'id' must be an integer and is 'x'"),
        (annotation(id=2**63), "annotation number 0: 'id' must be .* below 2\\^63 and is 9223"),
        (annotation(category_id=[5]), r"annotation 1: 'category_id' .* is \[5\]"),
        (annotation(category_id={}), r"annotation 1: 'category_id' .* is {}"),
        (annotation(bbox=[10**400, 0, 4, 4]), r"annotation 1: 'bbox' must be finite, .*000\.\.\.;"),
        (annotation(area=10**400), "annotation 1: 'area'"),
        (image(id=2**63), r"image number 0: 'id' must be .* below 2\^63"),
        (image(width=10**400), r"image 7: 'width' must be .* below 2\^63 and is 1000"),
        (image(file_name="\ud800.png"), r"image 7: 'file_name' must be a text, not '\\ud800"),
        (lambda c: c["categories"][0].update(name="\udfff"), "category 5: 'name'"),
        (lambda c: c["annotations"].append("a box"), r"annotations\[3\] must be an object, not 'a"),
        (annotation(bbox=[float("nan"), 0, 4, 4]), "annotation 1: 'bbox' must be finite"),
        (annotation(bbox=[0, 0, float("inf"), 4]), "annotation 1: 'bbox' must be finite"),
        (annotation(bbox=[9, 9, -4, 4]), "annotation 1: .*negative side"),
        (annotation(bbox=[40, 0, 4, 4]), r"annotation 1: .*wholly outside image 7 \(40 x 30\)"),
        (annotation(bbox=[0, -9, 4, 4]), "annotation 1: .*wholly outside"),
        (annotation(bbox=[1, 2, 3]), "four numbers"),
        (annotation(bbox=[1, 2, 3, None]), "four numbers"),
        (annotation(area=float("nan")), "annotation 1: 'area'"),
        (annotation(iscrowd=2), "annotation 1: 'iscrowd' must be 0 or 1"),
        (image(id=True), "image number 0: 'id'"),
        (image(height=0), "image 7: 'height' must be an integer of at least 1"),
        (image(file_name="../a.png"), "image 7: 'file_name' .*leads out"),
        (image(file_name="..\\a.png"), "leads out"),
        (image(file_name="/etc/passwd"), "leads out"),
        (image(file_name=None), "image 7: 'file_name' must be a text"),
        (image(file_name="none.png"), "1 of 2 image files are missing: none.png; looked in"),
        (image(neg_category_ids=[3]), "image 7: 'neg_category_ids' names the category 3"),
        (image(neg_category_ids=2), "must be a list"),
    ],
)
def test_what_is_broken_is_named_with_its_file_and_id(folder, change, says):
    with pytest.raises(DataError, match=says) as caught:
        read(folder, broken(change))
    assert str(folder / "train.json") in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "\x00", "[" * 100_000, "9" * 5000])
def test_what_is_no_json_object_is_a_data_error(folder, text):
    with pytest.raises(DataError, match=r"train\.json"):
        read(folder, text)


def test_a_missing_file_is_a_data_error(tmp_path):
    with pytest.raises(DataError, match="not found"):
        read_coco(tmp_path / "none.json", tmp_path)


def test_missing_images_are_listed_up_to_five(folder, content):
    content["annotations"] = []
    content["images"] = [
        {"id": i, "file_name": f"lost{i}.png", "width": 9, "height": 9} for i in range(8)
    ]
    with pytest.raises(DataError, match=r"8 of 8 .*lost4\.png, \.\.\.;") as caught:
        read(folder, content)
    assert "lost5" not in str(caught.value)


def test_no_annotations_is_an_error_for_training_only(folder, content):
    assert require_annotations(read(folder, content), source="x") is not None
    content["annotations"] = content["annotations"][1:2]
    labelled = read(folder, content)
    assert len(labelled) == 2
    with pytest.raises(DataError, match=r"train\.json: no annotations: 2 images"):
        require_annotations(labelled, source=folder / "train.json")


def test_one_neg_list_makes_the_whole_set_partly_labelled(folder, content):
    content["images"][1]["neg_category_ids"] = [5]
    content["images"][0]["not_exhaustive_category_ids"] = [5]
    del content["annotations"][1]
    labelled = read(folder, content)
    assert labelled.images[0].known.tolist() == [False, True]
    assert labelled.images[0].exhaustive.tolist() == [False, False]
    assert labelled.images[1].known.tolist() == [True, True]
    assert labelled.images[1].exhaustive.tolist() == [True, True]


@pytest.mark.parametrize("partial", [False, True])
def test_what_is_written_reads_the_same(folder, content, partial):
    if partial:
        content["images"][1]["neg_category_ids"] = []
        content["images"][0]["not_exhaustive_category_ids"] = [5]
    before = read(folder, content)
    write_coco(before, folder / "again.json", images_dir=folder / "images")
    after = read_coco(folder / "again.json", folder / "images")
    assert after.categories == before.categories
    for one, other in zip(before.images, after.images, strict=True):
        for name in ("boxes", "labels", "areas", "crowd", "known", "exhaustive"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
        assert (one.id, one.path, one.width) == (other.id, other.path, other.width)
