"""Every protocol against an independent computation, on cases made to be awkward.

COCO's and AI-TOD's against pycocotools' arrays; Pascal VOC's and DIOR's against the devkit's loop;
partial labels against LVIS's rules, one detection after the other.
"""

from __future__ import annotations

import contextlib
import io
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import coco as cocoapi
from pycocotools.cocoeval import COCOeval

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.evaluate.coco import evaluate, match_all
from rstinynet.evaluate.protocols import AITOD, COCO, DIOR, PROTOCOLS, VOC_11, VOC_AREA
from rstinynet.evaluate.results import CocoDetections
from rstinynet.evaluate.scores import class_arrays

CLASSES = 2
# Squares of 8, 16, 32 and 96 have their area on a limit; the rest lie beside.
SIDES = [0.5, 4, 7.99, 8, 12, 16, 16.01, 32, 40, 96, 120]


@st.composite
def boxes(draw, most):
    """(N, 4) XYWH: many alike, overlapping by neat shares, sides on the limits."""
    count = draw(st.integers(0, most))
    side = st.sampled_from(SIDES)
    place = st.sampled_from([0, 4, 8, 10, 16, 40, 100])
    rows = [(draw(place), draw(place), draw(side), draw(side)) for _ in range(count)]
    return np.array(rows, np.float64).reshape(-1, 4)


@st.composite
def cases(draw, partial=False, regions=True):
    images, found = [], {}
    ids = draw(st.lists(st.integers(0, 40), min_size=1, max_size=3, unique=True))
    for image_id in ids:
        truth = draw(boxes(5))
        n = len(truth)
        labels = np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), np.int64)
        crowd = np.array(draw(st.lists(st.booleans(), min_size=n, max_size=n)), bool) & regions
        known = np.array(draw(st.lists(st.booleans(), min_size=2, max_size=2))) | (not partial)
        whole = np.array(draw(st.lists(st.booleans(), min_size=2, max_size=2))) | (not partial)
        keep = known[labels]
        corners = np.concatenate([truth[:, :2], truth[:, :2] + truth[:, 2:]], axis=1)
        images.append(
            LabelledImage(
                id=image_id,
                path=Path(f"/nowhere/{image_id}.png"),
                width=400,
                height=400,
                boxes=corners[keep].astype(np.float32),
                labels=labels[keep],
                areas=truth[keep, 2] * truth[keep, 3],
                crowd=crowd[keep],
                known=known,
                exhaustive=known & whole,
            )
        )
        dets = np.concatenate([draw(boxes(6)), truth[: draw(st.integers(0, n))]])
        m = len(dets)
        scores = st.sampled_from([0.1, 0.5, 0.5000000001, 0.9])
        found[image_id] = CocoDetections(
            dets,
            np.array(draw(st.lists(scores, min_size=m, max_size=m)), np.float64),
            np.array(draw(st.lists(st.integers(0, 1), min_size=m, max_size=m)), np.int64),
        )
    return made(images), found


def made(images, classes=CLASSES):
    categories = tuple(Category(3 * at + 2, f"class {at}") for at in range(classes))
    return LabelledSet(images=tuple(images), categories=categories, fingerprint="")


def xywh(image):
    rows = image.boxes.astype(np.float64)
    rows[:, 2:] -= rows[:, :2]
    return rows


def pycocotools_arrays(labelled, found, protocol):
    truth = [
        {"image_id": i.id, "category_id": int(label), "bbox": box, "area": area, "iscrowd": crowd}
        for i in labelled.images
        for box, label, area, crowd in zip(
            xywh(i).tolist(), i.labels, i.areas.tolist(), i.crowd.astype(int).tolist(), strict=True
        )
    ]
    results = [
        {"image_id": at, "category_id": int(label), "bbox": box, "score": score,
         "area": box[2] * box[3], "iscrowd": 0}
        for at, dets in found.items()
        for box, label, score in zip(
            dets.boxes_xywh.tolist(), dets.labels, dets.scores.tolist(), strict=True
        )
    ]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        sides = []
        for rows in (truth, results):
            side = cocoapi.COCO()
            side.dataset = {
                "images": [{"id": image.id} for image in labelled.images],
                "categories": [{"id": at} for at in range(len(labelled.categories))],
                "annotations": [{"id": at, **row} for at, row in enumerate(rows, start=1)],
            }
            side.createIndex()
            sides.append(side)
        judge = COCOeval(*sides, "bbox")
        judge.params.maxDets = list(protocol.max_dets)
        judge.params.areaRng = [[size.low, size.high] for size in protocol.sizes]
        judge.params.areaRngLbl = [size.name for size in protocol.sizes]
        judge.evaluate()
        judge.accumulate()
    return judge.eval["precision"], judge.eval["recall"]


def our_arrays(labelled, found, protocol):
    """In pycocotools' shape and with its -1."""
    records = match_all(labelled, found, protocol)
    each = [class_arrays(records.of(k), protocol) for k in range(len(labelled.categories))]
    precision = np.stack([arrays.precision for arrays in each], axis=2)
    recall = np.stack([arrays.recall for arrays in each], axis=1)
    return np.nan_to_num(precision, nan=-1), np.nan_to_num(recall, nan=-1)


def assert_equal(labelled, found, protocol):
    precision, recall = pycocotools_arrays(labelled, found, protocol)
    ours, our_recall = our_arrays(labelled, found, protocol)
    np.testing.assert_allclose(ours, precision[..., -1], atol=1e-6, rtol=0)
    np.testing.assert_allclose(our_recall, recall, atol=1e-6, rtol=0)


@settings(max_examples=120, deadline=None)
@given(cases(), st.sampled_from([AITOD, COCO]), st.sampled_from([None, 1, 3]))
def test_arrays_are_those_of_pycocotools(case, protocol, max_det):
    assert_equal(*case, protocol.with_max_det(max_det))


def crowded(count, *, side, spread, seed=0):
    """One image with many objects and detections on top of each other, many of equal score."""
    rng = np.random.default_rng(seed)
    truth = np.concatenate([rng.uniform(0, spread, (60, 2)), np.full((60, 2), side)], axis=1)
    image = LabelledImage(
        id=3, path=Path("/nowhere/3.png"), width=800, height=800,
        boxes=np.concatenate([truth[:, :2], truth[:, :2] + side], axis=1).astype(np.float32),
        labels=np.arange(60) % 2, areas=np.full(60, side**2), crowd=np.arange(60) % 13 == 0,
        known=np.ones(2, bool), exhaustive=np.ones(2, bool),
    )  # fmt: skip
    dets = np.concatenate(
        [rng.uniform(0, spread, (count, 2)), rng.choice([side, 1.3 * side], (count, 2))], axis=1
    )
    found = CocoDetections(dets, rng.random(count).round(2), np.arange(count) % 2)
    return made([image]), {3: found}


@pytest.mark.parametrize("protocol", [AITOD, COCO], ids=lambda each: each.name)
def test_thousands_of_detections_on_a_crowd_score_as_pycocotools(protocol):
    assert_equal(*crowded(3400, side=16.0, spread=90), protocol)


def test_detections_all_alike_are_told_apart_by_their_order():
    labelled, found = crowded(200, side=8.0, spread=0.0)
    assert_equal(labelled, found, AITOD)


def test_many_images_are_matched_in_parts_as_at_once(monkeypatch):
    rng = np.random.default_rng(1)
    images, found = [], {}
    for at in range(30):
        one, dets = crowded(int(rng.integers(0, 40)), side=12.0, spread=60, seed=at)
        image = one.images[0]
        images.append(
            LabelledImage(
                **{name: getattr(image, name) for name in LabelledImage.__slots__} | {"id": 99 - at}
            )
        )
        found[99 - at] = dets[3]
    labelled = made(images)
    whole = our_arrays(labelled, found, AITOD)
    monkeypatch.setattr("rstinynet.evaluate.columns.chunks.__kwdefaults__", {"size": 50})
    parts = our_arrays(labelled, found, AITOD)
    np.testing.assert_array_equal(whole[0], parts[0])
    np.testing.assert_array_equal(whole[1], parts[1])
    assert_equal(labelled, found, AITOD)


def devkit(labelled, found, label, *, eleven):
    """AP of one class as VOCevaldet computes it, in its own order of steps."""
    rows, objects, taken = [], 0, {}
    for image in sorted(labelled.images, key=lambda each: each.id):
        objects += int(((image.labels == label) & ~image.crowd).sum())
        dets = found[image.id]
        for at in np.flatnonzero(dets.labels == label):
            rows.append((dets.scores[at], image, dets.boxes_xywh[at]))
    rows.sort(key=lambda row: -row[0])
    right, wrong = [], []
    for _, image, (left, top, width, height) in rows:
        best, best_iou = None, -math.inf
        for at in np.flatnonzero(image.labels == label):
            x, y, w, h = xywh(image)[at]
            across = min(left + width, x + w) - max(left, x)
            down = min(top + height, y + h) - max(top, y)
            if across > 0 and down > 0:
                iou = across * down / (width * height + w * h - across * down)
                if iou > best_iou:
                    best, best_iou = at, iou
        hit = best_iou >= 0.5
        if hit and image.crowd[best]:
            right.append(0)
            wrong.append(0)
            continue
        first = hit and (image.id, best) not in taken
        if first:
            taken[image.id, best] = True
        right.append(int(first))
        wrong.append(int(not first))
    if not objects:
        return math.nan
    tp, fp = np.cumsum(right), np.cumsum(wrong)
    recall, precision = tp / objects, tp / np.maximum(tp + fp, 1)
    if eleven:
        return np.mean([precision[recall >= t].max(initial=0) for t in np.linspace(0, 1, 11)])
    recall = np.concatenate([[0], recall, [1]])
    precision = np.concatenate([[0], precision, [0]])
    for at in range(len(precision) - 2, -1, -1):
        precision[at] = max(precision[at], precision[at + 1])
    steps = np.flatnonzero(recall[1:] != recall[:-1])
    return np.sum((recall[steps + 1] - recall[steps]) * precision[steps + 1])


@settings(max_examples=80, deadline=None)
@given(cases())
def test_voc_and_dior_are_the_devkits(case):
    labelled, found = case
    expected = {
        eleven: [devkit(labelled, found, k, eleven=eleven) for k in range(CLASSES)]
        for eleven in (False, True)
    }
    both = evaluate(labelled, found, protocol=DIOR)
    for protocol, key, eleven in [
        (VOC_AREA, "ap50_area", False), (VOC_11, "ap50_11", True),
    ]:  # fmt: skip
        alone = evaluate(labelled, found, protocol=protocol)
        for result in (alone, both):
            got = [scores.value(key) for scores in result.per_class.values()]
            np.testing.assert_allclose(got, expected[eleven], atol=1e-9)
        there = [value for value in expected[eleven] if not math.isnan(value)]
        mean = np.mean(there) if there else math.nan
        np.testing.assert_allclose(alone.ap50, mean, atol=1e-9)


def lvis(labelled, found, label, iou, size):
    """AP of one class at one threshold and size, by the rules of LVIS's evaluation."""
    rows, objects = [], 0
    for image in sorted(labelled.images, key=lambda each: each.id):
        if not (image.known[label] or (image.labels == label).any()):
            continue
        truth = [
            (box, not crowd and size.low <= area <= size.high)
            for box, own, area, crowd in zip(
                xywh(image), image.labels, image.areas, image.crowd, strict=True
            )
            if own == label and not crowd
        ]
        objects += sum(counts for _, counts in truth)
        truth.sort(key=lambda each: not each[1])
        taken = [False] * len(truth)
        dets = found[image.id]
        mine = [at for at in range(len(dets)) if dets.labels[at] == label]
        for at in sorted(mine, key=lambda at: -dets.scores[at]):
            left, top, width, height = dets.boxes_xywh[at]
            chosen, best = None, iou
            for number, ((x, y, w, h), counts) in enumerate(truth):
                if taken[number] or (chosen is not None and truth[chosen][1] and not counts):
                    continue
                across = min(left + width, x + w) - max(left, x)
                down = min(top + height, y + h) - max(top, y)
                inner = max(across, 0) * max(down, 0)
                overlap = inner / (width * height + w * h - inner)
                if overlap >= best:
                    chosen, best = number, overlap
            if chosen is not None:
                taken[chosen] = True
                if truth[chosen][1]:
                    rows.append((dets.scores[at], True))
            elif image.exhaustive[label] and size.low <= width * height <= size.high:
                rows.append((dets.scores[at], False))
    if not objects:
        return math.nan
    rows.sort(key=lambda row: -row[0])
    hits = np.cumsum([hit for _, hit in rows] or [0])
    recall, precision = hits / objects, hits / np.arange(1, len(hits) + 1)
    return np.mean([precision[recall >= r].max(initial=0) for r in np.linspace(0, 1, 101)])


@settings(max_examples=60, deadline=None)
@given(cases(partial=True, regions=False))
def test_partial_labels_are_scored_by_lvis_rules_at_every_threshold_and_size(case):
    labelled, found = case
    records = match_all(labelled, found, AITOD)
    for label in range(CLASSES):
        arrays = class_arrays(records.of(label), AITOD)
        for at in (0, 4, 9):
            for size, limits in enumerate(AITOD.sizes):
                expected = lvis(labelled, found, label, AITOD.ious[at], limits)
                got = arrays.precision[at, :, size].mean()
                np.testing.assert_allclose(got, expected, atol=1e-9)


def brute_lrp(labelled, found, label):
    """oLRP of one class at IoU .5, trying every threshold on the score."""
    best = math.nan
    records = match_all(labelled, found, AITOD)
    objects = records.of(label).count()
    if not objects:
        return math.nan
    best = 1.0
    for conf in {float(score) for dets in found.values() for score in dets.scores}:
        kept = {
            at: CocoDetections(
                dets.boxes_xywh[dets.scores >= conf], dets.scores[dets.scores >= conf],
                dets.labels[dets.scores >= conf],
            )
            for at, dets in found.items()
        }  # fmt: skip
        mine = match_all(labelled, kept, AITOD).of(label)
        hit = [(int(bits[0]) >> 7) == 1 for bits in mine.hit]
        passed = sum((int(bits[0]) >> 7) == 1 for bits in mine.ignored)
        apart = sum((1 - iou) / 0.5 for iou, right in zip(mine.iou, hit, strict=True) if right)
        right = sum(hit)
        false, missed = len(mine) - right - passed, objects - right
        best = min(best, (apart + false + missed) / (right + false + missed))
    return best


@settings(max_examples=40, deadline=None)
@given(cases())
def test_olrp_is_the_least_error_over_all_confidences(case):
    labelled, found = case
    result = evaluate(labelled, found)
    for label, scores in enumerate(result.per_class.values()):
        np.testing.assert_allclose(scores.olrp, brute_lrp(labelled, found, label), atol=1e-9)


def test_olrp_parts_of_a_case_known_by_hand():
    box = [0, 0, 10, 10]
    labelled, found = crowded(0, side=10.0, spread=0.0)
    image = labelled.images[0]
    image = LabelledImage(
        **{name: getattr(image, name) for name in LabelledImage.__slots__}
        | {"boxes": np.array([box, [50, 50, 60, 60]], np.float32), "labels": np.array([0, 0]),
           "areas": np.full(2, 100.0), "crowd": np.zeros(2, bool)}
    )  # fmt: skip
    rows = np.array([[0, 0, 10, 8], [200, 200, 5, 5], [300, 300, 5, 5]], np.float64)
    found = {3: CocoDetections(rows, np.array([0.8, 0.8, 0.3]), np.zeros(3, np.int64))}
    scores = evaluate(made([image]), found).per_class["class 0"]
    # At .8: one hit of IoU .8, one false, one missed.
    assert scores.olrp == pytest.approx((0.2 / 0.5 + 1 + 1) / 3)
    assert scores.value("olrp_localisation") == pytest.approx(0.2)
    assert scores.value("olrp_false_positive") == scores.value("olrp_false_negative") == 0.5
    assert scores.conf == 0.8


@pytest.mark.parametrize("protocol", PROTOCOLS.values(), ids=list(PROTOCOLS))
def test_every_number_comes_with_the_rules_it_was_made_by(protocol):
    labelled, found = crowded(30, side=12.0, spread=60)
    result = evaluate(labelled, found, protocol=protocol).as_dict()
    assert result["settings"]["protocol_name"] == protocol.name
    assert set(protocol.figures) <= set(result)
    assert protocol.title in protocol.describe()
    limit = protocol.max_dets[-1] if protocol.max_dets else None
    assert result["settings"]["max_det"] == limit
