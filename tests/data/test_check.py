"""Each thing that spoils a data set is found, and a sound one is called sound."""

from __future__ import annotations

import json
import math
import os
import re
import shutil

import cv2
import numpy as np
import pytest

from rstinynet.data.check import check
from rstinynet.data.check_page import write_page
from rstinynet.data.folder import open_split
from rstinynet.data.formats.yolo import write_yolo
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError


@pytest.fixture
def data(tmp_path):
    folder = tmp_path / "data"
    make_synthetic(folder, images=3, size=96)
    make_synthetic(folder, images=2, size=96, split="val")
    return folder


def kinds(report):
    """Severity of what was found, but for the anchors, which a few of the made boxes lack."""
    found = [each for each in report.findings if each.kind != "no anchor"]
    return {(each.kind, each.split): each.severity for each in found}


def edit(data, change, split="train"):
    path = data / f"{split}.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_sound_set_has_no_errors(data):
    report = check(data)
    assert kinds(report) == {}
    assert set(report.stats) == {"train", "val"}
    assert json.loads(json.dumps(report.as_dict()))["errors"] == 0


@pytest.mark.parametrize(
    ("box", "kind", "severity"),
    [
        ([500, 500, 5, 5], "outside", "error"),
        ([20, 20, -5, 5], "inside out", "error"),
        ([90, 20, 20, 5], "over the edge", "warning"),
        ([20, 20, 0, 5], "empty", "warning"),
        ([20, 20, 0.4, 5], "below a pixel", "warning"),
    ],
)
def test_bad_boxes(data, box, kind, severity):
    edit(data, lambda content: content["annotations"][1].update(bbox=box))
    report = check(data)
    assert kinds(report)[kind, "train"] == severity
    (finding,) = (each for each in report.findings if each.kind == kind)
    assert (finding.count, finding.examples[0].image) == (1, "train_0000.png")
    assert finding.examples[0].box_xyxy == (box[0], box[1], box[0] + box[2], box[1] + box[3])


def test_duplicated_boxes(data):
    edit(
        data,
        lambda content: content["annotations"].append({**content["annotations"][0], "id": 999}),
    )
    assert kinds(check(data)) == {("duplicated", "train"): "warning"}


def test_damaged_missing_and_mis_sized_images(data):
    first, second = data / "images" / "train_0000.png", data / "images" / "train_0001.png"
    first.write_bytes(first.read_bytes()[:-30])
    cv2.imwrite(str(second), np.zeros((50, 96, 3), np.uint8))
    report = check(data)
    assert kinds(report) == {
        ("damaged images", "train"): "error",
        ("mis-sized images", "train"): "error",
    }
    assert "96 x 50, labelled as 96 x 96" in report.findings[-1].examples[0].note
    assert check(data, images=False).errors == 0
    first.unlink()
    assert kinds(check(data)) == {("unusable annotations", "train"): "error"}


def test_the_same_picture_in_two_splits(data):
    pixels = cv2.imread(str(data / "images" / "train_0002.png"))
    cv2.imwrite(str(data / "images" / "val_0001.png"), cv2.add(pixels, 4))
    report = check(data)
    assert kinds(report) == {("near-duplicates", "train and val"): "error"}
    example = report.findings[-1].examples[0]
    assert example.image.endswith("train_0002.png")
    assert example.other.endswith("val_0001.png")


def test_classes(data):
    def rename(content):
        for each in content["annotations"]:
            each["category_id"] = 4

    edit(data, rename)
    assert kinds(check(data)) == {("untaught classes", "val"): "error"}

    def repeat(content):
        first = content["annotations"][0]
        content["annotations"] = [
            {**first, "id": n, "category_id": 1 if n == 1 else 4, "bbox": [n / 4, 5, 12, 12]}
            for n in range(1, 103)
        ]

    edit(data, repeat)
    assert kinds(check(data)) == {("class imbalance", "train"): "warning"}
    edit(data, lambda content: content.update(annotations=[]))
    assert kinds(check(data))["no objects", "train"] == "error"


def test_boxes_too_small_for_the_anchors(data):
    def shrink(content):
        for each in content["annotations"]:
            each["bbox"][2:] = [3.0, 3.0]

    edit(data, shrink)
    report = check(data)
    warned = [each.message for each in report.findings if each.kind == "no anchor"]
    assert any("P3-P5" in each for each in warned)
    assert check(data, scale=4).stats["train"].no_anchor["P3-P5"] == 0


def test_yolo_folders_are_checked_too(data, tmp_path):
    write_yolo(open_split(data, "train"), tmp_path / "yolo")
    label = tmp_path / "yolo" / "labels" / "train" / "train_0000.txt"
    label.write_text(label.read_text() * 2)
    report = check(tmp_path / "yolo" / "data.yaml")
    assert kinds(report) == {("duplicated", "train"): "warning"}
    label.write_text("0 9 9 9 9\n")
    assert kinds(check(tmp_path / "yolo")) == {("unusable annotations", "train"): "error"}


def test_a_broken_file_is_a_finding_and_no_split_an_error(data, tmp_path):
    (data / "train.json").write_text("{")
    assert kinds(check(data)) == {("unusable annotations", "train"): "error"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no train, val or test"):
        check(tmp_path / "empty")


def test_the_page_has_pictures_of_the_worst_cases_and_needs_nothing_else(data, tmp_path):
    edit(data, lambda content: content["annotations"][1].update(bbox=[20, 20, 0.4, 5]))
    shutil.copy(data / "images" / "train_0002.png", data / "images" / "val_0001.png")
    report = check(data)
    write_page(report, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 3  # the box, and both pictures of the pair
    assert not re.search(r"(src|href)=\"(?!data:)", page)
    for text in ("below a pixel in train", "near-duplicates in train and val", "storage-tank"):
        assert text in page


def test_names_are_escaped_on_the_page(data, tmp_path):
    edit(data, lambda content: content["categories"][0].update(name="<script>alert(1)</script>"))
    write_page(check(data, splits=["train"]), tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_splits_of_different_classes_are_said_with_their_names(data):
    edit(data, lambda content: content["categories"].append({"id": 77, "name": "wharf"}), "val")
    report = check(data)
    assert kinds(report)["different classes", "val"] == "error"
    (said,) = (each.message for each in report.findings if each.kind == "different classes")
    assert "wharf (77)" in said


def test_the_page_shows_boxes_of_a_file_that_cannot_be_used(data, tmp_path):
    edit(data, lambda content: content["annotations"][1].update(bbox=[500, 500, 4, 5]))
    report = check(data)
    assert kinds(report)["unusable annotations", "train"] == "error"
    write_page(report, tmp_path / "page.html")
    assert "data:image/png;base64," in (tmp_path / "page.html").read_text()


def test_annotations_that_are_no_records_are_findings(data, tmp_path):
    for wrong in (
        lambda content: content.update(annotations=["a box"]),
        lambda content: content["annotations"][0].update(category_id=[1]),
        lambda content: content["annotations"][0].update(category_id={}),
        lambda content: content["annotations"][0].update(bbox=[10**400, 1, 10, 10]),
        lambda content: content["images"][0].update(width=10**400),
    ):
        before = (data / "train.json").read_bytes()
        edit(data, wrong)
        report = check(data, images=False)
        assert kinds(report)["unusable annotations", "train"] == "error"
        write_page(report, tmp_path / "page.html")
        (data / "train.json").write_bytes(before)


@pytest.mark.parametrize(
    "box", [[1e308, 1, 10, 10], [-1e308, 1, 1e308, 10], [-1e308, -1e308, 1.5e308, 1.5e308]]
)
def test_the_page_shows_boxes_as_wide_as_numbers_go(data, tmp_path, box):
    edit(data, lambda content: content["annotations"][0].update(bbox=box))
    write_page(check(data), tmp_path / "page.html")
    assert "data:image/png" in (tmp_path / "page.html").read_text()


def test_an_image_that_two_records_name(data):
    def again(content):
        first = content["images"][0]
        content["images"].append({**first, "id": 99, "file_name": f"./{first['file_name']}"})

    edit(data, again)
    report = check(data, images=False)
    assert kinds(report) == {("images twice", "train"): "error"}
    assert report.findings[0].examples[0].note == "images 1, 99"


@pytest.mark.parametrize("value", [-1, 0, math.nan, "half a metre", 10**400, True, [1]])
def test_scales_that_are_no_distance(data, value):
    edit(data, lambda content: content["images"][1].update(gsd_m=value))
    assert kinds(check(data, images=False)) == {("bad scales", "train"): "error"}


@pytest.mark.parametrize("value", [0.3, 2, None])
def test_scales_that_are_right(data, value):
    edit(data, lambda content: content["images"][1].update(gsd_m=value))
    assert kinds(check(data, images=False)) == {}


def test_a_folder_with_a_name_of_any_bytes(data, tmp_path):
    odd = tmp_path / os.fsdecode(b"caf\xe9")
    data.rename(odd)
    edit(odd, lambda content: content["annotations"][1].update(bbox=[500, 500, 5, 5]))
    write_page(check(odd), tmp_path / "page.html")
    assert r"caf\udce9" in (tmp_path / "page.html").read_text(encoding="utf-8")
