"""The integer rule of every operator, one a file of this folder, by the names of nodes."""

from __future__ import annotations

from collections.abc import Mapping

from codesign.compile.referee import (
    activation,
    all_pairs,
    concat,
    convolution,
    correlation,
    instance_norm,
    movement,
    pair,
    resample,
    table,
    warp,
    window,
)
from codesign.compile.referee.values import Rule

RULES: Mapping[str, Rule] = {
    "nn.conv2d": convolution.convolved,
    "nn.conv2d_transpose": convolution.transposed,
    "add": pair.added,
    "subtract": pair.subtracted,
    "multiply": pair.multiplied,
    "nn.relu": activation.rectified,
    "nn.leakyrelu": activation.leaking,
    "nn.prelu": activation.leaking_by_channel,
    "clip": activation.clipped,
    "nn.pixel_shuffle": movement.shuffled,
    "pixel_unshuffle": movement.unshuffled,
    "repeat": movement.repeated,
    "tile": movement.tiled,
    "strided_slice": movement.sliced,
    "concat": concat.concatenated,
    "nn.avg_pool2d": resample.averaged,
    "image.resize2d": resample.resized,
    "warp": warp.warped,
    "correlation": correlation.correlated,
    "window": window.windowed,
    "all_pairs": all_pairs.paired,
    "instance_norm": instance_norm.normalised,
    "table": table.tabled,
}
