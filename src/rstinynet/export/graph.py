"""A network as an ONNX graph, recorded operation by operation while it runs once.

Recording takes seconds and needs no other package than onnx; names are those of the weights. What
depends on the input's size only becomes a constant, or is computed in the graph where the size is
to stay free. Every operation that the named models use is here; another one is an ExportError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from rstinynet.errors import ExportError
from rstinynet.export.sizes import Shapes, Sizes

Array = npt.NDArray[Any]
aten = torch.ops.aten


class Graph:
    """Nodes and constants of an ONNX graph under construction."""

    def __init__(self, *, half: bool = False) -> None:
        self.half = half
        """Whether constants of floats are stored, and computed with, in float16."""
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._taken: dict[str, int] = {}

    def name(self, wanted: str) -> str:
        """`wanted`, with a number where it is taken."""
        count = self._taken.get(wanted, 0)
        self._taken[wanted] = count + 1
        return wanted if count == 0 else f"{wanted}_{count}"

    def constant(self, values: Array | Sequence[int] | Sequence[float], name: str = "const") -> str:
        """Name of a constant; Python integers become int64, floats the graph's float."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            if self.half and np.abs(array).max(initial=0) > np.finfo(np.float16).max:
                raise ExportError(
                    f"{name}: values up to {np.abs(array).max():.3g} do not fit float16, which "
                    "ends at 65504: export in float"
                )
            array = array.astype(np.float16 if self.half else np.float32)
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64)
        name = self.name(name)
        self.constants.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def add(self, kind: str, inputs: Sequence[str], *, name: str = "", **attributes: Any) -> str:
        """Append a node with one output; its name."""
        return self.add_many(kind, inputs, 1, name=name, **attributes)[0]

    def add_many(
        self, kind: str, inputs: Sequence[str], outputs: int, *, name: str = "", **attributes: Any
    ) -> list[str]:
        """Append a node; the names of its outputs."""
        node = self.name(name or kind.lower())
        names = [self.name(f"{node}_out") for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=node, **attributes))
        return names

    def cast(self, value: str, to: int) -> str:
        """`value` as another type."""
        return self.add("Cast", [value], to=to)


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds to `graph` what torch computes from the tensors that `trace` names.

    Views share nothing in ONNX: a tensor changed in place gets a new name from then on, which is
    right as long as no view of it is read afterwards (no model here does).
    """

    def __init__(
        self, graph: Graph, weights: dict[int, str], *, sizes: Sizes, others: Shapes | None
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.graph = graph
        self.sizes = sizes
        self._others = None if others is None else iter(others.seen)
        self.weights = weights
        self._traced: dict[int, str] = {}
        self._constants: dict[int, str] = {}
        self._alive: list[Any] = []

    def trace(self, tensor: Tensor, name: str) -> None:
        """From now on this tensor is the value `name`."""
        self._traced[id(tensor)] = name
        # An id may be given again when its object is gone.
        self._alive.append(tensor)

    def of(self, value: Tensor | float, like: str = "const") -> str:
        """Name of a traced tensor, or of a constant made of this one."""
        if not isinstance(value, Tensor):
            return self.graph.constant(np.asarray(value, np.float32), like)
        known = self._traced.get(id(value)) or self._constants.get(id(value))
        if known is not None:
            return known
        name = self.graph.constant(value.detach().cpu().numpy(), self.weights.get(id(value), like))
        self._constants[id(value)] = name
        self._alive.append(value)
        return name

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self._others is not None:
            self.sizes.note(func, result, next(self._others))
        if any(self._is_traced(a) for a in args):
            emit = EMITTERS.get(func.overloadpacket)
            if emit is None:
                raise ExportError(
                    f"the operation {func} has no ONNX form here: use a named model, or the "
                    "format torch-export"
                )
            names = emit(self, result, *args, **(kwargs or {}))
            if isinstance(names, str):
                self.trace(result[0] if isinstance(result, tuple) else result, names)
            else:
                for tensor, name in zip(result, names, strict=True):
                    self.trace(tensor, name)
        return result

    def _is_traced(self, value: Any) -> bool:
        if isinstance(value, list | tuple):
            return any(self._is_traced(one) for one in value)
        return isinstance(value, Tensor) and id(value) in self._traced


def record(
    model: nn.Module, x: Tensor, other: Tensor | None = None, *, graph: Graph, input_name: str
) -> tuple[Any, Recorder]:
    """Run `model(x)` once, adding it to `graph`; its outputs, and the recorder, which names them.

    With `other`, an input of other height and width, the graph takes any: what differs between the
    two is computed in it.
    """
    weights = {id(tensor): name for name, tensor in model.named_parameters()}
    others = None
    if other is not None:
        with torch.no_grad(), Shapes() as others:
            model(other)
    recorder = Recorder(graph, weights, sizes=Sizes(graph, input_name, x, other), others=others)
    recorder.trace(x, input_name)
    with torch.no_grad(), recorder:
        outputs = model(x)
    return outputs, recorder


def _convolution(
    r: Recorder, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, *rest: Any
) -> str:
    stride, padding, dilation, transposed, _, groups = rest
    if transposed:
        raise ExportError("transposed convolutions have no ONNX form here")
    name = r.weights.get(id(weight), "conv.weight").removesuffix(".weight")
    inputs = [r.of(x), r.of(weight)] + ([] if bias is None else [r.of(bias)])
    kernel = list(weight.shape[2:])
    width = len(kernel)
    sides = [int(p) for p in padding] * (width if len(padding) == 1 and width > 1 else 1)
    return r.graph.add(
        "Conv",
        inputs,
        name=name,
        kernel_shape=kernel,
        strides=[int(s) for s in stride],
        pads=sides * 2,
        dilations=[int(d) for d in dilation],
        group=int(groups),
    )


def _silu(r: Recorder, out: Tensor, x: Tensor) -> str:
    name = r.of(x)
    return r.graph.add("Mul", [name, r.graph.add("Sigmoid", [name])])


def _unary(kind: str) -> Callable[..., str]:
    return lambda r, out, x: r.graph.add(kind, [r.of(x)])


def _binary(kind: str) -> Callable[..., str]:
    def emit(r: Recorder, out: Tensor, a: Any, b: Any, alpha: float = 1) -> str:
        second = r.of(b)
        if alpha != 1:
            second = r.graph.add("Mul", [second, r.of(float(alpha))])
        return r.graph.add(kind, [r.of(a), second])

    return emit


def _rsub(r: Recorder, out: Tensor, a: Any, b: Any, alpha: float = 1) -> str:
    return r.graph.add("Sub", [r.of(b), r.of(a)])


def _clip(r: Recorder, out: Tensor, x: Tensor, low: float = -1, high: float = 1) -> str:
    return r.graph.add("Clip", [r.of(x), r.of(float(low)), r.of(float(high))])


def _cat(r: Recorder, out: Tensor, parts: Sequence[Tensor], dim: int = 0) -> str:
    return r.graph.add("Concat", [r.of(part) for part in parts], axis=dim % out.ndim)


def _reshape(r: Recorder, out: Tensor, x: Tensor, shape: Any = None) -> str:
    # Batches lead in every view, alone or as a factor, and any batch is to be taken.
    shape = r.sizes.vector([-1, *(r.sizes.of(out, axis) for axis in range(1, out.ndim))])
    return r.graph.add("Reshape", [r.of(x), shape])


def _same(r: Recorder, out: Tensor, x: Tensor, *rest: Any, **options: Any) -> str:
    if out.shape != x.shape:
        raise ExportError(f"expanding {tuple(x.shape)} to {tuple(out.shape)} has no ONNX form here")
    return r.of(x)


def _split(r: Recorder, out: Sequence[Tensor], x: Tensor, size: Any, dim: int = 0) -> list[str]:
    sizes = [r.sizes.fixed(part, dim) for part in out]
    inputs = [r.of(x), r.graph.constant(sizes)]
    return r.graph.add_many("Split", inputs, len(sizes), axis=dim % x.ndim)


def _slice(
    r: Recorder, out: Tensor, x: Tensor, dim: int = 0, start: Any = 0, end: Any = 0, step: int = 1
) -> str:
    if out.shape == x.shape:
        return r.of(x)
    length = r.sizes.fixed(x, dim)
    first = start or 0
    first = first + length if first < 0 else first
    limits = [[first], [first + out.shape[dim] * step], [dim % x.ndim], [step]]
    return r.graph.add("Slice", [r.of(x), *(r.graph.constant(limit) for limit in limits)])


def _transpose(r: Recorder, out: Tensor, x: Tensor, a: int, b: int) -> str:
    order = list(range(x.ndim))
    order[a], order[b] = order[b], order[a]
    return r.graph.add("Transpose", [r.of(x)], perm=order)


def _unsqueeze(r: Recorder, out: Tensor, x: Tensor, dim: int) -> str:
    return r.graph.add("Unsqueeze", [r.of(x), r.graph.constant([dim % out.ndim])])


def _softmax(r: Recorder, out: Tensor, x: Tensor, dim: int, *rest: Any) -> str:
    return r.graph.add("Softmax", [r.of(x)], axis=dim % x.ndim)


def _mean(r: Recorder, out: Tensor, x: Tensor, dims: Any, keep: bool = False, **rest: Any) -> str:
    axes = r.graph.constant([d % x.ndim for d in dims])
    return r.graph.add("ReduceMean", [r.of(x), axes], keepdims=int(keep))


def _amax(r: Recorder, out: Tensor, x: Tensor, dims: Any = (), keep: bool = False) -> str:
    axes = r.graph.constant([d % x.ndim for d in dims])
    return r.graph.add("ReduceMax", [r.of(x), axes], keepdims=int(keep))


def _max_pool(r: Recorder, out: Any, x: Tensor, kernel: Any, stride: Any, padding: Any = 0) -> str:
    sides = list(padding) if isinstance(padding, list | tuple) else [padding] * 2
    return r.graph.add(
        "MaxPool",
        [r.of(x)],
        kernel_shape=list(kernel),
        strides=list(stride or kernel),
        pads=sides * 2,
    )


def _adaptive_mean(r: Recorder, out: Tensor, x: Tensor, size: Any) -> str:
    """Means of cells that may overlap: a product with a matrix along each side.

    Where cells are of one size a pool says the same, without a copy of channels-last input.
    """
    cell = [r.sizes.ratio(x, out, axis) for axis in (2, 3)]
    if all(length is not None and length.denominator == 1 for length in cell):
        kernel = [int(length) for length in cell if length]
        return r.graph.add("AveragePool", [r.of(x)], kernel_shape=kernel, strides=kernel)
    high, wide = (
        r.sizes.cells(r.sizes.of(x, axis), r.sizes.fixed(out, axis), upright=axis == 2)
        for axis in (2, 3)
    )
    return r.graph.add("MatMul", [r.graph.add("MatMul", [high, r.of(x)]), wide])


def _nearest(r: Recorder, out: Tensor, x: Tensor, *rest: Any) -> str:
    factors = [r.sizes.ratio(out, x, axis) for axis in (2, 3)]
    if all(factor is not None and factor.denominator == 1 for factor in factors):
        return _resize(r, x, [float(f) for f in factors if f], mode="nearest")
    name = r.of(x)
    for axis in (2, 3):
        chosen = r.sizes.nearest(r.sizes.of(out, axis), r.sizes.fixed(x, axis))
        name = r.graph.add("Gather", [name, chosen], axis=axis)
    return name


def _bilinear(r: Recorder, out: Tensor, x: Tensor, size: Any, corners: bool, *rest: Any) -> str:
    factors = [r.sizes.ratio(out, x, axis) for axis in (2, 3)]
    if None in factors:
        raise ExportError("this model's bilinear resize has no form of any size: export it static")
    return _resize(r, x, [float(f) for f in factors if f], mode="linear")


def _resize(r: Recorder, x: Tensor, factors: Sequence[float], *, mode: str) -> str:
    scales = helper.make_tensor(
        r.graph.name("scales"), TensorProto.FLOAT, [4], [1.0, 1.0, *map(float, factors)]
    )
    r.graph.constants.append(scales)
    how = {"nearest": "asymmetric", "linear": "half_pixel"}[mode]
    extra = {"nearest_mode": "floor"} if mode == "nearest" else {}
    return r.graph.add(
        "Resize",
        [r.of(x), "", scales.name],
        mode=mode,
        coordinate_transformation_mode=how,
        **extra,
    )


def _pad(r: Recorder, out: Tensor, x: Tensor, pads: Sequence[int], value: float = 0) -> str:
    before, after = [0] * x.ndim, [0] * x.ndim
    for i in range(len(pads) // 2):
        before[-1 - i], after[-1 - i] = int(pads[2 * i]), int(pads[2 * i + 1])
    return r.graph.add("Pad", [r.of(x), r.graph.constant([*before, *after]), r.of(float(value))])


EMITTERS: dict[Any, Callable[..., Any]] = {
    aten.convolution: _convolution,
    aten.silu: _silu,
    aten.silu_: _silu,
    aten.relu: _unary("Relu"),
    aten.relu_: _unary("Relu"),
    aten.sigmoid: _unary("Sigmoid"),
    aten.hardtanh: _clip,
    aten.hardtanh_: _clip,
    aten.add: _binary("Add"),
    aten.sub: _binary("Sub"),
    aten.rsub: _rsub,
    aten.mul: _binary("Mul"),
    aten.bmm: _binary("MatMul"),
    aten.cat: _cat,
    aten.view: _reshape,
    aten._unsafe_view: _reshape,
    aten.reshape: _reshape,
    aten.expand: _same,
    aten.clone: _same,
    aten.alias: _same,
    aten.split: _split,
    aten.split_with_sizes: _split,
    aten.slice: _slice,
    aten.transpose: _transpose,
    aten.unsqueeze: _unsqueeze,
    aten._softmax: _softmax,
    aten.mean: _mean,
    aten.amax: _amax,
    aten.max_pool2d_with_indices: _max_pool,
    aten._adaptive_avg_pool2d: _adaptive_mean,
    aten.upsample_nearest2d: _nearest,
    aten.upsample_bilinear2d: _bilinear,
    aten.constant_pad_nd: _pad,
}
