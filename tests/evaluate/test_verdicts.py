"""Hits, misses and false alarms, also where labels are partial."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.detections import Detections
from rstinynet.evaluate.coco import evaluate
from rstinynet.evaluate.verdicts import judge, judge_all

BOXES = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [40, 40, 80, 80]], np.float32)


def image(**changes):
    base = LabelledImage(
        id=1,
        path=Path("a.png"),
        width=100,
        height=100,
        boxes=BOXES,
        labels=np.array([0, 0, 1]),
        areas=np.array([100.0, 100.0, 1600.0]),
        crowd=np.zeros(3, np.bool_),
        known=np.ones(2, np.bool_),
        exhaustive=np.ones(2, np.bool_),
    )
    return replace(base, **changes)


def found(*entries):
    boxes = np.array([entry[0] for entry in entries], np.float32).reshape(-1, 4)
    scores = np.array([entry[1] for entry in entries], np.float32)
    return Detections(boxes, scores, np.array([entry[2] for entry in entries], np.int64))


def test_the_better_of_two_detections_is_the_hit():
    verdicts = judge(image(), found(([0, 0, 10, 9], 0.3, 0), ([0, 1, 10, 10], 0.8, 0)))
    assert verdicts.detections.scores.tolist() == pytest.approx([0.8, 0.3])
    assert verdicts.hit.tolist() == [True, False]
    assert verdicts.found.tolist() == [True, False, False]
    assert (verdicts.hits, verdicts.missed, verdicts.false_alarms) == (1, 2, 1)


def test_another_class_is_no_hit():
    verdicts = judge(image(), found(([40, 40, 80, 80], 0.9, 0)))
    assert (verdicts.hits, verdicts.missed, verdicts.false_alarms) == (0, 3, 1)


def test_nothing_found_and_nothing_there():
    assert judge(image(), Detections.empty()).missed == 3
    empty = image(boxes=BOXES[:0], labels=np.zeros(0, np.int64), areas=np.zeros(0))
    empty = replace(empty, crowd=np.zeros(0, np.bool_))
    assert judge(empty, found(([0, 0, 9, 9], 0.5, 0))).false_alarms == 1


def test_what_nobody_knows_is_not_judged():
    stray = found(([60, 0, 70, 10], 0.9, 0), ([0, 0, 10, 10], 0.8, 0))
    loose = judge(image(exhaustive=np.array([False, True])), stray)
    assert (loose.hits, loose.false_alarms) == (1, 0)
    unknown = image(known=np.array([True, False]), boxes=BOXES[:2], labels=np.array([0, 0]))
    unknown = replace(unknown, crowd=np.zeros(2, np.bool_), areas=np.ones(2))
    assert judge(unknown, found(([60, 0, 70, 10], 0.9, 1))).false_alarms == 0


def test_detections_in_a_crowd_region_are_not_judged():
    crowd = image(crowd=np.array([False, False, True]))
    verdicts = judge(crowd, found(([50, 50, 60, 60], 0.9, 1), ([60, 0, 70, 10], 0.9, 1)))
    assert (verdicts.hits, verdicts.missed, verdicts.false_alarms) == (0, 2, 1)


def test_recall_agrees_with_the_evaluation():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 80, (20, 2))
    truth = np.concatenate([corners, corners + rng.uniform(5, 20, (20, 2))], axis=1)
    labels = rng.integers(0, 2, 20)
    one = image(boxes=truth.astype(np.float32), labels=labels, areas=np.full(20, 99.0))
    one = replace(one, crowd=np.zeros(20, np.bool_))
    labelled = LabelledSet(
        images=(one,), categories=(Category(1, "a"), Category(2, "b")), fingerprint=""
    )
    moved = truth + rng.normal(0, 2, truth.shape)
    dets = {1: Detections(moved.astype(np.float32), rng.random(20).astype(np.float32), labels)}
    verdicts = judge_all(labelled, dets)[1]
    # At one IoU recall is that of the protocol's first threshold; AP50 is 1 only if all are hit.
    report = evaluate(labelled, dets).as_dict()
    counts = np.bincount(labels, minlength=2)
    hits = np.bincount(verdicts.detections.labels[verdicts.hit], minlength=2)
    assert 0 < verdicts.hits < 20
    assert (hits / counts).mean() >= report["ap50"] - 1e-9
