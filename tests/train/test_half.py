"""Half precision in training: where it is used, and that it is the same training."""

from dataclasses import replace
from importlib import resources
from unittest import mock

import numpy as np
import pytest
import torch
from torch import nn

from rstinynet.data.augment import AugmentCounts
from rstinynet.data.batch import Batch
from rstinynet.data.image import read_rgb
from rstinynet.model.layers import DepthwiseConv2d, SiLU
from rstinynet.model.presets import build
from rstinynet.model.weights import load_weights
from rstinynet.train.learner import Learner, half_precision
from rstinynet.train.recipe import short

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("able", "dtype"),
    [
        ({"avx512_bf16": True}, torch.bfloat16),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"avx512_f": True, "avx512_bf16": False}, None),
        ({}, None),
    ],
)
def test_a_cpu_takes_bfloat16_where_it_has_instructions_for_it(able, dtype):
    with mock.patch.object(torch.cpu, "get_capabilities", return_value=able):
        assert half_precision(CPU) is dtype


def batch_of(size=64):
    generator = np.random.default_rng(0)
    images = torch.from_numpy(generator.integers(0, 256, (2, 3, size, size), np.uint8))
    box = torch.tensor([[8.0, 8.0, 24.0, 20.0]])
    return Batch(
        images=images,
        boxes=[box, box + 16],
        labels=[torch.tensor([0]), torch.tensor([1])],
        crowds=[torch.zeros(0, 4)] * 2,
        known=torch.ones(2, 2, dtype=torch.bool),
        ids=[1, 2],
        counts=AugmentCounts(),
    )


def test_maps_and_gradients_of_trained_weights_are_near_those_of_float32():
    model, _ = load_weights("rs-tinynet-lite")
    model.requires_grad_(True)  # norms as deployed: those of a few crops would be chance
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as path:
        scene = read_rgb(path)
    crops = [scene[y : y + 256, x : x + 256] for y in (0, 256) for x in (0, 256)]
    x_BCHW = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    found = []
    for half in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            levels = model(x_BCHW).main
        maps = torch.cat([level.float().flatten() for level in levels])
        maps.square().mean().backward()
        weights = [each.grad for each in model.parameters() if each.grad is not None]
        found.append((maps.detach(), torch.cat([each.flatten() for each in weights])))
    (wide, wide_gradient), (narrow, narrow_gradient) = found
    assert 0 < (narrow - wide).norm() / wide.norm() < 0.1
    assert nn.functional.cosine_similarity(wide_gradient, narrow_gradient, dim=0) > 0.95


@pytest.mark.parametrize("amp", [False, True])
def test_amp_says_whether_a_cpu_that_can_trains_in_bfloat16(amp):
    able = mock.patch.object(torch.cpu, "get_capabilities", return_value={"avx512_bf16": True})
    with able:
        learner = Learner(build("yolo11n", 2), replace(short(), amp=amp), CPU)
    learner.hold_backbone(False)
    seen = []
    first = next(each for each in learner.model.modules() if isinstance(each, nn.Conv2d))
    first.register_forward_hook(lambda _module, _given, y: seen.append(y.dtype))
    losses = learner.learn(batch_of())
    learner.update(batch_of())
    assert seen == [torch.bfloat16 if amp else torch.float32]
    assert np.isfinite(losses).all()
    assert all(each.dtype == torch.float32 for each in learner.model.parameters())


@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1)])
def test_a_depthwise_convolution_learns_in_float32_where_bfloat16_is_slow(kernel, stride):
    conv = DepthwiseConv2d(8, 8, kernel, stride, kernel // 2, groups=8, bias=False)
    x = torch.randn(1, 8, 9, 9)
    with torch.autocast("cpu", torch.bfloat16):
        learned = conv(x)
        with torch.no_grad():
            found = conv(x)
    small = (kernel, stride) == (3, 1)
    assert learned.dtype is (torch.bfloat16 if small else torch.float32)
    assert found.dtype is torch.bfloat16
    torch.testing.assert_close(learned.float(), conv(x), rtol=0.05, atol=0.05)


def test_silu_works_in_place_only_without_gradients():
    x = torch.randn(4, requires_grad=True)
    given = x.detach().clone()
    SiLU()(x).sum().backward()
    assert torch.equal(x, given)
    with torch.no_grad():
        y = SiLU()(given)
    assert y.data_ptr() == given.data_ptr()
