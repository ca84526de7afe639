"""Quantised and float networks as files: operators, scales and small constants; large weights by seeds.

Calibration in float differs in its last bits between processors, so programs can be compared only if the scales are
fixed. A network's file has them, as Relax in TVM's JSON; weights of more than ``KEPT`` values are zero
there and drawn from a seed when it is read, because no decision of the compiler depends on which weights a network has.
"""

from __future__ import annotations

import dataclasses
import json
import lzma
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray

from codesign.compile.graph.graph import Graph
from codesign.compile.ir.relax import from_module, to_module

KEPT = 1024
"""Largest number of values of weights that are stored instead of drawn."""

_RANGES = {"int8": (-127, 128), "int16": (-32767, 32768), "float32": (-64, 65)}


def save(path: Path, modules: dict[str, tvm.IRModule]) -> None:
    """Write the named modules of one network."""
    data = {name: _stored(module) for name, module in modules.items()}
    path.write_bytes(lzma.compress(json.dumps(data, sort_keys=True).encode(), preset=9))


def load(path: Path) -> dict[str, tvm.IRModule]:
    """The modules written by :func:`save`."""
    data = json.loads(lzma.decompress(path.read_bytes()))
    return {name: _read(stored) for name, stored in data.items()}


def _stored(module: tvm.IRModule) -> dict[str, Any]:
    graph = from_module(module)
    drawn = {name for name, value in graph.constants.items() if value.size > KEPT and _is_weight(graph, name)}
    emptied = _with_constants(graph, {name: np.zeros_like(graph.constants[name]) for name in drawn})
    stored = {"module": tvm.ir.save_json(to_module(emptied)), "drawn": sorted(drawn)}
    assert set(from_module(_read(stored)).constants) == set(graph.constants)
    return stored


def _read(stored: dict[str, Any]) -> tvm.IRModule:
    graph = from_module(tvm.ir.load_json(stored["module"]))
    return to_module(_with_constants(graph, {name: _drawn(name, graph.constants[name]) for name in stored["drawn"]}))


def _is_weight(graph: Graph, name: str) -> bool:
    """Whether a constant is a convolution's weights: not a grid of positions, nor kernels that move pixels."""
    value = graph.constants[name]
    if value.ndim != 4 or str(value.dtype) not in _RANGES or len(np.unique(value)) <= 2:
        return False
    read = [node for node in graph.nodes if name in node.inputs]
    if value.dtype == np.float32:
        return all(node.op.startswith("nn.conv2d") and node.inputs[1] == name for node in read)
    return all(node.op == "dequantize" for node in read)


def _drawn(name: str, like: NDArray[Any]) -> NDArray[Any]:
    values = np.random.default_rng(zlib.crc32(name.encode())).integers(*_RANGES[str(like.dtype)], size=like.shape)
    return (values / 512.0 if like.dtype == np.float32 else values).astype(like.dtype)


def _with_constants(graph: Graph, changed: dict[str, NDArray[Any]]) -> Graph:
    return dataclasses.replace(graph, constants={**graph.constants, **changed})
