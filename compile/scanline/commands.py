"""Commands of one strip of a cascade: its buffers, and the loop that loads, computes and stores row by row."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

from codesign.compile.scanline.kernels.kernel import RowPlace
from codesign.compile.scanline.layers import LayerGraph, SecondOperand
from codesign.compile.scanline.plan.plan import (
    BufferPlan,
    Cascade,
    KeptPlan,
    LayerPlan,
    RowOrder,
    StorePlan,
    Strip,
    words_per_row,
)
from codesign.hw.isa import Command, Opcode, command
from codesign.hw.numerics import AddRule, MultiplyRule
from codesign.hw.spec import AccelSpec


@dataclass(frozen=True)
class Memory:
    """Addresses of tensors, and of columns that wait for the next strip."""

    tensors: dict[str, int]
    halos: dict[str, int]


class StripCommands:
    """Writes the commands of one strip."""

    def __init__(
        self,
        spec: AccelSpec,
        graph: LayerGraph,
        cascade: Cascade,
        strip: Strip,
        memory: Memory,
        statistics: Mapping[str, int],
    ) -> None:
        self.spec, self.graph, self.cascade, self.strip = spec, graph, cascade, strip
        self.memory, self.statistics = memory, statistics
        self.ids = {buffer.tensor: index for index, buffer in enumerate(cascade.buffers)}
        self.buffers = {buffer.tensor: buffer for buffer in cascade.buffers}

    def commands(self, tables: list[bytes], weights_needed: int) -> list[Command]:
        """All of them; the first row waits for ``weights_needed`` LOADWs."""
        cascade = self.cascade
        loads = [[self._load(self.buffers[name])] * repeat for name, repeat in cascade.loads]
        halos = [self._load_halo(kept) for kept in cascade.kept]
        rows = self._rows(tables, weights_needed)
        stores = [self._store(store) for store in cascade.stores]
        stores += [self._store_halo(kept) for kept in reversed(cascade.kept)]
        # Halos come in the order in which their rows are freed.
        if cascade.order is RowOrder.EAGER:
            order = [*loads, *halos, *rows, *stores]
        else:
            order = [*stores, *reversed(rows), *reversed(halos), *loads]
        loop = command(Opcode.LOOP, count=cascade.iterations)
        return [*self._buffer_commands(), loop, *itertools.chain(*order), command(Opcode.END)]

    def _buffer_commands(self) -> list[Command]:
        spec, graph, strip = self.spec, self.graph, self.strip
        commands: list[Command] = []
        base = 0
        for buffer in self.cascade.buffers:
            tensor = graph.tensors[buffer.tensor]
            first, end = strip.columns[tensor.name]
            pitch = words_per_row(spec, end - first)
            commands.append(
                command(
                    Opcode.BUFFER,
                    id=self.ids[tensor.name],
                    base=base,
                    rows=buffer.rows,
                    row_pitch=buffer.groups * pitch,
                    group_pitch=pitch,
                    groups=buffer.groups,
                    width=end - first,
                    height=tensor.height,
                    zero_point=tensor.zero_point,
                    loaded=buffer.loaded,
                    halo=(strip.computed.get(tensor.name, first) - first) // spec.banks,
                    operand=buffer.operand,
                    freed_by_store=buffer.freed_by_store or tensor.name in strip.tails,
                    freed_by_conv=buffer.freed_by_layer,
                )
            )
            base += buffer.rows * buffer.groups * pitch
        return commands

    def _load(self, buffer: BufferPlan) -> Command:
        tensor = self.graph.tensors[buffer.tensor]
        first = self.strip.columns[tensor.name][0]
        address, row = self.memory.tensors[tensor.name], tensor.width * tensor.channels
        shared = {
            "buffer": self.ids[tensor.name],
            "row_stride": row,
            "x_count": self.strip.width(tensor.name),
        }
        if buffer.conversion.unfold:
            column = max(first - buffer.conversion.pad_left, 0)
            return command(
                Opcode.LOAD,
                address=address + column,
                pixel_bytes=buffer.conversion.unfold,
                pixel_pitch=1,
                skip=first - buffer.conversion.pad_left - column,
                row_bytes=row - column,
                **shared,
            )
        channel, count = self._loaded_channels(tensor.name)
        start = first * tensor.channels + channel
        return command(
            Opcode.LOAD,
            address=address + start,
            pixel_bytes=count,
            pixel_pitch=tensor.channels,
            row_bytes=row - start,
            **shared,
        )

    def _loaded_channels(self, name: str) -> tuple[int, int]:
        """The first channel that is loaded of a tensor, and how many: of a slice's second operand, its slice alone."""
        channels = self.graph.tensors[name].channels
        for plan in self.cascade.layers:
            layer = plan.layer
            if layer.follows_order == name and layer.channels < channels and name not in layer.sources:
                return layer.first_channel, layer.channels
        return 0, channels

    def _load_halo(self, kept: KeptPlan) -> list[Command]:
        """Load columns that the strips before have computed."""
        strip, name = self.strip, kept.tensor
        if name not in strip.halos:
            return []
        tensor, count = self.graph.tensors[name], strip.halos[name]
        first = strip.computed[name] - count
        address, stride = self.memory.halos.get(name, 0), kept_row_bytes(self.cascade, kept)
        if name in strip.stored:  # then the columns lie in the tensor itself
            address = self.memory.tensors[name] + first * tensor.channels
            stride = tensor.width * tensor.channels
        return [
            command(
                Opcode.LOAD,
                buffer=self.ids[name],
                delay=kept.delay,
                address=address,
                row_stride=stride,
                pixel_bytes=kept.channels,
                pixel_pitch=kept.channels,
                row_bytes=count * kept.channels,
                x_first=first - strip.columns[name][0],
                x_count=count,
            )
        ] * kept.repeat

    def _rows(self, tables: list[bytes], weights_needed: int) -> list[list[Command]]:
        """Per layer, in execution order, one command for each of its rows in an iteration."""
        steps, fills, words = 0, 0, 0
        rows: list[list[Command]] = []
        for plan in self.cascade.layers:
            layer, mapping = plan.layer, plan.mapping
            place = RowPlace(
                sources=layer.sources,
                tensors=self.graph.tensors,
                buffers=self.ids,
                columns=self.strip.columns,
                addresses=self.memory.tensors,
                frees=plan.frees,
                first=self.strip.computed[layer.output],
                unfolded=self.buffers[layer.sources[0]].conversion.unfold > 0,
                mapping=mapping,
                steps_base=steps,
                fills_base=fills,
            )
            fields = layer.kernel.fields(place) | self._shared_fields(plan) | self._operand_fields(plan)
            if layer.epilogue.table is not None:
                fields |= {"table_enable": 1, "table": tables.index(layer.epilogue.table.tobytes())}
            cmd = command(layer.kernel.opcode, weights_needed=weights_needed, parameters_base=words, **fields)
            rows.append([cmd] * plan.repeat)
            steps += len(mapping.steps)
            fills += len(mapping.fills)
            words += mapping.output_words
        return rows

    def _shared_fields(self, plan: LayerPlan) -> dict[str, int]:
        """Fields that the commands of all kinds of layers have."""
        layer, footprint = plan.layer, plan.layer.kernel.footprint
        return {
            "source": self.ids[layer.sources[0]],
            "destination": self.ids[layer.output],
            "delay": plan.delay,
            "kernel_rows": footprint.rows,
            "pad_rows": footprint.pad_top,
            "words": plan.mapping.output_words,
            "qmin": layer.epilogue.qmin,
            "qmax": layer.epilogue.qmax,
            "zero_point": layer.epilogue.zero_point,
            "free_source": plan.frees[0],
        }

    def _operand_fields(self, plan: LayerPlan) -> dict[str, int]:
        """Fields of the tensor that is read at each pixel's own place, if there is one."""
        layer, name = plan.layer, plan.layer.operand
        if name is None:
            return {}
        conversion, first = self.buffers[name].conversion, self.strip.computed[layer.output]
        fields = {
            "add_enable": 1,
            "add_buffer": self.ids[name],
            "add_channel": conversion.pad_left if conversion.unfold else 0,
            "add_x_offset": first - self.strip.columns[name][0],
            "add_free": plan.free_operand,
        }
        return fields | (_rule_fields(layer.epilogue.second) if layer.epilogue.second is not None else {})

    def _store(self, store: StorePlan) -> list[Command]:
        tensor, target = self.graph.tensors[store.tensor], self.graph.tensors[store.target]
        first, end = self.strip.stored[tensor.name]
        address, factor = self.memory.tensors[target.name], store.factor
        shared = {
            "buffer": self.ids[tensor.name],
            "delay": store.delay,
            "x_first": first - self.strip.columns[tensor.name][0],
            "x_count": end - first,
        }
        if target.as_weights:
            lanes = self.spec.ci_lanes
            lies = {
                "address": address + first * lanes,
                "row_stride": target.width * lanes,
                "sub_rows": target.groups(self.spec),
                "sub_stride": target.group_bytes(self.spec),
                "pixel_bytes": lanes,
                "pixel_pitch": lanes,
                "channel_step": lanes,
            }
        else:
            row, run = target.width * target.channels, factor * target.channels
            lies = {
                "address": address + first * run + store.first_channel,
                "row_stride": factor * row,
                "sub_rows": factor,
                "sub_stride": row,
                "pixel_bytes": run if factor > 1 else self._stored_channels(tensor.name),
                "pixel_pitch": run if factor > 1 else tensor.channels,
                "channel_step": run,
            } | self._statistics_fields(store)
        return [command(Opcode.STORE, **shared, **lies)] * store.repeat

    def _statistics_fields(self, store: StorePlan) -> dict[str, int]:
        """Sums are taken of tensors that are normalised later, from the first strip on."""
        if store.factor > 1 or store.tensor not in self.statistics:
            return {}
        word = self.statistics[store.tensor] + store.first_channel // self.spec.ci_lanes
        begins = self.strip is self.cascade.strips[0]
        return {"statistics": 1, "statistics_begin": begins, "statistics_base": word}

    def _stored_channels(self, name: str) -> int:
        made = (plan.layer.channels for plan in self.cascade.layers if plan.layer.output == name)
        return next(made, self.graph.tensors[name].channels)

    def _store_halo(self, kept: KeptPlan) -> list[Command]:
        """Store the columns that the next strip needs again, unless they leave the chip anyway."""
        if kept.tensor not in self.strip.tails:
            return []
        first, end = self.strip.tails[kept.tensor]
        return [
            command(
                Opcode.STORE,
                buffer=self.ids[kept.tensor],
                delay=kept.store_delay,
                address=self.memory.halos.get(kept.tensor, 0),
                row_stride=kept_row_bytes(self.cascade, kept),
                sub_rows=1,
                pixel_bytes=kept.channels,
                pixel_pitch=kept.channels,
                channel_step=kept.channels,
                x_first=first - self.strip.columns[kept.tensor][0],
                x_count=end - first,
            )
        ] * kept.repeat


def _rule_fields(second: SecondOperand) -> dict[str, int]:
    rule = second.rule
    shared = {
        "add_broadcast": second.broadcast,
        "add_value_zero_point": rule.value_zero_point,
        "add_shift": rule.shift,
        "add_zero_point": rule.zero_point,
        "add_qmin": rule.qmin,
        "add_qmax": rule.qmax,
    }
    match rule:
        case AddRule():
            return shared | {"add_multiplier": rule.multiplier, "add_other_multiplier": rule.other_multiplier}
        case MultiplyRule():
            return shared | {"add_product": 1, "add_other_multiplier": rule.multiplier}


def kept_row_bytes(cascade: Cascade, kept: KeptPlan) -> int:
    """Bytes per row of the columns that wait in memory: the most that any strip leaves there."""
    tails = [strip.tails[kept.tensor] for strip in cascade.strips if kept.tensor in strip.tails]
    return max((end - first for first, end in tails), default=0) * kept.channels
