"""A run of layers as one cascade, before it is divided into strips."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codesign.compile.scanline.layers import Layer, Shuffle
from codesign.compile.scanline.plan.mapping import Mapping
from codesign.compile.scanline.plan.plan import Conversion, KeptPlan, StorePlan
from codesign.compile.scanline.plan.schedule import RowSchedule
from codesign.compile.scanline.plan.strips import HaloMode, Leaving


@dataclass(frozen=True)
class Undivided:
    """Layers [first, end) as one cascade, before it is divided into strips."""

    first: int
    end: int
    layers: dict[int, Layer]  # by index, without shuffles
    loads: list[str]
    leaving: Leaving
    halos: HaloMode
    kept: list[str]  # tensors whose halos are kept
    conversions: dict[str, Conversion]
    mappings: dict[int, Mapping]
    rows: RowSchedule

    def stores(self) -> tuple[StorePlan, ...]:
        """Tensors that leave the chip, with their places in the schedule."""
        first_channels = {layer.output: layer.first_channel for layer in self.layers.values()}
        return tuple(
            StorePlan(
                tensor=source,
                target=target,
                factor=factor,
                first_channel=first_channels.get(source, 0),
                delay=self.rows.store_delay[source],
                repeat=self.rows.store_repeat[source],
            )
            for source, target, factor in self.leaving
        )

    def kept_plans(self) -> tuple[KeptPlan, ...]:
        """Tensors whose columns next to a cut go to memory and come back."""
        rows = self.rows
        return tuple(
            KeptPlan(
                tensor=layer.output,
                channels=layer.channels,
                delay=rows.layer_delay[index],
                store_delay=rows.store_delay[layer.output],
                repeat=rows.layer_repeat[index],
            )
            for index, layer in self.layers.items()
            if layer.output in self.kept
        )


def connected(layers: Sequence[Layer | Shuffle]) -> list[set[str]]:
    """The tensors of ``layers``, apart where no layer reads from one part and writes into another."""
    parts: list[set[str]] = []
    for layer in layers:
        joined = {*layer.streamed, layer.output}
        apart = [part for part in parts if not part & joined]
        parts = [*apart, joined.union(*(part for part in parts if part & joined))]
    return parts
