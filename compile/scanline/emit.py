"""Planned cascades become a :class:`codesign.hw.program.program.Program`: memory map, weight blob, command stream."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codesign.compile.scanline.layers import Conv, Int64, LayerGraph, Tensor, Weights, psum_reach, weight_planes
from codesign.compile.scanline.norms import place_statistics, records
from codesign.compile.scanline.plan.cascade import Plan
from codesign.compile.scanline.plan.plan import BufferPlan, Cascade, ConvPlan, KeptPlan, StorePlan, Strip, words_per_row
from codesign.hw import numerics
from codesign.hw.errors import UnsupportedError
from codesign.hw.isa import FIELDS, Command, Opcode, WeightKind, command
from codesign.hw.program.program import Program, TensorSlot
from codesign.hw.spec import COMMAND_BYTES, FILL_BYTES, PARAMETER_BYTES, STEP_BYTES, AccelSpec

_ALIGNMENT = 64
_PAGE = 4096


def emit(plan: Plan) -> Program:
    """Write ``plan`` out as a program, verified.

    Raises :class:`UnsupportedError` for a layer whose sums may leave 32 bits or a network beyond 4 GiB.
    """
    for layer in plan.graph.layers:
        if isinstance(layer, Conv) and layer.plain:
            check_accumulator(layer, plan.graph.tensors[layer.sees].zero_point)
    program = _Emitter(plan).program()
    program.verify()
    return program


def folded_bias(layer: Conv, zero_point: int) -> Int64:
    """Bias with the source's zero point folded in: ``b - z sum(w)``, so that the array multiplies raw codes."""
    if layer.norm is not None:
        return layer.bias  # the mean's place, where zero points cancel
    if layer.sampled:
        return layer.bias - zero_point * numerics.SAMPLE_UNITS
    if not layer.weighs:
        return layer.bias  # zero points are 0 where tensors are multiplied
    return np.asarray(layer.bias - zero_point * layer.weights.astype(np.int64).sum(axis=(0, 1, 2)))


def check_accumulator(layer: Conv, zero_point: int) -> None:
    """Prove that no psum of ``layer`` leaves int32, or raise :class:`UnsupportedError`."""
    reach = psum_reach(layer.weights)
    bias = folded_bias(layer, zero_point)
    worst = int(np.max(np.maximum(reach, reach + np.abs(bias))))
    if worst > numerics.INT32_MAX or int(np.max(np.abs(bias))) > numerics.INT32_MAX:
        raise UnsupportedError(
            f"a sum may reach {worst}, beyond the 32-bit accumulator",
            where=layer.name,
            hint="Reduce the layer's channels or kernel, or the scale of its bias.",
        )


class _Blob:
    def __init__(self) -> None:
        self.data = bytearray()

    def put(self, data: bytes) -> int:
        """Append aligned; returns the offset in the blob."""
        self.data += b"\0" * (-len(self.data) % _ALIGNMENT)
        offset = len(self.data)
        self.data += data
        return offset


class _Loadw(NamedTuple):
    """A LOADW to come; ``at`` is its place in the blob."""

    kind: WeightKind
    table: int
    destination: int
    at: int
    elements: int
    size: int


class _Emitter:
    def __init__(self, plan: Plan) -> None:
        self.spec, self.graph, self.cascades = plan.spec, plan.graph, plan.cascades
        self.blob = _Blob()
        self.kept_at: dict[str, int] = {}  # where columns wait for the next strip
        self.statistics = place_statistics(plan.spec, plan.graph, plan.cascades)
        self.weights: list[list[_Loadw]] = []  # per cascade
        self.tables: list[list[bytes]] = []
        for cascade in plan.cascades:
            self._pack(cascade)

    def _pack(self, cascade: Cascade) -> None:
        spec = self.spec
        words, steps, fills, parameters = bytearray(), bytearray(), bytearray(), bytearray()
        tables: list[bytes] = []
        norms: list[tuple[int, bytes]] = []  # first parameter word, records
        for plan in cascade.convs:
            if plan.layer.norm is not None:
                first = len(parameters) // (spec.ci_lanes * PARAMETER_BYTES)
                norms.append((first, records(spec, plan.layer, self.statistics[plan.layer.source])))
            words += plan.mapping.words.tobytes()
            steps += plan.mapping.encoded_steps()
            fills += plan.mapping.encoded_fills()
            parameters += self._parameters(plan)
            if plan.layer.table is not None and (table := plan.layer.table.tobytes()) not in tables:
                tables.append(table)
        loads: list[_Loadw] = []
        packed: tuple[tuple[WeightKind, int, int, bytes, int], ...] = (
            (WeightKind.FILLS, 0, 0, bytes(fills), FILL_BYTES),
            (WeightKind.PARAMETERS, 0, 0, bytes(parameters), 8),
            *((WeightKind.TABLE, number, 0, table, 1) for number, table in enumerate(tables)),
            (WeightKind.STEPS, 0, 0, bytes(steps), STEP_BYTES),
            (WeightKind.WEIGHTS, 0, 0, bytes(words), spec.bus_bytes),
            *((WeightKind.NORM, 0, first, data, 8) for first, data in norms),  # over the parameters
        )
        for kind, index, first, data, element in packed:
            if data:
                size = -(-len(data) // spec.bus_bytes) * spec.bus_bytes
                at = self.blob.put(data + b"\0" * (size - len(data)))
                loads.append(_Loadw(kind, index, first, at, len(data) // element, size))
        self.weights.append(loads)
        self.tables.append(tables)

    def _parameters(self, plan: ConvPlan) -> bytes:
        layer, count = plan.layer, plan.mapping.output_words * self.spec.ci_lanes
        record = np.zeros(count, np.dtype([("bias", "<i4"), ("m", "<i4"), ("n", "<i4"), ("shift", "<u4")]))
        record["bias"][: layer.channels] = folded_bias(layer, self.graph.tensors[layer.sees].zero_point)
        record["m"][: layer.channels] = layer.multiplier
        record["n"][: layer.channels] = layer.negative_multiplier
        record["shift"][: layer.channels] = layer.shift
        if layer.planes is not None:
            record["shift"][: layer.channels] |= layer.planes.astype(np.uint32) << 6
        data = record.tobytes()
        assert len(data) == count * PARAMETER_BYTES
        return data

    def program(self) -> Program:
        graph, spec = self.graph, self.spec
        # The command count does not depend on addresses, so a first pass with any addresses measures it.
        offsets = dict.fromkeys(graph.tensors, 0)
        commands, _ = self._commands(0, offsets)
        blob_offset = _up(len(commands) * COMMAND_BYTES, _PAGE)
        at = _up(blob_offset + len(self.blob.data), _PAGE)
        in_memory = {name for cascade in self.cascades for name, _ in cascade.loads} | {
            store.target for cascade in self.cascades for store in cascade.stores
        }
        order = [*graph.inputs, *sorted(in_memory - {*graph.inputs, *graph.outputs}), *graph.outputs]
        write_first = 0
        for index, name in enumerate(order):
            if index == len(graph.inputs):
                write_first = at
            tensor = graph.tensors[name]
            offsets[name] = at
            at = _up(at + self._bytes(tensor), _PAGE)
        for cascade in self.cascades:
            for kept in cascade.kept:
                self.kept_at[kept.tensor] = at
                at = _up(at + graph.tensors[kept.tensor].height * _kept_row(cascade, kept), _PAGE)
        if at >= 1 << 32:
            raise UnsupportedError(
                f"needs {at / 2**30:.1f} GiB of memory, a program may address 4 GiB",
                where=graph.name,
                hint="Choose a smaller frame.",
            )
        commands, labels = self._commands(blob_offset, offsets)
        return Program(
            name=graph.name,
            spec=spec,
            commands=tuple(commands),
            blob=bytes(self.blob.data),
            commands_offset=0,
            blob_offset=blob_offset,
            inputs=tuple(self._slot(name, offsets) for name in graph.inputs),
            outputs=tuple(self._slot(name, offsets) for name in graph.outputs),
            write_first=write_first,
            write_end=at,
            memory_bytes=at,
            macs=graph.macs,
            labels=tuple(labels),
        )

    def _bytes(self, tensor: Tensor) -> int:
        if tensor.as_weights:
            return _groups(self.spec, tensor) * self._plane(tensor)
        return tensor.height * tensor.width * tensor.channels

    def _plane(self, tensor: Tensor) -> int:
        """Bytes of one group of channels of a tensor that lies as weights."""
        return _up(tensor.height * tensor.width, self.spec.co_lanes) * self.spec.ci_lanes

    def _slot(self, name: str, offsets: dict[str, int]) -> TensorSlot:
        tensor = self.graph.tensors[name]
        return TensorSlot(
            name, offsets[name], tensor.height, tensor.width, tensor.channels, tensor.scale, tensor.zero_point
        )

    def _commands(self, blob_offset: int, offsets: dict[str, int]) -> tuple[list[Command], list[str]]:
        commands: list[Command] = []
        labels: list[str] = []
        for number, cascade in enumerate(self.cascades):
            if number:
                commands.append(command(Opcode.SYNC))
            commands += [
                command(
                    Opcode.LOADW, kind=load.kind, table=load.table, destination=load.destination,
                    elements=load.elements, address=blob_offset + load.at, bytes=load.size,
                )
                for load in self.weights[number]
            ]  # fmt: skip
            pixels = self._pixel_weights(cascade, offsets)
            commands += pixels
            for index, strip in enumerate(cascade.strips):
                if index:
                    commands.append(command(Opcode.SYNC))
                needed = len(self.weights[number]) + len(pixels) if index == 0 else 0
                commands += self._strip(cascade, strip, self.tables[number], needed, offsets)
            labels += [_label(cascade, cmd) for cmd in commands[len(labels) :]]
        commands.append(command(Opcode.HALT))
        return commands, [*labels, ""]

    def _pixel_weights(self, cascade: Cascade, offsets: dict[str, int]) -> list[Command]:
        """Loads of the weights of a layer that has pixels for them, a group of channels at a time."""
        layer = cascade.convs[0].layer if cascade.convs else None
        if layer is None or layer.weights_from is None:
            return []
        spec, tensor = self.spec, self.graph.tensors[layer.weights_from]
        groups, words = _groups(spec, tensor), -(-layer.channels // spec.co_lanes)
        first = layer.first_channel // spec.co_lanes * spec.weight_word_bytes
        return [
            command(
                Opcode.LOADW, kind=WeightKind.WEIGHTS, destination=group, gap=groups - 1,
                elements=words * spec.weight_word_bytes // spec.bus_bytes,
                address=offsets[tensor.name] + group * self._plane(tensor) + first,
                bytes=words * spec.weight_word_bytes,
            )
            for group in range(groups)
        ]  # fmt: skip

    def _strip(
        self, cascade: Cascade, strip: Strip, tables: list[bytes], weights_needed: int, offsets: dict[str, int]
    ) -> list[Command]:
        spec, graph = self.spec, self.graph
        ids = {buffer.tensor: index for index, buffer in enumerate(cascade.buffers)}
        plans = {buffer.tensor: buffer for buffer in cascade.buffers}
        commands: list[Command] = []
        base = 0
        for buffer in cascade.buffers:
            first, end = strip.columns[buffer.tensor]
            pitch = words_per_row(spec, end - first)
            commands.append(
                command(
                    Opcode.BUFFER,
                    id=ids[buffer.tensor],
                    base=base,
                    rows=buffer.rows,
                    row_pitch=buffer.groups * pitch,
                    group_pitch=pitch,
                    groups=buffer.groups,
                    width=end - first,
                    height=graph.tensors[buffer.tensor].height,
                    zero_point=graph.tensors[buffer.tensor].zero_point,
                    loaded=buffer.loaded,
                    halo=(strip.computed.get(buffer.tensor, first) - first) // spec.banks,
                    operand=buffer.operand,
                    freed_by_store=buffer.freed_by_store or buffer.tensor in strip.tails,
                    freed_by_conv=buffer.freed_by_conv,
                )
            )
            base += buffer.rows * buffer.groups * pitch
        commands.append(command(Opcode.LOOP, count=cascade.iterations))
        stores = [self._store_commands(cascade, store, strip, ids, offsets) for store in cascade.stores]
        stores += [self._keep(cascade, kept, strip, ids) for kept in reversed(cascade.kept)]
        halos = [self._fetch(cascade, kept, strip, ids, offsets) for kept in cascade.kept]
        convs = self._conv_commands(cascade, strip, ids, plans, tables, weights_needed, offsets)
        loads = [[self._load(cascade, plans[name], strip, offsets)] * repeat for name, repeat in cascade.loads]
        # Halos come in the order in which their rows are freed.
        if cascade.eager:
            order = [*loads, *halos, *convs, *stores]
        else:
            order = [*stores, *reversed(convs), *reversed(halos), *loads]
        commands += [cmd for group in order for cmd in group]
        commands.append(command(Opcode.END))
        return commands

    def _store_commands(
        self, cascade: Cascade, store: StorePlan, strip: Strip, ids: dict[str, int], offsets: dict[str, int]
    ) -> list[Command]:
        tensor, target = self.graph.tensors[store.tensor], self.graph.tensors[store.target]
        first, end = strip.stored[store.tensor]
        factor = store.factor
        if target.as_weights:
            lanes = self.spec.ci_lanes
            return [
                command(
                    Opcode.STORE, buffer=ids[store.tensor], delay=store.delay,
                    address=offsets[store.target] + first * lanes, row_stride=target.width * lanes,
                    sub_rows=_groups(self.spec, target), sub_stride=self._plane(target), pixel_bytes=lanes,
                    pixel_pitch=lanes, channel=0, channel_step=lanes,
                    x_first=first - strip.columns[store.tensor][0], x_count=end - first,
                )
            ] * store.repeat  # fmt: skip
        stored = self._stored_channels(cascade, store.tensor)
        counting: dict[str, int] = {}
        if factor == 1 and store.tensor in self.statistics:
            word = self.statistics[store.tensor] + store.first_channel // self.spec.ci_lanes
            begin = strip is cascade.strips[0]
            counting = {"statistics": 1, "statistics_begin": begin, "statistics_base": word}
        return [
            command(
                Opcode.STORE,
                buffer=ids[store.tensor],
                delay=store.delay,
                address=offsets[store.target] + first * factor * target.channels + store.first_channel,
                row_stride=factor * target.width * target.channels,
                sub_rows=factor,
                sub_stride=target.width * target.channels,
                pixel_bytes=factor * target.channels if factor > 1 else stored,
                pixel_pitch=factor * target.channels if factor > 1 else tensor.channels,
                channel=0,
                channel_step=factor * target.channels,
                x_first=first - strip.columns[store.tensor][0],
                x_count=end - first,
                **counting,
            )
        ] * store.repeat

    def _keep(self, cascade: Cascade, kept: KeptPlan, strip: Strip, ids: dict[str, int]) -> list[Command]:
        """Store what the next strip needs again, unless it leaves the chip anyway."""
        if kept.tensor not in strip.tails:
            return []
        first, end = strip.tails[kept.tensor]
        return [
            command(
                Opcode.STORE, buffer=ids[kept.tensor], delay=kept.store_delay, address=self.kept_at.get(kept.tensor, 0),
                row_stride=_kept_row(cascade, kept), sub_rows=1, pixel_bytes=kept.channels, pixel_pitch=kept.channels,
                channel=0, channel_step=kept.channels, x_first=first - strip.columns[kept.tensor][0],
                x_count=end - first,
            )
        ] * kept.repeat  # fmt: skip

    def _fetch(
        self, cascade: Cascade, kept: KeptPlan, strip: Strip, ids: dict[str, int], offsets: dict[str, int]
    ) -> list[Command]:
        """Load what the strips before have computed."""
        if kept.tensor not in strip.halos:
            return []
        tensor, count = self.graph.tensors[kept.tensor], strip.halos[kept.tensor]
        first = strip.computed[kept.tensor] - count
        if kept.tensor in strip.stored:
            address, stride = offsets[kept.tensor] + first * tensor.channels, tensor.width * tensor.channels
        else:
            address, stride = self.kept_at.get(kept.tensor, 0), _kept_row(cascade, kept)
        return [
            command(
                Opcode.LOAD, buffer=ids[kept.tensor], delay=kept.delay, address=address, row_stride=stride,
                pixel_bytes=kept.channels, pixel_pitch=kept.channels, row_bytes=count * kept.channels,
                x_first=first - strip.columns[kept.tensor][0], x_count=count,
            )
        ] * kept.repeat  # fmt: skip

    def _conv_commands(
        self, cascade: Cascade, strip: Strip, ids: dict[str, int], plans: dict[str, BufferPlan], tables: list[bytes],
        weights_needed: int, offsets: dict[str, int],
    ) -> list[list[Command]]:  # fmt: skip
        """Per layer, in execution order, one command for each of its rows in an iteration."""
        steps, fills, words = 0, 0, 0
        convs: list[list[Command]] = []
        for plan in cascade.convs:
            cmd = self._conv(plan, strip, ids, plans, tables, weights_needed, (steps, fills, words))
            if plan.layer.warp is not None:
                cmd = self._warp(plan, cmd, strip, offsets)
            elif plan.layer.resize is not None:
                cmd = self._resize(plan, cmd, strip)
            elif plan.layer.windows is not None:
                cmd = self._window(plan, cmd, strip, offsets)
            convs.append([cmd] * plan.repeat)
            steps += len(plan.mapping.steps)
            fills += len(plan.mapping.fills)
            words += plan.mapping.output_words
        return convs

    def _stored_channels(self, cascade: Cascade, name: str) -> int:
        for plan in cascade.convs:
            if plan.layer.output == name:
                return plan.layer.channels
        return self.graph.tensors[name].channels

    def _load(self, cascade: Cascade, buffer: BufferPlan, strip: Strip, offsets: dict[str, int]) -> Command:
        tensor = self.graph.tensors[buffer.tensor]
        first = strip.columns[buffer.tensor][0]
        index = next(i for i, b in enumerate(cascade.buffers) if b is buffer)
        row = tensor.width * tensor.channels
        if buffer.conversion.unfold:
            column = max(first - buffer.conversion.pad_left, 0)
            return command(
                Opcode.LOAD, buffer=index, address=offsets[buffer.tensor] + column, row_stride=row,
                pixel_bytes=buffer.conversion.unfold, pixel_pitch=1,
                skip=first - buffer.conversion.pad_left - column, row_bytes=row - column,
                x_count=strip.width(buffer.tensor),
            )  # fmt: skip
        channel, count = 0, tensor.channels
        for plan in cascade.convs:  # the second operand of a split layer: its slice alone
            add = plan.layer.add
            sliced = add is not None and not add.broadcast and plan.layer.channels < tensor.channels
            sliced = sliced and plan.layer.warp is None
            if sliced and add is not None and add.other == buffer.tensor and buffer.tensor not in plan.layer.convolved:
                channel, count = plan.layer.first_channel, plan.layer.channels
        start = first * tensor.channels + channel
        return command(
            Opcode.LOAD, buffer=index, address=offsets[buffer.tensor] + start, row_stride=row,
            pixel_bytes=count, pixel_pitch=tensor.channels, row_bytes=row - start,
            x_count=strip.width(buffer.tensor),
        )  # fmt: skip

    def _conv(
        self, plan: ConvPlan, strip: Strip, ids: dict[str, int], buffers: dict[str, BufferPlan], tables: list[bytes],
        weights_needed: int, bases: tuple[int, int, int],
    ) -> Command:  # fmt: skip
        layer, mapping = plan.layer, plan.mapping
        out_first = strip.computed[layer.output]
        source_first = strip.columns[layer.source][0]
        unfolded = buffers[layer.source].conversion.unfold
        x_offset = out_first - source_first if unfolded else out_first * layer.stride - layer.pad_left - source_first
        steps, fills, words = bases
        fields: dict[str, int] = {}
        if layer.add is not None:
            other = buffers[layer.add.other]
            fields = {
                "add_enable": 1,
                "add_buffer": ids[layer.add.other],
                "add_broadcast": layer.add.broadcast,
                "add_channel": other.conversion.pad_left if other.conversion.unfold else 0,
                "add_x_offset": out_first - strip.columns[layer.add.other][0],
                "add_free": plan.free_add,
                "add_product": layer.add.product,
                "add_value_zero_point": layer.add.value_zero_point,
                "add_multiplier": layer.add.multiplier,
                "add_other_multiplier": layer.add.other_multiplier,
                "add_shift": layer.add.shift,
                "add_zero_point": layer.add.zero_point,
                "add_qmin": layer.add.qmin,
                "add_qmax": layer.add.qmax,
            }
        for number, name in enumerate(layer.more, start=1):
            delta = source_first - strip.columns[name][0]
            fields |= {f"source_{number}": ids[name], f"x_delta_{number}": delta, f"free_{number}": plan.frees[number]}
        if layer.table is not None:
            fields |= {"table_enable": 1, "table": tables.index(layer.table.tobytes())}
        opcode = Opcode.CORR if layer.correlates else Opcode.CONV
        return command(
            opcode, source=ids[layer.source], destination=ids[layer.output], delay=plan.delay,
            weights_needed=weights_needed, steps_base=steps, steps_count=len(mapping.steps), fills_base=fills,
            fills_count=len(mapping.fills), fills_repeat=mapping.passes, kernel_rows=layer.weights.shape[0],
            stride_rows=layer.stride, pad_rows=layer.pad_top, x_offset=x_offset, x_stride=layer.stride,
            lane_groups_log2=mapping.lane_groups_log2, words=mapping.output_words, parameters_base=words,
            qmin=layer.qmin, qmax=layer.qmax, zero_point=layer.zero_point, free_source=plan.frees[0],
            more_sources=len(layer.more), edge=layer.edge, **fields,
        )  # fmt: skip

    def _warp(self, plan: ConvPlan, conv: Command, strip: Strip, offsets: dict[str, int]) -> Command:
        """The command for a row that is sampled: a CONV's, and where the source lies in memory."""
        layer, tensor = plan.layer, self.graph.tensors[plan.layer.source]
        assert layer.warp is not None
        first = strip.columns[tensor.name][0]
        shared = {field.name for field in FIELDS[Opcode.WARP]} & {field.name for field in FIELDS[Opcode.CONV]}
        fields = {name: conv[name] for name in shared} | {
            "x_first": first,
            "x_offset": strip.computed[layer.output] - first,  # not the window's first column, but the pixel's own
            "frame_width": tensor.width,
            "pixel_pitch": tensor.channels,
            "channels": tensor.channels,
            "fraction_bits": layer.warp.fraction_bits,
            "address": offsets[tensor.name],
            "row_stride": tensor.width * tensor.channels,
        }
        return command(Opcode.WARP, **fields)

    def _resize(self, plan: ConvPlan, conv: Command, strip: Strip) -> Command:
        """The command for a row that is sampled at steps."""
        layer, tensor = plan.layer, self.graph.tensors[plan.layer.source]
        factor, first = layer.enlarges, strip.columns[tensor.name][0]
        shared = {field.name for field in FIELDS[Opcode.RESIZE]} & {field.name for field in FIELDS[Opcode.CONV]}
        fields = {name: conv[name] for name in shared} | {
            "x_first": first,
            "x_offset": strip.computed[layer.output] - factor * first,
            "frame_width": tensor.width,
            "enlarge_log2": factor.bit_length() - 1,
            "flow": tensor.wide,
            "step_x": numerics.corner_step(tensor.width, factor * tensor.width),
            "step_y": numerics.corner_step(tensor.height, factor * tensor.height),
        }
        return command(Opcode.RESIZE, **fields)

    def _window(self, plan: ConvPlan, conv: Command, strip: Strip, offsets: dict[str, int]) -> Command:
        """The command for a row that is looked up in maps that lie in memory."""
        windows, volume = plan.layer.windows, self.graph.tensors[plan.layer.sees]
        assert windows is not None
        first = strip.computed[plan.layer.output]
        shared = {field.name for field in FIELDS[Opcode.WINDOW]} & {field.name for field in FIELDS[Opcode.CONV]}
        fields = {name: conv[name] for name in shared} | {
            "map_width": windows.map_width,
            "map_height": windows.map_height,
            "x_first": first,
            "radius": windows.radius,
            "level": windows.level,
            "fraction_bits": windows.fraction_bits,
            "map_zero_point": volume.zero_point,
            "address": offsets[volume.name] + first * windows.map_bytes,
            "row_stride": volume.width * windows.map_bytes,
        }
        return command(Opcode.WINDOW, **fields)


def _groups(spec: AccelSpec, tensor: Tensor) -> int:
    return -(-tensor.channels // spec.ci_lanes)


def _kept_row(cascade: Cascade, kept: KeptPlan) -> int:
    """Bytes per row of the columns that wait in memory: the most that any strip leaves there."""
    tails = [strip.tails[kept.tensor] for strip in cascade.strips if kept.tensor in strip.tails]
    return max((end - first for first, end in tails), default=0) * kept.channels


def _label(cascade: Cascade, cmd: Command) -> str:
    match cmd.opcode:
        case Opcode.BUFFER:
            return cascade.buffers[cmd["id"]].tensor
        case Opcode.LOAD | Opcode.STORE:
            return cascade.buffers[cmd["buffer"]].tensor
        case Opcode.CONV | Opcode.CORR | Opcode.WARP | Opcode.RESIZE | Opcode.WINDOW:
            made = cascade.buffers[cmd["destination"]].tensor
            return next(plan.layer.name for plan in cascade.convs if plan.layer.output == made)
        case Opcode.LOADW:
            return f"{WeightKind(cmd['kind']).name.lower()} of {cascade.convs[0].layer.name}…"
        case _:
            return ""


def _up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def compulsory_bytes(graph: LayerGraph) -> int:
    """Dense inputs, outputs and weights: what any machine must move."""
    tensors = (graph.tensors[name] for name in (*graph.inputs, *graph.outputs))
    return sum(t.height * t.width * t.channels for t in tensors) + sum(
        _weight_bytes(layer.weights) for layer in graph.layers if isinstance(layer, Conv) and layer.plain
    )


def _weight_bytes(weights: Weights) -> int:
    """Bytes of dense weights: of 16-bit ones for the channels, input by output, that have such."""
    planes = weight_planes(weights)
    if len(planes) == 1:
        return weights.size
    return int(sum(np.count_nonzero(np.any(plane, axis=(0, 1))) for plane in planes)) * weights[:, :, 0, 0].size
