"""The criterion: hand values, invariances, partial labels, crowds, nothing to find."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from rstinynet.errors import DataError, UsageError
from rstinynet.loss import Criterion, Losses, LossSettings, Targets
from rstinynet.model.decode import decode

STRIDES = (4, 8, 16)
CLASSES = 3
SIDE = 64


def random_maps(seed: int, images: int = 2, *, class_bias: float = -3.0) -> list[Tensor]:
    rng = torch.Generator().manual_seed(seed)
    maps = []
    for stride in STRIDES:
        level = torch.randn(images, 64 + CLASSES, SIDE // stride, SIDE // stride, generator=rng)
        level[:, 64:] += class_bias
        maps.append(level.requires_grad_())
    return maps


def make_targets(boxes: list[list[list[float]]], labels: list[list[int]]) -> Targets:
    return Targets(
        boxes=[torch.tensor(image).reshape(-1, 4).float() for image in boxes],
        labels=[torch.tensor(image, dtype=torch.int64) for image in labels],
        known=torch.ones(len(boxes), CLASSES, dtype=torch.bool),
        ignore=[torch.zeros(0, 4) for _ in boxes],
    )


def two_images() -> Targets:
    return make_targets(
        [
            [[3, 3, 7, 6], [20, 20, 44, 36], [50, 9, 55, 15]],
            [[30, 40, 36, 45]],
        ],
        [[0, 1, 2], [1]],
    )


def gradients(losses: Losses, maps: list[Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(losses.total, maps))


def test_one_box_one_anchor_equals_a_hand_calculation() -> None:
    """All logits 0: every side is 7.5 strides, every class score one half."""
    options = replace(LossSettings.yolo11(), topk=1)
    maps = [torch.zeros(1, 64 + CLASSES, 4, 4)]
    # Centre (12, 12) at stride 8 predicts (-48, -48, 72, 72); the box is its middle third.
    targets = make_targets([[[-8, -8, 32, 32]]], [[1]])
    losses = Criterion((8,), CLASSES, options)(maps, targets)
    iou = 1600 / 14400
    bce = 16 * CLASSES * math.log(2)  # a logit of 0 costs log 2 whatever the target
    # The side is 20 px = 2.5 strides: half on bin 2, half on bin 3, each of probability 1/16.
    assert losses.cls.item() == pytest.approx(0.5 * bce, rel=1e-5)
    assert losses.box.item() == pytest.approx(7.5 * (1 - iou) * iou, rel=1e-4)
    assert losses.dfl.item() == pytest.approx(1.5 * math.log(16) * iou, rel=1e-4)
    total = losses.box + losses.cls + losses.dfl
    assert losses.total.item() == pytest.approx(total.item())


def test_total_is_the_sum_times_the_images_and_gains_scale_their_term() -> None:
    maps, targets = random_maps(0), two_images()
    plain = Criterion(STRIDES, CLASSES)(maps, targets)
    parts = plain.box + plain.cls + plain.dfl
    assert plain.total.item() == pytest.approx(2 * parts.item(), rel=1e-6)
    doubled = LossSettings(box_gain=15, cls_gain=1, dfl_gain=0)
    changed = Criterion(STRIDES, CLASSES, doubled)(maps, targets)
    assert changed.box.item() == pytest.approx(2 * plain.box.item())
    assert changed.cls.item() == pytest.approx(2 * plain.cls.item())
    assert changed.dfl.item() == 0


@pytest.mark.parametrize("options", [LossSettings(), LossSettings.yolo11()])
def test_order_of_images_and_boxes_does_not_matter(options: LossSettings) -> None:
    maps, targets = random_maps(1), two_images()
    criterion = Criterion(STRIDES, CLASSES, options)
    straight = criterion(maps, targets)
    turned_maps = [level.detach().flip(0).requires_grad_() for level in maps]
    turned_targets = Targets(
        boxes=[boxes.flip(0) for boxes in reversed(targets.boxes)],
        labels=[labels.flip(0) for labels in reversed(targets.labels)],
        known=targets.known.flip(0),
        ignore=targets.ignore[::-1],
    )
    turned = criterion(turned_maps, turned_targets)
    for first, second in zip(straight, turned, strict=True):
        assert first.item() == pytest.approx(second.item(), rel=1e-5)
    pairs = zip(gradients(straight, maps), gradients(turned, turned_maps), strict=True)
    for first, second in pairs:
        torch.testing.assert_close(first, second.flip(0), rtol=1e-4, atol=1e-5)


def test_unknown_class_has_a_class_gradient_at_its_boxes_only() -> None:
    maps, targets = random_maps(2), two_images()
    targets.known[0, 1] = False
    losses = Criterion(STRIDES, CLASSES)(maps, targets)
    own = 0
    for level, stride in zip(gradients(losses, maps), STRIDES, strict=True):
        y, x = level[0, 64 + 1].nonzero(as_tuple=True)
        own += len(x)
        # The box of class 1 is (20, 20, 44, 36).
        assert ((x + 0.5) * stride > 20).all()
        assert ((x + 0.5) * stride < 44).all()
        assert ((y + 0.5) * stride > 20).all()
        assert ((y + 0.5) * stride < 36).all()
        assert level[0, 64].ne(0).all()
        assert level[1, 64 + 1].ne(0).all()
    assert 0 < own <= LossSettings().topk


SWITCHES = st.fixed_dictionaries(
    {
        "min_candidate_px": st.sampled_from([0.0, 8.0, 20.0]),
        "nearest_fallback": st.booleans(),
        "score_floor": st.sampled_from([0.0, 0.1]),
        "nwd_weight": st.sampled_from([0.0, 0.5, 1.0]),
        "metric": st.sampled_from(["overlap", "simd"]),
        "candidates": st.sampled_from(["inside", "receptive_field"]),
        "box_loss": st.sampled_from(["ciou", "giou"]),
        "cls_loss": st.sampled_from(["bce", "varifocal"]),
        "class_weights": st.sampled_from(["equal", "inverse", (3.0, 0.5, 1.0)]),
        "exclusive_classes": st.booleans(),
        "topk": st.sampled_from([1, 10]),
    }
)


@settings(max_examples=40, deadline=None)
@given(SWITCHES, st.integers(0, 10**6))
def test_unknown_classes_are_never_background_under_any_switch(
    switches: dict[str, Any], seed: int
) -> None:
    rng = torch.Generator().manual_seed(seed)
    options = LossSettings(simd_scale=(6.0, 6.0), **switches)
    maps = random_maps(seed, 2, class_bias=0.0)
    corners = torch.rand(2, 4, 2, generator=rng) * 40
    boxes = torch.cat([corners, corners + 2 + 20 * torch.rand(2, 4, 2, generator=rng)], dim=2)
    labels = torch.randint(CLASSES, (2, 4), generator=rng)
    targets = Targets(
        boxes=list(boxes),
        labels=list(labels),
        known=torch.rand(2, CLASSES, generator=rng) < 0.5,
        ignore=[torch.zeros(0, 4), torch.tensor([[0.0, 0, 20, 20]])],
    )
    criterion = Criterion(STRIDES, CLASSES, options, class_boxes=(900, 30, 0))
    losses = criterion(maps, targets)
    assert losses.total.isfinite()
    # Every weight is positive, so that a class that is counted has a gradient.
    found = torch.cat([level[:, 64:].flatten(2) for level in gradients(losses, maps)], dim=2)
    touched = found.ne(0).sum(2)
    most = options.topk if options.candidates == "inside" else options.field_topk + 1
    for image in range(2):
        for label in range(CLASSES):
            if targets.known[image, label]:
                assert touched[image, label] > most * 4
                continue
            own = int((targets.labels[image] == label).sum())
            standing = 4 if options.exclusive_classes else own
            assert touched[image, label] <= standing * most
            if not standing:
                assert touched[image, label] == 0


@pytest.mark.parametrize(
    "options",
    [
        LossSettings(metric="simd", simd_scale=(6.0, 6.0)),
        LossSettings(candidates="receptive_field"),
        LossSettings(box_loss="giou"),
        LossSettings(cls_loss="varifocal"),
        LossSettings(class_weights=(1.0, 2.0, 3.0)),
    ],
)
def test_every_switch_changes_the_loss_and_learns(options: LossSettings) -> None:
    maps, targets = random_maps(0), two_images()
    plain = Criterion(STRIDES, CLASSES)(maps, targets)
    assert Criterion(STRIDES, CLASSES, options)(maps, targets).total != plain.total
    assert fitted_overlap([11.0, 30.0, 19.0, 38.0], options, 100) > 0.5


def test_a_class_weight_scales_its_class_term_alone() -> None:
    maps, targets = random_maps(0), two_images()
    parts = [
        Criterion(STRIDES, CLASSES, LossSettings(class_weights=weights))(maps, targets)
        for weights in ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))
    ]
    mixed = Criterion(STRIDES, CLASSES, LossSettings(class_weights=(2.0, 0.5, 3.0)))(maps, targets)
    expected = 2 * parts[0].cls + 0.5 * parts[1].cls + 3 * parts[2].cls
    assert mixed.cls.item() == pytest.approx(expected.item(), rel=1e-5)
    assert mixed.box.item() == pytest.approx(parts[0].box.item())
    assert mixed.dfl.item() == pytest.approx(parts[0].dfl.item())


def test_varifocal_sum_equals_a_loop_over_all_anchors() -> None:
    maps, targets = random_maps(8, 1), make_targets([[]], [[]])
    options = LossSettings(cls_loss="varifocal", varifocal_alpha=0.5, varifocal_gamma=2)
    losses = Criterion(STRIDES, CLASSES, options)(maps, targets)
    scores = decode([level.detach() for level in maps], STRIDES)[1].flatten().tolist()
    expected = sum(-0.5 * p * p * math.log(1 - p) for p in scores)
    assert losses.cls.item() == pytest.approx(0.5 * expected, rel=1e-4)


def test_an_exclusive_object_is_of_no_unknown_class() -> None:
    maps, targets = random_maps(2), make_targets([[[20, 20, 44, 36]]], [[1]])
    maps = [level[:1].detach().requires_grad_() for level in maps]
    targets.known[0, 2] = False
    open_, exclusive = LossSettings(), LossSettings(exclusive_classes=True)
    touched = {}
    for options in (open_, exclusive):
        losses = Criterion(STRIDES, CLASSES, options)(maps, targets)
        unknown = [level[0, 64 + 2] for level in gradients(losses, maps)]
        touched[options] = sum(int(level.ne(0).sum()) for level in unknown)
        assert all((level >= 0).all() for level in unknown)
    assert touched[open_] == 0
    assert 0 < touched[exclusive] <= exclusive.topk


def test_a_class_not_exhaustively_labelled_learns_its_labelled_objects() -> None:
    maps = [torch.full((1, 64 + CLASSES, SIDE // s, SIDE // s), -4.0) for s in STRIDES]
    maps = [level.requires_grad_() for level in maps]
    targets = make_targets([[[20, 20, 28, 28]]], [[1]])
    targets.known[0, 1] = False
    optimizer = torch.optim.Adam(maps, lr=0.2)
    for _ in range(40):
        optimizer.zero_grad()
        Criterion(STRIDES, CLASSES)(maps, targets).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    scores = decode([level.detach() for level in maps], STRIDES)[1][0]
    assert scores[:, 1].max() > 0.5
    assert scores[:, [0, 2]].max() < 0.02


def test_a_wrong_detection_of_an_unknown_class_costs_nothing() -> None:
    maps, targets = random_maps(3), two_images()
    targets.known[1, 2] = False
    before = Criterion(STRIDES, CLASSES)(maps, targets)
    with torch.no_grad():
        maps[0][1, 64 + 2] += 9
    after = Criterion(STRIDES, CLASSES)(maps, targets)
    assert after.total.item() == before.total.item()


def test_a_region_between_all_centres_silences_the_nearest_ones() -> None:
    maps, targets = random_maps(4, 1), make_targets([[]], [[]])
    # 2 px about (36, 36): no centre of stride 4, 8 or 16 lies in it.
    targets.ignore[0] = torch.tensor([[35.0, 35, 37, 37]])
    finest = gradients(Criterion(STRIDES, CLASSES)(maps, targets), maps)[0][0, 64:]
    assert not finest[:, 8:10, 8:10].any()
    assert (finest == 0).sum() == 4 * CLASSES


def test_ignored_region_silences_its_background_and_keeps_its_boxes() -> None:
    maps, targets = random_maps(4), two_images()
    # The left half of the first image, which holds a box at (3, 3, 7, 6).
    targets.ignore[0] = torch.tensor([[0.0, 0, 32, 64]])
    losses = Criterion(STRIDES, CLASSES)(maps, targets)
    both = gradients(losses, maps)[0][:, 64:]
    finest = both[0]
    assert not finest[:, 12:, :5].any()  # background in the region, far from any box
    assert finest[:, 1, 1].ne(0).all()  # the cell around (6, 6) stands for the box
    assert finest[:, :, 8:].ne(0).all()
    assert both[1].ne(0).all()


@pytest.mark.parametrize("options", [LossSettings(), LossSettings.yolo11()])
def test_nothing_to_find_is_a_finite_loss(options: LossSettings) -> None:
    maps, targets = random_maps(5), make_targets([[], []], [[], []])
    losses = Criterion(STRIDES, CLASSES, options)(maps, targets)
    assert losses.box.item() == 0
    assert losses.dfl.item() == 0
    assert losses.cls.item() > 0
    for level in gradients(losses, maps):
        assert level.isfinite().all()
        assert not level[:, :64].any()
        assert (level[:, 64:] > 0).all()  # every score must fall


def test_one_image_without_boxes_beside_one_with() -> None:
    maps, targets = random_maps(6), make_targets([[], [[8, 8, 12, 12]]], [[], [2]])
    losses = Criterion(STRIDES, CLASSES)(maps, targets)
    boxes_gradient = gradients(losses, maps)[0][:, :64]
    assert not boxes_gradient[0].any()
    assert boxes_gradient[1].any()


def test_computes_in_float32_under_autocast() -> None:
    maps, targets = random_maps(7), two_images()
    halves = [level.detach().bfloat16().requires_grad_() for level in maps]
    criterion = Criterion(STRIDES, CLASSES)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = criterion(halves, targets)
    reference = criterion([level.detach().float() for level in halves], targets)
    assert losses.total.dtype == torch.float32
    assert losses.total.item() == reference.total.item()
    assert all(level.dtype == torch.bfloat16 for level in gradients(losses, halves))


def fitted_overlap(truth: list[float], options: LossSettings, steps: int) -> float:
    """Best class-0 detection's IoU with the box after descending on the maps themselves."""
    maps = [torch.zeros(1, 64 + CLASSES, SIDE // s, SIDE // s) for s in (8, 16, 32)]
    for level in maps:
        level[:, 64:] = -5
        level.requires_grad_()
    targets = make_targets([[truth]], [[0]])
    criterion = Criterion((8, 16, 32), CLASSES, options)
    optimizer = torch.optim.Adam(maps, lr=0.2)
    for _ in range(steps):
        optimizer.zero_grad()
        criterion(maps, targets).total.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    boxes, scores = decode([level.detach() for level in maps], (8, 16, 32))
    found = boxes[0, scores[0, :, 0].argmax()].tolist()
    inner = math.prod(
        max(0.0, min(found[k + 2], truth[k + 2]) - max(found[k], truth[k])) for k in (0, 1)
    )
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (found, truth)]
    return inner / (sum(areas) - inner)


def test_a_box_between_all_anchor_centres_is_learned_only_with_the_fixes() -> None:
    truth = [13.0, 30.0, 19.0, 34.0]  # between the centres of stride 8, 16 and 32
    assert fitted_overlap(truth, LossSettings.yolo11(), 100) < 0.1
    assert fitted_overlap(truth, LossSettings(), 100) > 0.5


def test_a_label_beyond_the_classes_is_refused() -> None:
    targets = make_targets([[[1, 1, 5, 5]]], [[CLASSES]])
    with pytest.raises(DataError, match=r"0\.\.2, got \[3\]"):
        Criterion(STRIDES, CLASSES)(random_maps(0, 1), targets)


def test_a_box_that_is_no_number_is_refused() -> None:
    targets = make_targets([[[1, 1, math.nan, 5]]], [[0]])
    with pytest.raises(DataError, match="finite"):
        Criterion(STRIDES, CLASSES)(random_maps(0, 1), targets)


def test_lists_of_unequal_length_are_refused() -> None:
    with pytest.raises(DataError, match="2 boxes and 1 labels"):
        make_targets([[[1, 1, 5, 5], [2, 2, 6, 6]]], [[0]])
    with pytest.raises(DataError, match="same images"):
        Targets(
            boxes=[torch.zeros(0, 4)],
            labels=[],
            known=torch.ones(1, CLASSES, dtype=torch.bool),
            ignore=[torch.zeros(0, 4)],
        )


def test_maps_or_targets_for_other_classes_are_refused() -> None:
    with pytest.raises(UsageError, match="72 channels"):
        Criterion(STRIDES, 8)(random_maps(0), two_images())
    targets = two_images()
    targets.known = torch.ones(2, 8, dtype=torch.bool)
    with pytest.raises(UsageError, match="known"):
        Criterion(STRIDES, CLASSES)(random_maps(0), targets)


@pytest.mark.parametrize(
    "wrong",
    [
        {"topk": 0},
        {"nwd_weight": 1.5},
        {"score_floor": -0.1},
        {"nwd_constant": 0},
        {"box_gain": math.nan},
        {"min_candidate_px": -1},
        {"metric": "iou"},
        {"simd_scale": (1.0, 0.0)},
        {"candidates": "all"},
        {"field_topk": 0},
        {"field_strides": 0},
        {"field_decay": 1.5},
        {"box_loss": "diou"},
        {"cls_loss": "focal"},
        {"varifocal_gamma": math.inf},
        {"class_weights": "rare"},
        {"class_weight_limit": 0.5},
    ],
)
def test_settings_outside_their_range_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        LossSettings(**wrong)


def test_similarity_distance_needs_its_scale() -> None:
    options = LossSettings(metric="simd")
    with pytest.raises(UsageError, match="simd_scale must be two numbers"):
        _ = options.simd_units
    assert LossSettings(metric="simd", simd_scale=(5.0, 4.0)).simd_units == (5.0, 4.0)
