"""What a model starts from."""

from __future__ import annotations

import torch

from rstinynet.model.lite0 import Lite0Trunk, imagenet_state, load_imagenet
from rstinynet.train.initial import initial_model


def test_a_trunk_that_other_weights_do_not_fill_begins_from_imagenet():
    model = initial_model("rs-tinynet-lite", 4, seed=0, init="rs-tinynet-n")
    trunk = Lite0Trunk()
    load_imagenet(trunk, imagenet_state())
    for name, tensor in trunk.state_dict().items():
        torch.testing.assert_close(model.backbone.trunk.state_dict()[name], tensor)


def test_a_trunk_that_is_given_whole_is_taken_as_it_is(monkeypatch):
    monkeypatch.setattr("rstinynet.train.initial.imagenet_state", lambda: 1 / 0, raising=True)
    model = initial_model("rs-tinynet-lite", 4, seed=0, init="rs-tinynet-lite")
    drawn = initial_model("rs-tinynet-lite", 4, seed=1, init="rs-tinynet-lite")
    for name, tensor in model.backbone.trunk.state_dict().items():
        torch.testing.assert_close(drawn.backbone.trunk.state_dict()[name], tensor)
