"""Detectors side by side: which images, which place, which colours."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from rstinynet.data.folder import open_split
from rstinynet.data.image import read_rgb
from rstinynet.data.synthetic import make_synthetic
from rstinynet.detections import Detections
from rstinynet.evaluate import view
from rstinynet.evaluate.verdicts import judge_all
from rstinynet.evaluate.view import Shown, place_of_interest, side_by_side, worst_images


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    make_synthetic(folder, images=4, size=200, split="val")
    return open_split(folder, "val")


def truth_of(image, keep=slice(None)):
    count = len(image.labels[keep])
    return Detections(image.boxes[keep], np.full(count, 0.9, np.float32), image.labels[keep])


@pytest.fixture(scope="module")
def shown(labelled):
    good = {image.id: truth_of(image) for image in labelled.images}
    bad = dict(good)
    worst = labelled.images[2]
    bad[worst.id] = Detections.concatenate(
        [truth_of(worst, slice(3)), truth_of(worst, slice(3)).shifted(0, 300)]
    )
    return [Shown(name=n, verdicts=judge_all(labelled, d)) for n, d in (("a", good), ("b", bad))]


def colours(picture):
    packed = np.unique(picture.astype(np.int64) @ (65536, 256, 1)).tolist()
    return {(value >> 16, value >> 8 & 255, value & 255) for value in packed}


def test_images_where_detectors_differ_are_chosen(labelled, shown):
    assert [image.id for image in worst_images(labelled, shown, count=1)] == [3]
    assert [image.id for image in worst_images(labelled, shown, count=2)] == [1, 3]
    assert len(worst_images(labelled, shown, count=99)) == 4


def test_each_kind_is_drawn_in_its_column_and_explained(labelled, shown):
    image = labelled.images[2]
    picture = side_by_side(read_rgb(image.path), image, shown)
    width = 3 * view.PANEL + 2 * view._GAP
    assert picture.shape[1] == width
    body = picture[: -view._FOOT]
    step = view.PANEL + view._GAP
    truth, good, bad = (colours(body[:, at * step : at * step + view.PANEL]) for at in range(3))
    assert view.HIT in good
    assert view.HIT in bad
    assert view.MISSED in bad
    assert not {view.MISSED, view.FALSE} & good
    assert not {view.MISSED, view.FALSE, view.HIT} & truth
    assert {view.HIT, view.MISSED, view.FALSE} <= colours(picture[-view._FOOT :])


def test_false_alarms_are_drawn(labelled):
    image = labelled.images[0]
    stray = Detections(
        np.array([[90, 90, 101, 98], [-1e9, -1e9, 1e9, 1e9]], np.float32),
        np.array([0.5, 0.4], np.float32),
        np.array([0, 1]),
    )
    shown = [Shown(name="stray", verdicts=judge_all(labelled, {image.id: stray}))]
    assert view.FALSE in colours(side_by_side(read_rgb(image.path), image, shown)[: -view._FOOT])


def test_the_place_holds_what_was_missed(labelled):
    image = labelled.images[0]
    outcome = judge_all(labelled, {image.id: truth_of(image, slice(1, None))})[image.id]
    left, top, side = place_of_interest(image, [outcome])
    assert side == view.CROP
    assert 0 <= left <= 200 - side
    centre = (image.boxes[0, :2] + image.boxes[0, 2:]) / 2
    assert left <= centre[0] < left + side
    assert top <= centre[1] < top + side


def test_an_image_without_anything_is_shown_at_its_middle(labelled):
    image = labelled.images[0]
    bare = replace(
        image,
        boxes=image.boxes[:0],
        labels=image.labels[:0],
        areas=image.areas[:0],
        crowd=image.crowd[:0],
    )
    outcomes = list(judge_all(replace(labelled, images=(bare,)), {}).values())
    assert place_of_interest(bare, outcomes) == (36, 36, 128)


def test_long_names_are_shortened_to_their_column():
    text = view._fitting("a very long name of a detector " * 4, 0.7)
    assert text.endswith("...")
    assert len(text) < 60
