"""benchmarks/generalisation.py: labels stay on what they label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rstinynet.data.folder import open_split


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("benchmarks/generalisation.py")


@pytest.mark.parametrize("degrees", [90.0, 180.0, 270.0])
def test_a_quarter_turn_moves_every_pixel_and_its_box_exactly(script, degrees):
    rng = np.random.default_rng(3)
    image = rng.integers(0, 255, (40, 61, 3), np.uint8)
    change = script.rotated(degrees)
    turned = change.pixels(image)
    np.testing.assert_array_equal(turned, np.rot90(image, int(degrees) // 90))
    spot = np.zeros_like(image)
    spot[8:13, 20:41] = 255
    (box,) = change.boxes(np.array([[20.0, 8.0, 41.0, 13.0]]), 61, 40)
    rows, columns = np.nonzero(change.pixels(spot)[..., 0])
    seen = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
    np.testing.assert_allclose(box, seen, atol=1e-6)


@pytest.mark.parametrize("degrees", [15.0, 30.0, 45.0])
def test_a_disk_stays_in_the_middle_of_its_box_at_any_angle(script, degrees):
    y, x = np.mgrid[:80, :121] + 0.5
    disk = ((x - 90.5) ** 2 + (y - 20.5) ** 2 < 9**2).astype(np.uint8) * 255
    change = script.rotated(degrees)
    empty = change.pixels(np.zeros((80, 121, 3), np.uint8))
    turned = (change.pixels(np.dstack([disk] * 3)).astype(float) - empty)[..., 0]
    (box,) = change.boxes(np.array([[81.5, 11.5, 99.5, 29.5]]), 121, 80)
    y, x = np.mgrid[: turned.shape[0], : turned.shape[1]] + 0.5
    middle = (turned * x).sum() / turned.sum(), (turned * y).sum() / turned.sum()
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, middle, atol=0.03)
    np.testing.assert_allclose(box[2:] - box[:2], 18, atol=1e-6)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_boxes_follow_a_scale(script, factor):
    image = np.zeros((64, 64, 3), np.uint8)
    image[16:32, 8:24] = 255
    change = script.resized(factor)
    rows, columns = np.nonzero(change.pixels(image)[..., 0] > 127)
    (box,) = change.boxes(np.array([[8.0, 16.0, 24.0, 32.0]]), 64, 64)
    np.testing.assert_allclose(
        box, (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1), atol=1e-6
    )


@pytest.mark.parametrize("factor", [0.5, 0.71, 1.41])
def test_boxes_follow_sides_that_are_rounded(script, factor):
    image = np.zeros((33, 801, 3), np.uint8)
    image[4:20, 780:] = 255
    change = script.resized(factor)
    seen = change.pixels(image)[..., 0].astype(float) / 255
    (box,) = change.boxes(np.array([[780.0, 4.0, 801.0, 20.0]]), 801, 33)
    assert box[2] == pytest.approx(seen.shape[1])
    # What is at an edge is as bright as the share of it that is the object's.
    assert box[3] - box[1] == pytest.approx(seen.max(axis=1).sum(), abs=0.1)


def test_a_few_images_are_not_the_first_ones(load_script, script, synthetic):
    labelled = open_split(synthetic(train=9, val=1, size=64), "train")
    images = list(labelled.images)
    crowd = np.ones(len(images[0].crowd), bool)
    labelled = replace(labelled, images=(replace(images[0], crowd=crowd), *images[1:]))
    effects = load_script("benchmarks/module_effects.py")
    for module in (script, effects):
        few = module.with_objects(labelled, 2)
        assert [image.id for image in few.images] == [images[1].id, images[5].id]
        assert len(module.with_objects(labelled, None)) == 8


def test_kinds_can_be_chosen(script):
    kinds = [change.kind for change in script.chosen(["rotation", "haze"])]
    assert set(kinds) == {"none", "haze", "rotation", "rotation, rounded", "rotation, corners"}
    assert len(script.chosen(None)) == len(script.changes())
    with pytest.raises(SystemExit, match="not hail"):
        script.chosen(["hail"])
