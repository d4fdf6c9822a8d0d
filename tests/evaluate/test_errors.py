"""Errors by kind, on cases known by hand and against a plain computation of what mending gives."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.evaluate.errors import KINDS
from rstinynet.evaluate.protocols import AITOD, VOC_AREA
from rstinynet.evaluate.results import CocoDetections
from rstinynet.evaluate.study import Wanted, study

CLASSES = 3


def image(boxes, labels, *, image_id=1, **flags):
    boxes = np.array(boxes, np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1)
    crowd = flags.get("crowd")
    return LabelledImage(
        id=image_id,
        path=Path(f"/nowhere/{image_id}.png"),
        width=400,
        height=400,
        boxes=corners.astype(np.float32),
        labels=np.array(labels, np.int64),
        areas=boxes[:, 2:].prod(axis=1),
        crowd=np.zeros(len(boxes), bool) if crowd is None else np.array(crowd),
        known=np.ones(CLASSES, bool),
        exhaustive=np.array(flags.get("exhaustive", [True] * CLASSES)),
    )


def labelled_set(*images):
    categories = tuple(Category(at + 1, f"class {at}") for at in range(CLASSES))
    return LabelledSet(images=images, categories=categories, fingerprint="")


def found(boxes, scores, labels):
    return CocoDetections(
        np.array(boxes, np.float64).reshape(-1, 4),
        np.array(scores, np.float64),
        np.array(labels, np.int64),
    )


def errors(labelled, dets, **wanted):
    return study(labelled, dets, Wanted(errors=True, **wanted))


# One object of class 0; a detection of each kind.
BOX = [100, 100, 20, 20]
ONE_OF_EACH = {
    "localisation": ([110, 100, 20, 20], 0),  # IoU 1/3
    "class": ([102, 100, 20, 20], 1),
    "background": ([300, 300, 5, 5], 0),
    "both": ([110, 100, 20, 20], 1),
}


@pytest.mark.parametrize("kind", ONE_OF_EACH)
@pytest.mark.parametrize("protocol", [AITOD, VOC_AREA], ids=["aitod", "voc"])
def test_one_false_detection_is_of_its_kind(kind, protocol):
    box, label = ONE_OF_EACH[kind]
    made = errors(labelled_set(image([BOX], [0])), {1: found([box], [0.9], [label])},
                  protocol=protocol)  # fmt: skip
    counts = {name: each.count for name, each in made.errors.kinds.items()}
    # A localisation or class error means its object, which is then not missed as well.
    missed = int(kind not in ("localisation", "class"))
    assert counts == dict.fromkeys(KINDS, 0) | {kind: 1, "missed": missed}
    # Mended, the first two find the object: AP from 0 to 1. The others find nothing.
    gain = made.errors.kinds[kind].gain
    assert gain == pytest.approx(1 if kind in ("localisation", "class") else 0)


def test_a_duplicate_is_taken_away_and_a_missed_object_need_not_be_found():
    labelled = labelled_set(image([BOX, [200, 200, 6, 6]], [0, 0]))
    dets = {1: found([BOX, [101, 100, 20, 20]], [0.8, 0.9], [0, 0])}
    report = errors(labelled, dets).errors
    # The better-scored of the two is the hit, though the other fits better.
    assert report.hits == 1
    assert report.kinds["duplicate"].count == report.kinds["missed"].count == 1
    # AP50 is 51 of 101 recalls at precision 1; without the missed object all 101.
    assert report.ap == pytest.approx(51 / 101)
    assert report.kinds["missed"].gain == pytest.approx(50 / 101)
    assert report.unfound_gain == pytest.approx(50 / 101)
    assert report.kinds["duplicate"].gain == report.false_gain == 0
    # Of their sizes: the duplicate means the object of 20 x 20, the missed one is very tiny.
    assert report.kinds["duplicate"].count_by_size == (0, 0, 1, 0)
    assert report.kinds["missed"].count_by_size == (1, 0, 0, 0)
    assert report.kinds["missed"].gain_by_size == pytest.approx((50 / 101, 0, 0, 0))


def test_only_the_best_of_several_errors_on_an_object_becomes_a_hit():
    near, nearer = [112, 100, 20, 20], [109, 100, 20, 20]
    labelled = labelled_set(image([BOX], [0]))
    dets = {1: found([near, nearer], [0.9, 0.5], [0, 0])}
    report = errors(labelled, dets).errors
    assert report.kinds["localisation"].count == 2
    assert report.kinds["localisation"].gain == 1
    found_too = {1: found([BOX, near], [0.5, 0.9], [0, 0])}
    report = errors(labelled, found_too).errors
    # The object is found: the error is only taken away.
    assert report.ap == pytest.approx(0.5)
    assert report.kinds["localisation"].gain == pytest.approx(0.5)


def test_regions_and_classes_not_wholly_labelled_make_no_errors():
    labelled = labelled_set(
        image([BOX, [0, 0, 90, 90]], [0, 0], crowd=[False, True], exhaustive=[True, False, True])
    )
    dets = {1: found([BOX, [10, 10, 8, 8], [300, 300, 9, 9]], [0.5, 0.9, 0.9], [0, 0, 1])}
    report = errors(labelled, dets).errors
    assert [kind.count for kind in report.kinds.values()] == [0] * len(KINDS)
    assert (report.hits, report.objects, report.ap) == (1, 1, 1)


def test_the_confusion_matrix_of_a_case_known_by_hand():
    others = [[200, 200, 10, 10], [250, 250, 10, 10], [0, 0, 60, 60]]
    labelled = labelled_set(image([BOX, *others], [0, 1, 2, 2], crowd=[False, False, False, True]))
    rows = [
        (BOX, 0.9, 0),  # right
        (others[0], 0.8, 2),  # class 1 taken for 2
        (others[0], 0.7, 0),  # a second on it: nothing is left to take
        ([300, 300, 9, 9], 0.6, 1),  # on nothing
        (others[1], 0.2, 2),  # right, but below the confidence
        ([10, 10, 5, 5], 0.9, 2),  # in the region
    ]
    dets = {1: found(*zip(*rows, strict=True))}
    made = errors(labelled, dets).confusion
    expected = np.zeros((4, 4), int)
    expected[0, 0] = expected[1, 2] = expected[3, 0] = expected[3, 1] = expected[2, 3] = 1
    np.testing.assert_array_equal(made.counts, expected)
    lower = errors(labelled, dets, confusion_conf=0.1).confusion
    expected[2, 2], expected[2, 3] = 1, 0
    np.testing.assert_array_equal(lower.counts, expected)
    assert made.as_dict()["names"][-1] == "background"


@st.composite
def cases(draw):
    place, side = st.sampled_from([0, 4, 8, 12, 20, 60]), st.sampled_from([8, 10, 16, 20])
    box = st.tuples(place, place, side, side)
    images, dets = [], {}
    for image_id in range(1, draw(st.integers(1, 2)) + 1):
        truth = draw(st.lists(box, max_size=4))
        label = st.integers(0, CLASSES - 1)
        labels = draw(st.lists(label, min_size=len(truth), max_size=len(truth)))
        images.append(image(truth, labels, image_id=image_id))
        many = draw(st.lists(box, max_size=7)) + truth[: draw(st.integers(0, 4))]
        scores = draw(st.permutations([round(0.1 + 0.07 * at, 2) for at in range(12)]))
        scores = [score + image_id / 1000 for score in scores[: len(many)]]
        kinds = draw(st.lists(label, min_size=len(many), max_size=len(many)))
        dets[image_id] = found(many, scores, kinds)
    return labelled_set(*images), dets


def overlap(one, two):
    across = min(one[0] + one[2], two[0] + two[2]) - max(one[0], two[0])
    down = min(one[1] + one[3], two[1] + two[3]) - max(one[1], two[1])
    inner = max(across, 0) * max(down, 0)
    return inner / (one[2] * one[3] + two[2] * two[3] - inner)


def plain_ap(rows, objects):
    """Mean AP50 of (score, label, hit) rows; a class of which no object is left gives 0."""
    values = []
    for label, (all_, left) in objects.items():
        if not all_:
            continue
        mine = sorted((row for row in rows if row[1] == label), reverse=True)
        hits = np.cumsum([row[2] for row in mine] or [0])
        precision, recall = hits / np.arange(1, len(hits) + 1), hits / max(left, 1)
        points = np.linspace(0, 1, 101)
        values.append(
            np.mean([precision[recall >= t].max(initial=0) for t in points]) if left else 0.0
        )
    return np.mean(values) if values else np.nan


def plain_errors(labelled, dets):
    """Count and gain of each kind, one detection after the other."""
    rows, missed = [], []
    for each in labelled.images:
        truth = each.boxes.astype(float)
        truth[:, 2:] -= truth[:, :2]
        mine = dets[each.id]
        used, judged = {}, []
        for at in np.argsort(-mine.scores):
            box, label = mine.boxes_xywh[at], mine.labels[at]
            iou = [overlap(box, other) for other in truth]
            free = [g for g in range(len(truth)) if each.labels[g] == label and g not in used]
            best = max(free, key=lambda g: (iou[g], g), default=None)
            if best is not None and iou[best] >= 0.5:
                used[best] = at
                judged.append((at, None, None))
                continue
            judged.append((at, iou, label))
        aimed, waiting = set(used), []
        for at, iou, label in judged:
            if iou is None:
                rows.append((mine.scores[at], mine.labels[at], "hit", None))
                continue
            own = [g for g in range(len(truth)) if each.labels[g] == label]
            other = [g for g in range(len(truth)) if each.labels[g] != label]
            best_own = max(own, key=lambda g: (iou[g], g), default=None)
            best_other = max(other, key=lambda g: (iou[g], g), default=None)
            high = iou[best_own] if own else 0
            wrong = iou[best_other] if other else 0
            if 0.1 <= high < 0.5:
                kind, meant = "localisation", best_own
            elif wrong >= 0.5:
                kind, meant = "class", best_other
            elif high >= 0.5:
                kind, meant = "duplicate", None
            elif max(high, wrong) < 0.1:
                kind, meant = "background", None
            else:
                kind, meant = "both", None
            if meant is not None:
                aimed.add(meant)
            waiting.append((at, kind, meant, label))
        done = set()
        for at, kind, meant, label in waiting:  # best first
            becomes = None
            if meant is not None and meant not in used and (kind, meant) not in done:
                done.add((kind, meant))
                becomes = int(each.labels[meant])
            rows.append((mine.scores[at], label, kind, becomes))
        missed += [int(each.labels[g]) for g in range(len(truth)) if g not in aimed]
    count = {k: sum(int((i.labels == k).sum()) for i in labelled.images) for k in range(CLASSES)}
    plain = [(score, label, kind == "hit") for score, label, kind, _ in rows]
    base = plain_ap(plain, {k: (n, n) for k, n in count.items()})
    outcome = {}
    for name in KINDS:
        changed = []
        for score, label, kind, becomes in rows:
            if kind != name:
                changed.append((score, label, kind == "hit"))
            elif becomes is not None:
                changed.append((score, becomes, True))
        lost = missed if name == "missed" else []
        left = {k: (n, n - lost.count(k)) for k, n in count.items()}
        number = sum(row[2] == name for row in rows) + len(lost)
        outcome[name] = (number, plain_ap(changed, left) - base)
    return base, outcome


@settings(max_examples=120, deadline=None)
@given(cases())
def test_kinds_and_gains_are_those_of_a_plain_computation(case):
    labelled, dets = case
    report = errors(labelled, dets).errors
    base, expected = plain_errors(labelled, dets)
    np.testing.assert_allclose(report.ap, base, atol=1e-9)
    assert {name: kind.count for name, kind in report.kinds.items()} == {
        name: count for name, (count, _) in expected.items()
    }
    gains = [kind.gain for kind in report.kinds.values()]
    np.testing.assert_allclose(gains, [gain for _, gain in expected.values()], atol=1e-9)
    for kind in report.kinds.values():
        assert sum(kind.count_by_size) == kind.count
    made = study(labelled, dets, Wanted(errors=True))
    np.testing.assert_allclose(made.evaluation.ap50, base, atol=1e-9)
    false = sum(kind.count for name, kind in report.kinds.items() if name != "missed")
    assert report.hits + false == sum(len(each) for each in dets.values())
    json.dumps(made.as_dict(), allow_nan=False)
