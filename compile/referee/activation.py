"""Activations of straight pieces: they join the value before them, or stand alone as a change of scale.

A slope below zero is the requantisation's: 0 for ReLU, ``alpha`` or the PReLU constant otherwise. A clip, and the ReLU
of a value that has no slope, are limits: ``clip_bounds(min, max, s_out, z_out)``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from codesign.compile.graph.graph import Node
from codesign.compile.referee.values import Operand, Rule, Value, constant, value


def rectified(node: Node, operands: Sequence[Operand]) -> Value:
    return value(operands[0]).rectified()


def leaking(node: Node, operands: Sequence[Operand]) -> Value:
    return value(operands[0]).sloped(float(node.attributes["alpha"]))


def leaking_by_channel(node: Node, operands: Sequence[Operand]) -> Value:
    return value(operands[0]).sloped(np.asarray(constant(operands[1]), np.float64))


def clipped(node: Node, operands: Sequence[Operand]) -> Value:
    return value(operands[0]).clipped(float(node.attributes["min"]), float(node.attributes["max"]))


RULES: Mapping[str, Rule] = {
    "nn.relu": rectified,
    "nn.leakyrelu": leaking,
    "nn.prelu": leaking_by_channel,
    "clip": clipped,
}
