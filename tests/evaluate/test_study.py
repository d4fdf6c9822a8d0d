"""Scenes, curves and two detectors side by side, on cases known by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import cv2
import numpy as np
import pytest

from rstinynet.data.annotations import Category, LabelledImage, LabelledSet
from rstinynet.data.split import by_scene
from rstinynet.errors import DataError, UsageError
from rstinynet.evaluate.coco import evaluate
from rstinynet.evaluate.fields import by_field, image_fields, scales
from rstinynet.evaluate.protocols import AITOD, COCO, DIOR, protocol_named
from rstinynet.evaluate.report import calibration_table
from rstinynet.evaluate.results import CocoDetections
from rstinynet.evaluate.side_by_side import compared
from rstinynet.evaluate.study import Wanted, study

SIDE = 20.0


def image(image_id, name, objects, *, known=(True, True), exhaustive=(True, True)):
    """100 x 100 pixels with objects of class 0 at the given left edges."""
    lefts = np.array(objects, np.float32)
    boxes = np.stack([lefts, 0 * lefts, lefts + SIDE, 0 * lefts + SIDE], axis=1)
    n = len(lefts)
    return LabelledImage(
        id=image_id, path=Path(f"/nowhere/{name}.png"), width=100, height=100, boxes=boxes,
        labels=np.zeros(n, np.int64), areas=np.full(n, SIDE**2), crowd=np.zeros(n, bool),
        known=np.array(known), exhaustive=np.array(exhaustive),
    )  # fmt: skip


def found(*rows):
    """Detections from (left edge, score), all of class 0 and the objects' size."""
    boxes = np.array([(left, 0, SIDE, SIDE) for left, _ in rows], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score in rows], np.float64)
    return CocoDetections(boxes, scores, np.zeros(len(rows), np.int64))


@pytest.fixture
def labelled():
    images = (
        image(4, "port_0_0", [0, 40]),
        image(2, "port_0_600", [0]),
        image(7, "field_0_0", [0]),
    )
    return LabelledSet(
        images=images, categories=(Category(1, "ship"), Category(2, "car")), fingerprint=""
    )


@pytest.fixture
def dets():
    return {2: found((0, 0.9), (70, 0.6)), 4: found((0, 0.8)), 7: found((70, 0.7))}


def test_a_scene_scores_as_its_images_alone(labelled, dets):
    made = study(labelled, dets, Wanted(scene_of=by_scene()))
    assert list(made.scenes) == ["field", "port"]
    for name, ids in {"port": (4, 2), "field": (7,)}.items():
        alone = LabelledSet(
            images=tuple(each for each in labelled.images if each.id in ids),
            categories=labelled.categories,
            fingerprint="",
        )
        expected = evaluate(alone, {at: dets[at] for at in ids})
        assert made.scenes[name].values == pytest.approx(expected.values, nan_ok=True)
        assert made.scenes[name].images == len(ids)
    assert made.scenes["field"].ap50 == 0
    assert made.scenes["port"].objects == 3
    assert made.as_dict()["per_scene"]["port"]["ap50"] == pytest.approx(67 / 101)


def test_scores_against_the_share_that_is_right(labelled, dets, tmp_path):
    made = study(labelled, dets, Wanted(curves=True, calibration=True))
    ship, car = made.calibration.per_class["ship"], made.calibration.per_class["car"]
    # .9 and .8 are right, .7 and .6 are not; a score on the edge is in the bin below.
    assert [(b.count, b.precision) for b in ship.bins[5:9]] == [(1, 0), (1, 0), (1, 1), (1, 1)]
    assert ship.ece == pytest.approx((0.1 + 0.2 + 0.7 + 0.6) / 4)
    assert (ship.score, ship.precision) == (pytest.approx(0.75), pytest.approx(0.5))
    assert (car.detections, math.isnan(car.score)) == (0, True)
    assert made.calibration.overall == ship
    content = json.loads(json.dumps(made.as_dict(), allow_nan=False))["calibration"]
    assert content["per_class"]["ship"]["ece"] == pytest.approx(ship.ece)
    assert content["iou"] == 0.5
    paths = made.plot(tmp_path)
    assert cv2.imread(str(tmp_path / "reliability.png")).shape[:2] == (780, 840)
    assert tmp_path / "reliability.png" in paths
    assert json.loads((tmp_path / "curves.json").read_text())["calibration"] == content


@pytest.mark.parametrize("score", [90.0, 1.001, -0.5])
def test_scores_that_are_no_shares_are_not_compared_with_shares(labelled, score):
    dets = {4: found((0, 0.8), (40, score))}
    assert study(labelled, dets, Wanted()).calibration is None
    with pytest.raises(DataError, match=rf"class 'ship' has {score:g}: .* divide by 100"):
        study(labelled, dets, Wanted(calibration=True))
    study(labelled, {4: found((0, 1 + 1e-7))}, Wanted(calibration=True))


def test_a_class_without_detections_has_no_calibration_error_in_print(labelled, dets):
    made = study(labelled, dets, Wanted(calibration=True))
    errors = calibration_table(made.calibration).columns[4]
    assert list(errors.cells) == ["40.0", "–", "40.0"]  # noqa: RUF001


def test_what_is_unknown_or_ignored_counts_neither_as_right_nor_as_wrong():
    crowd = image(1, "a", [0, 40])
    crowd.crowd[:] = [False, True]
    unknown = image(2, "b", [], known=(False, True))
    loose = image(3, "c", [0], exhaustive=(False, True))
    some = LabelledSet(
        images=(crowd, unknown, loose),
        categories=(Category(1, "ship"), Category(2, "car")),
        fingerprint="",
    )
    dets = {
        1: found((0, 0.9), (40, 0.8), (70, 0.04)),
        2: found((0, 0.7)),
        3: found((0, 0.6), (60, 0.5)),
    }
    ship = study(some, dets, Wanted(calibration=True)).calibration.per_class["ship"]
    # Right: .9 and .6. The region, the unknown, the loose and the one below .05 are left out.
    assert (ship.detections, ship.precision) == (2, 1.0)
    assert ship.score == pytest.approx(0.75)


def test_recall_against_false_detections_per_km2(labelled, dets):
    # 100 m a pixel: an image is 100 km².
    made = study(labelled, dets, Wanted(gsd_m={4: 100.0, 7: 100.0}))
    curve = made.density["ship"]
    assert (curve.km2, curve.objects) == (200, 3)
    assert curve.conf.tolist() == [0.8]
    assert curve.recall.tolist() == pytest.approx([1 / 3])
    whole = study(labelled, dets, Wanted(gsd_m=dict.fromkeys((2, 4, 7), 100.0))).density["ship"]
    assert whole.km2 == 300
    assert whole.false_per_km2.tolist() == [0, 0]
    lower = dets | {4: found((0, 0.8), (40, 0.5))}
    whole = study(labelled, lower, Wanted(gsd_m=dict.fromkeys((2, 4, 7), 100.0))).density["ship"]
    # The third hit comes after two false detections on 300 km².
    assert whole.false_per_km2.tolist() == pytest.approx([0, 0, 2 / 300])
    assert whole.recall_at(0.001) == 0.5
    assert whole.recall_at(0.1) == 0.75
    nothing = study(labelled, dets, Wanted(gsd_m={4: 100.0})).density["car"]
    assert math.isnan(nothing.recall_at(1))


def test_images_on_which_a_class_is_not_wholly_labelled_are_no_ground_for_it(labelled, dets):
    partial = LabelledSet(
        images=(*labelled.images[:2], image(7, "field", [], known=(False, True))),
        categories=labelled.categories,
        fingerprint="",
    )
    density = study(partial, dets, Wanted(gsd_m=dict.fromkeys((2, 4, 7), 100.0))).density
    assert (density["ship"].km2, density["car"].km2) == (200, 300)


def test_curves_are_the_precision_that_ap_averages(labelled, dets, tmp_path):
    made = study(labelled, dets, Wanted(curves=True, gsd_m={4: 100.0}))
    curves = made.curves
    assert list(curves["classes"]) == ["ship"]
    ship = curves["classes"]["ship"]
    assert np.mean(ship["mean_precision"]) == pytest.approx(made.evaluation.ap)
    assert np.mean(ship["precision"]["0.50"]) == pytest.approx(made.evaluation.ap50)
    assert ship["conf"][0] == ship["conf"][25] == 0.9
    assert (ship["conf"][26], ship["conf"][51]) == (0.8, 0)
    paths = made.plot(tmp_path / "plots")
    names = [path.name for path in paths]
    assert names == [
        "precision_recall_050.png", "precision_recall_075.png", "recall_density.png", "curves.json",
    ]  # fmt: skip
    for path in paths[:3]:
        drawn = cv2.imread(str(path))
        assert drawn.shape[0] > 300
        assert len(np.unique(drawn.reshape(-1, 3), axis=0)) > 10
    content = json.loads(paths[3].read_text())
    assert content["precision_recall"] == curves
    assert content["settings"]["max_det"] == 1500


def test_two_detectors_differ_by_what_one_finds_more(labelled, dets):
    wanted = Wanted(errors=True, scene_of=by_scene(), protocol=COCO)
    better = dets | {7: found((0, 0.7))}
    one, two = study(labelled, better, wanted), study(labelled, dets, wanted)
    result = compared(one, two)
    gain = one.evaluation.ap50 - two.evaluation.ap50
    assert result["difference"]["ap50"] == result["per_class"]["ship"]["ap50"] == gain > 0
    assert result["per_scene"]["field"]["ap50"] == 1
    assert result["per_scene"]["port"]["ap50"] == 0
    assert result["errors"]["background"]["count"] == -1
    assert result["errors"]["missed"]["count"] == -1
    assert result["errors"]["missed"]["count_by_size"]["small"] == -1
    assert result["per_class"]["car"]["ap50"] is None
    json.dumps(result, allow_nan=False)
    other = study(labelled, dets, Wanted(protocol=AITOD))
    with pytest.raises(ValueError, match="one protocol"):
        compared(one, other)


def test_scales_and_scenes_are_read_from_image_records(tmp_path):
    path = tmp_path / "val.json"
    records = [{"id": 4, "gsd_m": 0.5, "place": "A"}, {"id": 2}, {"id": 7, "gsd_m": None}]
    path.write_text(json.dumps({"images": records}))
    assert image_fields(path, "place") == {4: "A"}
    assert scales(path, [4, 2, 7], default=None) == {4: 0.5}
    assert scales(path, [4, 2, 7], default=2.0) == {4: 0.5, 2: 2.0, 7: 2.0}
    assert scales(None, [4], default=None) == {}
    scene = by_field(path, "place")
    assert scene(image(4, "x", [])) == "A"
    with pytest.raises(DataError, match="image 2: lacks the field 'place'"):
        scene(image(2, "x", []))
    with pytest.raises(DataError, match="no image record has the field 'where'"):
        by_field(path, "where")
    path.write_text(json.dumps({"images": [{"id": 4, "place": "A"}, {"id": 7, "place": None}]}))
    with pytest.raises(DataError, match="image 7: lacks the field 'place'"):
        by_field(path, "place")(image(7, "x", []))
    with pytest.raises(UsageError, match="above 0 metres"):
        scales(None, [4], default=0)
    for wrong in (0, -1, "0.5", True):
        path.write_text(json.dumps({"images": [{"id": 4, "gsd_m": wrong}]}))
        with pytest.raises(DataError, match=f"image 4: 'gsd_m' .* not {wrong!r}"):
            scales(path, [4], default=None)
    path.write_text(json.dumps({"images": [{"id": 4, "gsd_m": 10**400}]}))
    with pytest.raises(DataError, match=r"image 4: 'gsd_m' .* not 1000"):
        scales(path, [4], default=None)


def test_protocols_are_chosen_by_name():
    assert protocol_named("DIOR") is DIOR
    with pytest.raises(UsageError, match=r"aitod, aitod-v2, coco.*not 'voc'"):
        protocol_named("voc")
    assert COCO.with_max_det(50).max_dets == (1, 10, 50)
    assert DIOR.with_max_det(50).limit == 50
