"""Boxes follow their pixels through every cut, turn and zoom; nothing vanishes uncounted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.data.augment import (
    PAD,
    AugmentCounts,
    AugmentSettings,
    Piece,
    augment,
    cut,
    mosaic,
    recolour,
    turned,
)
from rstinynet.errors import UsageError

PLAIN = AugmentSettings(
    imgsz=96,
    hsv=(0, 0, 0),
    grey_prob=0,
    contrast_prob=0,
    blur_prob=0,
    noise_prob=0,
    scale=(1, 1),
    min_box_px=0,
    min_visibility=0,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def scene(height=150, width=200, seed=0):
    """Black ground with white blocks that do not touch, and one crowd."""
    rng = generator(seed)
    image = np.zeros((height, width, 3), np.uint8)
    boxes = []
    for top in range(5, height - 30, 40):
        for left in range(5, width - 30, 40):
            w, h = (int(side) for side in rng.integers(8, 24, 2))
            boxes.append([left, top, left + w, top + h])
            image[top : top + h, left : left + w] = 255
    labels = rng.integers(0, 3, len(boxes))
    crowd = np.zeros(len(boxes), np.bool_)
    crowd[0] = True
    return Piece(image, np.array(boxes, np.float32), labels, crowd)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    low=st.floats(0.3, 3),
    height=st.integers(20, 130),
    width=st.integers(20, 130),
)
def test_boxes_stay_on_their_pixels(seed, low, height, width):
    """White is where the boxes are and nowhere else, to half a pixel's interpolation."""
    piece = scene()
    chosen = dataclasses.replace(PLAIN, scale=(low, low * 1.2))
    result, _ = cut(piece, (height, width), chosen, generator(seed))
    assert result.image.shape == (height, width, 3)
    shrunk, grown = np.zeros((2, height, width), np.bool_)
    slack = 1 + low
    for left, top, right, bottom in result.boxes:
        shrunk[_span(top, bottom, slack, height), _span(left, right, slack, width)] = True
        grown[_span(top, bottom, -slack, height), _span(left, right, -slack, width)] = True
    pixels = result.image[..., 0]
    assert (pixels[shrunk] == 255).all()
    assert np.isin(pixels[~grown], [0, PAD]).all()


def _span(start, stop, slack, limit):
    first = start + slack if start > 0 else start
    last = stop - slack if stop < limit else stop
    return slice(max(0, int(np.ceil(first))), max(0, int(np.floor(last))))


@pytest.mark.parametrize("turn", range(8))
def test_each_symmetry_moves_boxes_with_the_pixels(turn):
    piece = scene(70, 90)
    image, boxes = turned(piece.image, piece.boxes, turn)
    expected = np.zeros(image.shape[:2], np.bool_)
    for left, top, right, bottom in boxes.astype(int):
        expected[top:bottom, left:right] = True
    np.testing.assert_array_equal(image[..., 0] == 255, expected)
    assert image.flags.c_contiguous


def test_the_eight_symmetries_differ():
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    empty = np.zeros((0, 4), np.float32)
    assert len({turned(image, empty, turn)[0].tobytes() for turn in range(8)}) == 8


def test_at_native_scale_pixels_are_unchanged():
    piece = scene(96, 96)
    chosen = dataclasses.replace(PLAIN, symmetries="none")
    sample, counts = augment([piece], chosen, generator())
    np.testing.assert_array_equal(sample.image, piece.image)
    np.testing.assert_array_equal(sample.boxes, piece.boxes)
    assert counts == AugmentCounts(kept=len(piece.boxes) - 1)


def test_small_images_are_padded_not_stretched():
    piece = scene(40, 50)
    sample, _ = augment([piece], PLAIN, generator(3))
    assert (sample.image == PAD).all(axis=2).sum() == 96 * 96 - 40 * 50


def test_what_a_cut_hides_is_ignored_and_counted():
    image = np.zeros((96, 96, 3), np.uint8)
    boxes = np.array([[-8, 0, 1, 10], [-2, 20, 8, 30], [50, 50, 51, 60], [-9, 70, -1, 80]])
    piece = Piece(image, boxes.astype(np.float32), np.arange(4), np.zeros(4, np.bool_))
    chosen = dataclasses.replace(
        PLAIN, symmetries="none", focus_prob=0, min_box_px=2, min_visibility=0.5
    )
    sample, counts = cut(piece, (96, 96), chosen, generator())
    assert counts == AugmentCounts(kept=1, cut=1, small=1)
    assert sample.labels.tolist() == [0, 1, 2]
    assert sample.crowd.tolist() == [True, False, True]
    assert sample.boxes[0].tolist() == [0, 0, 1, 10]


@pytest.mark.parametrize("seed", range(5))
def test_crowds_stay_crowds_and_are_not_counted(seed):
    piece = scene()
    everything = dataclasses.replace(piece, crowd=np.ones(len(piece.boxes), np.bool_))
    sample, counts = augment([everything], PLAIN, generator(seed))
    assert sample.crowd.all()
    assert counts == AugmentCounts()


@pytest.mark.parametrize("seed", range(5))
def test_mosaic_holds_each_of_its_four_pieces_in_a_quadrant(seed):
    pieces = []
    for label in range(4):
        image = np.full((120, 120, 3), 10 + label, np.uint8)
        boxes = np.array(
            [[x, y, x + 6, y + 6] for x in range(0, 114, 12) for y in range(0, 114, 12)]
        )
        crowd = np.zeros(len(boxes), np.bool_)
        pieces.append(Piece(image, boxes.astype(np.float32), np.full(len(boxes), label), crowd))
    sample, counts = mosaic(pieces, PLAIN, generator(seed))
    assert set(np.unique(sample.image)) == {10, 11, 12, 13}
    assert counts.kept == len(sample.boxes)
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        left, top, right, bottom = np.rint(box).astype(int)
        assert (sample.image[top:bottom, left:right] == 10 + label).all()


def test_focus_puts_an_object_in_every_window():
    image = np.zeros((1000, 1000, 3), np.uint8)
    boxes = np.array([[700, 300, 708, 306]], np.float32)
    piece = Piece(image, boxes, np.zeros(1, np.int64), np.zeros(1, np.bool_))
    focused = dataclasses.replace(PLAIN, focus_prob=1.0)
    anywhere = dataclasses.replace(PLAIN, focus_prob=0.0)
    found = [len(cut(piece, (96, 96), focused, generator(i))[0].boxes) for i in range(30)]
    missed = [len(cut(piece, (96, 96), anywhere, generator(i))[0].boxes) for i in range(30)]
    assert found == [1] * 30
    assert sum(missed) < 10


def test_an_image_without_objects_is_normal():
    empty = Piece(
        np.zeros((20, 300, 3), np.uint8),
        np.zeros((0, 4), np.float32),
        np.zeros(0, np.int64),
        np.zeros(0, np.bool_),
    )
    sample, counts = augment([empty] * 4, AugmentSettings(imgsz=64), generator())
    assert sample.boxes.shape == (0, 4)
    assert sample.image.shape == (64, 64, 3)
    assert counts == AugmentCounts()


def test_grey_has_three_equal_bands_and_colour_is_otherwise_kept():
    image = generator().integers(0, 256, (32, 32, 3), dtype=np.uint8)
    grey = recolour(image, dataclasses.replace(PLAIN, grey_prob=1.0), generator())
    assert (grey[..., :1] == grey).all()
    assert grey.std() > 5
    np.testing.assert_array_equal(recolour(image, PLAIN, generator()), image)


@pytest.mark.parametrize("name", ["contrast", "blur", "noise", "hsv"])
def test_each_change_of_colour_changes_and_keeps_the_form(name):
    image = generator().integers(0, 256, (32, 32, 3), dtype=np.uint8)
    change = {"hsv": (0.015, 0.7, 0.4)} if name == "hsv" else {f"{name}_prob": 1.0}
    result = recolour(image, dataclasses.replace(PLAIN, **change), generator(1))
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert (result != image).any()


@pytest.mark.parametrize(
    "wrong",
    [
        {"imgsz": 100},
        {"imgsz": 0},
        {"mosaic_prob": 1.1},
        {"noise_prob": -0.1},
        {"scale": (2, 1)},
        {"scale": (0, 1)},
        {"hsv": (0.1, 2, 0)},
        {"min_visibility": 2},
        {"min_box_px": -1},
        {"fit": "stretch"},
        {"symmetries": "vertical"},
        {"cut_boxes": "keep"},
        {"translate": 0.6},
        {"degrees": -1},
        {"shear": 31},
    ],
)
def test_settings_outside_their_range_are_usage_errors(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        AugmentSettings(**wrong)
