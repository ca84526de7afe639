"""Layers behind a pixel shuffle, run at the size before it: the shuffled tensor never leaves the chip.

A tensor at ``f`` times the width and height is kept as ``f^2`` times the channels, the way a shuffle's source holds it.
A convolution on it becomes one on those channels: output pixel ``(f y + i, f x + j)`` is output channel ``(o, i, j)``,
and its tap at ``(dy, dx)`` reads sub-pixel ``(i + dy - pad) mod f`` of row ``y + (i + dy - pad) div f``. Every true
product appears once per output pixel, as before; the wider kernel adds zero blocks, which the mapping never lists.
Padding stays exact: beyond the frame both forms read the zero point.
"""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Layer, LayerGraph, Shuffle
from codesign.compile.scanline.rewrite.copies import copy_layer


@dataclasses.dataclass(frozen=True)
class _Kept:
    """A tensor in the form it is kept in: channel ``order[c f^2 + i f + j]`` of ``tensor`` is its sub-pixel (i, j)."""

    tensor: str
    factor: int
    order: NDArray[np.int64]


def fold_shuffles(graph: LayerGraph) -> LayerGraph:
    """``graph`` with the convolutions behind pixel shuffles rewritten, as far as they can be; itself if none can."""
    folder = _Folder(graph)
    return folder.fold() if folder.folded else graph


class _Folder:
    def __init__(self, graph: LayerGraph) -> None:
        self.graph = graph
        self.tensors = dict(graph.tensors)
        self.layers: list[Layer | Shuffle] = []
        self.kept: dict[str, _Kept] = {}
        self.folded = self._foldable()

    def fold(self) -> LayerGraph:
        for layer in self.graph.layers:
            match layer:
                case Shuffle():
                    self._shuffle(layer)
                case Layer(kernel=Convolution() as kernel, sources=(name, *_)) if (
                    name in self.kept and layer.output in self.folded
                ):
                    self._conv(layer, kernel)
                case _:
                    self.layers.append(layer)
        used = {name for layer in self.layers for name in (*layer.reads, layer.output)}
        names = {*used, *self.graph.inputs, *self.graph.outputs}
        return dataclasses.replace(
            self.graph, tensors={n: t for n, t in self.tensors.items() if n in names}, layers=tuple(self.layers)
        )

    def _foldable(self) -> set[str]:
        """Shuffled tensors, and tensors computed from them, whose pixels no layer needs in place."""
        graph = self.graph
        readers: dict[str, list[Layer | Shuffle]] = {name: [] for name in graph.tensors}
        factors = dict.fromkeys(graph.tensors, 1)
        for layer in graph.layers:
            for name in layer.streamed:
                readers[name].append(layer)
            own = layer.factor if isinstance(layer, Shuffle) else 1
            factors[layer.output] = factors[layer.sources[0]] * own
        large = {name for name, factor in factors.items() if factor > 1}
        while True:
            kept = {name for name in large if all(self._follows(layer, large, factors) for layer in readers[name])}
            if kept == large:
                return kept
            large = kept

    def _follows(self, layer: Layer | Shuffle, large: set[str], factors: dict[str, int]) -> bool:
        """Whether ``layer``, which reads a tensor of ``large``, can do with its sub-pixels."""
        if isinstance(layer, Shuffle):
            return True
        kernel, epilogue = layer.kernel, layer.epilogue
        if not isinstance(kernel, Convolution) or kernel.weights.dtype != np.int8 or epilogue.planes is not None:
            return False
        target, factor = self.graph.tensors[layer.output], factors[layer.sources[0]]
        alike = all(name in large and factors[name] == factor for name in layer.streamed)
        whole = target.channels == layer.channels and target.height % factor == target.width % factor == 0
        plain = kernel.stride == 1 and not kernel.edge and len(layer.sources) == 1
        plain = plain and (epilogue.second is None or not epilogue.second.broadcast)
        return alike and whole and plain and layer.output in large and not target.as_weights

    def _shuffle(self, layer: Shuffle) -> None:
        graph, factor = self.graph, layer.factor
        inner = self.kept.get(layer.source) or _natural(layer.source, 1, graph.tensors[layer.source].channels)
        channels, f = graph.tensors[layer.output].channels, inner.factor
        # Natural order of the whole factor: row g i + a, column g j + b of sub-pixel (i, j) and its sub-pixel (a, b).
        held = inner.order.reshape(channels, factor, factor, f, f)  # c, a, b, i, j
        order = held.transpose(0, 3, 1, 4, 2).reshape(-1)
        whole = _Kept(inner.tensor, f * factor, order)
        pending = layer.output in self.folded
        if pending:
            self.kept[layer.output] = whole
        if not pending or layer.output in graph.outputs:
            self._leave(layer.name, layer.output, whole)

    def _leave(self, name: str, output: str, kept: _Kept) -> None:
        """Shuffle ``kept`` into place."""
        source = kept.tensor
        if not np.array_equal(kept.order, np.arange(kept.order.size)):
            held = self.tensors[source]
            copy = dataclasses.replace(held, name=f"{held.name}.reordered.{name}")
            self.tensors[copy.name] = copy
            self.layers.append(copy_layer(f"{name}.copy", held, copy).pick(kept.order))
            source = copy.name
        self.layers.append(Shuffle(name, source, output, kept.factor))

    def _conv(self, layer: Layer, kernel: Convolution) -> None:
        source, second = self.kept[layer.sources[0]], layer.epilogue.second
        other = self.kept[second.tensor] if second is not None else None
        f = source.factor
        target = self.graph.tensors[layer.output]
        held = dataclasses.replace(
            target,
            name=f"{target.name}.subpixels",
            height=target.height // f,
            width=target.width // f,
            channels=target.channels * f * f,
        )
        # The second operand's channels decide the order of the sum's.
        order = other.order if other is not None else np.arange(held.channels)
        back = np.argsort(order)
        inner = _on_subpixels(kernel, f).place_inputs(source.order, self.tensors[source.tensor].channels)
        made = dataclasses.replace(
            layer,
            sources=(source.tensor,),
            output=held.name,
            kernel=inner.pick(back),
            epilogue=layer.epilogue.pick(back // (f * f)),
        )
        if second is not None and other is not None:
            made = made.with_second(dataclasses.replace(second, tensor=other.tensor))
        self.tensors[held.name] = held
        self.kept[layer.output] = _Kept(held.name, f, order)
        self.layers.append(made)
        if layer.output in self.graph.outputs:
            self._leave(f"{layer.name}.shuffle", layer.output, self.kept[layer.output])


def _natural(tensor: str, factor: int, channels: int) -> _Kept:
    return _Kept(tensor, factor, np.arange(channels * factor * factor))


def _on_subpixels(kernel: Convolution, f: int) -> Convolution:
    """``kernel`` over sub-pixels in natural order: ``[KY', KX', Cin f^2, Cout f^2]``, padding in whole pixels."""
    rows, columns, inputs, outputs = kernel.weights.shape

    def span(extent: int, pad: int) -> tuple[int, int]:
        first = -pad // f
        return -first, (f - 1 + extent - 1 - pad) // f - first + 1

    (top, tall), (left, wide) = span(rows, kernel.pad_top), span(columns, kernel.pad_left)
    result = np.zeros((tall, wide, inputs, f, f, outputs, f, f), np.int8)
    for i, j, dy, dx in itertools.product(range(f), range(f), range(rows), range(columns)):
        y, a = divmod(i + dy - kernel.pad_top, f)
        x, b = divmod(j + dx - kernel.pad_left, f)
        result[y + top, x + left, :, a, b, :, i, j] = kernel.weights[dy, dx]
    return Convolution(result.reshape(tall, wide, inputs * f * f, outputs * f * f), pad_top=top, pad_left=left)
