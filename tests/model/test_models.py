"""Every named model at scale n: forward, backward, odd sizes, deployment."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from rstinynet.errors import UsageError
from rstinynet.model.decode import decode
from rstinynet.model.presets import NAMES, build, config

SMALL = [name for name in NAMES if name.endswith(("-n", "11n", "n-p2", "-lite"))]
VARIANTS = [name for name in NAMES if name.startswith(("rs-tinynet-lite-", "rs-tinynet-n-"))]


def test_the_family_is_complete():
    assert len(NAMES) == 5 * (2 + 7 + 1 + 11) + 1 + 8
    assert len(SMALL) == 2 + 7 + 1 + 1
    assert len(VARIANTS) == 11 + 8


@pytest.mark.parametrize(
    ("name", "strides"),
    [
        ("rs-tinynet-n", (4, 8, 16, 32)),
        ("rs-tinynet-n-p2p4", (4, 8, 16)),
        ("rs-tinynet-n-p3p5", (8, 16, 32)),
        ("rs-tinynet-n-p3p4-pfdh", (8, 16)),
        ("rs-tinynet-lite", (4, 8, 16)),
        ("rs-tinynet-lite-p2p5", (4, 8, 16, 32)),
        ("rs-tinynet-lite-p3p4", (8, 16)),
    ],
)
def test_a_models_name_says_its_levels(name, strides):
    assert config(name, 3).strides == strides


def test_a_models_name_says_what_it_lacks_or_adds():
    ours, lite = config("rs-tinynet-n", 3), config("rs-tinynet-lite", 3)
    assert ours.pfdh is None
    assert config("rs-tinynet-n-nomdca", 3) == replace(ours, mdca=None)
    assert config("rs-tinynet-n-narrow", 3) == replace(ours, class_width=None)
    fused = config("rs-tinynet-n-p2p4-pfdh", 3)
    assert fused == replace(ours, levels=(2, 3, 4), class_width=None, pfdh=fused.pfdh)
    assert (fused.pfdh.width, fused.pfdh.reduced) == (64, (16, 32, 64))
    assert config("rs-tinynet-n-p2p4-pfdh-nomdca", 3) == replace(fused, mdca=None)
    assert config("rs-tinynet-lite-nomdca", 3) == replace(lite, mdca=None)
    assert config("rs-tinynet-lite-nopfdh", 3) == replace(lite, pfdh=None)
    without = replace(config("rs-tinynet-lite-p2p5", 3), pfdh=None)
    assert config("rs-tinynet-lite-p2p5-nopfdh", 3) == without
    assert config("rs-tinynet-lite-p2p5-nopfdh-wide", 3) == replace(without, class_width=64)
    for name, base in (("n-p2p4-pfdh", fused), ("lite", lite)):
        larger = replace(base.pfdh, init="torch")
        assert config(f"rs-tinynet-{name}-torchinit", 3) == replace(base, pfdh=larger)


@pytest.mark.parametrize("name", [*SMALL, *VARIANTS])
def test_forward_backward(name):
    torch.manual_seed(0)
    model = build(name, 3).train()
    maps = model(torch.rand(2, 3, 96, 64))
    levels = [*maps.main, *(maps.auxiliary or [])]
    assert [m.shape[-2:] for m in maps.main] == [(96 // s, 64 // s) for s in model.strides]
    assert all(m.shape[:2] == (2, 64 + 3) for m in levels)
    sum(m.square().mean() for m in levels).backward()
    silent = [n for n, p in model.named_parameters() if p.requires_grad and (p.grad is None)]
    # The auxiliary head reads the model's levels, so the branch's own level 5 may feed nothing.
    unread = tuple(
        f"auxiliary_branch.composite.trunk.{part}.{level}."
        for part in ("downs", "stages")
        for level in range(max(model.config.levels) + 1, 6)
    )
    assert [n for n in silent if not (unread and n.startswith(unread))] == []


def test_wide_class_branches_are_as_wide_as_yolo11s():
    def widths(name):
        return [branch[-1].in_channels for branch in build(name, 3).head.classify]

    assert widths("yolo11n") == [64] * 3
    assert widths("rs-tinynet-n-narrow") == [32] * 4
    assert widths("rs-tinynet-n") == [64] * 4
    assert widths("rs-tinynet-s") == widths("yolo11s")[:1] * 4


def test_a_class_width_beside_pfdh_or_below_one_is_refused():
    with pytest.raises(UsageError, match="not be given with pfdh"):
        replace(config("rs-tinynet-lite", 3), class_width=64)
    with pytest.raises(UsageError, match="class_width must be a whole number of 1 or more"):
        replace(config("yolo11n", 3), class_width=0)


def test_auxiliary_links_read_the_trunk_without_context():
    model = build("rs-tinynet-n", 3).train()
    seen = {}
    model.backbone.trunk.register_forward_hook(lambda m, x, out: seen.update(trunk=out[5].clone()))
    model.auxiliary_branch.links.register_forward_pre_hook(
        lambda m, given: seen.update(links=given[0][5].clone())
    )
    with torch.no_grad():
        model(torch.rand(2, 3, 64, 64))
    assert torch.equal(seen["trunk"], seen["links"])


@pytest.mark.parametrize("name", SMALL)
def test_deployed_form_equals_the_trained_one(name):
    torch.manual_seed(0)
    model = build(name, 3)
    x = torch.rand(2, 3, 96, 64)
    with torch.no_grad():
        for _ in range(3):
            model.train()(x)  # BatchNorm statistics other than 0 and 1, or folding proves nothing
        expected = model.eval()(x).main
        without = model.without_auxiliary()(x)
        deployed = model.deployed()(x)
    assert without.auxiliary is None
    for a, b, c in zip(expected, without.main, deployed.main, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, c, atol=1e-4, rtol=1e-4)
    names = [type(m).__name__ for m in model.deployed().modules()]
    assert "BatchNorm2d" not in names


@pytest.mark.parametrize("name", SMALL)
def test_an_odd_image_size_is_refused_with_the_remedy(name):
    with pytest.raises(UsageError, match="multiples of 32, not 97 by 64: pad"):
        build(name, 3)(torch.rand(1, 3, 97, 64))


def test_auxiliary_maps_only_in_training():
    model = build("rs-tinynet-n", 2)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert model.train()(torch.cat([x, x])).auxiliary is not None
        assert model.eval()(x).auxiliary is None


def test_an_unknown_name_is_met_with_near_ones():
    with pytest.raises(UsageError, match="rs-tinynet-n"):
        config("rs-tinynett-n", 3)


def test_decoding_takes_the_expectation_of_each_side():
    maps = [torch.full((1, 64 + 1, 2, 3), -20.0)]
    for side, bin_ in enumerate((1, 2, 3, 4)):
        maps[0][:, side * 16 + bin_] = 20.0
    boxes, scores = decode(maps, [8])
    assert boxes.shape == (1, 6, 4)
    torch.testing.assert_close(boxes[0, 0], torch.tensor([4 - 8.0, 4 - 16, 4 + 24, 4 + 32]))
    torch.testing.assert_close(boxes[0, 5], torch.tensor([20 - 8.0, 12 - 16, 20 + 24, 12 + 32]))
    assert scores.max() < 1e-6


def test_yolo11_starts_with_the_published_biases():
    import math

    head = build("yolo11n", 8).head
    assert head.box[0][-1].bias.tolist() == [1.0] * 64
    expected = math.log(5 / 8 / (640 / 16) ** 2)
    assert head.classify[1][-1].bias.tolist() == pytest.approx([expected] * 8)
