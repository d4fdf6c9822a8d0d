"""Weights files: what is written comes back, and nothing else is accepted."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from rstinynet.errors import ExportError, WeightsError
from rstinynet.model.presets import build
from rstinynet.model.weights import WeightsMetadata, load_weights, read_metadata, save_weights
from rstinynet.runtime.exported import parse_metadata


@pytest.fixture
def metadata():
    return WeightsMetadata(
        model="rs-tinynet-n", names=("ship", "vehicle"), category_ids=(4, 6), licence="CC0"
    )


@pytest.fixture
def file(tmp_path, metadata):
    torch.manual_seed(0)
    save_weights(tmp_path / "w.safetensors", build("rs-tinynet-n", 2), metadata)
    return tmp_path / "w.safetensors"


def rewrite(path, change, metadata):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata={"rstinynet": metadata.model_dump_json()})


def test_round_trip(tmp_path, metadata):
    torch.manual_seed(0)
    model = build("rs-tinynet-n", 2).eval()
    save_weights(tmp_path / "w.safetensors", model, metadata)
    read, found = load_weights(tmp_path / "w.safetensors")
    assert found == metadata == read_metadata(tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(x).main, read(x).main, strict=True):
            assert torch.equal(a, b)


def test_half_precision_halves_the_file(tmp_path, metadata):
    model = build("rs-tinynet-n", 2)
    save_weights(tmp_path / "full.safetensors", model, metadata)
    save_weights(tmp_path / "half.safetensors", model, metadata, half=True)
    sizes = [(tmp_path / f"{n}.safetensors").stat().st_size for n in ("half", "full")]
    assert sizes[0] < 0.55 * sizes[1]
    read, _ = load_weights(tmp_path / "half.safetensors")
    assert {p.dtype for p in read.parameters()} == {torch.float32}


def test_training_only_parts_are_not_in_the_file(file):
    assert not [name for name in load_file(file) if name.startswith("auxiliary")]


def test_a_pickle_is_refused_unread(tmp_path):
    marker = tmp_path / "ran"
    path = tmp_path / "evil.safetensors"

    class Evil:
        def __reduce__(self):
            return (marker.touch, ())

    path.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_weights(path)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"{}"])
def test_damaged_files_are_refused(tmp_path, content):
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        load_weights(tmp_path / "w.safetensors")


def test_foreign_safetensors_are_refused(tmp_path):
    save_file({"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="not one of rstinynet"):
        load_weights(tmp_path / "w.safetensors")


def test_truncated_file(file):
    whole = file.read_bytes()
    for length in (len(whole) - 100, 4000, 30):
        file.write_bytes(whole[:length])
        with pytest.raises(WeightsError, match=r"damaged or cut short .* download it anew"):
            load_weights(file)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("m.onnx", "ONNX"), ("m.trt.onnx", "ONNX"), ("m.XML", "OpenVINO"), ("m.pt2", "torch.export")],
)
def test_an_exported_model_is_called_one(name, kind, tmp_path):
    (tmp_path / name).write_bytes(b"\x08\x09\x12\x09rstinynet" * 9)
    with pytest.raises(WeightsError, match=rf"an exported model \({kind}\).*exported from"):
        load_weights(tmp_path / name)


def test_a_name_that_is_not_utf8_is_not_called_damage(file):
    named = file.rename(file.with_name(os.fsdecode(b"\xff.safetensors")))
    with pytest.raises(WeightsError, match="by names in UTF-8 only: rename it"):
        load_weights(named)


def test_a_file_that_may_not_be_read_is_called_so(file, monkeypatch):
    def refused(*arguments, **options):
        raise PermissionError(13, "Permission denied")

    def absent(*arguments, **options):
        raise FileNotFoundError(f"No such file or directory: {file}")

    monkeypatch.setattr("rstinynet.model.weights.safe_open", absent)
    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(WeightsError, match=r"w\.safetensors: cannot be opened: Permission denied$"):
        load_weights(file)


def test_another_shape_is_named(file, metadata):
    other = metadata.model_copy(update={"names": ("a", "b", "c"), "category_ids": (1, 2, 3)})
    rewrite(file, lambda tensors: None, other)
    with pytest.raises(WeightsError, match=r"shape \(2.* with 3 classes has \(3"):
        load_weights(file)


def test_a_missing_tensor_is_named(file, metadata):
    rewrite(file, lambda tensors: tensors.pop("head.box.0.2.bias"), metadata)
    with pytest.raises(WeightsError, match=r"head\.box\.0\.2\.bias.* is missing"):
        load_weights(file)


def test_an_unknown_tensor_is_named(file, metadata):
    rewrite(file, lambda tensors: tensors.update(extra=torch.zeros(1)), metadata)
    with pytest.raises(WeightsError, match="'extra' is not part of"):
        load_weights(file)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("class_conf", [0.2, NAN], "class_conf.1: input should be .*, not nan"),
        ("class_conf", [-1, 0.2], "class_conf.0: .*, not -1"),
        ("class_conf", [0.2, 1.5], "class_conf.1: .*, not 1.5"),
        ("class_conf", [0.2], r"class_conf: must have one value .* 2 names, not \(0.2,\)"),
        ("conf", NAN, "conf: .*, not nan"),
        ("temperature", INF, "temperature: .*finite.*, not inf"),
        ("temperature", 0, "temperature: .*greater than 0, not 0"),
        ("scale", INF, "scale: .*, not inf"),
        ("scale", 0, "scale: .*, not 0"),
        ("scale", NAN, "scale: .*, not nan"),
        ("bands", -1, "bands: .*, not -1"),
        ("bands", 0, "bands: .*, not 0"),
        ("imgsz", 0, "imgsz: .*, not 0"),
        ("names", ["ship", "ship"], r"names: classes must differ, not \['ship', 'ship'\]"),
        ("names", ["ship", ""], "names: a class must have a name, not"),
        ("names", [], r"names: .*, not \[\]"),
        ("category_ids", [4, 4], r"category_ids: classes must differ, not \[4, 4\]"),
        ("category_ids", [4], r"category_ids: must have one value .* 2 names, not \(4,\)"),
        ("gsd_m", [0.5, 0.2], r"gsd_m: .* in order, not \[0.5, 0.2\]"),
        ("gsd_m", [0.1, INF], "gsd_m: .*, not"),
        ("scaling", {"kind": "fixed", "low": 0, "high": INF}, "scaling.high: .*, not inf"),
        ("model", None, "model: .*, not None"),
    ],
)
def test_metadata_without_sense_is_named(file, metadata, field, value, said):
    content = json.dumps(json.loads(metadata.model_dump_json()) | {field: value})
    save_file(load_file(file), file, metadata={"rstinynet": content})
    with pytest.raises(WeightsError, match=f"its metadata cannot be read: {said}") as refused:
        read_metadata(file)
    assert str(refused.value).startswith(str(file))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"names": ["\\ud800"]}', "{"])
def test_metadata_that_no_json_should_hold_is_refused(file, content):
    # Half a character in a class's name ended the process where the name was drawn.
    save_file(load_file(file), file, metadata={"rstinynet": content})
    with pytest.raises(WeightsError, match="its metadata cannot be read: invalid JSON: "):
        read_metadata(file)
    with pytest.raises(ExportError, match="its metadata cannot be read: invalid JSON: "):
        parse_metadata(content, origin="x.onnx")


def test_all_that_metadata_has_wrong_is_named_shortly(file, metadata):
    wrong = {"scale": -1, "names": ["a"] * 1000}
    content = json.dumps(json.loads(metadata.model_dump_json()) | wrong)
    save_file(load_file(file), file, metadata={"rstinynet": content})
    with pytest.raises(WeightsError, match=r"names: .*\.\.\.; scale: .*, not -1$") as refused:
        read_metadata(file)
    assert len(str(refused.value)) < len(str(file)) + 250


@pytest.mark.parametrize("kind", ["float8_e4m3fn", "complex64", "int8", "bool"])
def test_tensors_of_other_types_are_refused(file, metadata, kind):
    name = "head.box.0.2.bias"
    rewrite(
        file,
        lambda tensors: tensors.update({name: tensors[name].to(getattr(torch, kind))}),
        metadata,
    )
    with pytest.raises(WeightsError, match=f"'{name}' is {kind}, and weights are float16"):
        load_weights(file)


def test_values_that_are_not_finite_are_refused(file, metadata):
    rewrite(file, lambda tensors: tensors["head.box.0.2.bias"].fill_(float("nan")), metadata)
    with pytest.raises(WeightsError, match="not finite"):
        load_weights(file)


@pytest.mark.parametrize(
    ("schema", "then", "now"),
    [
        (1, "rs-tinynet-n", "rs-tinynet-n-p2p4-pfdh"),
        (1, "rs-tinynet-n-p2p5-wide", "rs-tinynet-n"),
        (1, "rs-tinynet-lite", "rs-tinynet-lite"),
        (1, "rs-tinynet-lite-p2p5-wide", "rs-tinynet-lite-p2p5-nopfdh-wide"),
        (1, "yolo11n", "yolo11n"),
        (2, "rs-tinynet-n", "rs-tinynet-n"),
    ],
)
def test_weights_of_former_schemas_keep_their_model(tmp_path, metadata, schema, then, now):
    path = tmp_path / "w.safetensors"
    model = build(now, 2).eval()
    save_weights(path, model, metadata)
    rewrite(
        path,
        lambda tensors: None,
        metadata.model_copy(update={"schema_version": schema, "model": then}),
    )
    read, found = load_weights(path)
    assert (found.model, found.schema_version) == (now, 2)
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        for a, b in zip(model(x).main, read(x).main, strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("new", [{}, {"new": 1}, {"conf": "high"}])
def test_a_newer_schema_asks_for_an_upgrade(file, metadata, new):
    content = json.dumps(json.loads(metadata.model_dump_json()) | {"schema_version": 99} | new)
    save_file(load_file(file), file, metadata={"rstinynet": content})
    said = r"by a newer rstinynet \(schema 99, this one reads 2\): upgrade the package$"
    with pytest.raises(WeightsError, match=said):
        load_weights(file)
    with pytest.raises(ExportError, match=said):
        parse_metadata(content, origin="x.onnx")


def test_missing_weights_say_what_there_is(tmp_path):
    with pytest.raises(WeightsError, match="no weights file at"):
        load_weights(tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match="rstinynet train --model yolo11x"):
        load_weights("yolo11x")
