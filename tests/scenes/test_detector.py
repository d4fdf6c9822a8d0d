"""One image, one forward pass: padding, resizing, thresholds, bad input."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch

from rstinynet.errors import UsageError, WeightsError
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector


@pytest.mark.parametrize("size", [(1, 1), (31, 70), (64, 96), (100, 33)])
def test_any_size_is_padded_and_boxes_stay_inside(
    detector: Detector, paint: Callable[..., np.ndarray], size: tuple[int, int]
) -> None:
    height, width = size
    image = paint(height, width, [(0, 0, width, min(height, 20))])
    found = detector.detect(image, scale=1.0)
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes, [[0, 0, min(width, 62), min(height, 20)]], atol=35)
    assert found.boxes.min() >= 0
    assert (found.boxes[:, [0, 2]] <= width).all()


def test_scale_enlarges_before_the_model(
    detector: Detector, paint: Callable[..., np.ndarray]
) -> None:
    image = paint(70, 90, [(20, 30, 28, 36)])
    for scale in (1.0, 1.5, 3.0):
        found = detector.detect(image, scale=scale)
        np.testing.assert_allclose(found.boxes, [[20, 30, 28, 36]], atol=0.6)


def test_conf_comes_from_the_metadata_by_class_and_can_be_given(
    detector: Detector, metadata: WeightsMetadata, paint: Callable[..., np.ndarray]
) -> None:
    image = paint(64, 64, [(5, 5, 15, 15), (30, 30, 40, 40)])  # a ship and a car, score .78
    assert len(detector.detect(image)) == 2
    assert len(detector.detect(image, conf=0.9)) == 0
    assert len(detector.detect(image, max_det=1)) == 1
    strict = metadata.model_copy(update={"class_conf": (0.9, 0.5)})
    found = Detector(detector.model, strict, device="cpu").detect(image)
    assert found.labels.tolist() == [1]


def test_a_temperature_changes_scores_and_nothing_else(
    detector: Detector, metadata: WeightsMetadata, paint: Callable[..., np.ndarray]
) -> None:
    image = paint(64, 64, [(5, 5, 15, 15), (30, 30, 40, 40)])
    plain = detector.detect(image, conf=0.01)
    warm = metadata.model_copy(update={"temperature": 2.0})
    found = Detector(detector.model, warm, device="cpu").detect(image, conf=0.01)
    expected = 1 / (1 + np.sqrt(1 / plain.scores - 1))
    np.testing.assert_allclose(found.scores, expected, rtol=1e-5)
    np.testing.assert_array_equal(found.boxes, plain.boxes)
    least = float(found.scores.min())
    for conf, count in ((np.nextafter(np.float32(least), np.float32(0)), 2), (least + 1e-4, 0)):
        kept = Detector(detector.model, warm, device="cpu").detect(image, conf=float(conf))
        assert (kept.scores >= least).sum() >= count
        assert (kept.scores > conf).all()


def test_a_batch_is_its_images(detector: Detector, paint: Callable[..., np.ndarray]) -> None:
    images = [paint(64, 80, [(x, 10, x + 9, 20)]) for x in (5, 30, 60)]
    together = detector.detect_batch(images)
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found.boxes, detector.detect(image).boxes)
    assert detector.detect_batch([]) == []


@pytest.mark.parametrize(
    "image",
    [np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), np.float32), np.zeros((0, 8, 3), np.uint8)],
)
def test_refuses_what_is_no_rgb_image(detector: Detector, image: Any) -> None:
    with pytest.raises(UsageError, match="uint8 array"):
        detector.detect(image)


def test_refuses_what_is_no_array(detector: Detector) -> None:
    with pytest.raises(UsageError, match="not list; `predict`"):
        detector.detect_batch([[[1, 2, 3]]])  # type: ignore[list-item]
    for source, name in (([[1, 2]], "list"), (None, "NoneType"), (5, "int")):
        with pytest.raises(UsageError, match=f"a path or an array .* not a {name}"):
            detector.predict(source)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="this Tensor is no array in memory"):
        detector.predict(torch.zeros((64, 64, 3), device="meta"))  # type: ignore[arg-type]
    with pytest.raises(UsageError, match=r"\(3, 64, 80\) would be an image of 3 rows and 80 bands"):
        detector.predict(np.zeros((3, 64, 80), np.uint8))
    with pytest.raises(UsageError, match=r"mode P .* image\.convert"):
        detector.predict(PIL.Image.fromarray(np.zeros((64, 80), np.uint8)).convert("P"))


def test_what_numpy_can_see_is_an_array(
    detector: Detector, paint: Callable[..., np.ndarray]
) -> None:
    image = paint(64, 80, [(5, 10, 14, 20)])
    expected = detector.predict(image).detections.boxes
    assert len(expected)
    for same in (PIL.Image.fromarray(image), torch.from_numpy(image)):
        np.testing.assert_array_equal(detector.predict(same).detections.boxes, expected)
    hidden = np.ma.masked_array(image, np.zeros(image.shape, bool))
    hidden[5:20, 5:15] = np.ma.masked
    assert not len(detector.predict(hidden).detections.boxes)
    batch = np.stack([image, image[:, ::-1]])
    both = detector.detect_batch(batch)  # type: ignore[arg-type]
    np.testing.assert_array_equal(both[0].boxes, detector.detect(image).boxes)


def test_refuses_bad_options(detector: Detector) -> None:
    image = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(UsageError, match="iou must lie"):
        detector.detect(image, iou=2)
    with pytest.raises(UsageError, match="max_det must be"):
        detector.detect(image, max_det=-1)
    with pytest.raises(UsageError, match="conf"):
        detector.detect(image, conf=2)
    with pytest.raises(UsageError, match="one size"):
        detector.detect_batch([image, np.zeros((8, 9, 3), np.uint8)])
    with pytest.raises(UsageError, match="not available"):
        Detector(detector.model, detector.metadata, device="nonsense")
    with pytest.raises(WeightsError):
        Detector.load("no-such-weights")


def test_the_real_model_runs_and_its_source_is_left_as_it_was() -> None:
    torch.manual_seed(0)
    model = build("rs-tinynet-n", 3).train()
    metadata = WeightsMetadata(
        model="rs-tinynet-n", names=("a", "b", "c"), category_ids=(1, 2, 3), conf=0.0
    )
    detector = Detector(model, metadata, device="cpu")
    found = detector.detect(np.full((40, 70, 3), 100, np.uint8), max_det=5)
    assert len(found) == 5
    assert model.training
    assert not detector.model.training


def test_a_scale_that_leaves_nothing_of_a_fixed_size_is_refused(
    detector: Detector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(detector.backend), "side", 64)
    image = np.zeros((96, 96, 3), np.uint8)
    assert len(detector.detect(image, scale=2)) == 0
    for scale in (2.1, (1, 4)):
        with pytest.raises(UsageError, match="choose a scale of at most 2"):
            detector.detect(image, scale=scale)
