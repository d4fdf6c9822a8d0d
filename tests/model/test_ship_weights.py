"""scripts/ship_weights.py: what an average keeps of the weights that it is made of."""

from __future__ import annotations

import pytest
import torch

from rstinynet.model.metadata import WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import save_weights

NAMES = ("ship", "vehicle")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("scripts/ship_weights.py")


@pytest.fixture
def weights(tmp_path):
    def make(name, seed, names=NAMES, **more):
        torch.manual_seed(seed)
        path = tmp_path / f"{name}.safetensors"
        model = build("yolo11n", 2)
        metadata = WeightsMetadata(
            model="yolo11n", names=names, category_ids=(1, 2), imgsz=64, **more
        )
        save_weights(path, model, metadata)
        return path, model

    return make


def test_an_average_is_the_weighted_mean_with_a_temperature_of_its_own(weights, script):
    one, first = weights("one", 1, temperature=0.5, licence="CC BY 4.0")
    two, second = weights("two", 2, data_fingerprint="f" * 64)
    model, metadata = script.averaged([one, two], [3, 1])
    expected = {
        name: 0.75 * value + 0.25 * second.state_dict()[name]
        for name, value in first.state_dict().items()
        if value.is_floating_point()
    }
    torch.testing.assert_close(
        {name: value for name, value in model.state_dict().items() if name in expected}, expected
    )
    assert (metadata.licence, metadata.temperature) == ("CC BY 4.0", 1.0)
    assert metadata.data_fingerprint == "f" * 64


def test_unlike_weights_are_not_averaged(weights, script):
    one, _ = weights("one", 1)
    other, _ = weights("other", 1, names=("ship", "airplane"))
    with pytest.raises(SystemExit, match="2 shares for 1 files"):
        script.averaged([one], [1, 1])
    with pytest.raises(SystemExit, match=r"other\.safetensors is yolo11n for ship, airplane"):
        script.averaged([one, other], [1, 1])


def test_a_slack_is_of_a_class(script):
    assert script.class_share("storage-tank=0.1") == ("storage-tank", 0.1)
    for wrong in ("vehicle", "=0.1", "vehicle=1.5", "vehicle=much"):
        with pytest.raises(ValueError, match=r"vehicle|0\.1|much"):
            script.class_share(wrong)
