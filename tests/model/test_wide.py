"""Uneven padding moved into the filter gives the same numbers."""

from __future__ import annotations

import pytest
import torch

from rstinynet.model.lite0 import SameConv
from rstinynet.model.presets import build
from rstinynet.runtime.torch_backend import TorchBackend


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("size", [(32, 64), (64, 64)])
def test_wide_filters_equal_padded_inputs(kernel, size):
    torch.manual_seed(0)
    conv = SameConv(6, 6, kernel, 2, groups=6).eval()
    x = torch.randn(2, 6, *size)
    with torch.inference_mode():
        wanted = conv(x)
        conv.widen()
        # Without BatchNorm's folding, which a backend's model has behind it.
        got = conv.conv[1](conv._convolve_wide(x, conv.wide)).clamp(0, 6)
    assert wanted.std() > 0.1
    torch.testing.assert_close(got, wanted)


def test_the_backend_widens_only_what_is_uneven_and_its_digest_stays():
    torch.manual_seed(0)
    model = build("rs-tinynet-lite", 3).eval()
    backend = TorchBackend(model, device="cpu")
    wide = [m for m in backend.model.modules() if isinstance(m, SameConv) and m.wide is not None]
    assert [m.wide.shape[-1] for m in wide] == [4, 6, 4, 6]
    assert not any("wide" in name for name in backend.model.state_dict())
    x = torch.rand(1, 3, 64, 96)
    with torch.inference_mode():
        for got, wanted in zip(backend.model(x).main, model(x).main, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)
