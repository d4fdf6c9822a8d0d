"""Working points against cases worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.evaluate.thresholds import DEFAULT_CONF, best_thresholds


def image(id_, boxes, *, labels=None, crowd=None, known=(True,)):
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    n = len(boxes)
    return LabelledImage(
        id=id_,
        path=Path("unread.png"),
        width=100,
        height=100,
        boxes=boxes,
        labels=np.array(labels if labels is not None else [0] * n, np.int64),
        areas=np.ones(n),
        crowd=np.array(crowd if crowd is not None else [False] * n, bool),
        known=np.array(known),
        exhaustive=np.array(known),
    )


def labelled(*images, classes=1):
    categories = tuple(Category(i + 1, f"c{i}") for i in range(classes))
    return LabelledSet(images=images, categories=categories, fingerprint="")


def found(boxes, scores, labels=None):
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels if labels is not None else [0] * len(scores), np.int64),
    )


A, B, FAR = [10, 10, 20, 20], [40, 40, 50, 50], [80, 80, 90, 90]


def test_the_largest_f1_wins():
    # 0.9 right: F1 2/3; 0.8 wrong: 1/2; 0.7 right: 4/5; 0.1 wrong: 2/3.
    result = best_thresholds(
        labelled(image(1, [A, B])), {1: found([A, FAR, B, FAR], [0.9, 0.8, 0.7, 0.1])}
    )[0]
    assert result.conf == pytest.approx(0.7)
    assert (result.precision, result.recall) == (pytest.approx(2 / 3), 1.0)
    assert result.f1 == pytest.approx(0.8)


@pytest.mark.parametrize(("slack", "conf"), [(0.0, 0.7), (0.1, 0.7), (0.2, 0.1)])
def test_with_slack_the_lowest_near_the_top_wins(slack, conf):
    detections = {1: found([A, FAR, B, FAR], [0.9, 0.8, 0.7, 0.1])}
    result = best_thresholds(labelled(image(1, [A, B])), detections, slack=slack)[0]
    assert result.conf == pytest.approx(conf)
    assert result.f1 >= (1 - slack) * 0.8


def test_a_duplicate_is_wrong():
    result = best_thresholds(labelled(image(1, [A])), {1: found([A, A], [0.9, 0.8])})[0]
    assert (result.conf, result.precision) == (pytest.approx(0.9), 1.0)


def test_unknown_classes_and_crowds_count_neither_way():
    images = labelled(
        image(1, [A, FAR], crowd=[False, True]), image(2, [], known=(False,)), classes=1
    )
    detections = {1: found([FAR, A], [0.9, 0.5]), 2: found([A], [0.99])}
    result = best_thresholds(images, detections)[0]
    assert (result.conf, result.precision, result.recall) == (pytest.approx(0.5), 1.0, 1.0)


def test_nothing_found_takes_the_default():
    for detections in ({}, {1: found([FAR], [0.9])}, {1: Detections.empty()}):
        result = best_thresholds(labelled(image(1, [A])), detections)[0]
        assert (result.conf, result.f1) == (DEFAULT_CONF, 0.0)


def test_the_detection_at_the_threshold_is_kept():
    scores = np.array([0.9, 0.7, 0.1], np.float32)
    result = best_thresholds(labelled(image(1, [A, B])), {1: found([A, B, FAR], scores)})[0]
    assert (scores > np.float32(result.conf)).tolist() == [True, True, False]
    assert (result.precision, result.recall) == (1.0, 1.0)


def test_objects_where_not_all_are_labelled_do_not_lower_recall():
    partly = replace(image(2, [A, B]), exhaustive=np.array([False]))
    result = best_thresholds(labelled(image(1, [A]), partly), {1: found([A], [0.9])})[0]
    assert (result.precision, result.recall) == (1.0, 1.0)


def test_a_region_of_one_class_hides_nothing_of_another():
    regions = image(1, [[60, 60, 100, 100], A], labels=[0, 1], crowd=[True, False],
                    known=(True, True))  # fmt: skip
    dets = found([A, FAR, [70, 70, 78, 78]], [0.9, 0.8, 0.7], labels=[1, 1, 1])
    (_, other) = best_thresholds(labelled(regions, classes=2), {1: dets}, slack=0.9)
    assert (other.precision, other.recall) == (pytest.approx(1 / 3), 1.0)


def test_a_threshold_keeps_all_of_one_score_or_none():
    truth = labelled(image(1, [A, B]))
    # By rank .5 would keep B and drop what is wrong; no confidence does.
    wrong = [[60 + 3 * i, 5, 62 + 3 * i, 7] for i in range(10)]
    dets = found([A, B, *wrong], [0.9, 0.5, *[0.5] * 10])
    (chosen,) = best_thresholds(truth, {1: dets})
    assert chosen.conf == pytest.approx(0.9)
    assert (chosen.precision, chosen.recall) == (1.0, 0.5)
    (loose,) = best_thresholds(truth, {1: dets}, slack=0.9)
    assert (loose.precision, loose.recall) == (pytest.approx(2 / 12), 1.0)
