"""`rstinynet package`: the folder, what its texts say, and that it is what others expect."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import huggingface_hub
import numpy as np
import pystac
import pytest
import yaml
from pystac.extensions.mlm import AssetGeneralMLMExtension, MLMExtension, ValueScaling
from pystac.validation import JsonSchemaSTACValidator

import rstinynet
from rstinynet.cli.main import run
from rstinynet.data.synthetic import make_synthetic
from rstinynet.export.licence import licence_of
from rstinynet.export.package import FILES
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, load_weights, save_weights

SIDE = 96


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Weights that say little of themselves."""
    metadata = WeightsMetadata(
        model="yolo11n", names=("vehicle", "storage tank"), category_ids=(1, 4), imgsz=SIDE
    )
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, build("yolo11n", 2), metadata, half=True)
    return path


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The shipped weights."""
    folder = tmp_path_factory.mktemp("packages") / "lite"
    options = ["--out", str(folder), "--imgsz", str(SIDE), "--repo", "someone/lite-cars"]
    assert run(["package", "rs-tinynet-lite", *options]) == 0
    return folder


def card_of(folder):
    text = (folder / "README.md").read_text(encoding="utf-8")
    _, front, body = text.split("---\n", 2)
    return yaml.safe_load(front), body


def test_it_holds_its_files_and_nothing_else(package):
    assert {one.name for one in package.iterdir()} == FILES
    assert [one.name for one in package.parent.iterdir()] == ["lite"]
    assert load_weights(package)[1] == load_weights("rs-tinynet-lite")[1]
    assert "compared" in json.loads((package / "model.export.json").read_text())


def test_the_card_is_read_by_the_hubs_own_client(package):
    card = huggingface_hub.ModelCard((package / "README.md").read_text(encoding="utf-8"))
    data = card.data.to_dict()
    assert data["license"] == "cc-by-nc-sa-4.0"
    assert data["library_name"] == "rs-tinynet"
    assert {"object-detection", "remote-sensing", "onnx"} <= set(data["tags"])
    metadata = load_weights(package)[1]
    values = {each.metric_name.split(" ")[0]: each.metric_value for each in card.data.eval_results}
    stored = {f"AP{key[2:]}": round(value, 4) for key, value in metadata.metrics.items()}
    assert values == stored


def test_every_number_of_the_card_is_the_weights_own(package):
    metadata = load_weights(package)[1]
    body = card_of(package)[1]
    row = next(line for line in body.splitlines() if line.startswith("| **all**"))
    shown = [cell.strip() for cell in row.strip("|").split("|")][1:]
    assert shown == [f"{100 * value:.1f}" for value in metadata.metrics.values()]
    for name, conf in zip(metadata.names, metadata.class_conf, strict=True):
        assert any(
            line.startswith(f"| {name} |") and f"{conf:.2f}" in line for line in body.splitlines()
        )
    assert "hub:someone/lite-cars" in body
    assert metadata.budget in body


def test_the_licence_names_the_sources_of_the_shipped_weights(package):
    text = (package / "LICENSE").read_text()
    assert "https://creativecommons.org/licenses/by-nc-sa/4.0/legalcode" in text
    assert "airbus_oiltanks" in text


def test_the_item_is_valid_stac(package):
    """pystac's schemas of the core, offline; its MLM extension for the fields of that."""
    item = pystac.Item.from_file(package / "mlm-item.json")
    assert pystac.validation.validate_dict(
        item.to_dict(include_self_link=False, transform_hrefs=False),
        extensions=[],
        validator=JsonSchemaSTACValidator(),
    )
    model = MLMExtension.ext(item)
    assert model.mlm_name == "lite-cars"
    assert model.architecture == "rs-tinynet-lite"
    assert model.tasks == ["object-detection"]
    [entered], [left] = model.input, model.output
    assert entered.input.shape == [-1, 3, SIDE, SIDE]
    assert entered.input.dim_order == ["batch", "bands", "height", "width"]
    assert entered.input.data_type == "float32"
    assert [band["name"] for band in item.properties["bands"]] == entered.to_dict()["bands"]
    # A list in the extension's schema, where pystac has one object.
    [scaling] = map(ValueScaling, entered.to_dict()["value_scaling"])
    assert (scaling.type, scaling.minimum, scaling.maximum) == ("min-max", 0, 255)
    assert len(left.result.shape) == len(left.result.dim_order) == 3
    assert [each.name for each in left.classes] == list(load_weights(package)[1].names)
    for name in ("weights", "onnx"):
        asset = item.assets[name]
        assert "mlm:model" in asset.roles
        assert AssetGeneralMLMExtension.ext(asset).artifact_type


def test_the_items_assets_are_the_files(package):
    item = json.loads((package / "mlm-item.json").read_text())
    for asset in item["assets"].values():
        content = (package / asset["href"]).read_bytes()
        assert asset["file:size"] == len(content)
        assert asset["file:checksum"] == "1220" + hashlib.sha256(content).hexdigest()


def test_the_example_runs_from_anywhere(package, tmp_path):
    done = subprocess.run(
        [sys.executable, str(package / "example.py")],
        cwd=tmp_path,
        env=os.environ | {"PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "objects in vegas_pan.tif" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_without_torch_its_onnx_file_is_run(package, without_torch):
    code = (
        "import rstinynet\n"
        f"detector = rstinynet.load({str(package)!r})\n"
        "print(type(detector.backend).__name__)\n"
    )
    done = without_torch(code)
    assert done.stdout == "OnnxBackend\n", done.stderr


def test_weights_that_say_little(weights, tmp_path, capsys):
    assert run(["package", str(weights), "--out", str(tmp_path / "a")]) == 0
    said = capsys.readouterr().err
    assert "--licence" in said
    assert "no numbers" in said
    front, body = card_of(tmp_path / "a")
    assert front["license"] == "unknown"
    assert "metrics" not in front
    assert "model-index" not in front
    assert "None: the weights carry none" in body
    assert "not recorded" in body
    assert "state no licence" in (tmp_path / "a" / "LICENSE").read_text()
    item = pystac.Item.from_file(tmp_path / "a" / "mlm-item.json")
    assert MLMExtension.ext(item).output[0].classes[1].name == "storage_tank"


def test_what_its_maker_adds(weights, tmp_path, capsys):
    (tmp_path / "notes.md").write_text("## Seen\n\nMisses tents.")
    (tmp_path / "notice.txt").write_text("Images: the survey of Lilliput.")
    out = tmp_path / "b"
    options = ["--licence", "My own terms", "--notes", str(tmp_path / "notes.md")]
    options += ["--notice", str(tmp_path / "notice.txt"), "--json"]
    assert run(["package", str(weights), "--out", str(out), *options]) == 0
    assert json.loads(capsys.readouterr().out)["licence"] == "My own terms"
    front, body = card_of(out)
    assert front["license"] == "other"
    assert front["license_name"] == "My own terms"
    assert "Misses tents." in body
    assert "Lilliput" in (out / "LICENSE").read_text()
    # The files themselves carry the licence now, and their values are as they were.
    assert load_weights(out)[1].licence == "My own terms"
    options = rstinynet.RuntimeOptions(providers=("cpu",))
    assert rstinynet.load(out, options=options).metadata.licence == "My own terms"
    before, after = (load_weights(one)[0].state_dict() for one in (weights, out))
    assert all((before[name] == after[name]).all() for name in before)
    assert (out / "model.safetensors").stat().st_size < 1.1 * weights.stat().st_size


def test_numbers_by_class_are_measured_on_data(weights, tmp_path):
    make_synthetic(tmp_path / "data", images=2, size=SIDE, split="val")
    out = tmp_path / "c"
    assert run(["package", str(weights), "--out", str(out), "--data", str(tmp_path / "data")]) == 0
    front, body = card_of(out)
    assert (
        "measured when this was packaged"
        in front["model-index"][0]["results"][0]["dataset"]["name"]
    )
    numbers = body.split("## Intended use")[0]
    assert "| storage-tank |" in numbers
    assert "| vehicle |" in numbers
    assert "AP of the ONNX file there" in body
    assert str(tmp_path) not in body


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--repo", "nobody"], 2, "owner/name"),
        (["--split", "test"], 2, "give --data too"),
        (["--notice", "no-such.txt"], 2, "no-such.txt"),
        (["--licence", " "], 2, "name a licence"),
        (["--imgsz", "100"], 2, "multiple of"),
        (["--imgsz", "1000000000"], 2, "up to 8192"),
        (["--data", "no-such-data"], 3, "no-such-data"),
    ],
)
def test_bad_options_leave_nothing(options, code, said, weights, tmp_path, capsys):
    assert run(["package", str(weights), "--out", str(tmp_path / "x"), *options]) == code
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_missing_weights(tmp_path, capsys):
    assert run(["package", "no-such-weights", "--out", str(tmp_path / "x")]) == 4
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("deep", [False, True])
def test_a_file_in_the_way_is_noticed_before_the_work(deep, weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    out = tmp_path / "file" / "x" if deep else tmp_path / "file"
    monkeypatch.setattr("rstinynet.export.package.load_weights", lambda path: pytest.fail("began"))
    assert run(["package", str(weights), "--out", str(out)]) == 2
    assert "file is a file, not a folder" in " ".join(capsys.readouterr().err.split())


def test_the_working_folder_is_not_replaced_under_its_user(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert run(["package", str(weights), "--out", "."]) == 2
    assert "--out . is the working folder" in " ".join(capsys.readouterr().err.split())
    assert list(tmp_path.iterdir()) == []


def test_only_a_package_is_replaced_and_only_when_asked(weights, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["package", str(weights), "--out", str(out)]
    out.mkdir()
    assert run(command) == 0
    assert run(command) == 2
    assert "--overwrite" in capsys.readouterr().err
    assert run([*command, "--overwrite", "--licence", "MIT"]) == 0
    assert load_weights(out)[1].licence == "MIT"
    # A package can be made of one, in its place.
    assert run(["package", str(out), "--out", str(out), "--overwrite"]) == 0
    assert load_weights(out)[1].licence == "MIT"
    (out / "thesis.txt").write_text("all that I have")
    assert run([*command, "--overwrite"]) == 2
    assert "thesis.txt" in capsys.readouterr().err
    assert (out / "thesis.txt").read_text() == "all that I have"


@pytest.mark.parametrize(
    ("text", "hub", "spdx"),
    [
        ("CC BY-NC-SA 4.0", "cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
        ("Apache-2.0", "apache-2.0", "Apache-2.0"),
        ("cc_by 4.0", "cc-by-4.0", "CC-BY-4.0"),
        ("mine", "other", "other"),
        ("unknown", "unknown", "other"),
    ],
)
def test_licences_are_known_by_their_names(text, hub, spdx):
    found = licence_of(text)
    assert (found.hub, found.spdx) == (hub, spdx)
    assert (found.url is not None) == (hub not in ("other", "unknown"))


def test_it_detects_as_the_weights_do(package):
    image = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    ours = rstinynet.load("rs-tinynet-lite", device="cpu").detect(image, conf=0.01)
    theirs = rstinynet.load(package, device="cpu").detect(image, conf=0.01)
    np.testing.assert_array_equal(ours.boxes, theirs.boxes)
