"""Convolutions ordered for oneDNN give the plain model's numbers."""

from __future__ import annotations

import pickle

import pytest
import torch
from torch import nn

from rstinynet.model.presets import build
from rstinynet.runtime import torch_packed
from rstinynet.runtime.backend import RuntimeOptions
from rstinynet.runtime.torch_backend import TorchBackend
from rstinynet.runtime.torch_packed import PackedConv2d, can_pack, packed


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = build("yolo11n", 2).deployed()
    assert can_pack(made)
    return made


def example(side=64, *, batch=1, seed=1):
    made = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(seed))
    return made.contiguous(memory_format=torch.channels_last)


def far(model, other, x):
    """Largest difference of the raw maps, beside their spread."""
    with torch.inference_mode():
        pairs = list(zip(model(x).main, other(x).main, strict=True))
    return max(float((a.float() - b.float()).abs().max() / a.float().std()) for a, b in pairs)


@pytest.mark.parametrize("name", ["yolo11n", "rs-tinynet-n", "rs-tinynet-lite", "paper-full-n"])
def test_every_family_gives_the_same_maps(name):
    torch.manual_seed(0)
    backend = TorchBackend(build(name, 2), device="cpu")
    assert backend.network is not backend.model
    for x in (example(), example(96, batch=2)):
        assert far(backend.model, backend.network, x) < 1e-3


def test_activations_are_inside_and_weights_are_shared(model):
    made = packed(model)
    convolutions = [m for m in made.modules() if isinstance(m, nn.Conv2d)]
    assert all(isinstance(one, PackedConv2d) for one in convolutions)
    assert not [m for m in made.modules() if isinstance(m, nn.SiLU)]
    assert [m for m in model.modules() if isinstance(m, nn.SiLU)]
    ours, theirs = dict(made.named_parameters()), dict(model.named_parameters())
    assert ours.keys() == theirs.keys()
    assert all(ours[name] is theirs[name] for name in ours)


def test_a_sequence_of_convolution_norm_and_activation(model):
    parts = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity(), nn.ReLU(), nn.Conv2d(4, 2, 1))
    parts.requires_grad_(False).eval()
    made = packed(parts)
    x = example(16)
    with torch.inference_mode():
        torch.testing.assert_close(made(x), parts(x), rtol=1e-4, atol=1e-5)
    assert made[0].activation[0] == "relu"
    assert isinstance(made[2], nn.Identity)


def test_a_backend_that_ran_can_be_sent_to_another_process(model):
    backend = TorchBackend(model, device="cpu")
    x = example()
    with torch.inference_mode():
        wanted = backend.network(x).main
    again = pickle.loads(pickle.dumps(backend))
    with torch.inference_mode():
        found = again.network(x).main
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))
    assert again.digest() == backend.digest()


def test_bfloat16_is_no_further_from_float32_than_before(model):
    x = example()
    exact = TorchBackend(model, device="cpu")
    short = TorchBackend(model, device="cpu", options=RuntimeOptions(precision="bfloat16"))
    with torch.inference_mode():
        wanted = exact.model(x).main
        plain, fused = (run(x.bfloat16()).main for run in (short.model, short.network))
    errors = [
        sum(float((a - b.float()).abs().mean()) for a, b in zip(wanted, maps, strict=True))
        for maps in (plain, fused)
    ]
    assert 0 < errors[1] < 1.1 * errors[0]


def test_a_model_without_weights_runs_as_it_is():
    assert not can_pack(nn.Identity())


def test_without_the_operators_the_model_runs_as_it_is(model, monkeypatch):
    monkeypatch.setattr(torch_packed, "_OPERATORS", ("_is_not_there",))
    backend = TorchBackend(model, device="cpu")
    assert backend.network is backend.model
