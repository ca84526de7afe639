"""The cycle model: the time of a program on a machine, row by row, without computing a value.

Every engine is a clock of its own (:mod:`codesign.hw.timing.engines`). Within a row the array follows
:mod:`codesign.hw.timing.row`, units beside the array :mod:`codesign.hw.timing.beside`, the store engine
:mod:`codesign.hw.timing.store`. One thing is not modelled: which of the beats that compete at the memory is served
first; reads and writes take turns.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from codesign.hw.commands import COMMANDS, COMPUTED
from codesign.hw.counters import Counters, LayerCounters
from codesign.hw.errors import ProgramError
from codesign.hw.isa import ROWS, Opcode
from codesign.hw.program.program import Program
from codesign.hw.program.tokens import Buffer, more_sources
from codesign.hw.timing.bus import Memory
from codesign.hw.timing.engines.array import LONG_PAST
from codesign.hw.timing.engines.engines import Engines
from codesign.hw.timing.engines.waiting import Work
from codesign.hw.timing.latencies import COMMAND, END
from codesign.hw.timing.loop import Body, every_command


@dataclass(frozen=True)
class _Snapshot:
    """State of a loop after ``done`` executions."""

    done: int
    time: float
    rows: dict[int, int]  # of every buffer
    stalls: dict[str, float]
    events: Counter[tuple[Work, str]]


class _Model:
    """A run of a program through the engines."""

    def __init__(self, engines: Engines, every_iteration: bool = False) -> None:
        """``every_iteration``: follow every execution of every loop."""
        self.engines, self.every_iteration = engines, every_iteration
        self.bodies: dict[int, Body | None] = {}
        self.seen: dict[tuple[object, ...], _Snapshot] = {}  # states after executions of the outermost loop

    def run(self) -> float:
        """Returns the cycle of done."""
        engines, program = self.engines, self.engines.program
        leave_out = (lambda *_: 0) if self.every_iteration else self._leave_out
        for index, oldest, cmd, delayed in every_command(program.commands, leave_out):
            engines.fetch(oldest)
            engines.sequencer = max(engines.sequencer, engines.arrived[index] + 1) + COMMAND
            engines.work = (cmd.opcode, program.labels[index] if program.labels else "")
            engines.count("commands", 1)
            try:
                if not delayed:
                    COMMANDS[cmd.opcode].time(engines, cmd)
            except IndexError as error:
                raise ProgramError("waits for a row that never comes", where=f"command {index}") from error
            if cmd.opcode is Opcode.HALT:
                break
        return engines.left_out + engines.sequencer + END

    # Loops in their steady state

    def _leave_out(self, first: int, end: int, done: int, left: int) -> int:
        """Number of the ``left`` executions of the loop body [first, end) that need not be followed.

        When the state after an execution is one met before, shifted in time, the executions in between repeat: they
        are counted as often as they fit into the frame, and the frame is made that much lower.
        """
        engines = self.engines
        if done == 1:
            self.seen.clear()
        alignments, engines.alignments = tuple(engines.alignments), []
        body = self._body(first, end)
        if body is None or left < 2 or done < body.delay:
            return 0
        buffers = {index: engines.tokens.buffer(index) for index in body.buffers}
        if any(buffer.next_row < buffer.rows or buffer.begun >= buffer.height for buffer in buffers.values()):
            return 0
        if any(
            COMPUTED[cmd.opcode].first_row(cmd, buffers[cmd["destination"]].next_computed) < 0 for cmd in body.convs
        ):
            return 0
        state = (alignments, *self._state(body, buffers))
        now = self._snapshot(done, buffers)
        before = self.seen.setdefault(state, now)
        if before is now:
            return 0
        period = done - before.done
        rates = {index: row - before.rows[index] for index, row in now.rows.items()}
        if not all(rates.values()) or not all(
            COMPUTED[cmd.opcode].rates_match(cmd, rates[source], rates[cmd["destination"]])
            for cmd in body.convs
            for source in (cmd["source"], *(index for index, _ in more_sources(cmd)))
        ):
            return 0
        times = min((buffer.height - 1 - buffer.begun) // rates[index] for index, buffer in buffers.items())
        times = min(times, (left - 1) // period)
        if times <= 0:
            return 0
        for index, buffer in buffers.items():
            buffer.height -= times * rates[index]
        engines.left_out += times * (now.time - before.time)
        for cause, stalled in before.stalls.items():
            engines.stalls[cause] += times * (now.stalls[cause] - stalled)
        for event, count in now.events.items():
            engines.events[event] += times * (count - before.events[event])
        self.seen.clear()
        return times * period

    def _body(self, first: int, end: int) -> Body | None:
        """The commands and buffers of a loop's body; None for a body that configures the machine."""
        if first not in self.bodies:
            commands = self.engines.program.commands[first:end]
            rows = [cmd for cmd in commands if cmd.opcode in ROWS]
            plain = all(cmd.opcode in (Opcode.LOOP, Opcode.END) or cmd in rows for cmd in commands)
            self.bodies[first] = Body.of(rows) if plain else None
        return self.bodies[first]

    def _state(self, body: Body, buffers: dict[int, Buffer]) -> Iterator[object]:
        """All that decides about the future, times relative to the sequencer's; those long past are alike."""
        engines = self.engines
        base = engines.sequencer
        oldest = min(base, engines.array.array, engines.array.front) - LONG_PAST

        def times(*values: float) -> tuple[float, ...]:
            return tuple(round(max(value, oldest) - base, 3) for value in values)

        yield from engines.state(times)
        if body.loads:
            yield from engines.load.state(times)
        for index, buffer in buffers.items():
            rows, window = engines.rows[index], buffer.next_row - buffer.rows
            yield buffer.begun - buffer.next_row, times(*rows.loaded[window:]), times(*rows.computed[window:])
            if buffer.freed_by_conv:
                yield buffer.next_row - buffer.freed_conv, times(*rows.by_conv[max(0, window) :])
            if buffer.freed_by_store:
                yield buffer.next_row - buffer.freed_store, times(*rows.by_store[max(0, window) :])
            if index in body.stored:
                yield buffer.next_row - buffer.stored

    def _snapshot(self, done: int, buffers: dict[int, Buffer]) -> _Snapshot:
        rows, engines = {index: buffer.next_row for index, buffer in buffers.items()}, self.engines
        return _Snapshot(done, engines.sequencer, rows, dict(engines.stalls), engines.events.copy())


def predict(program: Program, memory: Memory | None = None, *, every_iteration: bool = False) -> Counters:
    """Predict one frame's counters.

    ``every_iteration``: follow every iteration of loops, instead of multiplying those that repeat themselves. Raises
    :class:`ProgramError` for a program that ``verify`` refuses.
    """
    return _predict(program, memory, every_iteration)[0]


def profile(program: Program, memory: Memory | None = None) -> tuple[Counters, tuple[LayerCounters, ...]]:
    """Predict one frame's counters, and each layer's share of them, in the order in which the layers begin.

    Loads of weights and tensors, and stores, belong to no layer: they are in the counters alone. Raises
    :class:`ProgramError` as :func:`predict`.
    """
    counters, engines = _predict(program, memory, every_iteration=False)
    layers = []
    for (opcode, label), (begin, end) in sorted(engines.array.spans.items(), key=lambda item: item[1]):
        work = (opcode, label)
        layers.append(
            LayerCounters(
                name=label,
                begin_cycle=round(begin),
                end_cycle=round(end),
                busy_cycles=engines.events[work, "busy"],
                scratchpad_read_words=engines.events[work, "read_words"],
                scratchpad_write_words=engines.events[work, "write_words"],
                requantised_values=engines.events[work, "values"],
            )
        )
    return counters, tuple(layers)


def _predict(program: Program, memory: Memory | None, every_iteration: bool) -> tuple[Counters, Engines]:
    engines = Engines(program, memory or Memory.of(program.spec))
    cycles = round(_Model(engines, every_iteration).run())
    events: Counter[str] = Counter()
    for (_, event), number in engines.events.items():
        events[event] += number
    stalls = {cause: round(time) for cause, time in engines.stalls.items()}
    stalls["control"] += cycles - events["busy"] - sum(stalls.values())
    counters = Counters(
        cycles=cycles,
        busy_cycles=events["busy"],
        **{f"{cause}_stall_cycles": time for cause, time in stalls.items()},
        macs_issued=events["busy"] * program.spec.macs_per_cycle,
        dram_command_read_bytes=events["command_bytes"],
        dram_weight_read_bytes=events["weight_bytes"],
        dram_load_read_bytes=events["load_bytes"],
        dram_write_bytes=events["write_bytes"],
        dram_gather_read_bytes=events["gather_bytes"],
        gathered_reads=events["gathered_reads"],
        scratchpad_read_words=events["read_words"],
        scratchpad_write_words=events["write_words"],
        weight_read_words=events["busy"],
        requantised_values=events["values"],
        commands=events["commands"],
    )
    return counters, engines


__all__ = ["Memory", "predict", "profile"]
