"""The evaluation against pycocotools, by property, and on partly labelled sets by brute force."""

from __future__ import annotations

import contextlib
import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.errors import DataError, UsageError
from rstinynet.evaluate.coco import Evaluation, evaluate
from rstinynet.evaluate.protocols import AITOD

FIGURES = ["ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m"]
FIGURES += ["ar", "ar_vt", "ar_t", "ar_s", "ar_m"]
SIZES = [(size.name, size.low, size.high) for size in AITOD.sizes]


def labelled_image(image_id, boxes, labels, *, classes=2, crowd=None, areas=None, **flags):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    sides = (boxes[:, 2:] - boxes[:, :2]).astype(np.float64)
    return LabelledImage(
        id=image_id,
        path=Path(f"/nowhere/{image_id}.png"),
        width=800,
        height=800,
        boxes=boxes,
        labels=np.asarray(labels, np.int64),
        areas=sides.prod(axis=1) if areas is None else np.asarray(areas, np.float64),
        crowd=np.zeros(len(boxes), bool) if crowd is None else np.asarray(crowd, bool),
        known=np.asarray(flags.get("known", [True] * classes)),
        exhaustive=np.asarray(flags.get("exhaustive", [True] * classes)),
    )


def labelled_set(*images, classes=2):
    # Ids with gaps, so that an id taken for a position shows.
    categories = tuple(Category(3 * at + 2, f"class {at}") for at in range(classes))
    return LabelledSet(images=tuple(images), categories=categories, fingerprint="")


def detections(boxes, scores, labels):
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    return Detections(boxes, np.asarray(scores, np.float32), np.asarray(labels, np.int64))


def xywh(box):
    left, top, right, bottom = (float(value) for value in box)
    return [left, top, right - left, bottom - top]


def oracle(labelled, found, max_det=1500):
    """The twelve figures by pycocotools, which knows nothing of partial labels."""
    truth = [
        {
            "image_id": image.id,
            "category_id": labelled.categories[label].id,
            "bbox": xywh(box),
            "area": float(area),
            "iscrowd": int(crowd),
        }
        for image in labelled.images
        for box, label, area, crowd in zip(
            image.boxes, image.labels, image.areas, image.crowd, strict=True
        )
    ]
    results = [
        {
            "image_id": image_id,
            "category_id": labelled.categories[label].id,
            "bbox": xywh(box),
            "area": xywh(box)[2] * xywh(box)[3],
            "score": float(score),
            "iscrowd": 0,
        }
        for image_id, dets in found.items()
        for box, score, label in zip(dets.boxes, dets.scores, dets.labels, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for records in (truth, results):
            side = COCO()
            side.dataset = {
                "images": [{"id": image.id} for image in labelled.images],
                "categories": [{"id": c.id, "name": c.name} for c in labelled.categories],
                "annotations": [{"id": at, **r} for at, r in enumerate(records, start=1)],
            }
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.params.maxDets = [1, 100, max_det]
        judge.params.areaRng = [
            [0, 1e10], [0, 64], [64, 256], [256, 1024], [1024, 1e10],
        ]  # fmt: skip
        judge.params.areaRngLbl = ["all", "vt", "t", "s", "m"]
        judge.evaluate()
        judge.accumulate()
    precision, recall = judge.eval["precision"][..., -1], judge.eval["recall"][..., -1]
    parts = [precision[..., 0], precision[0, ..., 0], precision[5, ..., 0]]
    parts += [precision[..., area] for area in range(1, 5)]
    parts += [recall[..., area] for area in range(5)]
    return [values[values > -1].mean() if (values > -1).any() else math.nan for values in parts]


def assert_as_oracle(labelled, found, max_det=1500):
    ours = evaluate(labelled, found, max_det=max_det)
    np.testing.assert_allclose(
        [getattr(ours, name) for name in FIGURES], oracle(labelled, found, max_det), atol=1e-6
    )
    return ours


def random_case(seed, *, images=5, classes=3, objects=12, noise=25):
    rng = np.random.default_rng(seed)
    labelled, found = [], {}
    for image_id in rng.permutation(images * 7)[:images].tolist():
        n = int(rng.integers(0, objects + 1))
        corner = rng.uniform(0, 700, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(2, 60, (n, 2))], axis=1)
        labels = rng.integers(0, classes, n)
        labelled.append(
            labelled_image(image_id, boxes, labels, classes=classes, crowd=rng.random(n) < 0.15)
        )
        near = boxes + rng.normal(0, 2, boxes.shape)
        near[:, 2:] = np.maximum(near[:, 2:], near[:, :2])
        corner = rng.uniform(0, 700, (noise, 2))
        far = np.concatenate([corner, corner + rng.uniform(2, 60, (noise, 2))], axis=1)
        # One decimal, so that many scores tie.
        scores = rng.random(n + noise).round(1)
        found[image_id] = detections(
            np.concatenate([near, far]),
            scores,
            np.concatenate([labels, rng.integers(0, classes, noise)]),
        )
    return labelled_set(*labelled, classes=classes), found


@pytest.mark.parametrize("seed", range(8))
def test_random_sets_score_as_pycocotools(seed):
    result = assert_as_oracle(*random_case(seed))
    assert 0 < result.ap < 1


@pytest.mark.parametrize("side", [8, 16, 32])
def test_an_area_on_a_limit_belongs_to_both_ranges(side):
    box = [10, 10, 10 + side, 10 + side]
    labelled = labelled_set(labelled_image(4, [box], [0]))
    result = assert_as_oracle(labelled, {4: detections([box], [0.5], [0])})
    names = [name for name, low, high in SIZES if low <= side**2 <= high]
    assert len(names) == 3
    by_name = {"verytiny": result.ap_vt, "tiny": result.ap_t}
    by_name |= {"small": result.ap_s, "medium": result.ap_m, "all": result.ap}
    for name, value in by_name.items():
        assert value == 1 if name in names else math.isnan(value)


def test_sizes_go_by_the_annotated_area_not_the_box():
    labelled = labelled_set(labelled_image(1, [[0, 0, 20, 20]], [0], areas=[50]))
    result = assert_as_oracle(labelled, {1: detections([[0, 0, 20, 20]], [0.5], [0])})
    assert result.ap_vt == 1
    assert math.isnan(result.ap_s)


def test_detections_out_of_a_size_range_are_ignored_there():
    labelled = labelled_set(labelled_image(1, [[0, 0, 6, 6]], [0]))
    dets = detections([[100, 100, 150, 150], [0, 0, 6, 6]], [0.9, 0.8], [0, 0])
    result = assert_as_oracle(labelled, {1: dets})
    assert result.ap_vt == 1
    assert result.ap == pytest.approx(0.5)


def test_more_than_a_hundred_detections_count():
    side = np.arange(150)
    boxes = np.stack([side % 15 * 50, side // 15 * 50], axis=1)
    boxes = np.concatenate([boxes, boxes + 10], axis=1)
    labelled = labelled_set(labelled_image(1, boxes, np.zeros(150)))
    dets = detections(boxes, np.linspace(0.9, 0.1, 150), np.zeros(150))
    result = assert_as_oracle(labelled, {1: dets})
    assert result.ap == result.ar == 1
    assert result.ar_by_max_det == pytest.approx({1: 1 / 150, 100: 100 / 150, 1500: 1})
    fewer = evaluate(labelled, {1: dets}, max_det=50)
    assert fewer.ar_by_max_det == pytest.approx({1: 1 / 150, 50: 50 / 150})
    assert fewer.settings["max_det"] == 50


def test_duplicate_boxes_and_tied_scores_score_as_pycocotools():
    boxes = [[0, 0, 10, 10]] * 3 + [[40, 40, 60, 60]] * 2
    labelled = labelled_set(
        labelled_image(9, boxes[1:4], [0, 0, 1]), labelled_image(2, boxes[:1], [0])
    )
    found = {
        2: detections(boxes, [0.5] * 5, [0, 0, 1, 1, 1]),
        9: detections(boxes, [0.5] * 5, [0, 1, 0, 1, 1]),
    }
    assert_as_oracle(labelled, found)


def test_crowd_regions_are_neither_found_nor_false():
    crowd = [0, 0, 100, 100]
    labelled = labelled_set(
        labelled_image(1, [crowd, [200, 200, 220, 220]], [0, 0], crowd=[True, False])
    )
    inside = [[10, 10, 20, 20], [30, 30, 45, 45]]
    dets = detections([*inside, [200, 200, 220, 220]], [0.9, 0.8, 0.7], [0, 0, 0])
    result = assert_as_oracle(labelled, {1: dets})
    assert result.ap == 1
    assert result.per_class["class 0"].objects == 1
    only_crowd = labelled_set(labelled_image(1, [crowd], [0], crowd=[True]))
    assert math.isnan(assert_as_oracle(only_crowd, {1: dets}).ap)


def test_images_without_objects_still_hold_false_detections():
    labelled = labelled_set(
        labelled_image(1, [[0, 0, 10, 10]], [0]),
        labelled_image(2, [], []),
        labelled_image(3, [], []),
    )
    right = detections([[0, 0, 10, 10]], [0.5], [0])
    wrong = detections([[0, 0, 10, 10]], [0.9], [0])
    result = assert_as_oracle(labelled, {1: right, 2: wrong})
    assert result.ap == pytest.approx(0.5)
    assert result.images == 3


def test_nothing_found_is_zero_and_nothing_to_find_is_none():
    labelled = labelled_set(labelled_image(1, [[0, 0, 10, 10]], [0]))
    missed = assert_as_oracle(labelled, {})
    assert missed.ap == missed.ar == 0
    assert math.isnan(missed.ap_m)
    empty = evaluate(labelled_set(labelled_image(1, [], [])), {1: Detections.empty()})
    values = json.loads(json.dumps(empty.as_dict(), allow_nan=False))
    assert [values[name] for name in FIGURES] == [None] * len(FIGURES)
    assert values["per_class"]["class 1"]["ap"] is None
    assert math.isnan(evaluate(labelled_set(), {}).ap)


def test_a_class_that_is_never_found_counts_zero():
    box = [0, 0, 10, 10]
    labelled = labelled_set(labelled_image(1, [box, box], [0, 1]))
    result = assert_as_oracle(labelled, {1: detections([box], [0.5], [0])})
    assert [scores.ap for scores in result.per_class.values()] == [1, 0]
    assert result.ap == 0.5


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_figures_depend_on_the_order_of_scores_alone(seed):
    labelled, found = random_case(seed, images=3, classes=2, objects=5, noise=5)
    squeezed = {
        image_id: Detections(dets.boxes, dets.scores / 4 + 0.5, dets.labels)
        for image_id, dets in found.items()
    }
    first, second = evaluate(labelled, found), evaluate(labelled, squeezed)
    assert first.values == pytest.approx(second.values, nan_ok=True, abs=0)
    figures = [getattr(first, name) for name in FIGURES]
    assert all(math.isnan(figure) or 0 <= figure <= 1 for figure in figures)
    assert math.isnan(first.ap) or first.ap75 <= first.ap50


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_truth_itself_scores_one(seed):
    labelled, _ = random_case(seed, images=3, objects=6)
    found = {
        image.id: Detections(image.boxes, np.ones(len(image.boxes), np.float32), image.labels)[
            ~image.crowd
        ]
        for image in labelled.images
    }
    result = evaluate(labelled, found)
    assert all(value in (1, None) for value in map(result.as_dict().get, FIGURES))


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_small_random_sets_score_as_pycocotools(seed):
    labelled, found = random_case(seed, images=3, classes=2, objects=4, noise=4)
    assert isinstance(assert_as_oracle(labelled, found), Evaluation)


def brute_force_ap50(labelled, found, label):
    """AP50 of one class, straight from the definitions, with LVIS's rules for partial labels."""
    rows, objects = [], 0
    for image in sorted(labelled.images, key=lambda image: image.id):
        if not image.known[label]:
            continue
        mine = image.boxes[image.labels == label]
        objects += len(mine)
        free = [True] * len(mine)
        dets = found[image.id]
        dets = dets[dets.labels == label].sorted_by_score()
        for box, score in zip(dets.boxes.astype(float), dets.scores, strict=True):
            best, best_iou = None, 0.5
            for at, other in enumerate(mine.astype(float)):
                width = min(box[2], other[2]) - max(box[0], other[0])
                height = min(box[3], other[3]) - max(box[1], other[1])
                inner = max(width, 0) * max(height, 0)
                union = sum((b[2] - b[0]) * (b[3] - b[1]) for b in (box, other)) - inner
                if free[at] and inner / union >= best_iou:
                    best, best_iou = at, inner / union
            if best is not None:
                free[best] = False
                rows.append((score, 1))
            elif image.exhaustive[label]:
                rows.append((score, 0))
    if not objects:
        return math.nan
    rows.sort(key=lambda row: -row[0])
    hits = np.cumsum([hit for _, hit in rows])
    recalls, precisions = hits / objects, hits / np.arange(1, len(rows) + 1)
    points = np.linspace(0, 1, 101)
    return np.mean([precisions[recalls >= r].max(initial=0) for r in points])


@pytest.mark.parametrize("seed", range(6))
def test_partial_labels_score_as_lvis_defines(seed):
    rng = np.random.default_rng(seed)
    whole, found = random_case(seed, classes=3)
    images = []
    for image in whole.images:
        known = rng.random(3) < 0.6
        keep = known[image.labels] & ~image.crowd
        images.append(
            labelled_image(
                image.id,
                image.boxes[keep],
                image.labels[keep],
                known=known,
                exhaustive=known & (rng.random(3) < 0.6),
            )
        )
    labelled = labelled_set(*images, classes=3)
    result = evaluate(labelled, found)
    expected = [brute_force_ap50(labelled, found, label) for label in range(3)]
    np.testing.assert_allclose([c.ap50 for c in result.per_class.values()], expected, atol=1e-6)
    known_of = {image.id: image.known for image in images}
    unknown = sum(int((~known_of[i][dets.labels]).sum()) for i, dets in found.items())
    assert result.dropped_unknown == unknown > 0
    assert "LVIS" in result.settings["partial_labels"]


def test_an_unknown_class_is_not_false_and_a_known_one_is():
    box = [0, 0, 10, 10]
    truth = labelled_image(1, [box], [0])
    false = {1: detections([box], [0.5], [0]), 2: detections([box], [0.9], [0])}
    for known, exhaustive, expected in [(True, True, 0.5), (True, False, 1), (False, False, 1)]:
        other = labelled_image(2, [], [], known=[known, True], exhaustive=[exhaustive, True])
        assert evaluate(labelled_set(truth, other), false).ap == pytest.approx(expected)


def test_a_missing_image_has_no_detections_and_an_unknown_one_is_refused():
    labelled = labelled_set(labelled_image(1, [[0, 0, 10, 10]], [0]))
    with pytest.raises(DataError, match="such as 77"):
        evaluate(labelled, {77: Detections.empty()})
    with pytest.raises(DataError, match="labels must lie in 0 to 1"):
        evaluate(labelled, {1: detections([[0, 0, 1, 1]], [0.5], [2])})
    with pytest.raises(DataError, match="finite"):
        evaluate(labelled, {1: detections([[0, 0, 1, np.nan]], [0.5], [0])})
    with pytest.raises(UsageError, match="max_det"):
        evaluate(labelled, {}, max_det=0)


def test_the_library_stays_silent(capfd):
    evaluate(*random_case(0))
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
