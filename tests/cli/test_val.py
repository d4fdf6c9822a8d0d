"""`rstinynet val` end to end on a data folder that the test draws."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from rstinynet.cli.val import val
from rstinynet.detections import Detections
from rstinynet.errors import DataError, UsageError
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, save_weights
from rstinynet.scenes.detector import Detector

SEVEN = ["ap", "ap50", "ap75", "ap_vt", "ap_t", "ap_s", "ap_m"]
SIZES = {4: (64, 96), 9: (64, 64), 12: (64, 96)}
TRUTH = [(4, 3, [5, 5, 10, 10]), (4, 7, [30, 30, 20, 20]), (9, 3, [40, 8, 6, 6])]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for image_id, (height, width) in SIZES.items():
        pixels = rng.integers(0, 255, (height, width, 3), np.uint8)
        assert cv2.imwrite(str(folder / "images" / f"{image_id}.png"), pixels)
    content = {
        "images": [
            {"id": image_id, "file_name": f"{image_id}.png", "width": width, "height": height}
            for image_id, (height, width) in SIZES.items()
        ],
        "categories": [{"id": 3, "name": "ship"}, {"id": 7, "name": "storage-tank"}],
        "annotations": [
            {
                "id": at,
                "image_id": image_id,
                "category_id": category_id,
                "bbox": bbox,
                "area": bbox[2] * bbox[3],
                "iscrowd": 0,
            }
            for at, (image_id, category_id, bbox) in enumerate(TRUTH, start=1)
        ],
    }
    (folder / "val.json").write_text(json.dumps(content))
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    metadata = WeightsMetadata(
        model="rs-tinynet-n", names=("Bridge", "Ship"), category_ids=(1, 2), imgsz=64
    )
    save_weights(path, build("rs-tinynet-n", 2), metadata)
    return path


def run(*arguments):
    app = typer.Typer()
    app.command()(val)
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def results_file(path, entries):
    keys = ("image_id", "category_id", "bbox", "score")
    path.write_text(json.dumps([dict(zip(keys, entry, strict=True)) for entry in entries]))
    return path


def test_the_truth_as_predictions_scores_one(data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*entry, 0.5) for entry in TRUTH])
    outcome = run("--data", data, "--predictions", found, "--json")
    assert outcome.exception is None
    report = json.loads(outcome.stdout)
    assert [report[name] for name in SEVEN] == [1, 1, 1, 1, 1, 1, None]
    assert report["images"] == 3
    assert {name: scores["ap"] for name, scores in report["per_class"].items()} == {
        "ship": 1,
        "storage-tank": 1,
    }
    assert report["settings"]["max_det"] == 1500
    assert report["settings"]["protocol"] == "AI-TOD"
    assert report["settings"]["split"] == "val"


def test_without_json_a_table_is_printed(data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*entry, 0.5) for entry in TRUTH])
    outcome = run("--data", data, "--predictions", found)
    assert outcome.exit_code == 0
    for text in ("AP_vt", "storage-tank", "mean", "100.0", "AI-TOD"):
        assert text in outcome.stdout


def test_a_model_is_scored_and_its_predictions_score_the_same(data, weights, tmp_path):
    saved = tmp_path / "saved.json"
    arguments = ("--data", data, "--model", weights, "--conf", 0, "--batch", 2, "--json")
    outcome = run(*arguments, "--device", "cpu", "--save-predictions", saved)
    assert outcome.exception is None
    report = json.loads(outcome.stdout)
    assert report["settings"]["classes_missing_in_model"] == ["storage-tank"]
    assert report["per_class"]["storage-tank"]["ap"] == 0
    assert "does not know storage-tank" in outcome.stderr
    assert "lacks Bridge" in outcome.stderr
    entries = json.loads(saved.read_text())
    assert {entry["category_id"] for entry in entries} == {3}
    assert {entry["image_id"] for entry in entries} == set(SIZES)
    for left, top, width, height in (entry["bbox"] for entry in entries):
        assert min(left, top, width, height) >= 0
        assert left + width <= 96
        assert top + height <= 64
    again = json.loads(run("--data", data, "--predictions", saved, "--json").stdout)
    assert [again[name] for name in SEVEN] == [report[name] for name in SEVEN]
    assert again["per_class"] == report["per_class"]


def test_a_class_that_nobody_could_find_is_not_said_to_count(data, weights, tmp_path):
    content = json.loads((data / "val.json").read_text())
    content["categories"].append({"id": 9, "name": "airplane"})
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(data / "images")
    outcome = run("--data", tmp_path, "--model", weights, "--device", "cpu", "--json")
    assert outcome.exception is None
    report = json.loads(outcome.stdout)
    assert report["per_class"]["airplane"]["ap"] is None
    assert report["settings"]["classes_missing_in_model"] == ["storage-tank", "airplane"]
    assert "does not know storage-tank: never found" in outcome.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--model", "a", "--predictions", "b"),
        ("--predictions", "b", "--save-predictions", "c"),
        ("--model", "a", "--batch", 0),
        ("--model", "a", "--max-det", 0),
        ("--model", "a", "--scale", 0),
        ("--model", "a", "--scale", "nan"),
        ("--model", "a", "--tta", 3),
        ("--model", "a", "--fit", 16),
        ("--model", "a", "--fit", 64, "--scale", 1),
        ("--predictions", "b", "--fit", 64),
        ("--predictions", "b", "--tta", 4),
        ("--model", "a", "--iou", 1.5),
        ("--model", "a", "--iou", -0.1),
        ("--model", "a", "--iou", "nan"),
    ],
)
def test_options_that_make_no_sense_are_usage_errors(data, arguments):
    assert isinstance(run("--data", data, *arguments).exception, UsageError)


@pytest.mark.parametrize(("max_det", "cap"), [(1500, 3000), (10, 3000), (2000, 4000)])
def test_the_detector_gives_more_than_a_class_may_count(data, weights, monkeypatch, max_det, cap):
    seen = []

    def detect_batch(self, images, **options):
        seen.append(options)
        return [Detections.empty() for _ in images]

    monkeypatch.setattr(Detector, "detect_batch", detect_batch)
    arguments = ("--model", weights, "--max-det", max_det, "--iou", 0.5, "--scale", 2, "--json")
    report = json.loads(run("--data", data, *arguments, "--device", "cpu").stdout)
    assert report["settings"]["max_det"] == max_det
    assert report["settings"]["max_det_of_image"] == cap
    assert len(seen) == len(SIZES)
    assert seen[0] == {"conf": 0.001, "iou": 0.5, "max_det": cap, "scale": (2.0,), "tta": 1}


def test_fit_resizes_each_image_by_its_own_longer_side(data, weights, monkeypatch):
    seen = {}

    def detect_batch(self, images, **options):
        seen[images[0].shape[:2]] = options["scale"]
        return [Detections.empty() for _ in images]

    monkeypatch.setattr(Detector, "detect_batch", detect_batch)
    report = json.loads(run("--data", data, "--model", weights, "--fit", 64, "--json").stdout)
    assert report["settings"]["fit"] == 64
    assert "scale" not in report["settings"]
    assert seen == {size: 64 / max(size) for size in SIZES.values()}


def test_results_of_another_split_and_images_of_another_size_are_data_errors(
    data, weights, tmp_path
):
    found = results_file(tmp_path / "dets.json", [(77, 3, [0, 0, 1, 1], 0.5)])
    assert isinstance(run("--data", data, "--predictions", found).exception, DataError)
    assert isinstance(run("--data", data, "--split", "test", "--model", "x").exception, DataError)
    content = json.loads((data / "val.json").read_text())
    content["images"][0]["width"] = 97
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(data / "images")
    outcome = run("--data", tmp_path, "--model", weights, "--device", "cpu")
    assert isinstance(outcome.exception, DataError)
    assert "size of its annotations" in str(outcome.exception)


@pytest.mark.parametrize("protocol", ["aitod", "aitod-v2", "coco", "voc-area", "voc-11", "dior"])
def test_every_protocol_says_its_rules_beside_its_numbers(data, tmp_path, protocol):
    found = results_file(tmp_path / "dets.json", [(*entry, 0.5) for entry in TRUTH])
    arguments = ("--data", data, "--predictions", found, "--protocol", protocol)
    report = json.loads(run(*arguments, "--json").stdout)
    assert report["settings"]["protocol_name"] == protocol
    assert report["ap50"] == report["ar"] == 1
    assert report["olrp"] == 0
    assert f"{report['settings']['protocol']} protocol" in run(*arguments).stdout


def test_errors_scenes_scale_and_plots_are_printed_and_written(data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*TRUTH[0], 0.9), (9, 7, [40, 8, 6, 6], 0.8)])
    less = results_file(tmp_path / "less.json", [(*TRUTH[1], 0.7)])
    arguments = ("--data", data, "--predictions", found, "--compare", less, "--errors")
    arguments += ("--per-scene", "--gsd", 0.5, "--plots", tmp_path / "plots")
    outcome = run(*arguments, "--json")
    assert outcome.exception is None
    report = json.loads(outcome.stdout)
    assert report["errors"]["kinds"]["class"]["count"] == 1
    assert set(report["per_scene"]) == {"4", "9", "12"}
    assert report["density"]["per_class"]["ship"]["km2"] > 0
    assert report["confusion"]["counts"][0] == [1, 1, 0]
    theirs = report["compared"]["other"]
    difference = report["compared"]["difference"]["ap50"]
    assert difference == pytest.approx(report["ap50"] - theirs["ap50"])
    assert (tmp_path / "plots" / "precision_recall_050.png").is_file()
    assert (tmp_path / "plots" / "reliability.png").is_file()
    text = run(*arguments).stdout
    for part in ("Why it errs", "By scene", "Confusion", "km²", "side by side", "less.json"):
        assert part in text
    # Scene 9 has one ship, which the first finds and the second does not.
    rows = text[text.index("dets.json less less.json, by scene") :].splitlines()
    [scene] = [row.split() for row in rows if row.split()[:1] == ["9"]]
    assert scene[1] == f"{100 * report['compared']['per_scene']['9']['ap']:+.1f}"


def test_calibration_is_given_where_it_is_asked_for(data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*TRUTH[0], 0.9), (9, 7, [40, 8, 6, 6], 0.8)])
    arguments = ("--data", data, "--predictions", found)
    assert "calibration" not in json.loads(run(*arguments, "--json").stdout)
    report = json.loads(run(*arguments, "--json", "--calibration").stdout)
    overall = report["calibration"]["overall"]
    # One of .9 is right and one of .8 is not.
    assert overall["detections"] == 2
    assert overall["ece"] == pytest.approx((0.1 + 0.8) / 2)
    text = run(*arguments, "--calibration").stdout
    assert "Scores against precision" in text
    assert "45.0" in text


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"image_id": 77}, "entry 1 has 77"),
        ({"category_id": 1}, "entry 1 has 1"),
        ({"score": float("nan")}, "entry 1 has nan"),
        ({"bbox": [0, 0, -5, 5]}, "[0, 0, -5, 5]"),
        ({"bbox": "none"}, "'none'"),
    ],
)
def test_bad_results_end_with_file_entry_value_and_code_3(data, tmp_path, change, named):
    good = {"image_id": 4, "category_id": 3, "bbox": [5, 5, 10, 10], "score": 0.5}
    path = tmp_path / "dets.json"
    path.write_text(json.dumps([good, good | change]))
    error = run("--data", data, "--predictions", path).exception
    assert isinstance(error, DataError)
    assert error.exit_code == 3
    assert named in str(error)
    assert "dets.json, entry 1" in str(error)


def test_doubled_annotation_ids_and_bad_options_are_named(data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*entry, 0.5) for entry in TRUTH])
    content = json.loads((data / "val.json").read_text())
    content["annotations"][1]["id"] = content["annotations"][0]["id"]
    (tmp_path / "val.json").write_text(json.dumps(content))
    (tmp_path / "images").symlink_to(data / "images")
    error = run("--data", tmp_path, "--predictions", found).exception
    assert isinstance(error, DataError)
    assert "two annotations have the id 1" in str(error)
    for extra, message in [
        (("--protocol", "voc"), "protocol must be one of"),
        (("--gsd", -1), "--gsd must be above 0"),
        (("--confusion-conf", 2), "--confusion-conf"),
        (("--scene-field", "a", "--scene-pattern", "(b)"), "not both"),
    ]:
        error = run("--data", data, "--predictions", found, *extra).exception
        assert isinstance(error, UsageError)
        assert message in str(error)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--conf", "0.001"),
        ("--iou", "0.5"),
        ("--scale", "2"),
        ("--fit", "640"),
        ("--tta", "2"),
        ("--size", "ship=1:9"),
        ("--batch", "2"),
        ("--device", "cpu"),
        ("--threads", "1"),
        ("--providers", "cpu"),
        ("--precision", "float16"),
        ("--save-predictions", "again.json"),
    ],
)
def test_what_only_a_model_takes_is_refused_beside_a_results_file(option, value, data, tmp_path):
    found = results_file(tmp_path / "dets.json", [(*entry, 0.5) for entry in TRUTH])
    error = run("--data", data, "--predictions", found, option, value, "--gsd", 1).exception
    assert isinstance(error, UsageError)
    assert f"leave out {option} (how a model" in str(error)
    both = run("--data", data, "--predictions", found, "--max-det", 5, option, value, "--iou", 0.6)
    assert option in str(both.exception)
    assert "--iou" in str(both.exception)
    assert "--max-det" not in str(both.exception)


def test_what_cannot_be_written_or_named_is_refused_before_the_run(data, weights, tmp_path):
    (tmp_path / "file").touch()
    calls = []

    def searched(*args, **kwargs):
        calls.append(1)
        raise AssertionError("the model ran")

    app = typer.Typer()
    app.command()(val)
    arguments = ["--data", str(data), "--model", str(weights)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Detector, "detect_batch", searched)
        for more, error, words in (
            (["--save-predictions", str(tmp_path)], UsageError, "is a folder"),
            (["--save-predictions", str(tmp_path / "file" / "x")], UsageError, "file is a file"),
            (["--plots", str(tmp_path / "file")], UsageError, "is a file"),
            (["--plots", str(tmp_path / "file" / "x")], UsageError, "file is a file"),
            (["--scene-pattern", "(zzz)"], DataError, "zzz"),
            (["--fit", "2080"], UsageError, "--fit 2080 enlarges"),
        ):
            result = CliRunner().invoke(app, [*arguments, *more])
            assert isinstance(result.exception, error), more
            assert words in str(result.exception)
    assert not calls


def test_names_in_brackets_and_of_other_alphabets(data, tmp_path):
    content = json.loads((data / "val.json").read_text())
    content["categories"][0]["name"] = "ship [/b]"
    content["categories"][1]["name"] = "tank[old]"
    for image in content["images"]:
        image["scène"] = "[red] nord"
    (tmp_path / "val.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "images").symlink_to(data / "images")
    keys = ("image_id", "category_id", "bbox")
    found = [{key: each[key] for key in keys} | {"score": 0.5} for each in content["annotations"]]
    for run in ("a", "b"):
        (tmp_path / run).mkdir()
        (tmp_path / run / "dets.json").write_text(json.dumps(found))
    app = typer.Typer()
    app.command()(val)
    one, two = (str(tmp_path / run / "dets.json") for run in ("a", "b"))
    arguments = ["--data", str(tmp_path), "--predictions", one, "--compare", two]
    result = CliRunner().invoke(app, [*arguments, "--scene-field", "scène", "--errors"])
    assert result.exit_code == 0, result.exception
    for name in ("ship [/b]", "tank[old]", "[red] nord", "AR@1500"):
        assert name in result.stdout
    assert one in result.stdout.replace("\n", "")


def test_sizes_are_metres_by_the_images_own_scale(data, weights, tmp_path, monkeypatch):
    boxes = np.array([[5, 5, 15, 15], [40, 8, 46, 14], [20, 30, 50, 38]], np.float32)
    every = Detections(boxes, np.full(3, 0.9, np.float32), np.ones(3, np.int64))
    monkeypatch.setattr(
        Detector, "detect_batch", lambda self, images, **options: [every for _ in images]
    )
    app = typer.Typer()
    app.command()(val)
    out = tmp_path / "found.json"
    common = ["--data", str(data), "--model", str(weights), "--save-predictions", str(out)]

    def kept(*more):
        result = CliRunner().invoke(app, [*common, *more, "--json"])
        assert result.exit_code == 0, result.exception
        found = [each["bbox"][2] for each in json.loads(out.read_text()) if each["image_id"] == 9]
        return found, json.loads(result.stdout)["settings"]["size_m"]

    assert kept() == ([10, 6, 30], {})
    assert kept("--size", "ship=4:10", "--gsd", "0.5")[0] == [10]
    assert kept("--size", "ship=4:", "--gsd", "0.5") == ([10, 30], {"ship": ["4.0", "inf"]})
    assert kept("--size", "storage-tank=99:", "--gsd", "0.5")[0] == [10, 6, 30]
    for more, words in (
        (["--size", "ship=4:"], "give --gsd"),
        (
            ["--size", "shp=4:", "--gsd", "1"],
            "no class 'shp': did you mean 'ship'? there are ship, storage-tank",
        ),
        (["--size", "ship=4", "--gsd", "1"], "size is CLASS=LEAST:MOST"),
    ):
        result = CliRunner().invoke(app, [*common, *more])
        assert isinstance(result.exception, UsageError)
        assert words in str(result.exception)
