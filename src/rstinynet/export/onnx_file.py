"""A fused model as an ONNX file that QGIS's Deepness, ONNX Runtime and OpenVINO load as it is.

One float32 input "images" (B, 3, S, S) in [0, 1], B free; one output "output0" (B, 4 + C, A):
centre, width and height in pixels and sigmoid scores, without NMS. With NMS inside the output is
(K, 7): image, x1, y1, x2, y2, score, class. A dynamic file takes (B, 3, H, W), H and W multiples
of 32. IR version 9, opset 18 to 20.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from rstinynet.errors import ExportError
from rstinynet.evaluate.calibration import tempered
from rstinynet.export.graph import Graph, record
from rstinynet.files import write_bytes
from rstinynet.model.decode import REG_MAX, anchors
from rstinynet.model.detector import DetectorModel
from rstinynet.model.metadata import METADATA_KEY, WeightsMetadata

IR_VERSION = 9
"""The newest that ONNX Runtime 1.17, which Deepness ships, reads."""
OPSETS = range(18, 21)
"""Reductions take their axes as an input from 18 on; ONNX Runtime 1.17 knows up to 20."""
DEFAULT_OPSET = 18
INPUT, OUTPUT = "images", "output0"
NMS_IOU = 0.6
"""As `rstinynet predict` has it."""
NMS_MOST = 1500
"""Most objects of a class on an image with NMS inside."""
_RECORDED = ((64, 96), (96, 160))
"""Heights and widths that a graph of any size is recorded with: each side has its own factors."""


def deepness_conf(metadata: WeightsMetadata) -> float:
    """The default confidence in the graph's own scores, before the weights' temperature."""
    return round(float(tempered(metadata.conf, 1 / metadata.temperature)), 4)


def checked_size(imgsz: int) -> int:
    """`imgsz`, or ExportError where it is no multiple of 32."""
    if imgsz < 32 or imgsz % 32:
        near = max(32, round(imgsz / 32) * 32)
        raise ExportError(
            f"the side of the input must be a multiple of the largest stride, 32, not {imgsz}: "
            f"{near} is near"
        )
    return imgsz


def build_onnx(
    model: DetectorModel,
    metadata: WeightsMetadata,
    *,
    imgsz: int,
    opset: int = DEFAULT_OPSET,
    half: bool = False,
    nms: bool = False,
    dynamic: bool = False,
) -> onnx.ModelProto:
    """The graph of `model` (fused here) for a square input of `imgsz` pixels.

    A `dynamic` one takes any height and width; `imgsz` is then the side of its tiles only. `half`
    computes the network in float16; input, decoding and output stay float32. Raises ExportError for
    another opset or size than can be.
    """
    checked_size(imgsz)
    if opset not in OPSETS:
        raise ExportError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, not {opset}")
    fused = model.deployed().cpu()
    graph = Graph(half=half)
    entry = graph.cast(INPUT, TensorProto.FLOAT16) if half else INPUT
    inputs = [torch.zeros(1, 3, *size) for size in (_RECORDED if dynamic else [(imgsz, imgsz)])]
    outputs, recorder = record(fused, *inputs, graph=graph, input_name=entry)
    maps: list[torch.Tensor] = outputs.main
    names = [recorder.of(level) for level in maps]
    graph.half = False
    if half:
        names = [graph.cast(name, TensorProto.FLOAT) for name in names]
    grid = _computed_grid(graph, names, fused.strides) if dynamic else _grid(graph, maps, fused)
    output = _decode(graph, names, grid, fused)
    count: str | int = "anchors" if dynamic else _count(maps)
    shape: list[str | int] = ["batch", 4 + fused.num_classes, count]
    if nms:
        height, width = recorder.sizes.sides() if dynamic else [graph.constant([imgsz])] * 2
        output = _suppress(graph, output, fused.num_classes, sides=[width, height])
        shape = ["objects", 7]
    sides: list[str | int] = ["height", "width"] if dynamic else [imgsz, imgsz]
    graph.nodes.append(helper.make_node("Identity", [output], [OUTPUT], name="output"))
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "rstinynet",
            [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, *sides])],
            [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, shape)],
            initializer=graph.constants,
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=IR_VERSION,
        producer_name="rstinynet",
    )
    properties = describe(metadata, imgsz=imgsz, stride=max(fused.strides))
    if not (nms or dynamic):
        # Deepness knows neither.
        properties |= describe_to_deepness(metadata, imgsz=imgsz)
    helper.set_model_props(made, properties)
    onnx.checker.check_model(made)
    return made


def own_metadata(metadata: WeightsMetadata, *, imgsz: int) -> WeightsMetadata:
    """What an exported file says of itself: tiles that fill its square of `imgsz` pixels."""
    return metadata.model_copy(update={"imgsz": max(32, int(imgsz / metadata.scale))})


def describe(metadata: WeightsMetadata, *, imgsz: int, stride: int) -> dict[str, str]:
    """Our metadata and Ultralytics' keys."""
    return {
        METADATA_KEY: own_metadata(metadata, imgsz=imgsz).model_dump_json(),
        "names": str(dict(enumerate(metadata.names))),
        "stride": str(stride),
        "task": "detect",
        "imgsz": str([imgsz, imgsz]),
        "batch": "1",
        "channels": "3",
    }


def describe_to_deepness(metadata: WeightsMetadata, *, imgsz: int) -> dict[str, str]:
    """Deepness's keys, each value JSON."""
    deepness: dict[str, object] = {
        "model_type": "Detector",
        "class_names": {str(i): name for i, name in enumerate(metadata.names)},
        "det_type": "YOLO_Ultralytics",
        "det_conf": deepness_conf(metadata),
        "det_iou_thresh": NMS_IOU,
        "tile_size": imgsz,
        "tiles_overlap": 10,
        "standardization_mean": [0.0, 0.0, 0.0],
        "standardization_std": [1.0, 1.0, 1.0],
    }
    if metadata.gsd_m is not None:
        # The plugin resamples the map to this many centimetres a pixel of the model's input.
        metres = sum(metadata.gsd_m) / 2 / metadata.scale
        deepness["resolution"] = round(100 * metres, 2)
    return {key: json.dumps(value) for key, value in deepness.items()}


def write_onnx(path: Path, made: onnx.ModelProto) -> None:
    """Write the file, beside and renamed."""
    write_bytes(path, made.SerializeToString())


def _count(maps: list[torch.Tensor]) -> int:
    return sum(level.shape[2] * level.shape[3] for level in maps)


def _grid(graph: Graph, maps: list[torch.Tensor], model: DetectorModel) -> tuple[str, str]:
    """Names of the cells' centres (2, A) and of their strides (A,), in pixels."""
    points, steps = anchors(maps, model.strides)
    return graph.constant(points.T.numpy(), "points"), graph.constant(steps.numpy(), "strides")


def _computed_grid(graph: Graph, names: list[str], strides: tuple[int, ...]) -> tuple[str, str]:
    """`_grid`, computed from the heights and widths of the levels' maps."""
    points, steps = [], []
    for name, stride in zip(names, strides, strict=True):
        sides = graph.add("Shape", [name], start=2, end=4, name="decode/sides_of")
        step = graph.constant([float(stride)])
        centres = []
        for axis, shape in ((1, [1, 1, -1]), (0, [1, -1, 1])):
            length = graph.add("Gather", [sides, graph.constant(np.asarray(axis))], axis=0)
            ends = [graph.constant(np.asarray(end)) for end in (0, 1)]
            cells = graph.add("Range", [ends[0], length, ends[1]], name="decode/cells")
            cells = graph.add("Cast", [cells], to=TensorProto.FLOAT, name="decode/cells_as")
            middle = graph.add("Add", [cells, graph.constant([0.5])], name="decode/middle")
            middle = graph.add("Mul", [middle, step], name="decode/centre")
            line = graph.add("Reshape", [middle, graph.constant(shape)], name="decode/line")
            centres.append(graph.add("Expand", [line, _whole(graph, sides)], name="decode/spread"))
        grid = graph.add("Concat", centres, axis=0, name="decode/grid")
        points.append(graph.add("Reshape", [grid, graph.constant([2, -1])], name="decode/points"))
        count = graph.add("ReduceProd", [sides], keepdims=1, name="decode/count")
        steps.append(graph.add("Expand", [step, count], name="decode/step"))
    return (
        graph.add("Concat", points, axis=1, name="decode/all_points"),
        graph.add("Concat", steps, axis=0, name="decode/all_steps"),
    )


def _whole(graph: Graph, sides: str) -> str:
    return graph.add("Concat", [graph.constant([1]), sides], axis=0, name="decode/whole")


def _decode(graph: Graph, names: list[str], grid: tuple[str, str], model: DetectorModel) -> str:
    """`model.decode.decode` in xywh: (B, 64 + C, H, W) of each level to (B, 4 + C, A)."""
    points, steps = grid
    features = 4 * REG_MAX + model.num_classes
    flat = [
        graph.add("Reshape", [name, graph.constant([0, features, -1])], name="decode/flat")
        for name in names
    ]
    joined = graph.add("Concat", flat, axis=2, name="decode/levels")
    sizes = graph.constant([4 * REG_MAX, model.num_classes])
    dfl, classes = graph.add_many("Split", [joined, sizes], 2, axis=1, name="decode/split")
    bins = graph.add("Reshape", [dfl, graph.constant([0, 4, REG_MAX, -1])], name="decode/bins")
    shares = graph.add("Softmax", [bins], axis=2, name="decode/softmax")
    values = graph.constant(torch.arange(REG_MAX).float().view(1, 1, REG_MAX, 1).numpy(), "bins")
    weighted = graph.add("Mul", [shares, values], name="decode/weighted")
    sides = graph.add(
        "ReduceSum", [weighted, graph.constant([2])], keepdims=0, name="decode/expectation"
    )
    scaled = graph.add("Mul", [sides, steps], name="decode/px")
    halves = graph.constant([2, 2])
    low, high = graph.add_many("Split", [scaled, halves], 2, axis=1, name="decode/sides")
    middle = graph.add("Sub", [high, low], name="decode/offset")
    middle = graph.add("Mul", [middle, graph.constant([0.5])], name="decode/half")
    middle = graph.add("Add", [middle, points], name="decode/placed")
    size = graph.add("Add", [low, high], name="decode/size")
    scores = graph.add("Sigmoid", [classes], name="decode/scores")
    return graph.add("Concat", [middle, size, scores], axis=1, name="decode/output")


def _suppress(graph: Graph, output: str, classes: int, *, sides: list[str]) -> str:
    """Greedy NMS by class inside the graph: (B, 4 + C, A) to (K, 7)."""
    parts = graph.constant([4, classes])
    xywh, scores = graph.add_many("Split", [output, parts], 2, axis=1, name="nms/split")
    boxes = graph.add("Transpose", [xywh], perm=[0, 2, 1], name="nms/boxes")
    two = graph.constant([2, 2])
    middle, size = graph.add_many("Split", [boxes, two], 2, axis=2, name="nms/xywh")
    half = graph.add("Mul", [size, graph.constant([0.5])], name="nms/half")
    corners = graph.add(
        "Concat",
        [graph.add("Sub", [middle, half]), graph.add("Add", [middle, half])],
        axis=2,
        name="nms/corners",
    )
    # Cut to the image first, as the detector does: it changes what overlaps.
    limits = graph.cast(graph.add("Concat", sides * 2, axis=0), TensorProto.FLOAT)
    corners = graph.add("Max", [corners, graph.constant([0.0])], name="nms/cut_low")
    corners = graph.add("Min", [corners, limits], name="nms/cut")
    chosen = graph.add(
        "NonMaxSuppression",
        [
            corners,
            scores,
            graph.constant([NMS_MOST]),
            graph.constant([NMS_IOU]),
            graph.constant([0.001]),
        ],
        name="nms/select",
    )
    ones = graph.constant([1, 1, 1])
    image, label, anchor = graph.add_many("Split", [chosen, ones], 3, axis=1, name="nms/which")
    where = graph.add("Concat", [image, anchor], axis=1)
    columns = [
        graph.cast(image, TensorProto.FLOAT),
        graph.add("GatherND", [corners, where], name="nms/xyxy"),
        graph.add(
            "Unsqueeze",
            [graph.add("GatherND", [scores, chosen], name="nms/scores"), graph.constant([1])],
        ),
        graph.cast(label, TensorProto.FLOAT),
    ]
    return graph.add("Concat", columns, axis=1, name="nms/output")
