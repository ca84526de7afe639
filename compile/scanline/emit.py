"""Planned cascades become a :class:`codesign.hw.program.program.Program`: memory map, weight blob, command stream."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from codesign.compile.scanline.commands import Memory, StripCommands, kept_row_bytes
from codesign.compile.scanline.layers import Layer, LayerGraph
from codesign.compile.scanline.plan.cascade import Plan
from codesign.compile.scanline.plan.plan import Cascade, LayerPlan
from codesign.compile.scanline.plan.statistics import place_statistics
from codesign.hw.commands import COMMANDS
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import Command, Opcode, WeightKind, command
from codesign.hw.numerics import INT32_MAX, round_up
from codesign.hw.program.program import Program, TensorSlot
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, PARAMETER_BYTES, STEP_BYTES

_ALIGNMENT = 64
_PAGE = 4096


def emit(plan: Plan) -> Program:
    """Write ``plan`` out as a program, verified.

    Raises :class:`UnsupportedError` for a layer whose sums may leave 32 bits or a network beyond 4 GiB.
    """
    for layer in plan.graph.computed:
        check_accumulator(plan.graph, layer)
    program = _Emitter(plan).program()
    program.verify()
    return program


def check_accumulator(graph: LayerGraph, layer: Layer) -> None:
    """Prove that no psum of ``layer`` leaves int32, or raise :class:`UnsupportedError`."""
    reach = layer.kernel.psum_reach(sum(graph.source_channels(layer)))
    bias = np.abs(layer.kernel.folded_bias(layer.epilogue.bias, graph.tensors[layer.seen].zero_point))
    worst = int(np.max(reach + bias))
    if worst > INT32_MAX:
        raise UnsupportedError(
            f"a sum may reach {worst}, beyond the 32-bit accumulator",
            where=layer.name,
            hint="Reduce the layer's channels or kernel, or the scale of its bias.",
        )


def compulsory_bytes(graph: LayerGraph) -> int:
    """Bytes of dense inputs, outputs and weights, which any machine must move."""
    tensors = (graph.tensors[name] for name in (*graph.inputs, *graph.outputs))
    weights = sum(layer.kernel.weight_bytes for layer in graph.computed)
    return sum(t.height * t.width * t.channels for t in tensors) + weights


class _Blob:
    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, data: bytes, multiple: int) -> tuple[int, int]:
        """Append ``data`` aligned and filled up to a multiple of ``multiple`` bytes; returns its offset and size."""
        self.data += b"\0" * (-len(self.data) % _ALIGNMENT)
        offset = len(self.data)
        self.data += data + b"\0" * (-len(data) % multiple)
        return offset, len(self.data) - offset


@dataclass(frozen=True)
class _Loadw:
    """A LOADW to come; ``at`` is its place in the blob."""

    kind: WeightKind
    table: int
    destination: int
    at: int
    elements: int
    size: int

    def command(self, blob_offset: int) -> Command:
        return command(
            Opcode.LOADW,
            kind=self.kind,
            table=self.table,
            destination=self.destination,
            elements=self.elements,
            address=blob_offset + self.at,
            bytes=self.size,
        )


@dataclass(frozen=True)
class _Weights:
    """A cascade's constants, each kind in the order of its layers."""

    words: bytearray = field(default_factory=bytearray)
    steps: bytearray = field(default_factory=bytearray)
    fills: bytearray = field(default_factory=bytearray)
    parameters: bytearray = field(default_factory=bytearray)
    tables: list[bytes] = field(default_factory=list)
    norms: list[tuple[int, bytes]] = field(default_factory=list)  # first parameter word, records


class _Emitter:
    def __init__(self, plan: Plan) -> None:
        self.spec, self.graph, self.cascades = plan.spec, plan.graph, plan.cascades
        self.blob = _Blob()
        self.statistics = place_statistics(plan.spec, plan.graph, plan.cascades)
        self.loads: list[list[_Loadw]] = []  # per cascade
        self.tables: list[list[bytes]] = []
        for cascade in plan.cascades:
            weights = self._weights(cascade)
            self.loads.append(self._pack(weights))
            self.tables.append(weights.tables)

    def _weights(self, cascade: Cascade) -> _Weights:
        spec, found = self.spec, _Weights()
        for plan in cascade.layers:
            layer, kernel = plan.layer, plan.layer.kernel
            if kernel.needs_statistics:
                first = len(found.parameters) // (spec.ci_lanes * PARAMETER_BYTES)
                found.norms.append((first, kernel.statistic_records(spec, self.statistics[layer.sources[0]])))
            found.words.extend(plan.mapping.words.tobytes())
            found.steps.extend(plan.mapping.encoded_steps())
            found.fills.extend(plan.mapping.encoded_fills())
            found.parameters.extend(self._parameters(plan))
            table = layer.epilogue.table
            if table is not None and table.tobytes() not in found.tables:
                found.tables.append(table.tobytes())
        return found

    def _pack(self, weights: _Weights) -> list[_Loadw]:
        """Put ``weights`` into the blob; returns the loads in their order."""
        packed: tuple[tuple[WeightKind, int, int, bytes, int], ...] = (
            (WeightKind.FILLS, 0, 0, bytes(weights.fills), FILL_BYTES),
            (WeightKind.PARAMETERS, 0, 0, bytes(weights.parameters), 8),
            *((WeightKind.TABLE, number, 0, table, 1) for number, table in enumerate(weights.tables)),
            (WeightKind.STEPS, 0, 0, bytes(weights.steps), STEP_BYTES),
            (WeightKind.WEIGHTS, 0, 0, bytes(weights.words), self.spec.bus_bytes),
            *((WeightKind.NORM, 0, first, data, 8) for first, data in weights.norms),  # over the parameters
        )
        loads: list[_Loadw] = []
        for kind, table, destination, data, element in packed:
            if data:
                at, size = self.blob.put(data, self.spec.bus_bytes)
                loads.append(_Loadw(kind, table, destination, at, len(data) // element, size))
        return loads

    def _parameters(self, plan: LayerPlan) -> bytes:
        layer, epilogue, count = plan.layer, plan.layer.epilogue, plan.mapping.output_words * self.spec.ci_lanes
        record = np.zeros(count, np.dtype([("bias", "<i4"), ("m", "<i4"), ("n", "<i4"), ("shift", "<u4")]))
        zero_point = self.graph.tensors[layer.seen].zero_point
        record["bias"][: layer.channels] = layer.kernel.folded_bias(epilogue.bias, zero_point)
        record["m"][: layer.channels] = epilogue.multiplier
        record["n"][: layer.channels] = epilogue.negative_multiplier
        record["shift"][: layer.channels] = epilogue.shift
        if epilogue.planes is not None:
            record["shift"][: layer.channels] |= epilogue.planes.astype(np.uint32) << 6
        data = record.tobytes()
        assert len(data) == count * PARAMETER_BYTES
        return data

    def program(self) -> Program:
        graph = self.graph
        # The command count does not depend on addresses, so a first pass with any addresses measures it.
        count = len(self._commands(0, Memory(dict.fromkeys(graph.tensors, 0), {}))[0])
        blob_offset = round_up(count * COMMAND_BYTES, _PAGE)
        memory, write_first, end = self._place_tensors(round_up(blob_offset + len(self.blob.data), _PAGE))
        if end >= 1 << 32:
            raise UnsupportedError(
                f"needs {end / 2**30:.1f} GiB of memory, a program may address 4 GiB",
                where=graph.name,
                hint="Choose a smaller frame.",
            )
        commands, labels = self._commands(blob_offset, memory)
        return Program(
            name=graph.name,
            spec=self.spec,
            commands=tuple(commands),
            blob=bytes(self.blob.data),
            commands_offset=0,
            blob_offset=blob_offset,
            inputs=tuple(self._slot(name, memory) for name in graph.inputs),
            outputs=tuple(self._slot(name, memory) for name in graph.outputs),
            write_first=write_first,
            write_end=end,
            memory_bytes=end,
            macs=graph.macs,
            labels=tuple(labels),
        )

    def _place_tensors(self, at: int) -> tuple[Memory, int, int]:
        """Addresses from ``at`` on: inputs, then, from the second result to the third, all that is written."""
        graph = self.graph
        in_memory = {name for cascade in self.cascades for name, _ in cascade.loads} | {
            store.target for cascade in self.cascades for store in cascade.stores
        }
        addresses: dict[str, int] = {}
        for name in graph.inputs:
            addresses[name] = at
            at = round_up(at + graph.tensors[name].bytes(self.spec), _PAGE)
        write_first = at
        for name in (*sorted(in_memory - {*graph.inputs, *graph.outputs}), *graph.outputs):
            addresses[name] = at
            at = round_up(at + graph.tensors[name].bytes(self.spec), _PAGE)
        halos: dict[str, int] = {}
        for cascade in self.cascades:
            for kept in cascade.kept:
                halos[kept.tensor] = at
                at = round_up(at + graph.tensors[kept.tensor].height * kept_row_bytes(cascade, kept), _PAGE)
        return Memory(addresses, halos), write_first, at

    def _slot(self, name: str, memory: Memory) -> TensorSlot:
        tensor = self.graph.tensors[name]
        return TensorSlot(
            name, memory.tensors[name], tensor.height, tensor.width, tensor.channels, tensor.scale, tensor.zero_point
        )

    def _commands(self, blob_offset: int, memory: Memory) -> tuple[list[Command], list[str]]:
        """The command stream, and a label for each command."""
        commands: list[Command] = []
        labels: list[str] = []
        for cascade, constants, tables in zip(self.cascades, self.loads, self.tables, strict=True):
            if commands:
                commands.append(command(Opcode.SYNC))
            loads = [load.command(blob_offset) for load in constants]
            for plan in cascade.layers:
                loads += plan.layer.kernel.weight_loads(self.spec, self.graph.tensors, memory.tensors)
            commands += loads
            for index, strip in enumerate(cascade.strips):
                if index:
                    commands.append(command(Opcode.SYNC))
                needed = len(loads) if index == 0 else 0
                writer = StripCommands(self.spec, self.graph, cascade, strip, memory, self.statistics)
                commands += writer.commands(tables, needed)
            labels += [_label(cascade, cmd) for cmd in commands[len(labels) :]]
        commands.append(command(Opcode.HALT))
        return commands, [*labels, ""]


def _label(cascade: Cascade, cmd: Command) -> str:
    """The tensor or layer of a command, for people."""
    kind = COMMANDS[cmd.opcode]
    if cmd.opcode is Opcode.LOADW:
        return f"{WeightKind(cmd['kind']).name.lower()} of {cascade.layers[0].layer.name}…"
    if kind.buffer is None:
        return ""
    tensor = cascade.buffers[cmd[kind.buffer]].tensor
    if kind.engine != "conv":
        return tensor
    return next(plan.layer.name for plan in cascade.layers if plan.layer.output == tensor)
