"""Pasted objects lie on their pixels, cover nothing, and are of classes that are known there."""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
import pytest

from rstinynet.boxes import pairwise_iou
from rstinynet.data.augment import AugmentSettings
from rstinynet.data.dataset import TrainingSet
from rstinynet.data.folder import open_split
from rstinynet.data.image import PAD
from rstinynet.data.paste import POOL, PasteBank
from rstinynet.data.pieces import Piece
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import UsageError

PLAIN = AugmentSettings(
    imgsz=128,
    mosaic_prob=0,
    scale=(1, 1),
    hsv=(0, 0, 0),
    grey_prob=0,
    contrast_prob=0,
    blur_prob=0,
    noise_prob=0,
    paste_prob=1.0,
    min_box_px=1,
)


@pytest.fixture
def squares(tmp_path):
    """Images of dark grey ground, with white objects of class 0 and green ones of class 1."""
    make_synthetic(tmp_path, images=3, size=128)
    labelled = open_split(tmp_path, "train")
    images = []
    for number, image in enumerate(labelled.images):
        pixels = np.full((128, 128, 3), 3, np.uint8)
        boxes = np.array([[10, 12, 20, 20], [60, 60, 68, 72], [100, 30, 106, 36]], np.float32)
        labels = np.array([0, 1, 1])
        for (left, top, right, bottom), label in zip(boxes.astype(int), labels, strict=True):
            pixels[top:bottom, left:right] = (0, 255, 0) if label else 255
        cv2.imwrite(str(image.path), pixels[..., ::-1])
        images.append(
            dataclasses.replace(
                image,
                boxes=boxes,
                labels=labels,
                areas=np.full(3, 80.0),
                crowd=np.array([False, False, number == 0]),
            )
        )
    return dataclasses.replace(labelled, images=tuple(images))


def test_pasted_objects_are_on_their_pixels_and_cover_nothing(squares):
    samples = TrainingSet(squares, PLAIN, 1)
    pasted = 0
    for epoch in range(12):
        for index in range(3):
            sample = samples.sample(epoch, index)
            pasted += sample.counts.pasted
            everything = np.concatenate([sample.boxes, sample.crowds])
            assert len(sample.boxes) == sample.counts.kept + sample.counts.pasted
            overlaps = pairwise_iou(everything, everything) - np.eye(len(everything))
            assert overlaps.max() < 1e-6
            for box, label in zip(sample.boxes, sample.labels, strict=True):
                left, top, right, bottom = box.astype(int)
                inside = sample.image[top:bottom, left:right]
                # On grey ground a pasted object is grey too.
                seen = [(0, 255, 0), 150] if label else [255]
                assert any((inside == value).all() for value in seen)
            assert (sample.boxes >= 0).all()
            assert (sample.boxes <= 128).all()
    assert pasted > 50


@pytest.mark.parametrize("fit", ["native", "letterbox"])
def test_partly_labelled_images_lend_only_to_those_that_know_the_same(tmp_path, fit):
    make_synthetic(tmp_path, images=8, size=96, partial=True)
    settings = dataclasses.replace(PLAIN, imgsz=96, fit=fit, paste_px=40, scale=(0.5, 1))
    samples = TrainingSet(open_split(tmp_path, "train"), settings)
    pasted = 0
    for index in range(len(samples)):
        sample = samples.sample(0, index)
        assert sample.known[sample.labels].all()
        pasted += sample.counts.pasted
    assert pasted


def test_across_groups_go_only_classes_that_are_unknown_there(tmp_path):
    make_synthetic(tmp_path, images=8, size=96, partial=True)
    labelled = open_split(tmp_path, "train")
    absent = np.ones_like(labelled.images[0].known)
    # The last image knows every class, and has nothing: none may come to it.
    last = dataclasses.replace(
        labelled.images[-1],
        known=absent,
        exhaustive=absent,
        boxes=np.zeros((0, 4), np.float32),
        labels=np.zeros(0, np.int64),
        areas=np.zeros(0),
        crowd=np.zeros(0, np.bool_),
    )
    labelled = dataclasses.replace(labelled, images=(*labelled.images[:-1], last))
    settings = dataclasses.replace(
        PLAIN, imgsz=96, paste_px=40, scale=(0.5, 1), paste_across=("all",), focus_prob=0
    )
    samples = TrainingSet(labelled, settings)
    unknown = same = 0
    for epoch in range(4):
        for index in range(len(samples)):
            sample = samples.sample(epoch, index)
            if sample.id == last.id:
                assert not len(sample.labels)
                continue
            there = sample.known[sample.labels]
            unknown += int((~there).sum())
            same += int(there.sum())
            assert sample.counts.pasted >= (~there).sum()
    assert unknown
    assert same


def test_across_groups_go_only_the_classes_that_are_named(tmp_path):
    make_synthetic(tmp_path, images=8, size=96, partial=True)
    labelled = open_split(tmp_path, "train")
    chosen = labelled.names[1]
    settings = dataclasses.replace(PLAIN, imgsz=96, paste_px=40, paste_across=(chosen,))
    samples = TrainingSet(labelled, settings)
    unknown = []
    for epoch in range(4):
        for index in range(len(samples)):
            sample = samples.sample(epoch, index)
            unknown += sample.labels[~sample.known[sample.labels]].tolist()
    assert set(unknown) == {1}
    wrong = dataclasses.replace(settings, paste_across=(chosen, "train"))
    with pytest.raises(UsageError, match=f"'train'; the training set's classes are .*{chosen}"):
        TrainingSet(labelled, wrong)
    with pytest.raises(UsageError, match="'all'"):
        TrainingSet(labelled, dataclasses.replace(settings, paste_across=("all", chosen)))
    with pytest.raises(UsageError, match="paste_across does nothing without a paste_prob"):
        dataclasses.replace(settings, paste_prob=0)


def test_a_crowded_or_padded_sample_and_a_set_without_objects_get_nothing(squares):
    nothing = np.zeros(0, np.int64)
    empty = np.zeros((0, 4), np.float32)
    grey = np.full((128, 128, 3), PAD, np.uint8)
    full = Piece(
        grey * 0, np.array([[0, 0, 128, 128]], np.float32), np.zeros(1, int), np.ones(1, bool)
    )
    padded = Piece(grey, empty, nothing, nothing.astype(bool))
    bank = PasteBank(squares, PLAIN, groups=[0, 0, 0], read=lambda row: grey, seed=0)
    for sample in (full, padded):
        result, count = bank.paste(sample, 0, PLAIN, np.random.default_rng())
        assert count == 0
        np.testing.assert_array_equal(result.image, sample.image)
    small = dataclasses.replace(PLAIN, paste_px=3)
    bank = PasteBank(squares, small, groups=[0, 0, 0], read=lambda row: grey, seed=0)
    assert bank.paste(padded, 0, small, np.random.default_rng())[1] == 0


def test_grey_ground_with_pixels_of_the_paddings_level_is_ground(squares):
    rng = np.random.default_rng(0)
    grey = np.clip(rng.normal(PAD, 25, (128, 128, 1)), 0, 255).astype(np.uint8).repeat(3, axis=2)
    alike = (grey == PAD).all(axis=2)
    assert alike.mean() > 0.01  # so that hardly any place of an object's size is free of them
    nothing = Piece(grey, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    read = {row: cv2.imread(str(image.path)) for row, image in enumerate(squares.images)}
    bank = PasteBank(squares, PLAIN, groups=[0, 0, 0], read=lambda row: read[row], seed=0)
    assert sum(bank.paste(nothing, 0, PLAIN, rng)[1] for _ in range(20)) > 20


@pytest.mark.parametrize("level", [PAD, 0])
def test_no_object_reaches_into_padding_or_black(squares, level):
    grey = np.full((128, 128, 3), 90, np.uint8)
    grey[:, 40:] = level
    half = Piece(grey, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    read = {row: cv2.imread(str(image.path)) for row, image in enumerate(squares.images)}
    bank = PasteBank(squares, PLAIN, groups=[0, 0, 0], read=lambda row: read[row], seed=0)
    rng, pasted = np.random.default_rng(1), 0
    for _ in range(20):
        result, count = bank.paste(half, 0, PLAIN, rng)
        pasted += count
        assert (result.image[:, 40:] == level).all()
    assert pasted > 0


@pytest.mark.parametrize("ground", ["noise", "flat", "shadows", "colour"])
def test_dark_ground_is_ground(squares, ground):
    rng = np.random.default_rng(0)
    pixels = np.zeros((128, 128, 3), np.uint8)
    if ground == "noise":
        pixels[:] = rng.integers(0, 2, (128, 128, 1))
    elif ground == "flat":
        pixels[:] = 1
    elif ground == "shadows":  # of 6 pixels a side
        pixels[::7] = pixels[:, ::7] = 2
    else:
        pixels[..., 2] = 1
    dark = Piece(pixels, np.zeros((0, 4), np.float32), np.zeros(0, np.int64), np.zeros(0, bool))
    read = {row: cv2.imread(str(image.path)) for row, image in enumerate(squares.images)}
    bank = PasteBank(squares, PLAIN, groups=[0, 0, 0], read=lambda row: read[row], seed=0)
    assert sum(bank.paste(dark, 0, PLAIN, rng)[1] for _ in range(20)) > 20


def test_the_pool_is_bounded_and_each_object_is_read_once(squares):
    image = squares.images[0]
    grid = np.array([[x, y, x + 4, y + 4] for x in range(4, 600, 16) for y in range(4, 600, 16)])
    count = len(grid)
    assert count > POOL
    image = dataclasses.replace(
        image,
        width=640,
        height=640,
        boxes=grid.astype(np.float32),
        labels=np.zeros(count, int),
        areas=np.full(count, 16.0),
        crowd=np.zeros(count, bool),
    )
    read = []

    def pixels(row):
        read.append(row)
        return np.full((640, 640, 3), 9, np.uint8)

    labelled = dataclasses.replace(squares, images=(image,))
    bank = PasteBank(labelled, PLAIN, groups=[0], read=pixels, seed=0)
    empty = Piece(
        np.full((128, 128, 3), 9, np.uint8),
        grid[:0].astype(np.float32),
        np.zeros(0, int),
        np.zeros(0, bool),
    )
    rng = np.random.default_rng(0)
    total = sum(bank.paste(empty, 0, PLAIN, rng)[1] for _ in range(800))
    assert total > 2000
    assert 400 < len(read) <= POOL


@pytest.fixture
def bars(squares):
    """One image of class 0's bright bars, one of class 1's; each knows its own class only."""
    images = []
    for label, image in enumerate(squares.images[:2]):
        pixels = np.full((128, 128, 3), 100, np.uint8)
        boxes = np.array([[20, 20, 38, 28], [60, 60, 78, 68], [90, 20, 108, 28]], np.float32)
        boxes = np.concatenate([boxes, [[20, 90, 32, 102]]]).astype(np.float32)
        for left, top, right, bottom in boxes.astype(int):
            pixels[top - 5 : bottom + 5, left - 5 : right + 5] = 140
            pixels[top:bottom, left:right] = 255
        cv2.imwrite(str(image.path), pixels)
        known = np.arange(len(squares.categories)) == label
        images.append(
            dataclasses.replace(
                image,
                boxes=boxes,
                labels=np.full(4, label),
                areas=np.full(4, 144.0),
                crowd=np.zeros(4, bool),
                known=known,
                exhaustive=known,
            )
        )
    return dataclasses.replace(squares, images=tuple(images))


def pasted_on_grey(labelled, count=60, **changes):
    """Samples of grey ground of level 100 in group 1, with what was pasted on them."""
    settings = dataclasses.replace(
        PLAIN, paste_max=1, paste_across=(labelled.names[0],), symmetries="none", **changes
    )
    read = {row: cv2.imread(str(image.path)) for row, image in enumerate(labelled.images)}
    bank = PasteBank(labelled, settings, groups=[0, 1], read=read.__getitem__, seed=0)
    nothing = np.zeros(0, np.int64)
    ground = Piece(
        np.full((128, 128, 3), 100, np.uint8),
        np.zeros((0, 4), np.float32),
        nothing,
        nothing.astype(bool),
    )
    samples = [bank.paste(ground, 1, settings, np.random.default_rng(n))[0] for n in range(count)]
    assert all(len(sample.boxes) == 1 for sample in samples)
    return samples


def sides_of(sample):
    return tuple((sample.boxes[0, 2:] - sample.boxes[0, :2]).round(3))


def test_only_classes_that_go_across_are_turned_cut_close_and_shaded(bars):
    plain = pasted_on_grey(bars)
    assert {int(sample.labels[0]) for sample in plain} == {0, 1}
    assert {sides_of(sample) for sample in plain} == {(18, 8), (12, 12)}
    assert all((sample.image >= 100).all() for sample in plain)

    turned = pasted_on_grey(bars, paste_degrees=180)
    own = {sides_of(sample) for sample in turned if sample.labels[0] == 1}
    across = {sides_of(sample) for sample in turned if sample.labels[0] == 0}
    assert own == {(18, 8), (12, 12)}
    # The square one, which may be a bar that stands aslant, is not among them.
    assert len(across) > 10
    assert max(max(sides) for sides in across) > 17
    assert all(sum(sides) > 25 for sides in across)

    close = pasted_on_grey(bars, paste_fade_px=1.0)
    rims = {0: [], 1: []}
    for sample in close:
        rims[int(sample.labels[0])].append(int(((sample.image > 101) & (sample.image < 250)).sum()))
    assert max(rims[0]) < min(rims[1])

    for sample in pasted_on_grey(bars, paste_tone=(0.25, 0.28)):
        left, top, right, bottom = sample.boxes[0].astype(int)
        inside = sample.image[top:bottom, left:right]
        least, most = (63, 72) if sample.labels[0] == 0 else (255, 255)
        assert least <= inside.min() <= inside.max() <= most

    shaded = pasted_on_grey(bars, paste_shadow_prob=1.0)
    for sample in shaded:
        left, top, right, bottom = sample.boxes[0].astype(int)
        assert (sample.image[top:bottom, left:right] == 255).all()
        assert (sample.image.min() < 100) == (sample.labels[0] == 0)


@pytest.mark.parametrize("degrees", [0, 180])
def test_a_decoy_comes_with_each_object_of_a_known_class_and_is_no_object(bars, degrees):
    both = np.ones(len(bars.categories), bool)
    whole = [dataclasses.replace(image, known=both, exhaustive=both) for image in bars.images]
    known = dataclasses.replace(bars, images=tuple(whole))
    how = {"paste_fade_px": 1.0, "paste_degrees": degrees, "paste_onto": bars.names[:2]}
    decoys = {0: 0, 1: 0}
    tones = []
    plain = pasted_on_grey(known, **how)
    for sample, without in zip(
        pasted_on_grey(known, **how, paste_decoy_prob=1.0), plain, strict=True
    ):
        np.testing.assert_array_equal(sample.boxes, without.boxes)
        rows, columns = np.nonzero((sample.image != without.image).any(axis=2))
        decoys[int(sample.labels[0])] += bool(len(rows))
        if not len(rows):
            continue
        left, top, right, bottom = sample.boxes[0]
        beside = (rows + 1 <= top) | (rows >= bottom) | (columns + 1 <= left) | (columns >= right)
        assert beside.all()
        # An 18 by 8 bar's length, or its diagonal, and a pixel or two of fading edge.
        assert max(np.ptp(rows), np.ptp(columns)) <= (24 if degrees else 20)
        tones.append(int(sample.image[rows, columns].max()))
    objects = sum(int(sample.labels[0]) == 0 for sample in plain)
    # Some keep the ground's own tone, where another would hardly be seen, and so are not seen.
    assert objects / 2 < decoys[0] <= objects
    assert decoys[1] == 0
    assert min(tones) < 100 < max(tones)


def test_no_decoy_is_laid_where_the_class_is_not_known(bars):
    how = {"paste_fade_px": 1.0}
    assert not bars.images[1].known[0]
    for sample, without in zip(
        pasted_on_grey(bars, **how, paste_decoy_prob=1.0), pasted_on_grey(bars, **how), strict=True
    ):
        np.testing.assert_array_equal(sample.image, without.image)


def test_a_named_class_goes_where_it_is_absent_only_onto_images_of_named_classes(bars):
    first, second = bars.names[:2]
    both = np.ones(len(bars.categories), bool)
    whole = dataclasses.replace(bars.images[1], known=both, exhaustive=both)
    labelled = dataclasses.replace(bars, images=(bars.images[0], whole))
    settings = dataclasses.replace(PLAIN, paste_across=(first,), symmetries="none")

    def pasted(settings):
        samples = TrainingSet(labelled, dataclasses.replace(settings, focus_prob=0), 0)
        labels = [samples.sample(epoch, i) for epoch in range(20) for i in range(2)]
        return {int(label) for one in labels if one.id == whole.id for label in one.labels}

    assert pasted(settings) == {1}
    assert pasted(dataclasses.replace(settings, paste_onto=(second,))) == {0, 1}
    assert pasted(dataclasses.replace(settings, paste_onto=(first,))) == {1}
    with pytest.raises(UsageError, match="paste_onto names the class 'x'"):
        pasted(dataclasses.replace(settings, paste_onto=("x",)))
    with pytest.raises(UsageError, match="paste_onto says where"):
        dataclasses.replace(settings, paste_across=(), paste_onto=(second,))


def test_what_is_larger_than_the_sample_is_not_pasted(bars):
    settings = dataclasses.replace(
        PLAIN,
        imgsz=32,
        paste_px=40,
        paste_across=("all",),
        paste_degrees=180,
        paste_shadow_prob=1.0,
    )
    samples = TrainingSet(bars, settings, 0)
    for epoch in range(30):
        for index in range(2):
            assert samples.sample(epoch, index).image.shape == (32, 32, 3)


def test_turned_objects_with_shadows_lie_in_the_sample_and_cover_nothing_either(tmp_path):
    make_synthetic(tmp_path, images=8, size=96, partial=True)
    labelled = open_split(tmp_path, "train")
    settings = dataclasses.replace(
        PLAIN,
        imgsz=96,
        paste_px=40,
        paste_across=(labelled.names[1],),
        paste_degrees=180,
        paste_fade_px=1.0,
        paste_shadow_prob=1.0,
    )
    samples = TrainingSet(labelled, settings, 3)
    pasted = 0
    for index in range(len(samples)):
        sample = samples.sample(0, index)
        pasted += sample.counts.pasted
        assert (sample.boxes >= 0).all()
        assert (sample.boxes <= 96).all()
        overlaps = pairwise_iou(sample.boxes, sample.boxes) - np.eye(len(sample.boxes))
        assert overlaps.max(initial=0) < 1e-6
    assert pasted
