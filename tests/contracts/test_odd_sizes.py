"""Every named model takes an image of any size, through the detector that pads it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rstinynet.model.presets import NAMES, build
from rstinynet.model.weights import WeightsMetadata
from rstinynet.scenes.detector import Detector

SMALL = [name for name in NAMES if name.endswith(("-n", "11n", "n-p2", "-lite"))]


@pytest.mark.parametrize("name", SMALL)
def test_an_odd_image_size(name):
    torch.manual_seed(0)
    metadata = WeightsMetadata(model=name, names=("a", "b"), category_ids=(1, 2))
    detector = Detector(build(name, 2), metadata, device="cpu")
    image = np.random.default_rng(0).integers(0, 255, (61, 97, 3), np.uint8)
    found = detector.detect(image, conf=0.0, max_det=20)
    assert len(found)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= (97, 61, 97, 61)).all()
