"""A patch turned by any angle keeps its object in its box, and lays its shadow beside it."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rstinynet.data.augment_settings import AugmentSettings
from rstinynet.data.paste import _upright
from rstinynet.data.patch import Patch, Shadow
from rstinynet.data.pieces import Piece
from rstinynet.errors import UsageError

PASTE = AugmentSettings(paste_prob=1.0)


def bar(width: int = 18, height: int = 8, rim: int = 6) -> Piece:
    """A white bar on black ground."""
    image = np.zeros((height + 2 * rim, width + 2 * rim, 3), np.uint8)
    image[rim : rim + height, rim : rim + width] = 255
    box = np.array([[rim, rim, rim + width, rim + height]], np.float32)
    return Piece(image, box, np.array([2]), np.array([False]))


def extent(image: np.ndarray) -> np.ndarray:
    """(4,) XYXY of what is bright."""
    rows, columns = np.nonzero(image[..., 0] > 127)
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], float)


@settings(max_examples=60, deadline=None)
@given(degrees=st.floats(-180, 180), width=st.integers(6, 30), height=st.integers(6, 30))
def test_a_turned_object_fills_its_box(degrees, width, height):
    patch = Patch.of(bar(width, height)).turned(degrees)
    box, seen = patch.piece.boxes[0], extent(patch.piece.image)
    # The box lies between the turned ellipse's and the turned corners', which are what is seen.
    assert (box[:2] >= seen[:2] - 1.5).all()
    assert (box[2:] <= seen[2:] + 1.5).all()
    longer, shorter = max(width, height), min(width, height)
    assert (box[2:] - box[:2]).min() >= shorter - 0.01
    assert (box[2:] - box[:2]).max() <= np.hypot(longer, shorter)
    np.testing.assert_allclose((box[:2] + box[2:]) / 2, (seen[:2] + seen[2:]) / 2, atol=1)
    assert patch.piece.image.shape[:2] == patch.weight.shape == patch.body.shape


def test_quarter_turns_are_exact():
    piece = bar()
    for degrees, like in ((0, piece.image), (180, piece.image[::-1, ::-1])):
        np.testing.assert_array_equal(Patch.of(piece).turned(degrees).piece.image, like)
    upright = Patch.of(piece).turned(90)
    np.testing.assert_array_equal(upright.piece.image, np.rot90(piece.image, -1))
    np.testing.assert_allclose(upright.piece.boxes[0], [6, 6, 14, 24], atol=1e-4)


def test_a_turned_patch_has_nothing_in_the_corners_of_its_window():
    patch = Patch.of(bar(), fade_px=2).turned(45)
    assert patch.weight[[0, 0, -1, -1], [0, -1, 0, -1]].max() == 0
    ground = np.full((*patch.weight.shape, 3), 90, np.uint8)
    patch.lay(ground)
    assert (ground[[0, 0, -1, -1], [0, -1, 0, -1]] == 90).all()
    assert (np.linalg.norm(ground.astype(int) - 255, axis=2) < 5).sum() > 100


def test_a_square_object_takes_its_ellipse_and_a_long_one_more():
    square = Patch.of(bar(12, 12)).turned(45).piece.boxes[0]
    np.testing.assert_allclose(square[2:] - square[:2], 12, atol=1e-4)
    long = Patch.of(bar(24, 8)).turned(45).piece.boxes[0]
    corners, ellipse = 32 * np.sqrt(0.5), 2 * np.sqrt(0.5 * (12**2 + 4**2))
    np.testing.assert_allclose(long[2:] - long[:2], (corners + ellipse) / 2, atol=1e-4)


def test_the_rim_fades_out_over_all_of_it_or_over_a_few_pixels():
    whole, short = Patch.of(bar()), Patch.of(bar(), fade_px=1.5)
    middle = whole.weight.shape[0] // 2
    assert (np.diff(whole.weight[middle, :7]) > 0).all()
    assert (short.weight[middle, :4] == 0).all()
    assert (short.weight[middle, 6:24] == 1).all()
    ground = np.full((*short.weight.shape, 3), 90, np.uint8)
    short.lay(ground)
    assert (ground[:4] == 90).all()
    assert (ground[6:14, 6:24] == 255).all()


def test_a_shadow_lies_on_one_side_of_the_object_and_not_on_it():
    patch = Patch.of(bar(), fade_px=0.5).with_room(4)
    ground = np.full((*patch.weight.shape, 3), 100, np.uint8)
    patch.lay(ground, Shadow(0, 4, 0.5))
    left, top, right, bottom = patch.piece.boxes[0].astype(int)
    assert (ground[top:bottom, left:right] == 255).all()
    assert (ground[bottom + 1 : bottom + 3, left + 2 : right - 2] == 50).all()
    assert (ground[: top - 2] == 100).all()
    assert (ground[bottom + 7 :] == 100).all()
    assert ground.min() == 50


def test_of_elongated_classes_only_objects_along_their_box_are_turned():
    @dataclasses.dataclass
    class Donor:
        elongation: float

    long = [Donor(2.0), Donor(1.1), Donor(2.2)]
    round_ = [Donor(1.0), Donor(1.1)]
    pools = _upright({0: [(0, long), (1, round_)], 1: [(0, long)]}, {0, 1})
    assert pools == {0: [(0, [long[0], long[2]]), (1, round_)], 1: [(0, [long[0], long[2]])]}
    assert _upright({0: [(0, long)]}, {1}) == {0: [(0, long)]}
    other = {0: [(0, long)], 1: [(0, [Donor(1.2)])]}
    assert _upright(other, {0}) == {0: [(0, [long[0], long[2]])], 1: []}


def test_settings_of_pasting_are_checked():
    with pytest.raises(UsageError, match="paste_degrees must lie in"):
        dataclasses.replace(PASTE, paste_degrees=200)
    for value in (0, -1.0, float("nan")):
        with pytest.raises(UsageError, match="paste_fade_px must be positive"):
            dataclasses.replace(PASTE, paste_fade_px=value)
    for name in ("paste_shadow_prob", "paste_decoy_prob"):
        with pytest.raises(UsageError, match=f"{name} does nothing without a paste_prob"):
            dataclasses.replace(PASTE, paste_prob=0, **{name: 0.5})
    for value in ((0.0, 1.0), (1.2, 1.0), (1.0, 30.0), (float("nan"), 1.0)):
        with pytest.raises(UsageError, match="paste_tone must be"):
            dataclasses.replace(PASTE, paste_tone=value)
    with pytest.raises(UsageError, match="paste_tone does nothing without a paste_prob"):
        dataclasses.replace(PASTE, paste_prob=0, paste_tone=(0.5, 1.0))


def test_a_toned_object_is_darker_and_its_ground_as_it_was():
    patch = Patch.of(bar(), fade_px=0.5)
    ground = np.full((*patch.weight.shape, 3), 200, np.uint8)
    patch.toned(0.4, ground, contrast=25).lay(ground)
    left, top, right, bottom = patch.piece.boxes[0].astype(int)
    assert (ground[top:bottom, left:right] == 102).all()
    assert (ground[: top - 2] == 200).all()


def test_an_object_that_its_ground_would_hide_or_that_would_be_black_keeps_its_tone():
    patch = Patch.of(bar())
    ground = np.full((*patch.weight.shape, 3), 110, np.uint8)
    assert patch.toned(0.4, ground, contrast=25) is patch
    assert patch.toned(0.4, ground, contrast=5) is not patch
    assert patch.toned(0.3, ground, contrast=25) is not patch
    assert patch.toned(0.08, ground, contrast=25) is patch


def test_on_grey_ground_an_object_is_grey_and_a_grey_one_keeps_off_colours():
    coloured = bar()
    coloured.image[..., 0] //= 2
    coloured.image[..., 2] = 30
    patch = Patch.of(coloured)
    grey = np.full((*patch.weight.shape, 3), 90, np.uint8)
    green = grey.copy()
    green[..., 1] = 120
    assert patch.like(green) is patch
    laid = patch.like(grey)
    assert laid is not None
    assert np.ptp(laid.piece.image, axis=2).max() == 0
    assert laid.piece.image[10, 10, 0] > laid.piece.image[0, 0, 0] + 100
    np.testing.assert_array_equal(laid.piece.boxes, patch.piece.boxes)
    assert laid.like(green) is None
    assert laid.like(grey + np.array([0, 1, 2], np.uint8)) is not None  # what JPEG leaves of grey
