"""Pictures: boxes in their colour just outside the object, legends, close-ups where it is dense."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from rstinynet.detections import Detections
from rstinynet.scenes import draw
from rstinynet.scenes.detector import Detector
from rstinynet.scenes.palette import colour_of


def has_colour(image: np.ndarray, label: int) -> bool:
    return bool((image == colour_of(label)).all(axis=-1).any())


def read(path: Path) -> np.ndarray:
    return cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)


def test_small_image_is_enlarged_and_boxed_by_class(
    detector: Detector, paint: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    result = detector.predict(paint(120, 120, [(20, 20, 28, 26), (60, 70, 68, 78)]))
    files = result.save(tmp_path, formats=["png"])
    assert set(files) == {"png"}
    image = read(files["png"])
    assert image.shape[1] == 120 * draw.ENLARGE
    assert has_colour(image, 0)
    assert has_colour(image, 1)
    # The object itself stays to be seen.
    assert (image[4 * 22 : 4 * 25, 4 * 22 : 4 * 27] >= 245).all()


def test_large_scene_is_reduced_with_closeups_of_the_densest_places(
    detector: Detector, paint: Callable[..., np.ndarray], tmp_path: Path
) -> None:
    blobs = [
        (1500 + 20 * i, 300 + 20 * j, 1508 + 20 * i, 308 + 20 * j)
        for i in range(5)
        for j in range(5)
    ]
    result = detector.predict(paint(400, 2000, [*blobs, (100, 100, 110, 110)]), tile=512)
    assert len(result) == 26
    files = result.save(tmp_path, formats=["png"])
    assert read(files["png"]).shape[1] == draw.PICTURE
    places = draw.densest(result.detections, result.size)
    assert places[0].x < 1500 < 1600 < places[0].x + draw.CROP
    assert len(places) == 2
    sheet = read(files["closeups"])
    assert has_colour(sheet, 0)
    assert has_colour(sheet, 1)


def test_places_do_not_overlap() -> None:
    rng = np.random.default_rng(0)
    low = rng.random((3000, 2)) * 3000
    boxes = np.concatenate([low, low + 8], axis=1).astype(np.float32)
    found = Detections(boxes, np.ones(3000, np.float32), np.zeros(3000, np.int64))
    places = draw.densest(found, (3000, 3000))
    assert len(places) == draw.CROPS
    for i, one in enumerate(places):
        for other in places[:i]:
            assert max(abs(one.x - other.x), abs(one.y - other.y)) >= draw.CROP


def test_colours_of_many_classes_differ() -> None:
    assert len({colour_of(label) for label in range(60)}) == 60
