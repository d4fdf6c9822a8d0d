"""A batch in torch gets the colours that OpenCV gives its images, and noise of the same spread."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
import torch

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.batch import collate
from rstinynet.data.colour import Colour, compressed, draw_colour, recolour, recoloured, stretched
from rstinynet.data.colour_batch import recoloured_batch
from rstinynet.data.dataset import TrainingSet
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic

NONE = {"hsv": (0, 0, 0)} | {f"{name}_prob": 0 for name in ("grey", "contrast", "blur", "noise")}


@pytest.fixture(scope="module")
def image():
    """Every hue and grey, and smooth ground."""
    rng = np.random.default_rng(0)
    blocks = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
    blocks[0] = blocks[0, :, :1]
    blocks[1, :4] = [[0, 0, 0], [255, 255, 255], [255, 0, 0], [0, 255, 255]]
    smooth = cv2.resize(blocks, (64, 24), interpolation=cv2.INTER_CUBIC)
    return np.concatenate([cv2.resize(blocks, (64, 48), interpolation=cv2.INTER_NEAREST), smooth])


def on_batch(images, colours):
    batch = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()
    return recoloured_batch(batch, colours).permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize(
    "change",
    [
        {"hsv": (0.015, 0.7, 0.4)},
        {"hsv": (0.5, 1.0, 1.0)},
        {"grey_prob": 1},
        {"contrast_prob": 1},
        {"blur_prob": 1},
        {"hsv": (0.015, 0.7, 0.4), "grey_prob": 0.3, "contrast_prob": 0.5, "blur_prob": 0.5},
    ],
)
def test_batch_and_image_agree_to_a_rounding(image, change):
    chosen = AugmentSettings(**(NONE | change))
    colours = [draw_colour(chosen, np.random.default_rng(seed)) for seed in range(12)]
    expected = np.stack([recoloured(image, colour) for colour in colours]).astype(int)
    found = on_batch([image] * 12, colours).astype(int)
    difference = np.abs(expected - found)
    # Hue is rounded to 2 degrees: at a tie the two may round apart, and a curve may stretch that.
    assert np.quantile(difference, 0.99) <= 3
    assert difference.mean() < 0.35
    assert (expected != image).any()


def test_noise_has_the_same_distribution_and_follows_its_seed():
    flat = np.full((200, 200, 3), 128, np.uint8)
    colours = [Colour(noise=6.0, noise_seed=seed) for seed in (1, 2, 1)]
    found = on_batch([flat] * 3, colours).astype(int) - 128
    expected = recoloured(flat, colours[0]).astype(int) - 128
    assert (found[..., :1] == found).all()
    assert found[0].std() == pytest.approx(expected.std(), rel=0.03)
    assert abs(found[0].mean()) < 0.1
    np.testing.assert_array_equal(found[0], found[2])
    assert (found[0] != found[1]).any()


def test_nothing_drawn_leaves_the_batch_as_it_is(image):
    colour = draw_colour(AugmentSettings(**NONE), np.random.default_rng())
    np.testing.assert_array_equal(on_batch([image], [colour])[0], image)
    np.testing.assert_array_equal(recoloured(image, colour), image)


def test_colour_made_later_equals_colour_made_at_once(tmp_path):
    make_synthetic(tmp_path, images=4, size=96)
    chosen = AugmentSettings(imgsz=64, noise_prob=0, grey_prob=0.5, contrast_prob=0.5)
    labelled = open_split(tmp_path, "train")
    at_once = TrainingSet(labelled, chosen, 5)
    later = TrainingSet(labelled, chosen, 5, colour_later=True)
    one = collate([at_once.sample(1, index) for index in range(4)])
    other = collate([later.sample(1, index) for index in range(4)])
    assert one.colours is None
    assert [boxes.tolist() for boxes in one.boxes] == [boxes.tolist() for boxes in other.boxes]
    shown = other.images_on(torch.device("cpu")).float()
    assert (other.images.float() - one.images.float()).abs().mean() > 5
    assert (shown - one.images.float()).abs().mean() < 0.5


def test_jpeg_is_jpeg_of_the_quality_drawn(image):
    chosen = dataclasses.replace(AugmentSettings(**NONE), jpeg_prob=1.0)
    changed = recolour(image, chosen, np.random.default_rng(3))
    assert (changed != image).any()
    assert changed.shape == image.shape
    errors = [np.abs(compressed(image, q).astype(int) - image).mean() for q in (30, 60, 90)]
    assert errors[0] > errors[1] > errors[2] > 0
    qualities = {draw_colour(chosen, np.random.default_rng(seed)).jpeg for seed in range(300)}
    assert (min(qualities), max(qualities)) == (30, 90)


def test_stretching_uses_all_levels_and_sharpens_edges(image):
    pale = (image // 4 + 90).astype(np.uint8)
    assert np.ptp(pale) < 70
    plain = stretched(pale, (1.0, 0.0))
    assert plain.min() == 0
    assert plain.max() == 255
    order = np.argsort(pale[..., 1].ravel(), kind="stable")
    assert (np.diff(plain[..., 1].ravel()[order].astype(int)) >= 0).all()
    edge = np.full((20, 20, 3), 100, np.uint8)
    edge[:, 10:] = 150
    edge[:2], edge[-2:] = 0, 255
    sharp = stretched(edge, (1.0, 1.0))[10, :, 0].astype(int)
    assert sharp[9] < sharp[2]
    assert sharp[10] > sharp[17]
    flat = np.full((8, 8, 3), 77, np.uint8)
    assert np.ptp(stretched(flat, (1.0, 1.0))) == 0
    np.testing.assert_array_equal(stretched(image, None), image)


def test_stretching_is_drawn_and_done_before_the_batch(image, tmp_path):
    chosen = AugmentSettings(**(NONE | {"stretch_prob": 1.0}))
    colour = draw_colour(chosen, np.random.default_rng(1))
    assert colour.stretch is not None
    np.testing.assert_array_equal(recoloured(image, colour), stretched(image, colour.stretch))
    make_synthetic(tmp_path, images=2, size=64)
    labelled = open_split(tmp_path, "train")
    settings = AugmentSettings(imgsz=64, grey_prob=0, noise_prob=0, stretch_prob=1.0)
    now = TrainingSet(labelled, settings, 2).sample(0, 1)
    later = TrainingSet(labelled, settings, 2, colour_later=True).sample(0, 1)
    assert later.colour is not None
    assert later.colour.stretch is None
    np.testing.assert_array_equal(recoloured(later.image, later.colour), now.image)
