"""Test-time augmentation: views undo themselves, and what they agree on is joined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rstinynet.errors import UsageError
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.stream import PredictOptions, predict
from rstinynet.scenes.views import parse_scales, scales_of, seen, unseen


@pytest.mark.parametrize("view", range(8))
def test_a_box_of_a_view_comes_back_to_its_pixels(view: int) -> None:
    image = np.zeros((30, 50, 3), np.uint8)
    image[4:10, 20:27] = 255
    there = np.argwhere(seen(image, view)[..., 0])
    (y0, x0), (y1, x1) = there.min(axis=0), there.max(axis=0) + 1
    back = unseen(np.array([[x0, y0, x1, y1]], np.float32), view, width=50, height=30)
    np.testing.assert_array_equal(back, [[20, 4, 27, 10]])


def test_the_eight_views_differ() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert len({seen(image, view).tobytes() for view in range(8)}) == 8


@pytest.mark.parametrize("tta", [2, 4, 8])
@pytest.mark.parametrize("size", [(64, 96), (31, 70)])
def test_views_find_the_same_objects(
    detector: Detector, paint: Callable[..., np.ndarray], tta: int, size: tuple[int, int]
) -> None:
    image = paint(*size, [(5, 5, 15, 15), (30, 10, 40, 20)])
    plain, averaged = detector.detect(image), detector.detect(image, tta=tta)
    plain, averaged = (each[np.argsort(each.boxes[:, 0])] for each in (plain, averaged))
    assert averaged.labels.tolist() == plain.labels.tolist()
    assert len(plain) == 2
    np.testing.assert_allclose(averaged.boxes, plain.boxes, atol=1)
    np.testing.assert_allclose(averaged.scores, plain.scores, atol=0.05)


def test_thresholds_by_class_hold_for_the_mean(
    detector: Detector, paint: Callable[..., np.ndarray], metadata
) -> None:
    strict = metadata.model_copy(update={"class_conf": (0.9, 0.5)})
    image = paint(64, 64, [(5, 5, 15, 15), (30, 30, 40, 40)])
    assert Detector(detector.model, strict, device="cpu").detect(image, tta=4).labels.tolist() == [
        1
    ]


def test_a_scene_is_searched_in_views(detector: Detector, paint: Callable[..., np.ndarray]) -> None:
    scene = paint(150, 200, [(20, 30, 30, 40), (120, 100, 130, 110)])
    options = PredictOptions(tile=96, overlap=32, tta=8)
    boxes = predict(detector, scene, options).detections.sorted_by_score().boxes
    boxes = boxes[np.argsort(boxes[:, 0])]
    np.testing.assert_allclose(boxes, [[20, 30, 30, 40], [120, 100, 130, 110]], atol=1)
    assert options.settled(detector)["tta"] == 8


@pytest.mark.parametrize("tta", [0, 3, -4, 16])
def test_other_numbers_of_views_are_refused(detector: Detector, tta: int) -> None:
    with pytest.raises(UsageError, match=f"tta must be 1, 2, 4 or 8 views, not {tta}"):
        PredictOptions(tta=tta)
    with pytest.raises(UsageError, match="tta must be"):
        detector.detect(np.zeros((32, 32, 3), np.uint8), tta=tta)


def test_several_scales_are_views_too(detector: Detector, paint: Callable[..., np.ndarray]) -> None:
    image = paint(96, 128, [(8, 8, 20, 20), (60, 40, 76, 52)])
    plain = detector.detect(image)
    forwards = detector.model.forwards
    both = detector.detect(image, scale=(1, 2), tta=2)
    assert detector.model.forwards - forwards == 4
    np.testing.assert_allclose(both.boxes, plain.boxes, atol=0.6)
    # The blobs' scores grow with their areas, so those of the larger scale are higher.
    assert (both.scores > plain.scores).all()
    scored = [detector.detect(image, scale=scale).scores for scale in (1, 2)]
    np.testing.assert_allclose(both.scores, np.mean(scored, axis=0), atol=0.02)
    options = PredictOptions(tile=96, overlap=32, scale=(1, 2))
    assert options.settled(detector)["scale"] == [1, 2]
    assert PredictOptions(scale=(2,)).settled(detector)["scale"] == 2
    assert len(detector.predict(image, scale=(1, 2), tile=96, overlap=32)) == 2


@pytest.mark.parametrize("scale", [0, -1, 17, (), (1, 1), (1, 0), float("nan"), "x", None])
def test_scales_that_make_no_sense_are_refused(scale: Any) -> None:
    with pytest.raises(UsageError, match="scale must be over 0 and at most 16"):
        scales_of(scale)


def test_scales_are_read_from_text() -> None:
    assert parse_scales("1.5") == (1.5,)
    assert parse_scales("1, 1.5") == (1, 1.5)
    with pytest.raises(UsageError, match="--scale takes a factor"):
        parse_scales("1,x")
    with pytest.raises(UsageError, match="scale must be"):
        parse_scales("0")
    for absurd in ("1e-9", "1,0.001"):
        with pytest.raises(UsageError, match=f"from 0.01 to 16, not '{absurd}'"):
            parse_scales(absurd)
