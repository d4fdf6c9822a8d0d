"""Sizes that an ONNX graph computes from its input's height and width.

Which sizes those are is read off two runs of the model on inputs of other height and width: what
is the same in both is fixed, and what differs is a multiple of the height, of the width, or of
their product, in units of 32 pixels. A graph of one size has none, and all here are constants.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from onnx import TensorProto
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from rstinynet.errors import ExportError

if TYPE_CHECKING:
    from rstinynet.export.graph import Graph

UNIT = 32
"""What heights and widths are multiples of, pixels."""
PREFIX = "sizes/"
"""What the names of the nodes that compute sizes begin with."""
_NO_FORM = "this model has no form that takes any size: leave out --dynamic"


@dataclass(frozen=True, slots=True)
class Size:
    """`count` times the height's units, where it is `high`, and the width's, where `wide`."""

    count: int
    high: bool
    wide: bool


Shape = tuple[int, ...]


class Shapes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The shapes of all that torch computes, operation by operation."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: list[tuple[Any, list[Shape]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.append((func, [tuple(tensor.shape) for tensor in _tensors(result)]))
        return result


class Sizes:
    """The sizes of a graph's values, by the tensors that they were recorded from."""

    def __init__(self, graph: Graph, entry: str, x: Tensor, other: Tensor | None = None) -> None:
        """`x` and `other` are inputs (B, 3, H, W) of two sizes; `entry` names the graph's own."""
        self._graph = graph
        self._entry = entry
        self._others: dict[int, Shape] = {}
        self._made: dict[Any, str] = {}
        if other is not None:
            self._others[id(x)] = tuple(other.shape)
            self._here, self._there = (
                [side // UNIT for side in one.shape[2:]] for one in (x, other)
            )

    def note(self, func: Any, result: Any, other: tuple[Any, list[Shape]]) -> None:
        """Of what this operation gave, the shapes that it gives for the other size."""
        tensors = list(_tensors(result))
        if other[0] is not func or len(other[1]) != len(tensors):
            raise ExportError(f"{_NO_FORM} (at {func})")
        self._others |= {id(one): shape for one, shape in zip(tensors, other[1], strict=True)}

    def of(self, tensor: Tensor, axis: int) -> int | Size:
        """The length of a side of a recorded tensor."""
        here = tensor.shape[axis]
        there = self._others.get(id(tensor), tensor.shape)[axis]
        if here == there:
            return here
        for high, wide in ((True, False), (False, True), (True, True)):
            counts = [
                Fraction(length, (rows if high else 1) * (columns if wide else 1))
                for length, (rows, columns) in ((here, self._here), (there, self._there))
            ]
            if counts[0] == counts[1] and counts[0].denominator == 1:
                return Size(int(counts[0]), high, wide)
        raise ExportError(f"{_NO_FORM} (a side of {here} and {there})")

    def fixed(self, tensor: Tensor, axis: int) -> int:
        """The length of a side that is the same for every input; ExportError where it is not."""
        length = self.of(tensor, axis)
        if isinstance(length, Size):
            raise ExportError(f"{_NO_FORM} (a part of a side of {tensor.shape[axis]})")
        return length

    def ratio(self, out: Tensor, x: Tensor, axis: int) -> Fraction | None:
        """How many times as long a side became; None where that depends on the input."""
        after, before = self.of(out, axis), self.of(x, axis)
        if isinstance(after, int) and isinstance(before, int):
            return Fraction(after, before)
        if isinstance(after, int) or isinstance(before, int):
            return None
        same = (after.high, after.wide) == (before.high, before.wide)
        return Fraction(after.count, before.count) if same else None

    def vector(self, lengths: Sequence[int | Size]) -> str:
        """Name of an int64 vector of these."""
        if all(isinstance(length, int) for length in lengths):
            return self._graph.constant([length for length in lengths if isinstance(length, int)])
        key = tuple(lengths)
        if key not in self._made:
            parts = [self._length(length) for length in lengths]
            self._made[key] = self._add("Concat", parts, axis=0)
        return self._made[key]

    def cells(self, length: int | Size, count: int, *, upright: bool) -> str:
        """Name of a matrix (length, count), or where `upright` (count, length): means of cells.

        Cells may overlap: i runs from i·length/count, rounded down, to (i + 1)·length/count,
        rounded up, as in torch's adaptive pooling.
        """
        key = ("cells", length, count, upright)
        if key in self._made:
            return self._made[key]
        if isinstance(length, int):
            means = F.adaptive_avg_pool1d(torch.eye(length)[None], count)[0].numpy()
            name = self._graph.constant(means.T if upright else means, "cells")
        else:
            total, cells = self._length(length), np.arange(count)[:, None]
            number = self._graph.constant([count])
            first = self._add("Div", [self._times(cells, total), number])
            ends = self._add(
                "Add", [self._times(cells + 1, total), self._graph.constant([count - 1])]
            )
            last = self._add("Div", [ends, number])
            places = self._places(length)
            inside = self._add(
                "And",
                [
                    self._add("Not", [self._add("Less", [places, first])]),
                    self._add("Less", [places, last]),
                ],
            )
            kind = TensorProto.FLOAT16 if self._graph.half else TensorProto.FLOAT
            widths = self._add("Sub", [last, first])
            name = self._add("Div", [self._add("Cast", [one], to=kind) for one in (inside, widths)])
            name = name if upright else self._add("Transpose", [name], perm=[1, 0])
        self._made[key] = name
        return name

    def nearest(self, length: int | Size, count: int) -> str:
        """Name of the indices, of `count`, that `length` nearest neighbours come from."""
        key = ("nearest", length, count)
        if key in self._made:
            return self._made[key]
        if isinstance(length, int):
            places = torch.arange(count, dtype=torch.float32)
            index = F.interpolate(places[None, None], size=length, mode="nearest")[0, 0]
            name = self._graph.constant(index.long().tolist())
        else:
            # Torch multiplies by a rounded factor. For five cells, which all models have, and
            # maps of the sizes here, that gives the same up to inputs of 6,528 pixels.
            scaled = self._add("Mul", [self._places(length), self._graph.constant([count])])
            name = self._add("Div", [scaled, self._length(length)])
        self._made[key] = name
        return name

    def sides(self) -> list[str]:
        """Names of the input's height and width in pixels, int64 vectors of one."""
        return [self._length(Size(UNIT, high, not high)) for high in (True, False)]

    def _length(self, length: int | Size) -> str:
        if isinstance(length, int):
            return self._graph.constant([length])
        if length not in self._made:
            units = [axis for axis, there in ((2, length.high), (3, length.wide)) if there]
            factors = [self._units(axis) for axis in units]
            if length.count != 1:
                factors.append(self._graph.constant([length.count]))
            name = factors[0]
            for factor in factors[1:]:
                name = self._add("Mul", [name, factor])
            self._made[length] = name
        return self._made[length]

    def _units(self, axis: int) -> str:
        key = ("units", axis)
        if key not in self._made:
            side = self._add("Shape", [self._entry], start=axis, end=axis + 1)
            self._made[key] = self._add("Div", [side, self._graph.constant([UNIT])])
        return self._made[key]

    def _places(self, length: Size) -> str:
        """0, 1, ..., length - 1."""
        ends = [self._graph.constant(np.asarray(0)), self._graph.constant(np.asarray(1))]
        last = self._add("Squeeze", [self._length(length)])
        return self._add("Range", [ends[0], last, ends[1]])

    def _times(self, numbers: Any, length: str) -> str:
        return self._add("Mul", [self._graph.constant(numbers), length])

    def _add(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        return self._graph.add(kind, inputs, name=PREFIX + kind.lower(), **attributes)


def _tensors(result: Any) -> Iterator[Tensor]:
    if isinstance(result, Tensor):
        yield result
    elif isinstance(result, list | tuple):
        for one in result:
            yield from _tensors(one)
