"""COCO results files: what is read is what was written, and what is wrong is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.errors import DataError
from rstinynet.evaluate.coco import evaluate
from rstinynet.evaluate.results import CocoDetections, open_results, read_results, write_results


@pytest.fixture
def labelled():
    image = LabelledImage(
        id=5,
        path=Path("/nowhere/5.png"),
        width=100,
        height=100,
        boxes=np.array([[1.5, 2, 11.25, 12]], np.float32),
        labels=np.array([1]),
        areas=np.array([97.5]),
        crowd=np.array([False]),
        known=np.array([True, True]),
        exhaustive=np.array([True, True]),
    )
    categories = (Category(3, "ship"), Category(7, "vehicle"))
    return LabelledSet(images=(image,), categories=categories, fingerprint="")


def test_what_is_written_is_read_back_unrounded(tmp_path, labelled):
    boxes = np.array([[1.1, 2.2, 11.3, 12.4], [0, 0, 1, 1]], np.float32)
    found = {5: Detections(boxes, np.array([0.123456789, 1], np.float32), np.array([1, 0]))}
    path = tmp_path / "found.json"
    write_results(path, found, labelled)
    back = read_results(path, labelled)[5]
    np.testing.assert_array_equal(back.scores, found[5].scores.astype(np.float64))
    np.testing.assert_array_equal(back.labels, found[5].labels)
    corners = back.boxes_xywh[:, :2] + back.boxes_xywh[:, 2:]
    np.testing.assert_array_equal(corners, boxes[:, 2:].astype(np.float64))
    assert [entry["category_id"] for entry in json.loads(path.read_text())] == [7, 3]
    assert evaluate(labelled, {5: back}).as_dict() == evaluate(labelled, found).as_dict()


def test_scores_that_differ_in_the_tenth_digit_keep_their_order(tmp_path, labelled):
    path = tmp_path / "found.json"
    wrong = {"image_id": 5, "category_id": 7, "bbox": [50, 50, 5, 5], "score": 0.5}
    right = {"image_id": 5, "category_id": 7, "bbox": [1.5, 2, 9.75, 10], "score": 0.5000000001}
    path.write_text(json.dumps([wrong, right]))
    assert evaluate(labelled, read_results(path, labelled)).ap == 1


def test_nothing_found_is_an_empty_list(tmp_path, labelled):
    path = tmp_path / "found.json"
    write_results(path, {5: Detections.empty()}, labelled)
    assert json.loads(path.read_text()) == []
    assert read_results(path, labelled) == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 6}, "image_id must be one of"),
        ({"image_id": "5"}, "image_id must be a whole number; .* has '5': .* not names"),
        ({"image_id": 5.5}, "image_id must be a whole number; .* has 5.5"),
        ({"image_id": float("nan")}, "image_id must be a whole number"),
        ({"image_id": 1e300}, "image_id must be one of"),
        ({"category_id": 1}, r"category_id must be one of \[3, 7\]; .* has 1"),
        ({"category_id": True}, "category_id must be a whole number"),
        ({"bbox": [0, 0, 1]}, "four finite numbers"),
        ({"bbox": [0, 0, 1, float("nan")]}, "four finite numbers"),
        ({"bbox": [0, 0, 1, 10**400]}, "four finite numbers"),
        ({"bbox": [0, 0, -1, 1]}, "must not be negative"),
        ({"score": None}, "score must be a finite number"),
        ({"score": float("inf")}, "score must be a finite number"),
    ],
)
def test_a_bad_entry_is_named(tmp_path, labelled, change, message):
    good = {"image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5}
    path = tmp_path / "found.json"
    path.write_text(json.dumps([good, good | change]))
    with pytest.raises(DataError, match=message) as caught:
        read_results(path, labelled)
    assert "entry 1" in str(caught.value)


def test_ids_of_a_data_frame_are_whole_numbers_too(tmp_path, labelled):
    plain = {"image_id": 5, "category_id": 7, "bbox": [0, 0, 1, 1], "score": 0.5}
    path = tmp_path / "found.json"
    path.write_text(json.dumps([plain, plain | {"image_id": 5.0, "category_id": 7.0}]))
    found = read_results(path, labelled)
    assert found[5].labels.tolist() == [1, 1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", "must hold a list"),
        ("[", "must be JSON"),
        ("[3]", "must be an object"),
        ('[{"image_id": 5}]', "must have category_id, bbox, score"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, labelled, text, message):
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message):
        read_results(path, labelled)
    with pytest.raises(DataError, match="No such file"):
        read_results(tmp_path / "none.json", labelled)


def entry(image_id=5, **change):
    bbox = [1.5, 2, 9.75, 10]
    return {"image_id": image_id, "category_id": 7, "bbox": bbox, "score": 0.5} | change


@pytest.fixture
def many(labelled):
    image = labelled.images[0]
    fields = {name: getattr(image, name) for name in LabelledImage.__slots__}
    images = tuple(LabelledImage(**fields | {"id": at}) for at in range(40, 0, -3))
    return LabelledSet(images=images, categories=labelled.categories, fingerprint="")


@pytest.fixture
def scattered(many, tmp_path):
    """A file whose entries lie in no order, with nested values and commas in texts."""
    rng = np.random.default_rng(0)
    ids = [image.id for image in many.images]
    entries = [
        entry(
            int(rng.choice(ids)),
            score=float(rng.random()),
            note="} , {",
            segmentation={"size": [1, 2], "counts": [{"a": 1}, {"b": 2}]},
        )
        for _ in range(300)
    ]
    path = tmp_path / "found.json"
    path.write_text(json.dumps(entries, indent=1))
    return path, entries


def test_a_file_read_in_small_blocks_is_the_same(many, scattered, monkeypatch):
    path, entries = scattered
    monkeypatch.setattr("rstinynet.evaluate.entries.BLOCK", 700)
    found = read_results(path, many)
    for image in many.images:
        mine = [each["score"] for each in entries if each["image_id"] == image.id]
        assert found.get(image.id, CocoDetections(None, [], None)).scores == pytest.approx(mine)


def test_a_large_file_waits_on_disk_and_scores_the_same(many, scattered, monkeypatch):
    path, entries = scattered
    expected = evaluate(many, open_results(path, many)).as_dict()
    assert expected == evaluate(many, read_results(path, many)).as_dict()
    monkeypatch.setattr("rstinynet.evaluate.results.LARGE_FILE", 1)
    monkeypatch.setattr("rstinynet.evaluate.results.PART", 1000)
    stored = open_results(path, many)
    folder = stored._folder
    assert len(list(folder.iterdir())) > 5
    assert stored.count == len(entries)
    assert evaluate(many, stored).as_dict() == expected
    del stored
    assert not folder.exists()


@pytest.mark.parametrize("block", [64, 2**18])
@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" + json.dumps(entry()) + ", " + json.dumps(entry())[:-30], "cut short"),
        ("[" + json.dumps(entry()) + ",]", "JSON"),
        ("[" + json.dumps(entry()) + " " + json.dumps(entry()) + "]", "must be JSON"),
        ("[" + json.dumps(entry()) + "] []", "must be JSON"),
        ("[" + json.dumps(entry()).replace("0.5", "0,5") + "]", "must be JSON"),
        ('{"annotations": []}', "holds a dict"),
        ("3", "holds a int"),
        ("", "must be JSON"),
    ],
)
def test_a_damaged_file_is_refused_whatever_the_block(
    tmp_path, labelled, monkeypatch, text, message, block
):
    monkeypatch.setattr("rstinynet.evaluate.entries.BLOCK", block)
    path = tmp_path / "found.json"
    path.write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_results(path, labelled)
    assert str(path) in str(caught.value)


def test_a_bad_entry_far_into_a_file_has_its_number_and_value(tmp_path, labelled, monkeypatch):
    monkeypatch.setattr("rstinynet.evaluate.entries.BLOCK", 300)
    path = tmp_path / "found.json"
    path.write_text(json.dumps([entry()] * 70 + [entry(99)] + [entry()] * 30))
    with pytest.raises(DataError, match=r"found.json, entry 70 has 99"):
        read_results(path, labelled)
    path.write_text(json.dumps([entry()] * 81 + [entry(score=float("nan"))]))
    with pytest.raises(DataError, match=r"score must be a finite number; .*entry 81 has nan"):
        open_results(path, labelled)
    path.write_bytes(b"[\xff]")
    with pytest.raises(DataError, match="must be JSON"):
        read_results(path, labelled)
