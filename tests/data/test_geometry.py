"""Boxes follow their pixels under rotation, shear and the letterbox; lost ones are counted."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.boxes import area, pairwise_iou
from rstinynet.data.augment import PAD, AugmentSettings, Piece, arrange, letterboxed
from rstinynet.data.geometry import Warp

PLAIN = AugmentSettings(imgsz=128, scale=(1, 1), min_box_px=0, min_visibility=0, focus_prob=0)
BACKGROUND = 0


def coloured(height, width, seed=0):
    """Blocks that do not touch, each of a red of its own; the label says which."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), BACKGROUND, np.uint8)
    boxes = []
    for top in range(3, height - 20, 26):
        for left in range(3, width - 20, 26):
            w, h = (int(side) for side in rng.integers(6, 18, 2))
            image[top : top + h, left : left + w, 0] = 20 + 7 * (len(boxes) % 33)
            image[top : top + h, left : left + w, 1] = 255
            boxes.append([left, top, left + w, top + h])
    count = len(boxes)
    crowd = np.zeros(count, np.bool_)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    return Piece(image, boxes, np.arange(count), crowd)


def reds(sample, box, margin):
    """Reds of the opaque pixels inside a box, shrunk by a margin (negative: grown)."""
    side = sample.image.shape[0]
    left, top = np.maximum(np.ceil(box[:2] + margin), 0).astype(int)
    right, bottom = np.minimum(np.floor(box[2:] - margin), side).astype(int)
    inner = sample.image[top:bottom, left:right].reshape(-1, 3)
    return inner[inner[:, 1] == 255, 0]


geometries = st.fixed_dictionaries(
    {
        "fit": st.sampled_from(["native", "letterbox"]),
        "symmetries": st.sampled_from(["all", "horizontal", "none"]),
        "degrees": st.sampled_from([0.0, 10.0, 45.0, 180.0]),
        "shear": st.sampled_from([0.0, 8.0]),
        "translate": st.floats(0, 0.3),
        "scale": st.sampled_from([(0.6, 0.9), (1.0, 1.0), (1.1, 2.0)]),
        "cut_boxes": st.sampled_from(["ignore", "drop"]),
        "warped_boxes": st.sampled_from(["rounded", "ellipse", "corners"]),
    }
)


@settings(max_examples=80, deadline=None)
@given(
    choice=geometries,
    count=st.sampled_from([1, 4]),
    seed=st.integers(0, 2**31),
    shape=st.sampled_from([(90, 150), (128, 128), (260, 170)]),
)
def test_every_box_lies_inside_and_on_its_own_pixels(choice, count, seed, shape):
    chosen = dataclasses.replace(PLAIN, **choice)
    pieces = [coloured(*shape, seed=number) for number in range(count)]
    sample, counts = arrange(pieces, chosen, np.random.default_rng(seed))
    assert sample.image.shape == (128, 128, 3)
    assert (sample.boxes >= 0).all()
    assert (sample.boxes <= 128).all()
    assert (sample.boxes[:, 2:] > sample.boxes[:, :2]).all()
    assert counts.kept == len(sample.boxes) == len(sample.labels) == len(sample.crowd)
    mixed = choice["scale"] != (1.0, 1.0) or choice["degrees"] or choice["shear"] or shape[0] != 128
    for box, label in zip(sample.boxes, sample.labels, strict=True):
        found = reds(sample, box, 2 if mixed else 0)
        own = 20 + 7 * (int(label) % 33)
        # A turned box also holds corners of others; its own pixels are in it all the same.
        if (box[2:] - box[:2]).min() >= 10 and not choice["degrees"] and not choice["shear"]:
            assert len(found)
            assert (found == own).all()
        elif (box[2:] - box[:2]).min() >= 14 and count == 1 and not _at_edge(box):
            assert (reds(sample, box, 0) == own).any()


def _at_edge(box):
    return (box < 1).any() or (box > 127).any()


@pytest.mark.parametrize("degrees", [20.0, 90.0])
@pytest.mark.parametrize(("warped_boxes", "crowd"), [("corners", False), ("ellipse", True)])
def test_a_turned_box_holds_every_pixel_of_its_object(degrees, warped_boxes, crowd):
    """Of a region to ignore always: it is not known to be empty at its corners."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[50:62, 70:94] = 255
    piece = Piece(
        image, np.array([[70, 50, 94, 62]], np.float32), np.zeros(1, int), np.array([crowd])
    )
    chosen = dataclasses.replace(
        PLAIN, degrees=degrees, shear=5, symmetries="none", warped_boxes=warped_boxes
    )
    for seed in range(10):
        sample, _ = arrange([piece], chosen, np.random.default_rng(seed))
        rows, columns = np.nonzero((sample.image > 140).all(axis=2))
        left, top, right, bottom = sample.boxes[0]
        assert left - 1 <= columns.min() <= columns.max() + 1 <= right + 1
        assert top - 1 <= rows.min() <= rows.max() + 1 <= bottom + 1
        if degrees == 20:
            assert right - left < 24 + 12 + 6


@pytest.mark.parametrize("fit", ["native", "letterbox"])
def test_the_box_of_a_turned_ellipse_stays_tight(fit):
    image = np.zeros((128, 128, 3), np.uint8)
    cv2.ellipse(image, (64, 60), (32, 12), 0, 0, 360, (255, 255, 255), -1, cv2.LINE_AA)
    box = np.array([[32, 48, 97, 73]], np.float32)
    piece = Piece(image, box, np.zeros(1, int), np.zeros(1, bool))
    chosen = dataclasses.replace(
        PLAIN, fit=fit, degrees=180, shear=10, symmetries="none", warped_boxes="ellipse"
    )
    looser = dataclasses.replace(chosen, warped_boxes="corners")
    areas = []
    for seed in range(12):
        sample, _ = arrange([piece], chosen, np.random.default_rng(seed))
        rows, columns = np.nonzero((sample.image > 180).all(axis=2))
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(sample.boxes[0], seen, atol=1.6)
        loose, _ = arrange([piece], looser, np.random.default_rng(seed))
        areas.append(area(loose.boxes)[0] / area(sample.boxes)[0])
    assert min(areas) > 0.99
    assert max(areas) > 1.3


def test_a_share_of_the_samples_is_turned():
    piece = coloured(128, 128)
    plain = dataclasses.replace(PLAIN, symmetries="none")

    def turned(share):
        chosen = dataclasses.replace(plain, degrees=20, warp_prob=share)
        made = (arrange([piece], chosen, np.random.default_rng(seed))[0] for seed in range(60))
        return sum(not np.array_equal(sample.image, piece.image) for sample in made)

    assert turned(0) == 0
    assert 8 < turned(0.3) < 30
    assert turned(1) == 60


def test_letterbox_fits_the_longer_side_and_pads_the_rest():
    piece = coloured(60, 256)
    chosen = dataclasses.replace(PLAIN, fit="letterbox", symmetries="none")
    sample, counts = arrange([piece], chosen, np.random.default_rng())
    assert (sample.image[:49] == PAD).all()
    assert (sample.image[79:] == PAD).all()
    assert not (sample.image[49:79] == PAD).all(axis=2).any()
    np.testing.assert_allclose(sample.boxes, piece.boxes / 2 + [0, 49, 0, 49], atol=1e-4)
    assert counts.kept == len(piece.boxes)


def test_letterbox_mosaic_has_the_four_around_its_centre():
    images = [np.full((64, 64, 3), 10 + number, np.uint8) for number in range(4)]
    none = np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool)
    chosen = dataclasses.replace(PLAIN, fit="letterbox", symmetries="none", translate=0.1)
    whole = 0
    for seed in range(20):
        pieces = [Piece(image, *none) for image in images]
        sample, _ = letterboxed(pieces, chosen, np.random.default_rng(seed))
        for number in range(4):
            rows, columns = np.nonzero(sample.image[..., 0] == 10 + number)
            if rows.size:
                own = sample.image[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1]
                assert (own == 10 + number).all()
        top, bottom = sample.image[..., 0] < 12, sample.image[..., 0] >= 12
        if top.any() and bottom.any():
            assert (
                np.nonzero(top)[0].max() < np.nonzero(bottom & (sample.image[..., 0] < 50))[0].min()
            )
            whole += 1
    assert whole > 10


def test_translation_moves_the_content_and_no_further_than_it_says():
    piece = coloured(128, 128)
    chosen = dataclasses.replace(PLAIN, fit="letterbox", symmetries="none", translate=0.1)
    shifts = []
    for seed in range(30):
        sample, _ = arrange([piece], chosen, np.random.default_rng(seed))
        first = sample.labels == 5
        shifts.append(sample.boxes[first][0, 2:] - piece.boxes[5, 2:])
    assert np.abs(shifts).max() <= 0.1 * 128 + 1
    assert np.std(shifts) == pytest.approx(0.2 * 128 / np.sqrt(12), rel=0.3)


def test_horizontal_never_turns_upside_down():
    image = np.zeros((128, 128, 3), np.uint8)
    image[:20, :40] = 200
    none = np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0, bool)
    chosen = dataclasses.replace(PLAIN, symmetries="horizontal")
    places = set()
    for seed in range(20):
        sample, _ = arrange([Piece(image, *none)], chosen, np.random.default_rng(seed))
        places.add(tuple(int(sample.image[y, x, 0]) for y in (0, 127) for x in (0, 127)))
    assert places == {(200, 0, 0, 0), (0, 200, 0, 0)}


def test_dropped_boxes_are_background_and_counted_and_crowds_stay():
    boxes = np.array([[-8, 0, 1, 10], [-2, 20, 8, 30], [50, 50, 51, 60], [90, 90, 91, 91]])
    image = np.zeros((128, 128, 3), np.uint8)
    crowd = np.array([False, False, False, True])
    piece = Piece(image, boxes.astype(np.float32), np.arange(4), crowd)
    asked = {"min_box_px": 2, "min_visibility": 0.5, "symmetries": "none"}
    ignoring = dataclasses.replace(PLAIN, **asked)
    dropping = dataclasses.replace(ignoring, cut_boxes="drop")
    kept, counted = arrange([piece], ignoring, np.random.default_rng())
    left, also_counted = arrange([piece], dropping, np.random.default_rng())
    assert (counted.kept, counted.cut, counted.small) == (1, 1, 1)
    assert counted == also_counted
    assert kept.crowd.tolist() == [True, False, True, True]
    assert left.labels.tolist() == [1, 3]
    assert left.crowd.tolist() == [False, True]


@pytest.mark.parametrize("broad", [6, 12, 23, 24])
def test_a_turned_rectangle_with_rounded_corners_gets_the_best_box_as_rounded(broad):
    """Such as a vehicle, its corners cut off by a quarter of its breadth; a square as a disc."""
    length = 24
    halves = np.array([length, broad]) / 2
    cut = broad / 4 if broad < 20 else broad / 2
    angles = np.linspace(0, 2 * np.pi, 400)
    round_ = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    outline = np.sign(round_) * (halves - cut) + cut * round_
    box = np.array([[*-halves, *halves]])
    mean = {}
    for shape in ("ellipse", "rounded", "corners"):
        overlaps = []
        for degrees in range(-45, 46, 5):
            cos, sin = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
            warp = Warp(np.array([[cos, -sin], [sin, cos]]), np.zeros(2))
            seen = warp.points(outline)
            truth = np.concatenate([seen.min(axis=0), seen.max(axis=0)])[None]
            overlaps.append(pairwise_iou(warp.boxes(box, shape), truth)[0, 0])
        mean[shape] = float(np.mean(overlaps))
    assert mean["rounded"] >= max(mean.values()) - 0.01
    if broad < 20:
        assert mean["rounded"] > mean["ellipse"] + 0.1
