"""Several models as one: what they agree on is found, and those that do not fit are named."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rstinynet.detections import Detections
from rstinynet.errors import UsageError, WeightsError
from rstinynet.evaluate.calibration import tempered
from rstinynet.model.metadata import Scaling, WeightsMetadata
from rstinynet.model.presets import build
from rstinynet.model.weights import save_weights, shipped_path
from rstinynet.runtime.ensemble import EnsembleBackend, Member, together
from rstinynet.runtime.opening import open_model
from rstinynet.scenes.detector import Detector

IMAGES = np.zeros((1, 64, 64, 3), np.uint8)


class Fixed:
    """A backend that sees the same in every image."""

    device = "cpu"
    batch = 4
    multiple = 32
    side: int | None = None
    precision = "float32"

    def __init__(self, *rows: tuple[float, float, float, float, float, int]) -> None:
        """Of (x0, y0, x1, y1, score, label)."""
        table = np.array(rows, float).reshape(-1, 6)
        self.found = Detections(
            table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(int)
        )
        self.asked: list[float] = []

    def digest(self) -> str:
        return str(self.found.scores.tolist())

    def find(self, images_BHWC: np.ndarray, *, conf: float) -> list[Detections]:
        self.asked.append(conf)
        return [self.found[self.found.scores > conf] for _ in images_BHWC]


def says(**changes: Any) -> WeightsMetadata:
    given: dict[str, Any] = {"model": "m", "names": ("car", "ship"), "category_ids": (3, 9)}
    return WeightsMetadata(**(given | changes))


def ensemble(*members: tuple[Any, WeightsMetadata]) -> tuple[EnsembleBackend, WeightsMetadata]:
    return together([Member(*one, f"model {at}") for at, one in enumerate(members)])


def test_the_device_is_a_gpu_where_any_member_has_one() -> None:
    exported, other = Fixed(), Fixed()
    other.device = "cuda:0"
    assert ensemble((exported, says()), (other, says()))[0].device == "cuda:0"
    assert ensemble((exported, says()), (Fixed(), says()))[0].device == "cpu"


def test_scores_are_the_mean_and_classes_go_by_name() -> None:
    one = Fixed((0, 0, 10, 10, 0.9, 0), (40, 40, 50, 50, 0.6, 1))
    other = Fixed((1, 0, 11, 10, 0.3, 1), (0, 40, 10, 50, 0.5, 0))
    both, metadata = ensemble(
        (one, says()), (other, says(names=("ship", "car"), category_ids=(9, 3)))
    )
    (found,) = both.find(IMAGES, conf=0.1)
    assert metadata.names == ("car", "ship")
    assert metadata.category_ids == (3, 9)
    assert found.labels.tolist() == [0, 1, 1]
    np.testing.assert_allclose(found.scores, [0.6, 0.3, 0.25], rtol=1e-6)
    np.testing.assert_allclose(found.boxes[0], [0.25, 0, 10.25, 10], rtol=1e-6)


def test_members_are_asked_for_what_can_still_matter_and_the_mean_is_held_to_the_threshold() -> (
    None
):
    one, other = Fixed((0, 0, 10, 10, 0.4, 0)), Fixed((0, 0, 10, 10, 0.15, 0))
    both, _ = ensemble((one, says()), (other, says()))
    assert len(both.find(IMAGES, conf=0.27)[0]) == 1
    assert one.asked == other.asked == [pytest.approx(0.135)]
    assert len(both.find(IMAGES, conf=0.28)[0]) == 0


def test_each_member_drops_its_own_double_boxes_first() -> None:
    twice = Fixed((0, 0, 10, 10, 0.9, 0), (0, 1, 10, 11, 0.8, 0), (0, 0, 10, 10, 0.7, 1))
    both, _ = ensemble((twice, says()), (Fixed((0, 0, 10, 10, 0.5, 0)), says()))
    (found,) = both.find(IMAGES, conf=0.01)
    np.testing.assert_allclose(found.scores, [0.7, 0.35], rtol=1e-6)


def test_each_member_has_its_own_temperature() -> None:
    both, metadata = ensemble(
        (Fixed((0, 0, 10, 10, 0.9, 0), (20, 0, 30, 10, 0.05, 0)), says(temperature=2.0)),
        (Fixed((0, 0, 10, 10, 0.9, 0)), says()),
    )
    (found,) = both.find(IMAGES, conf=0.05)
    cooled = [float(tempered(np.array([raw]), 2.0)[0]) for raw in (0.9, 0.05)]
    assert metadata.temperature == 1
    np.testing.assert_allclose(found.scores, [(cooled[0] + 0.9) / 2, cooled[1] / 2], rtol=1e-5)


def test_boxes_that_are_none_are_left_out() -> None:
    odd = Fixed((0, 0, np.inf, 10, 0.9, 0), (5, 5, 5, 9, 0.9, 0), (0, 0, 10, 10, 0.8, 0))
    both, _ = ensemble((odd, says()), (Fixed((0, 0, 10, 10, 0.6, 0)), says()))
    np.testing.assert_allclose(both.find(IMAGES, conf=0.1)[0].scores, [0.7], rtol=1e-6)


def test_what_an_ensemble_says_of_itself() -> None:
    one, other = Fixed(), Fixed((0, 0, 1, 1, 0.5, 0))
    other.batch, other.multiple = 2, 64
    both, metadata = ensemble(
        (one, says(imgsz=320, conf=0.2, gsd_m=(0.1, 1), licence="A")),
        (other, says(conf=0.4, class_conf=(0.5, 0.3), gsd_m=(0.3, 2), licence="B", imgsz=416)),
    )
    assert (both.batch, both.multiple, both.side, both.precision) == (2, 64, None, "float32")
    assert metadata.model == "m,m"
    assert metadata.imgsz == 416
    assert metadata.conf == pytest.approx(0.3)
    assert metadata.class_conf == pytest.approx((0.35, 0.25))
    assert metadata.gsd_m == (0.3, 1)
    assert metadata.licence == "A; B"
    again, _ = ensemble((one, says()), (other, says()))
    assert again.digest() != both.digest()
    assert len({ensemble((one, says()), (other, says()))[0].digest(), again.digest()}) == 1


@pytest.mark.parametrize(
    ("changes", "side", "message"),
    [
        ({"names": ("car", "tank")}, None, "model 0 knows car, ship, model 1 car, tank"),
        ({"scale": 2.0}, None, r"the same scale: model 0 has 1\.0, model 1 2\.0"),
        ({"scaling": Scaling(kind="dtype")}, None, "the same scaling"),
        ({"bands": 1}, None, "the same number of bands: model 0 has 3, model 1 1"),
        ({}, 320, r"model 0 takes any, model 1 320; `rstinynet export --dynamic`"),
        ({"gsd_m": (2, 3)}, None, "model 0 at 0.1 to 1 m, model 1 at 2 to 3 m"),
    ],
)
def test_models_that_do_not_fit_are_named(
    changes: dict[str, Any], side: int | None, message: str
) -> None:
    other = Fixed()
    other.side = side
    with pytest.raises(WeightsError, match=message):
        ensemble((Fixed(), says(gsd_m=(0.1, 1))), (other, says(**changes)))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two files of different models, the second with a comma in its name."""
    folder = tmp_path_factory.mktemp("weights")
    paths = []
    for seed, (name, file) in enumerate((("yolo11n", "a"), ("yolo11n-p2", "b,c"))):
        torch.manual_seed(seed)
        model = build(name, 2)
        for parameter in model.head.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        paths.append(folder / f"{file}.safetensors")
        save_weights(paths[-1], model, says(model=name, imgsz=64))
    return paths


def test_files_are_opened_together_and_alone(weights: list[Path]) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 96, 3), np.uint8)
    first, second = (Detector.load(path, device="cpu") for path in weights)
    both = Detector.load(weights, device="cpu")
    assert both.names == first.names
    assert both.metadata.model == "yolo11n,yolo11n-p2"
    alone = [one.detect(image, conf=0.0005) for one in (first, second)]
    joined = both.detect(image, conf=0.001)
    assert len(joined) > 5
    best = [float(one.scores.max()) for one in alone]
    assert max(best) / 2 - 1e-6 <= float(joined.scores.max()) <= sum(best) / 2 + 1e-6
    # Of one that is only like a path.
    with os.scandir(weights[0].parent) as entries:
        entry = next(one for one in entries if one.name == weights[0].name)
    assert Detector.load(entry, device="cpu").metadata.model == "yolo11n"  # type: ignore[arg-type]
    # By names with commas; a file may have one of its own.
    assert Detector.load(str(weights[1]), device="cpu").metadata.model == "yolo11n-p2"
    plain = weights[1].with_name("plain.safetensors")
    plain.write_bytes(weights[1].read_bytes())
    named, metadata = open_model(f"{weights[0]}, {plain}", device="cpu")
    assert metadata.model == "yolo11n,yolo11n-p2"
    assert named.digest() == both.backend.digest()


def test_views_of_an_ensemble_are_the_mean_of_its_means(weights: list[Path]) -> None:
    image = np.random.default_rng(1).integers(0, 255, (64, 64, 3), np.uint8)
    both = Detector.load(weights, device="cpu")
    one, mirrored = (both.detect(view, conf=0.0001) for view in (image, image[:, ::-1].copy()))
    top = float(both.detect(image, conf=0.001, tta=2).scores.max())
    assert top <= (float(one.scores.max()) + float(mirrored.scores.max())) / 2 + 1e-6
    assert top >= max(float(one.scores.max()), float(mirrored.scores.max())) / 2 - 1e-6


def test_an_ensemble_goes_to_another_process(weights: list[Path]) -> None:
    both = Detector.load(weights, device="cpu")
    image = np.random.default_rng(2).integers(0, 255, (64, 64, 3), np.uint8)
    sent = pickle.loads(pickle.dumps(both))
    found, same = both.detect(image, conf=0.001), sent.detect(image, conf=0.001)
    np.testing.assert_array_equal(found.boxes, same.boxes)


@pytest.mark.parametrize("given", ["a,", ",", "a,,b", "a, a", [], "", None, 5, 2.5, b"x"])
def test_names_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(UsageError, match="by several that differ, separated by commas, not"):
        open_model(given)


@pytest.mark.parametrize("wrong", [None, 5, b"x", ["a"]])
def test_what_is_no_name_among_several_is_named(wrong: Any) -> None:
    with pytest.raises(UsageError, match=r"named by text or a path, not .*rs-tinynet-lite") as told:
        Detector.load(["a", wrong], device="cpu")
    assert f"not {wrong!r}, a {type(wrong).__name__}, in" in str(told.value)


def test_one_file_by_two_names_is_refused(
    weights: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = tmp_path / "other.safetensors"
    link.symlink_to(weights[0])
    monkeypatch.chdir(weights[0].parent)
    shipped = shipped_path("rs-tinynet-n")
    packaged = tmp_path / "packaged"
    packaged.mkdir()
    (packaged / "model.safetensors").symlink_to(weights[0])
    for first, second in (
        (weights[0], link),
        (weights[0], weights[0].name),
        (packaged, link),
        ("rs-tinynet-n", shipped),
        (f"./{weights[0].name}", f"../{weights[0].parent.name}/{weights[0].name}"),
    ):
        for given in ([first, second], f"{first},{second}"):
            with pytest.raises(UsageError, match=r"must differ: .* give it once") as told:
                open_model(given, device="cpu")
            assert f"{first} and {second} are both " in str(told.value)


def test_the_one_that_is_missing_is_named(weights: list[Path]) -> None:
    with pytest.raises(WeightsError, match="nowhere"):
        open_model(f"{weights[0]},nowhere.safetensors")
