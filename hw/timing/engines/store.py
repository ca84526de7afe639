"""The store engine in the cycle model: words fetched from the scratchpad, packed, and sent beat by beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from codesign.hw.isa import Command
from codesign.hw.timing.beside import Fetching, lost_to_store
from codesign.hw.timing.bus import beats_between
from codesign.hw.timing.engines.waiting import free_to
from codesign.hw.timing.latencies import PACKED, RESPONSE, STORE_BEGIN, SUB_ROW, SUB_ROW_END
from codesign.hw.timing.row import Stretch
from codesign.hw.timing.store import Batch, sub_row_batches

if TYPE_CHECKING:
    from codesign.hw.timing.engines.engines import Engines


class StoreEngine:
    """Times at which it can take its next command and its last row is written."""

    def __init__(self, engines: Engines) -> None:
        self.engines = engines
        self.now = self.written = 0.0

    def take(self, cmd: Command) -> None:
        """The next row of ``cmd``, followed at once."""
        engines = self.engines
        row = engines.tokens.store(cmd)
        start = engines.dispatch("store", self.now)
        if row is None:
            self.now = start + 1
            return
        time = max([start, *(there for there, _ in engines.there(cmd["buffer"], row))]) + STORE_BEGIN
        sent = self.written
        for sub in range(cmd["sub_rows"]):
            time, sent = self._sub_row(cmd, row, sub, time)
        self.now = time
        self.written = max(time, sent) + engines.memory.latency_cycles + RESPONSE
        if engines.tokens.buffer(cmd["buffer"]).freed_by_store:
            free_to(engines.rows[cmd["buffer"]].by_store, row + 1, time)

    def _sub_row(self, cmd: Command, row: int, sub: int, time: float) -> tuple[float, float]:
        """Sub-row ``sub`` from ``time`` on. Returns when the next may begin and when the last beat is sent."""
        engines, spec = self.engines, self.engines.spec
        channel = cmd["channel"] + sub * cmd["channel_step"]
        groups = (channel + cmd["pixel_bytes"] - 1) // spec.ci_lanes - channel // spec.ci_lanes + 1
        at = cmd["address"] + row * cmd["row_stride"] + sub * cmd["sub_stride"]
        span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
        engines.alignments.append(at % spec.bus_bytes)
        began = time + SUB_ROW
        batches = sub_row_batches(
            spec.banks,
            spec.bus_bytes,
            groups,
            cmd["x_count"],
            cmd["pixel_bytes"],
            cmd["pixel_pitch"],
            at % spec.bus_bytes,
        )
        ended, sent = self._pack(batches, began)
        if engines.array.has_units:
            self._fetched(Fetching(began, ended, sum(batch.segments for batch in batches)))
        engines.count("write_bytes", beats_between(spec, at, at + span) * spec.bus_bytes)
        engines.count("read_words", cmd["x_count"] * groups)
        return ended + SUB_ROW_END, sent

    def _fetched(self, span: Fetching) -> None:
        """What a unit beside the array loses to a store: in rows to come, and in those followed before the store.

        Engines are followed in program order, but a store whose command comes later may run beside an earlier row.
        """
        array = self.engines.array
        array.fetching.append(span)
        for kind, row in array.beside:
            lost = lost_to_store(row, span)
            array.stalls[kind.stall] += lost
            array.drain += lost
            if kind.streams:
                array.counted += lost
                array.stream.delay(lost)
            else:
                array.array += lost
                array.front += lost

    def _pack(self, batches: tuple[Batch, ...], began: float) -> tuple[float, float]:
        """Fetch and send a sub-row from ``began`` on. Returns when it is packed and when its last beat is sent."""
        array, bus = self.engines.array, self.engines.bus
        room = self.engines.spec.store_fifo_beats * bus.cycles_per_beat
        sent = ended = began
        for batch in batches:
            at = began + batch.fetched
            if at + batch.segments > array.front:
                array.taken.append(Stretch(at, at + batch.segments))
            ended = began + batch.packed
            if batch.beats:
                sent = bus.transfer("writes", ended + PACKED - batch.beats, batch.beats)
                if sent - room > ended:  # the packer has waited for places in the FIFO
                    began += sent - room - ended
                    ended = sent - room
        return ended, sent
