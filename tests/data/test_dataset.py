"""Samples depend on seed, epoch and index only; partial labels stay exact; rare ones come more."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from rstinynet.data.augment import AugmentSettings
from rstinynet.data.cache import ImageCache
from rstinynet.data.dataset import TrainingSet, repeat_factors
from rstinynet.data.folder import open_split
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import DataError, UsageError

SMALL = AugmentSettings(imgsz=64)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("full")
    make_synthetic(folder, images=6, size=96)
    return open_split(folder, "train")


@pytest.fixture(scope="module")
def partial(tmp_path_factory):
    folder = tmp_path_factory.mktemp("partial")
    make_synthetic(folder, images=8, size=96, partial=True)
    return open_split(folder, "train")


def same(one, other):
    return all(
        np.array_equal(getattr(one, field.name), getattr(other, field.name))
        for field in dataclasses.fields(one)
        if field.name != "counts"
    )


def test_a_sample_is_a_function_of_seed_epoch_and_index(full):
    first = TrainingSet(full, SMALL, 3)
    for index in range(len(first)):
        first.sample(0, index)
    expected = first.sample(2, 4)
    assert same(expected, TrainingSet(full, SMALL, 3, cache=ImageCache(0)).sample(2, 4))
    assert not same(expected, TrainingSet(full, SMALL, 4).sample(2, 4))
    assert not same(expected, first.sample(1, 4))
    assert not same(expected, first.sample(2, 5))


def test_without_balance_every_image_comes_once_an_epoch(full):
    samples = TrainingSet(full, SMALL)
    orders = [samples.order(epoch).tolist() for epoch in range(4)]
    assert all(sorted(order) == list(range(6)) for order in orders)
    assert len({tuple(order) for order in orders}) > 1


def rare(full):
    """The same images, of which only the first has class 1."""
    images = [
        image
        if number == 0
        else dataclasses.replace(
            image,
            boxes=image.boxes[image.labels == 0],
            labels=image.labels[image.labels == 0],
            crowd=image.crowd[image.labels == 0],
        )
        for number, image in enumerate(full.images)
    ]
    return dataclasses.replace(full, images=tuple(images))


def test_repeat_factors_are_lvis_s(full):
    np.testing.assert_allclose(repeat_factors(rare(full), 0.5), [np.sqrt(0.5 * 6)] + [1] * 5)
    np.testing.assert_allclose(repeat_factors(full, 0.5), 1)


def test_balance_draws_rare_images_as_often_as_it_says(full):
    samples = TrainingSet(rare(full), SMALL, class_balance=1.0)
    drawn = np.bincount(np.concatenate([samples.order(epoch) for epoch in range(300)]))
    factor = np.sqrt(6)
    assert drawn[0] / drawn.sum() == pytest.approx(factor / (factor + 5), rel=0.05)
    assert drawn[1:].min() > 0.9 * drawn[1:].max()
    assert len(samples.order(0)) == len(samples) == 6


def test_a_mosaic_mixes_only_images_that_know_the_same(partial):
    samples = TrainingSet(partial, SMALL)
    knew = set()
    for index in range(len(samples)):
        sample = samples.sample(0, index)
        assert sample.known.sum() == 1
        assert sample.known[sample.labels].all()
        knew.add(int(sample.known.argmax()))
    assert knew == {0, 1}


def test_a_class_that_is_not_exhaustive_is_not_known_as_background(full):
    image = full.images[0]
    image = dataclasses.replace(image, exhaustive=np.array([True, False]))
    samples = TrainingSet(dataclasses.replace(full, images=(image,)), SMALL)
    assert samples.sample(0, 0).known.tolist() == [True, False]


def test_other_settings_share_order_and_cache(full):
    samples = TrainingSet(full, SMALL, 1)
    closed = samples.with_settings(AugmentSettings(imgsz=96, mosaic_prob=0.0))
    assert closed.sample(0, 0).image.shape == (96, 96, 3)
    assert closed.sample(0, 0).id == samples.sample(0, 0).id
    assert closed._cache is samples._cache


def test_an_image_of_another_size_than_annotated_is_a_data_error(tmp_path):
    make_synthetic(tmp_path, images=1, size=96)
    labelled = open_split(tmp_path, "train")
    cv2.imwrite(str(labelled.images[0].path), np.zeros((50, 60, 3), np.uint8))
    with pytest.raises(DataError, match="60 x 50 pixels, its annotations say 96 x 96"):
        TrainingSet(labelled, SMALL).sample(0, 0)


def test_no_images_and_no_such_balance(full):
    with pytest.raises(DataError, match="no images"):
        TrainingSet(dataclasses.replace(full, images=()), SMALL)
    with pytest.raises(UsageError, match="class_balance"):
        TrainingSet(full, SMALL, class_balance=3)
