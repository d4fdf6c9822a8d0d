"""`rstinynet export --format tensorrt`: refusals, and the building against a stand-in for the GPU.

No GPU is at hand here. The stand-in is ONNX Runtime's session with the provider's part played: it
knows the provider's options by name, writes the graph itself for an engine, and runs it on the CPU.
"""

from __future__ import annotations

import json
import os

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import rstinynet
from rstinynet.cli.main import run
from rstinynet.errors import ExportError
from rstinynet.export import tensorrt_file
from rstinynet.export.onnx_file import INPUT, OUTPUT
from rstinynet.model.metadata import METADATA_KEY

SIDE = 96
PROVIDER = "TensorrtExecutionProvider"
CPU = "CPUExecutionProvider"
# Of the provider's documentation, those that could matter here; it refuses any other name.
KNOWN = {
    "device_id",
    "trt_max_workspace_size",
    "trt_fp16_enable",
    "trt_int8_enable",
    "trt_engine_cache_enable",
    "trt_engine_cache_path",
    "trt_dump_ep_context_model",
    "trt_ep_context_file_path",
    "trt_ep_context_embed_mode",
    "trt_profile_min_shapes",
    "trt_profile_max_shapes",
    "trt_profile_opt_shapes",
}
Session = onnxruntime.InferenceSession


class StandIn:
    """A session in TensorRT, as far as the export sees it."""

    made = ()
    """Options of the sessions, in order."""
    fails = None
    """What the provider says where there is no GPU."""
    builds_on = PROVIDER
    opens_on = PROVIDER
    nodes = 1

    def __init__(self, path, settings, *, providers, enable_fallback=1):
        first = providers[0]
        name, options = first if isinstance(first, tuple) else (first, {})
        assert name == PROVIDER
        assert not set(options) - KNOWN
        type(self).made = (*self.made, options)
        if self.fails:
            raise RuntimeError(self.fails)
        model = onnx.load(path)
        self.holds = model.graph.node[0].op_type == "EPContext"
        if not self.holds:
            assert not enable_fallback
            assert settings.get_session_config_entry("session.disable_cpu_ep_fallback") == "1"
            assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"
            if options.get("trt_dump_ep_context_model") == "1":
                self.dump(model, options)
            return
        engine = {one.name: one for one in model.graph.node[0].attribute}["ep_cache_context"].s
        self.session = Session(engine, settings, providers=[CPU])
        # The engine has no metadata; the file around it must have ours.
        self.about = {entry.key: entry.value for entry in model.metadata_props}

    def dump(self, model, options):
        """As the provider does: one node, and no metadata."""
        assert options["trt_ep_context_embed_mode"] == "1"
        properties = model.metadata_props[:]
        del model.metadata_props[:]
        assert properties
        held = model.SerializeToString()
        one = helper.make_node("EPContext", [INPUT], [OUTPUT], domain="com.microsoft", embed_mode=1)
        one.attribute.append(helper.make_attribute("ep_cache_context", held))
        rest = [helper.make_node("Relu", [INPUT], [f"r{at}"]) for at in range(1, self.nodes)]
        graph = helper.make_graph([one, *rest], "g", model.graph.input, model.graph.output)
        opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1)]
        onnx.save(
            helper.make_model(graph, opset_imports=opsets, ir_version=9),
            options["trt_ep_context_file_path"],
        )

    def get_providers(self):
        return [self.opens_on if self.holds else self.builds_on, CPU]

    def get_inputs(self):
        return self.session.get_inputs()

    def get_modelmeta(self):
        return type("About", (), {"custom_metadata_map": self.about})()

    def run(self, names, feed):
        (x,) = feed.values()
        assert len(x) <= 8, "no profile for so many"
        return self.session.run(names, feed)


@pytest.fixture
def gpu(monkeypatch):
    """ONNX Runtime as on a machine with TensorRT; attributes of the class make it fail."""
    stand_in = type("Machine", (StandIn,), {})
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER, CPU])
    monkeypatch.setattr(onnxruntime, "InferenceSession", stand_in)
    return stand_in


def export(weights, path, *more):
    return run(["export", str(weights), "--format", "tensorrt", "--out", str(path), *more])


def told(capsys):
    return " ".join(capsys.readouterr().err.split())


def test_without_the_provider_nothing_is_begun(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    # Not even the weights are looked at: they are missing, which would end with another code.
    assert export(tmp_path / "missing.safetensors", tmp_path / "x.trt.onnx") == 5
    message = told(capsys)
    assert f"here has only {CPU}" in message
    assert "onnxruntime-gpu" in message
    assert "`--device tensorrt`" in message


@pytest.mark.parametrize(
    "wrong",
    [
        {"fails": "CUDA failure 100: no CUDA-capable device is detected\nand more"},
        # What ONNX Runtime does where TensorRT's libraries are missing.
        {"builds_on": CPU},
    ],
)
def test_without_a_gpu_or_libraries_nothing_is_begun(wrong, gpu, tmp_path, capsys):
    for name, value in wrong.items():
        setattr(gpu, name, value)
    assert export(tmp_path / "missing.safetensors", tmp_path / "x.trt.onnx") == 5
    message = told(capsys)
    assert "no NVIDIA GPU was found, or the libraries" in message
    assert wrong.get("fails", f"fell back to {CPU}").splitlines()[0] in message
    assert "export to onnx" in message
    assert gpu.made == ({},)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--dynamic"], "one engine, of one size"),
        (["--nms"], "no output of a fixed size"),
        (["--int8", "--calibrate", "."], "INT8 is calibrated for other runtimes"),
        (["--imgsz", "100"], "96 is near"),
    ],
)
def test_refused_options(more, message, weights, tmp_path, capsys):
    assert export(weights, tmp_path / "x.trt.onnx", *more) == 2
    assert message in told(capsys)


def test_the_name_is_not_that_of_a_file_that_runs_everywhere(
    gpu, weights, tmp_path, monkeypatch, capsys
):
    assert export(weights, tmp_path / "x.onnx") == 2
    assert "ends in .trt.onnx" in told(capsys)
    monkeypatch.chdir(tmp_path)
    assert run(["export", str(weights), "--format", "tensorrt"]) == 0
    assert {one.name for one in tmp_path.iterdir()} == {
        "tiny.trt.onnx",
        "tiny.trt.onnx.export.json",
    }


def test_an_engine_in_a_file_that_load_opens(gpu, weights, tmp_path, monkeypatch):
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    path = tmp_path / "tiny.trt.onnx"
    assert export(weights, path) == 0
    assert "NVIDIA_TF32_OVERRIDE" not in os.environ
    probe, built, opened = gpu.made
    assert (probe, opened) == ({}, {})
    assert built.pop("trt_ep_context_file_path").endswith(".onnx")
    assert built == {
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_embed_mode": "1",
        "trt_profile_min_shapes": f"images:1x3x{SIDE}x{SIDE}",
        "trt_profile_opt_shapes": f"images:8x3x{SIDE}x{SIDE}",
        "trt_profile_max_shapes": f"images:8x3x{SIDE}x{SIDE}",
    }
    report = json.loads((tmp_path / "tiny.trt.onnx.export.json").read_text())
    assert (report["format"], report["precision"]) == ("tensorrt", "float32")
    assert set(report["compared"]) == {"a real image", "random values"}

    detector = rstinynet.load(path, device="tensorrt")
    assert (detector.backend.device, detector.backend.batch) == ("tensorrt", 8)
    image = np.random.default_rng(1).integers(0, 255, (SIDE, SIDE, 3), np.uint8)
    ours, theirs = rstinynet.load(weights, device="cpu").detect(image), detector.detect(image)
    assert len(ours) == len(theirs) > 0
    np.testing.assert_allclose(ours.boxes, theirs.boxes, atol=0.05)


def test_the_user_s_own_setting_of_tf32_comes_back(gpu, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    tensorrt_file.check_present()
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"


def test_half_leaves_the_types_to_the_graph(gpu, tmp_path):
    path = tmp_path / "half.trt.onnx"
    assert export("rs-tinynet-lite", path, "--half", "--imgsz", str(SIDE)) == 0
    assert "trt_fp16_enable" not in gpu.made[1]
    file = onnx.load(path)
    assert METADATA_KEY in {entry.key for entry in file.metadata_props}
    held = {one.name: one for one in file.graph.node[0].attribute}["ep_cache_context"].s
    engine = onnx.load_from_string(held).graph
    kinds = {one.name: one.data_type for one in engine.initializer}
    convolutions = [one for one in engine.node if one.op_type == "Conv"]
    network = [one for one in convolutions if not one.name.startswith("decode/")]
    assert {kinds[one.input[1]] for one in network} == {TensorProto.FLOAT16}
    assert {kinds[one.input[1]] for one in convolutions if one not in network} <= {
        TensorProto.FLOAT
    }
    assert (
        json.loads((tmp_path / "half.trt.onnx.export.json").read_text())["precision"] == "float16"
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"opens_on": CPU}, "fell back to cpu"),
        ({"nodes": 2}, "the whole model in one engine"),
    ],
)
def test_what_does_not_run_in_tensorrt_leaves_no_file(
    wrong, message, gpu, weights, tmp_path, capsys
):
    for name, value in wrong.items():
        setattr(gpu, name, value)
    assert export(weights, tmp_path / "x.trt.onnx") == 5
    assert message in told(capsys)
    assert not list(tmp_path.iterdir())


def test_an_older_runtime_writes_no_engine(gpu, weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gpu, "dump", lambda *_: None)
    assert export(weights, tmp_path / "x.trt.onnx") == 5
    assert "wrote no file" in told(capsys)


def test_an_engine_elsewhere_says_what_it_is(weights, tmp_path):
    path = tmp_path / "tiny.trt.onnx"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "get_available_providers", lambda: [PROVIDER, CPU])
        patch.setattr(onnxruntime, "InferenceSession", type("Machine", (StandIn,), {}))
        assert export(weights, path) == 0
    with pytest.raises(ExportError, match="holds a TensorRT engine"):
        rstinynet.load(path)
    with pytest.raises(rstinynet.UsageError, match="ONNX Runtime has no Tensorrt"):
        rstinynet.load(path, device="tensorrt")
