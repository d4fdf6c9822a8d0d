"""What each of the paper's modules promises."""

from __future__ import annotations

import pytest
import torch

from rstinynet.model.arb import ReversibleCoupling
from rstinynet.model.lite0 import Lite0Trunk, SameConv, imagenet_state, load_imagenet
from rstinynet.model.mdca import MDCA, eca_kernel
from rstinynet.model.pfdh import ASFF, ProgressiveFusion
from rstinynet.model.presets import build


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_eca_kernel_rule():
    assert [eca_kernel(c) for c in (64, 128, 256, 512)] == [3, 5, 5, 5]


@pytest.mark.parametrize("rule", ["sum", "product"])
@pytest.mark.parametrize("size", [(20, 20), (13, 7), (4, 3)])
def test_mdca_keeps_shape(rule, size):
    x = torch.randn(2, 64, *size)
    assert MDCA(64, rule=rule)(x).shape == x.shape


def test_mdca_is_the_identity_at_zero_under_the_sum_rule():
    module = MDCA(32)
    for parameter in module.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 32, 15, 10)
    torch.testing.assert_close(module(x), x)


def test_mdca_channel_attention_is_local():
    module = MDCA(16, grid=2)
    x = torch.randn(1, 16, 8, 8)
    attention = module.channel_attention(x)
    assert torch.equal(attention[..., 0, 0], attention[..., 3, 3])
    assert not torch.equal(attention[..., 0, 0], attention[..., 0, 4])


def test_mdca_equals_the_equations_written_out():
    module = MDCA(8, kernel=3, grid=2)
    x = torch.randn(1, 8, 4, 4)
    cells = x.reshape(1, 8, 2, 2, 2, 2).mean(dim=(3, 5))
    expected = torch.empty_like(x)
    overall = module.global_conv(cells.mean(dim=(2, 3))[:, None]).sigmoid()[0, 0]
    spatial = module.spatial_conv(torch.stack([x.mean(1), x.amax(1)], dim=1)).sigmoid()[0, 0]
    for i in range(4):
        for j in range(4):
            near = module.local_conv(cells[:, None, :, i // 2, j // 2]).sigmoid()[0, 0]
            expected[0, :, i, j] = x[0, :, i, j] * (0.5 * overall + 0.5 * near + spatial[i, j])
    torch.testing.assert_close(module(x), expected)


def test_asff_weights_sum_to_one_everywhere():
    maps = [torch.randn(2, 16, 9, 5) for _ in range(3)]
    weights = ASFF(16, 3).weights(maps)
    assert weights.shape == (2, 3, 9, 5)
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 9, 5))


def test_progressive_fusion_lets_every_level_reach_every_level():
    channels = (16, 32, 64)
    maps = [
        torch.randn(2, c, 32 // 2**i, 32 // 2**i, requires_grad=True)
        for i, c in enumerate(channels)
    ]
    out = ProgressiveFusion(channels, width=24, reduced=(8, 8, 8))(maps)
    assert [tuple(o.shape) for o in out] == [(2, 24, 32, 32), (2, 24, 16, 16), (2, 24, 8, 8)]
    for fused in out:
        gradients = torch.autograd.grad(fused.square().sum(), maps, retain_graph=True)
        assert all(g.abs().max() > 0 for g in gradients)


@pytest.mark.parametrize(
    ("name", "spread"),
    [
        # Xavier: .02 sqrt(2 / (9 * 64 + 9 * 64)) for 3x3 convolutions of 64.
        ("paper-pfdh-m", 0.02 / 24),
        ("rs-tinynet-lite", 0.02 / 24),
        # Torch: uniform within 1 / sqrt(9 * 64).
        ("rs-tinynet-lite-torchinit", 1 / 24 / 3**0.5),
    ],
)
def test_the_fusion_starts_small_as_published_or_as_torch_does(name, spread):
    weights = build(name, 2).fusion.stages[-1].blocks[2][0].body[0].weight
    assert weights.shape == (64, 64, 3, 3)
    assert float(weights.detach().std()) == pytest.approx(spread, rel=0.05)


def test_reversible_coupling_round_trip():
    coupling = ReversibleCoupling(16)
    x = torch.randn(2, 16, 12, 10)
    y = coupling(x)
    assert (y - x).abs().max() > 0.01
    torch.testing.assert_close(coupling.inverse(y), x, atol=1e-5, rtol=0)


def test_reversible_coupling_refuses_odd_channels():
    with pytest.raises(ValueError, match="even"):
        ReversibleCoupling(7)


@pytest.mark.parametrize("kernel", [3, 5])
def test_same_padding_of_stride_2_starts_where_tensorflow_does(kernel):
    # TensorFlow pads an even input by kernel - 2 in all, the smaller half first.
    conv = SameConv(1, 1, kernel, 2, activate=False).eval()
    torch.nn.init.ones_(conv.conv[0].weight)
    x = torch.zeros(1, 1, 8, 8)
    x[0, 0, 0, 0] = 1
    reached = conv(x)[0, 0]
    padding = (kernel - 2) // 2
    assert (reached > 0.5).sum() == (padding // 2 + 1) ** 2
    assert conv(torch.rand(1, 1, 8, 8)).shape == (1, 1, 4, 4)


def test_lite0_takes_the_published_state_and_refuses_another():
    from rstinynet.errors import WeightsError

    with pytest.raises(WeightsError, match="EfficientNet-Lite0"):
        load_imagenet(Lite0Trunk(), {"_conv_stem.weight": torch.zeros(1)})
    trunk, state = Lite0Trunk(), imagenet_state()
    load_imagenet(trunk, state)
    torch.testing.assert_close(
        trunk.blocks[15].project.conv[0].weight, state["_blocks.15._project_conv.weight"]
    )
