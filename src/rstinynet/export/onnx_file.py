"""A fused model as an ONNX file that QGIS's Deepness, ONNX Runtime and OpenVINO load as it is.

One float32 input "images" (B, 3, S, S) in [0, 1], B free; one output "output0" (B, 4 + C, A):
centre, width and height in pixels and sigmoid scores, without NMS. With NMS inside the output is
(K, 7): image, x1, y1, x2, y2, score, class. A dynamic file takes (B, 3, H, W), H and W multiples
of 32. IR version 9, opset 18 to 20.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper

from rstinynet.errors import UsageError
from rstinynet.evaluate.calibration import tempered
from rstinynet.export.graph import Graph, record
from rstinynet.files import write_bytes
from rstinynet.model.decode import REG_MAX, anchors
from rstinynet.model.detector import DetectorModel
from rstinynet.model.metadata import METADATA_KEY, MOST_SIDE, WeightsMetadata
from rstinynet.runtime.backend import NMS_CONF

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
LOGIT_BOUND = 60.0
"""Above this a bin's logit is cut, in exported graphs: exp(60) times 16 bins fits a float."""
LEAST_SUM = 1e-30
_RECORDED = ((64, 96), (96, 160))
"""Heights and widths that a graph of any size is recorded with: each side has its own factors."""


def deepness_conf(metadata: WeightsMetadata) -> float:
    """The default confidence in the graph's own scores, before the weights' temperature."""
    return round(float(tempered(metadata.conf, 1 / metadata.temperature)), 4)


def checked_size(imgsz: int) -> int:
    """`imgsz`, or UsageError where it is no multiple of 32 up to `MOST_SIDE`."""
    if imgsz % 32 or not 32 <= imgsz <= MOST_SIDE:
        near = min(max(32, round(imgsz / 32) * 32), MOST_SIDE)
        raise UsageError(
            "the side of the input must be a multiple of the largest stride, 32, up to "
            f"{MOST_SIDE}, not {imgsz}: {near} is near"
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
    computes the network in float16; input, decoding and output stay float32. Raises UsageError for
    another opset or size than can be, ExportError for a model that has no ONNX form.
    """
    checked_size(imgsz)
    if opset not in OPSETS:
        raise UsageError(f"opset must be {OPSETS[0]} to {OPSETS[-1]}, not {opset}")
    fused = model.deployed().cpu()
    graph = Graph(half=half)
    entry = graph.cast(INPUT, TensorProto.FLOAT16) if half else INPUT
    inputs = [torch.zeros(1, 3, *size) for size in (_RECORDED if dynamic else [(imgsz, imgsz)])]
    outputs, recorder = record(fused, *inputs, graph=graph, input_name=entry)
    maps: list[torch.Tensor] = outputs.main
    levels = [_apart(graph, recorder.of(level), fused.num_classes) for level in maps]
    graph.half = False
    if half:
        levels = [Level(*(graph.cast(name, TensorProto.FLOAT) for name in each)) for each in levels]
    names = [level.sides for level in levels]
    grid = _computed_grid(graph, names, fused.strides) if dynamic else _grid(graph, maps, fused)
    fast = _largest_logit(fused, inputs[0], maps) < LOGIT_BOUND / 2
    output = _decode(graph, levels, grid, fused.num_classes, fast=fast)
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


class Level(NamedTuple):
    """Names of one level's maps."""

    sides: str
    """(B, 64, H, W), logits of the sides' bins."""
    classes: str
    """(B, C, H, W), logits of the classes."""


def _apart(graph: Graph, name: str, classes: int) -> Level:
    """The two maps that the head has joined: the joining is left out of the graph."""
    joining = next(node for node in graph.nodes if name in node.output)
    if joining.op_type == "Concat" and len(joining.input) == 2:
        graph.nodes.remove(joining)
        return Level(*joining.input)
    sizes = graph.constant([4 * REG_MAX, classes])
    return Level(*graph.add_many("Split", [name, sizes], 2, axis=1, name="decode/parts"))


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


def _largest_logit(model: DetectorModel, x: torch.Tensor, maps: list[torch.Tensor]) -> float:
    """Of the sides' bins, on these maps and on noise of the size of `x`, without its sign."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        noisy = model(torch.rand(x.shape, generator=generator)).main
    return max(float(level[:, : 4 * REG_MAX].abs().max()) for level in (*maps, *noisy))


def _decode(
    graph: Graph, levels: list[Level], grid: tuple[str, str], classes: int, *, fast: bool
) -> str:
    """`model.decode.decode` in xywh: the maps of each level to (B, 4 + C, A).

    The `fast` form of the softmax expectation is Σ k·exp(x) / Σ exp(x) over a side's bins, both
    sums of the four sides in one 1×1 convolution: runtimes compute exp with the convolution before
    it, and nothing of 64 channels is copied. Logits are bounded first, so that no sum overflows,
    and the form is for models whose logits are well within the bound.
    """
    points, steps = grid
    bins = np.arange(REG_MAX, dtype=np.float32)
    sums = np.zeros((8, 4 * REG_MAX, 1, 1), np.float32)
    for side in range(4):
        one = slice(side * REG_MAX, (side + 1) * REG_MAX)
        sums[side, one, 0, 0], sums[4 + side, one, 0, 0] = bins, 1
    weight = graph.constant(sums if fast else bins.reshape(1, 1, REG_MAX, 1), "bins")
    expected, logits = [], []
    for level in levels:
        expected.append((_fast_sides if fast else _softmax_sides)(graph, level.sides, weight))
        shape = graph.constant([0, classes, -1])
        logits.append(graph.add("Reshape", [level.classes, shape], name="decode/flat_classes"))
    sides = graph.add("Concat", expected, axis=2, name="decode/levels")
    scaled = graph.add("Mul", [sides, steps], name="decode/px")
    halves = graph.constant([2, 2])
    low, high = graph.add_many("Split", [scaled, halves], 2, axis=1, name="decode/sides")
    middle = graph.add("Sub", [high, low], name="decode/offset")
    middle = graph.add("Mul", [middle, graph.constant([0.5])], name="decode/half")
    middle = graph.add("Add", [middle, points], name="decode/placed")
    size = graph.add("Add", [low, high], name="decode/size")
    all_logits = graph.add("Concat", logits, axis=2, name="decode/all_classes")
    scores = graph.add("Sigmoid", [all_logits], name="decode/scores")
    return graph.add("Concat", [middle, size, scores], axis=1, name="decode/output")


def _fast_sides(graph: Graph, logits: str, sums: str) -> str:
    """(B, 64, H, W) to (B, 4, H·W) expected distances, by sums of powers."""
    # Min, not Clip, which OpenVINO divides in two of which one has another name.
    bound = graph.constant(np.asarray(LOGIT_BOUND))
    bounded = graph.add("Min", [logits, bound], name="decode/bounded")
    raised = graph.add("Exp", [bounded], name="decode/exp")
    # Where every power is nothing, a side is nothing and no division by it.
    least = graph.constant([0.0] * 4 + [LEAST_SUM] * 4)
    summed = graph.add("Conv", [raised, sums, least], name="decode/sums", kernel_shape=[1, 1])
    flat = graph.add("Reshape", [summed, graph.constant([0, 8, -1])], name="decode/both")
    four = graph.constant([4, 4])
    moments, totals = graph.add_many("Split", [flat, four], 2, axis=1, name="decode/split")
    return graph.add("Div", [moments, totals], name="decode/expectation")


def _softmax_sides(graph: Graph, logits: str, values: str) -> str:
    """(B, 64, H, W) to (B, 4, H·W) expected distances, of any logits."""
    shape = graph.constant([0, 4, REG_MAX, -1])
    bins = graph.add("Reshape", [logits, shape], name="decode/flat_bins")
    shares = graph.add("Softmax", [bins], axis=2, name="decode/softmax")
    weighted = graph.add("Mul", [shares, values], name="decode/weighted")
    over = graph.constant([2])
    return graph.add("ReduceSum", [weighted, over], keepdims=0, name="decode/expectation")


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
            graph.constant([NMS_CONF]),
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
