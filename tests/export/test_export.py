"""`rstinynet export` end to end, and what exported files are refused for."""

from __future__ import annotations

import json
import zipfile
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
import torch

import rstinynet
from rstinynet.cli.main import run
from rstinynet.data.folder import open_split
from rstinynet.data.image import read_rgb
from rstinynet.data.synthetic import make_synthetic
from rstinynet.errors import ExportError
from rstinynet.export import check, onnx_file
from rstinynet.export.graph import Graph
from rstinynet.export.int8 import calibration_images, kept_in_float, last_convolutions
from rstinynet.export.run import report_path
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, load_weights

SIDE = 96


@pytest.fixture
def image():
    return np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 3), np.uint8)


def same(first, second):
    assert len(first) == len(second) > 0
    np.testing.assert_allclose(first.boxes, second.boxes, atol=0.05)
    np.testing.assert_allclose(first.scores, second.scores, atol=1e-3)
    np.testing.assert_array_equal(first.labels, second.labels)


def test_the_file_gives_the_same_detector(weights, exported, image):
    ours, theirs = rstinynet.load(weights, device="cpu"), rstinynet.load(exported)
    assert theirs.names == ours.names
    same(ours.detect(image), theirs.detect(image))
    with pytest.raises(rstinynet.UsageError, match="no torch model"):
        _ = theirs.model


def test_without_a_place_a_folder_gives_its_whole_name(weights, tmp_path, monkeypatch):
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    for name in ("v1.2", "v1.3"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(weights.read_bytes())
        assert run(["export", str(folder), "--imgsz", "32"]) == 0
    assert sorted(path.name for path in work.glob("*.onnx")) == ["v1.2.onnx", "v1.3.onnx"]
    monkeypatch.chdir(tmp_path / "v1.2")
    assert run(["export", ".", "--imgsz", "32"]) == 0
    assert Path("v1.2.onnx").is_file()


def test_without_a_place_a_revision_gives_its_whole_name(weights, tmp_path, monkeypatch):
    def load(name):
        return load_weights(weights)

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("rstinynet.export.run.load_weights", load)
    for name in ("hub:owner/ships@v1.2", "hub:owner/ships@v1.3", "tiny.safetensors"):
        assert run(["export", name, "--imgsz", "32"]) == 0
    names = ["ships@v1.2.onnx", "ships@v1.3.onnx", "tiny.onnx"]
    assert sorted(path.name for path in tmp_path.glob("*.onnx")) == names


def test_openvino_too(weights, tmp_path, image):
    path = tmp_path / "tiny.xml"
    assert run(["export", str(weights), "--format", "openvino", "--out", str(path)]) == 0
    options = rstinynet.RuntimeOptions(threads=1, batch=2)
    detector = rstinynet.load(path, options=options)
    assert detector.batch == 2
    same(rstinynet.load(weights, device="cpu").detect(image), detector.detect(image))
    path.with_suffix(".bin").unlink()
    with pytest.raises(ExportError, match="beside it"):
        rstinynet.load(path)


def test_an_interrupted_write_leaves_no_model_with_weights_of_another(
    weights, tmp_path, monkeypatch
):
    path, moved = tmp_path / "tiny.xml", []
    command = ["export", str(weights), "--format", "openvino", "--out", str(path)]
    assert run(command) == 0
    replace = Path.replace

    def interrupted(one, target):
        moved.append(Path(target).name)
        if Path(target) == path:
            raise KeyboardInterrupt
        return replace(one, target)

    monkeypatch.setattr(Path, "replace", interrupted)
    assert run(command) == 130
    assert moved[-2:] == ["tiny.bin", "tiny.xml"]
    assert not path.exists()


def test_torch_export_too(weights, tmp_path, image, caplog):
    path = tmp_path / "tiny.pt2"
    assert run(["export", str(weights), "--format", "torch-export", "--out", str(path)]) == 0
    detector = rstinynet.load(path, device="cpu", options=rstinynet.RuntimeOptions(batch=3))
    assert (detector.batch, detector.backend.side) == (3, SIDE)
    same(rstinynet.load(weights, device="cpu").detect(image), detector.detect(image))
    one, two = detector.detect_batch([image, image])
    same(one, two)
    whole = path.read_bytes()
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as other:
        other.writestr("a", "b")
    for content in (whole[:4000], b"hello", (tmp_path / "other.zip").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(ExportError, match="cannot load"):
            rstinynet.load(path)
    assert not [one for one in caplog.records if one.name.startswith("torch.export")]


def test_each_format_has_a_report_of_its_own(weights, tmp_path):
    for form, name in (("onnx", "tiny.onnx"), ("openvino", "tiny.xml")):
        path = tmp_path / name
        assert run(["export", str(weights), "--format", form, "--out", str(path)]) == 0
    for name in ("tiny.onnx", "tiny.xml"):
        assert json.loads((tmp_path / f"{name}.export.json").read_text())["file"] == name


def test_nms_inside_gives_the_same_objects(weights, tmp_path, image):
    path = tmp_path / "nms.onnx"
    assert run(["export", str(weights), "--nms", "--out", str(path)]) == 0
    same(rstinynet.load(weights, device="cpu").detect(image), rstinynet.load(path).detect(image))


def test_half_is_half_the_size(tmp_path):
    sizes = {}
    for option in ([], ["--half"]):
        path = tmp_path / f"m{len(option)}.onnx"
        assert run(["export", "rs-tinynet-lite", "--imgsz", "96", "--out", str(path), *option]) == 0
        sizes[len(option)] = path.stat().st_size
    assert sizes[1] < 0.6 * sizes[0]
    report = json.loads(report_path(path).read_text())
    assert report["precision"] == "float16"
    assert report["compared"]["a real image"]["scores_max"] > 0


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of images to calibrate on."""
    folder = tmp_path_factory.mktemp("pictures")
    with resources.as_file(resources.files("rstinynet") / "samples" / "vegas_pan.tif") as scene:
        image = read_rgb(scene)
    for at in range(4):
        part = image[600 : 600 + SIDE, 200 * at : 200 * at + SIDE]
        cv2.imwrite(str(folder / f"{at}.png"), part)
    return folder


def export_int8(path, pictures, *more):
    chosen = ["--imgsz", str(SIDE), "--out", str(path), "--int8", "--calibrate", str(pictures)]
    chosen += more
    made = "onnx" if path.suffix == ".onnx" else "openvino"
    assert run(["export", "rs-tinynet-lite", "--format", made, *chosen]) == 0
    report = json.loads(report_path(path).read_text())
    assert report["precision"] == "int8"
    assert 0 < report["compared"]["a real image"]["scores_mean"] < 0.01
    return kept_in_float(load_weights("rs-tinynet-lite")[0])


def test_int8_keeps_the_last_convolutions_in_float(tmp_path, pictures):
    path = tmp_path / "q.xml"
    for name in export_int8(path, pictures):
        assert f'"{name}' in path.read_text()
        assert f"{name}/WithoutBiases/fq_" not in path.read_text()
    assert "head.classify.0.0.conv/WithoutBiases/fq_" in path.read_text()


def test_parts_can_be_kept_in_float(tmp_path, pictures, weights, capsys):
    path = tmp_path / "q.onnx"
    export_int8(path, pictures, "--accurate", "--keep-float", "backbone,neck")
    made = onnx.load(path)
    of_eight_bits = {n.output[0] for n in made.graph.node if n.op_type == "DequantizeLinear"}
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    quantised = {n.name.split(".")[0] for n in convolutions if n.input[1] in of_eight_bits}
    assert quantised == {"attention", "fusion", "head"}
    grouped = [n for n in convolutions if [a.i for a in n.attribute if a.name == "group"] != [1]]
    assert grouped
    assert not any(node.input[1] in of_eight_bits for node in grouped)
    products = [node for node in made.graph.node if node.op_type == "Concat"]
    assert not any(name in of_eight_bits for node in products for name in node.input)
    calibrated = ["--int8", "--calibrate", str(pictures), "--keep-float", "tail"]
    assert run(["export", str(weights), *calibrated, "--out", str(path)]) == 2
    assert "no part 'tail'" in " ".join(capsys.readouterr().err.split())


def test_int8_in_onnx_too(tmp_path, pictures):
    path = tmp_path / "q.onnx"
    kept = export_int8(path, pictures)
    made = onnx.load(path)
    of_eight_bits = {
        name
        for node in made.graph.node
        if node.op_type == "DequantizeLinear"
        for name in node.output
    }
    convolutions = [node for node in made.graph.node if node.op_type == "Conv"]
    floats = [node.name for node in convolutions if node.input[1] not in of_eight_bits]
    assert floats
    assert all(name.startswith(tuple(kept)) for name in floats)
    assert set(kept) - {"decode/"} <= set(floats)
    # What Deepness and we read of a float file stays.
    assert made.ir_version == 9
    assert [one.version for one in made.opset_import] == [18]
    assert {"rstinynet", "class_names"} <= {entry.key for entry in made.metadata_props}
    assert len(rstinynet.load(path).detect(np.zeros((SIDE, SIDE, 3), np.uint8))) >= 0


def test_weights_beyond_half_precision_are_refused():
    with pytest.raises(ExportError, match="float16"):
        Graph(half=True).constant([1e6])


def test_an_image_larger_than_the_square_is_searched_by_tiles(exported):
    image = np.random.default_rng(2).integers(0, 255, (150, 200, 3), np.uint8)
    found = rstinynet.load(exported).detect(image)
    assert (found.boxes[:, 2] > SIDE).any()
    assert (found.boxes <= (200, 150, 200, 150)).all()


def test_ap_is_measured_before_and_after(weights, tmp_path, capsys):
    data = tmp_path / "data"
    make_synthetic(data, images=2, size=SIDE, seed=3).rename(data / "val.json")
    arguments = ["--data", str(data), "--json", "--out", str(tmp_path / "m.onnx")]
    assert run(["export", str(weights), *arguments]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ap_after"] == pytest.approx(report["ap_before"], abs=1e-3)
    assert run(["val", "--model", str(tmp_path / "m.onnx"), "--data", str(data), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["settings"]["architecture"] == "yolo11n"


def test_deepness_gets_the_threshold_of_the_graphs_own_scores():
    metadata = WeightsMetadata(
        model="yolo11n", names=("ship",), category_ids=(1,), conf=0.5, temperature=0.5
    )
    warm = onnx_file.deepness_conf(metadata.model_copy(update={"conf": 0.9}))
    assert warm == pytest.approx(0.75, abs=1e-4)  # logit log 9, halved: 3 to 1
    assert onnx_file.deepness_conf(metadata) == 0.5


def test_deepness_reads_its_keys(exported):
    """As the plugin does: every value JSON, one output of one size, sides and classes from it."""
    model = onnx.load(exported)
    assert model.ir_version == 9
    assert [one.version for one in model.opset_import] == [18]
    read = {entry.key: entry.value for entry in model.metadata_props}
    assert json.loads(read["model_type"]) == "Detector"
    assert json.loads(read["det_type"]) == "YOLO_Ultralytics"
    assert json.loads(read["class_names"]) == {"0": "vehicle", "1": "storage-tank"}
    assert json.loads(read["tile_size"]) == SIDE
    assert json.loads(read["resolution"]) == 30.0
    assert 0 < json.loads(read["det_conf"]) < 1
    (output,) = model.graph.output
    dims = [d.dim_value or d.dim_param for d in output.type.tensor_type.shape.dim]
    assert dims == ["batch", 4 + 2, (SIDE // 8) ** 2 + (SIDE // 16) ** 2 + (SIDE // 32) ** 2]
    (entry,) = model.graph.input
    dims = [d.dim_value or d.dim_param for d in entry.type.tensor_type.shape.dim]
    assert dims == ["batch", 3, SIDE, SIDE]


def test_exported_models_run_without_torch(exported, tmp_path, without_torch):
    code = (
        "import sys\n"
        "from rstinynet.data.synthetic import make_synthetic\n"
        "from rstinynet.cli.main import run\n"
        "folder, model = sys.argv[1:]\n"
        "from pathlib import Path\n"
        "made = make_synthetic(Path(folder) / 'd', images=2, size=96, seed=3)\n"
        "made.rename(made.with_name('val.json'))\n"
        "images = str(made.parent / 'images')\n"
        "codes = run(['predict', images, '--out', folder + '/out', '--model', model]), run(['val',"
        " '--model', model, '--data', folder + '/d'])\n"
        "assert 'torch' not in sys.modules\n"
        "sys.exit(max(codes))\n"
    )
    done = without_torch(code, tmp_path, exported)
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "out").glob("*.json"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--opset", "99"], "opset must be"),
        (["--opset", "0"], "opset must be"),
        (["--opset", "20", "--format", "torch-export"], "leave out --opset"),
        (["--split", "test"], "give --data too"),
        (["--imgsz", "100"], "96 is near"),
        (["--imgsz", "1000000000"], "8192 is near"),
        (["--int8", "--calibrate", ".", "--keep-float", "tail"], "no part 'tail'"),
        (["--format", "tflite"], "onnx or openvino or torch-export or tensorrt"),
        (["--format", "torch-export", "--half"], "float32 without NMS"),
        (["--int8"], "--calibrate"),
        (["--keep-float", "backbone"], "give --int8"),
        (["--accurate"], "give --int8"),
        (["--out", "x.pt"], "ends in .onnx"),
        (["--nms", "--format", "openvino", "--int8", "--calibrate", "."], "NMS"),
    ],
)
def test_refused_options(weights, options, message, capsys):
    assert run(["export", str(weights), *options]) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_what_cannot_be_written_is_noticed_before_the_work(weights, tmp_path, monkeypatch, capsys):
    (tmp_path / "file").touch()
    (tmp_path / "d.onnx").mkdir()
    monkeypatch.setattr("rstinynet.export.run.load_weights", lambda path: pytest.fail("began"))
    for out, words in (("file/x.onnx", "file is a file, not a folder"), ("d.onnx", "is a folder")):
        assert run(["export", str(weights), "--out", str(tmp_path / out)]) == 2
        assert words in " ".join(capsys.readouterr().err.split())


def test_refused_files(tmp_path, exported):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(exported.read_bytes()[:5000])
    with pytest.raises(ExportError, match="cannot load"):
        rstinynet.load(damaged)
    foreign = onnx.load(exported)
    del foreign.metadata_props[:]
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ExportError, match="not exported by rstinynet"):
        rstinynet.load(tmp_path / "foreign.onnx")
    with pytest.raises(rstinynet.WeightsError, match="no exported model"):
        rstinynet.load(tmp_path / "missing.onnx")
    with pytest.raises(rstinynet.UsageError, match="ONNX Runtime has no"):
        rstinynet.load(exported, device="nonsense")


def test_calibration_without_images(weights, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "missing"):
        for form in ("onnx", "openvino"):
            chosen = ["--format", form, "--int8", "--calibrate", str(folder)]
            assert run(["export", str(weights), *chosen]) == 3
            assert "has none" in " ".join(capsys.readouterr().err.split())


def test_calibration_sees_the_train_split_alone(tmp_path):
    for count, split in ((2, "val"), (1, "train")):
        made = make_synthetic(tmp_path, images=count, size=SIDE, seed=count)
        made.rename(tmp_path / f"{split}.json")
    assert len(open_split(tmp_path, "train").images) == 1
    assert len(calibration_images(tmp_path)) == 1
    assert len(calibration_images(tmp_path / "images")) > 1


def test_another_output_is_refused():
    wanted = np.zeros((1, 6, 9), np.float32)
    with pytest.raises(ExportError, match="does not equal"):
        check.compare(wanted, wanted + 0.1, precision="float32", where="here")
    with pytest.raises(ExportError, match="the output is"):
        check.compare(wanted, wanted[:, :5], precision="float32", where="here")
    with pytest.raises(ExportError, match="the most that int8 may lose"):
        check.compare_ap(0.5, 0.4, precision="int8", where=__file__)
    assert check.compare(wanted, wanted + 0.05, precision="int8", where="here", noise=True)
    with pytest.raises(ExportError, match="scores_mean"):
        check.compare(wanted, wanted + 0.05, precision="int8", where="here")
    with pytest.raises(ExportError, match=r"here: .* scores_mean is 0\.2, and 0\.1"):
        check.compare(wanted, wanted + 0.2, precision="int8", where="here", noise=True)


def test_the_head_ends_in_convolutions_that_stay_in_float():
    model = build("rs-tinynet-n", 2).deployed()
    modules = dict(model.named_modules())
    names = last_convolutions(model)
    assert len(names) == 2 * len(model.strides)
    assert all(isinstance(modules[name], torch.nn.Conv2d) for name in names)


def test_a_split_that_cannot_be_measured_ends_before_the_export(weights, tmp_path, monkeypatch):
    make_synthetic(tmp_path / "data", images=1, size=64, split="val")
    path = tmp_path / "data" / "val.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"annotations": []}))
    monkeypatch.setattr("rstinynet.export.run._write", lambda *args: pytest.fail("was exported"))
    for data in ("data", "nowhere"):
        out = ["--out", str(tmp_path / "m.onnx"), "--data", str(tmp_path / data)]
        assert run(["export", str(weights), *out]) == 3
        package = ["package", str(weights), "--out", str(tmp_path / "p")]
        assert run([*package, "--data", str(tmp_path / data)]) == 3
