"""A TensorRT engine in an ONNX file, built by ONNX Runtime's TensorRT provider where it runs.

The file is one node (`EPContext`) that holds the engine, with our metadata: the ONNX backend opens
it with `device="tensorrt"`. An engine holds for the GPU, and for the versions of TensorRT and ONNX
Runtime, that it was built with. Options of the provider are named as in ONNX Runtime's source,
1.17 and later; nothing here has run on a GPU yet.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
from onnx import TensorProto, helper

from rstinynet.errors import ExportError
from rstinynet.export.onnx_file import INPUT, IR_VERSION, OUTPUT
from rstinynet.files import write_bytes
from rstinynet.runtime.onnx_backend import GPU_BATCH

PROVIDER = "TensorrtExecutionProvider"
INSTEAD = (
    "Install onnxruntime-gpu (1.18 or later) in place of onnxruntime, and the TensorRT that it was "
    "built for, on a machine with an NVIDIA GPU; or export to onnx, and give `--device tensorrt` "
    "to predict or val on such a machine"
)
TF32 = "NVIDIA_TF32_OVERRIDE"
"""0 turns off TF32, whose ten bits of mantissa are not float32; no option of the provider does."""


def check_present() -> None:
    """Raises ExportError, which says what is missing, where no engine can be built.

    ONNX Runtime lists the provider where only its own part of it is installed, so that a graph of
    one node is built: that takes a GPU and TensorRT's libraries, and seconds.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ExportError(
            "ONNX Runtime builds TensorRT engines, and it is not installed. " + INSTEAD
        ) from error
    there = onnxruntime.get_available_providers()
    if PROVIDER not in there:
        raise ExportError(
            f"ONNX Runtime's {PROVIDER} builds TensorRT engines, and ONNX Runtime "
            f"{onnxruntime.__version__} here has only {', '.join(there)}. {INSTEAD}"
        )
    entry, output = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "one", [entry], [output])
    opset = helper.make_opsetid("", 18)
    try:
        _build(helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION), {})
    except ExportError as error:
        raise ExportError(
            f"no NVIDIA GPU was found, or the libraries of TensorRT and CUDA that ONNX Runtime "
            f"{onnxruntime.__version__} was built for are not installed: {error}. {INSTEAD}"
        ) from error


def write_tensorrt(path: Path, made: onnx.ModelProto, *, imgsz: int) -> None:
    """Build the engine of `made`, for squares of `imgsz` pixels; write it, beside and renamed.

    It takes 1 to GPU_BATCH images at once. Each node is computed in its own type: float32, or the
    network in float16 where `made` has it so. Raises ExportError where TensorRT does not take the
    whole of the graph.
    """
    with tempfile.TemporaryDirectory() as folder:
        held = Path(folder) / "engine.onnx"
        _build(made, options(held, imgsz=imgsz))
        if not held.is_file():
            raise ExportError(
                f"ONNX Runtime's {PROVIDER} wrote no file with the engine: it needs ONNX Runtime "
                "1.18 or later. " + INSTEAD
            )
        engine = onnx.load(held)
    graph = engine.graph
    kinds = [node.op_type for node in graph.node]
    ends = [value.name for value in (*graph.input, *graph.output)]
    if kinds != ["EPContext"] or ends != [INPUT, OUTPUT]:
        raise ExportError(
            "TensorRT must take the whole model in one engine, from "
            f"{INPUT} to {OUTPUT}, and the file has {', '.join(kinds) or 'no nodes'} between "
            f"{', '.join(ends)}: export to onnx, and give `--device tensorrt` where it runs"
        )
    # The provider makes a new model, without what the exported one says of itself.
    helper.set_model_props(engine, {entry.key: entry.value for entry in made.metadata_props})
    write_bytes(path, engine.SerializeToString())


def options(held: Path, *, imgsz: int) -> dict[str, str]:
    """The provider's, to write the engine into the ONNX file `held`.

    Without `trt_fp16_enable`: with it TensorRT may take float16 for any node, the decoding too;
    without it TensorRT 10 keeps the types that the graph has. With a range of batches the engine
    is built when the session is made, else at its first run and again at larger ones.
    """
    small, large = (f"{INPUT}:{count}x3x{imgsz}x{imgsz}" for count in (1, GPU_BATCH))
    return {
        "trt_dump_ep_context_model": "1",
        "trt_ep_context_file_path": str(held),
        "trt_ep_context_embed_mode": "1",
        "trt_profile_min_shapes": small,
        "trt_profile_opt_shapes": large,
        "trt_profile_max_shapes": large,
    }


def _build(made: onnx.ModelProto, chosen: dict[str, str]) -> None:
    """A session of `made` in TensorRT alone, which builds the engine; ExportError where not."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 3
    # Else nodes that TensorRT does not take, or all of them, run on the CPU without a word.
    settings.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    wanted: list[Any] = [(PROVIDER, chosen)]
    with tempfile.TemporaryDirectory() as folder, _without_tf32():
        # A path, not bytes: the provider names what it writes after it.
        path = Path(folder) / "model.onnx"
        path.write_bytes(made.SerializeToString())
        try:
            session = onnxruntime.InferenceSession(
                str(path), settings, providers=wanted, enable_fallback=0
            )
        except Exception as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ExportError(f"TensorRT built no engine: {reason}") from error
    ran = session.get_providers()[0]
    if ran != PROVIDER:
        raise ExportError(f"TensorRT built no engine: ONNX Runtime fell back to {ran}")


@contextmanager
def _without_tf32() -> Iterator[None]:
    before = os.environ.get(TF32)
    os.environ[TF32] = "0"
    try:
        yield
    finally:
        if before is None:
            del os.environ[TF32]
        else:
            os.environ[TF32] = before
