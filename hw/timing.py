"""The cycle model: what a program takes on a machine, row by row, without computing a value.

Every engine is a clock of its own; commands advance the clocks through the same tokens as in hardware: rows finished,
rows freed, LOADWs finished, places in the queues. A CONV row takes, per pixel group, the longest of its steps, its
fills and its requantisation; latencies are those of the pipelines. What is left out: single-cycle conflicts at the
scratchpad's ports and between reads and writes at the memory, which the RTL counts and this model does not.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from codesign.hw.counters import Counters
from codesign.hw.errors import ProgramError
from codesign.hw.isa import Command, Opcode
from codesign.hw.program import Program
from codesign.hw.spec import COMMAND_BYTES, AccelSpec
from codesign.hw.tokens import Tokens

# Pipeline latencies in cycles, as the RTL has them.
START = 5  # start write to the first command request
ISSUE = 2  # sequencer, per command
CHECK = 2  # a command's arrival at an engine to its token check
FRONT = 5  # passed check to the first segment in the window
ARRAY = 2  # segment in the window to the first step
DRAIN = 12  # last step to the last value written and the row reported
LOAD_SETUP = 4  # token check to the first burst request
UNPACK = 3  # first beat to the first word written
STORE_SETUP = 6  # token check to the first word read, per sub-row
STORE_TAIL = 8  # last word read to the last beat out


@dataclass(frozen=True)
class Memory:
    """DRAM bandwidth (shared by reads and writes) and latency (address to first data)."""

    bytes_per_cycle: float
    latency_cycles: int = 100

    @staticmethod
    def of(spec: AccelSpec, bytes_per_cycle: float | None = None, latency_cycles: int = 100) -> Memory:
        """``bytes_per_cycle`` None is the bus width."""
        return Memory(min(bytes_per_cycle or spec.bus_bytes, spec.bus_bytes), latency_cycles)


class _Rows:
    """When the rows of a buffer were finished and freed."""

    def __init__(self) -> None:
        self.done: list[float] = []
        self.freed: list[float] = []

    def free_to(self, row: int, time: float) -> None:
        while len(self.freed) < row:
            self.freed.append(time)


class _Model:
    def __init__(self, program: Program, memory: Memory) -> None:
        self.program, self.spec, self.memory = program, program.spec, memory
        self.tokens = Tokens(self.spec.buffers)
        self.rows: dict[int, _Rows] = {}
        self.sequencer = float(START + memory.latency_cycles)
        self.bus = 0.0  # when the memory has delivered or taken all so far
        self.request = self.unpack = self.front = self.array = self.drain = self.store = self.written = 0.0
        self.weights: list[float] = []
        self.fetched = 0
        self.queues: dict[str, deque[float]] = {"load": deque(), "conv": deque(), "store": deque()}
        self.busy = 0
        self.stalls = dict.fromkeys(("load", "store", "weights", "requantise", "control", "fill", "drain"), 0.0)
        self.events = dict.fromkeys(
            ("commands", "weight_bytes", "load_bytes", "write_bytes", "read_words", "write_words", "values"), 0
        )

    # Memory and queues

    def _beats(self, first: int, end: int) -> int:
        bus = self.spec.bus_bytes
        return -(-end // bus) - first // bus if end > first else 0

    def _transfer(self, ready: float, beats: int) -> float:
        """The time when ``beats`` that may move from ``ready`` on have moved."""
        self.bus = max(self.bus, ready) + beats * self.spec.bus_bytes / self.memory.bytes_per_cycle
        return self.bus

    def _dispatch(self, queue: str, engine: float) -> float:
        """Hand a command over; returns when the engine takes it. The queue holds a few commands."""
        taken = self.queues[queue]
        if len(taken) >= self.spec.queue_depth:
            self.sequencer = max(self.sequencer, taken.popleft())
        start = max(self.sequencer + 1, engine)
        taken.append(start)
        return start

    def _fetch(self, index: int) -> None:
        """The command at ``index`` is on chip; commands stream in ahead of the sequencer."""
        if index >= self.fetched:
            beats = COMMAND_BYTES // self.spec.bus_bytes
            for number in range(self.fetched, index + 1):
                first = START + self.memory.latency_cycles + 2
                self.sequencer = (
                    max(self.sequencer, self._transfer(first + number, beats)) if number == index else (self.sequencer)
                )
            self.fetched = index + 1

    # Commands

    def execute(self, index: int, cmd: Command) -> None:
        self._fetch(index)
        self.sequencer += ISSUE
        self.events["commands"] += 1
        if cmd.opcode is Opcode.BUFFER:
            self.tokens.configure(cmd)
            self.rows[cmd["id"]] = _Rows()
        elif cmd.opcode in (Opcode.SYNC, Opcode.HALT):
            self.sequencer = max(self.sequencer, self.unpack, self.drain, self.written, self.front) + 1
            self.tokens.sync()
            self.weights = []
        elif cmd.opcode is Opcode.LOADW:
            self._load_weights(cmd)
        elif cmd.opcode is Opcode.LOAD:
            self._load(cmd)
        elif cmd.opcode is Opcode.CONV:
            self._conv(cmd)
        elif cmd.opcode is Opcode.STORE:
            self._store(cmd)

    def _load_weights(self, cmd: Command) -> None:
        beats = cmd["bytes"] // self.spec.bus_bytes
        start = self._dispatch("load", self.request) + LOAD_SETUP
        first = start + self.memory.latency_cycles
        end = self._transfer(first, beats)
        self.request = max(start + beats / 16, end - self.memory.latency_cycles - self.spec.load_fifo_beats)
        self.unpack = max(self.unpack + cmd["elements"], first + UNPACK + cmd["elements"], end + UNPACK)
        self.weights.append(self.unpack)
        self.tokens.weights_loaded += 1
        self.events["weight_bytes"] += cmd["bytes"]

    def _load(self, cmd: Command) -> None:
        buffer = self.tokens.buffer(cmd["buffer"])
        row = self.tokens.load(cmd)
        start = self._dispatch("load", self.request) + CHECK
        if row is None:
            self.request = start
            return
        rows = self.rows[cmd["buffer"]]
        if row >= buffer.rows:
            start = max(start, rows.freed[row - buffer.rows])
        start += LOAD_SETUP
        at = cmd["address"] + row * cmd["row_stride"]
        span = min(cmd["skip"] + (buffer.width - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"], cmd["row_bytes"])
        beats = self._beats(at + max(cmd["skip"], 0), at + span)
        words = buffer.width * -(-cmd["pixel_bytes"] // self.spec.ci_lanes)
        first = start + self.memory.latency_cycles
        end = self._transfer(first, beats)
        self.request = max(start + -(-beats // 16), end - self.memory.latency_cycles - self.spec.load_fifo_beats)
        self.unpack = max(max(self.unpack, first + UNPACK) + words, end + UNPACK)
        rows.done.append(self.unpack)
        self.events["load_bytes"] += beats * self.spec.bus_bytes
        self.events["write_words"] += words

    def _conv(self, cmd: Command) -> None:
        source, destination = self.tokens.buffer(cmd["source"]), self.tokens.buffer(cmd["destination"])
        taken = self._dispatch("conv", self.front) + CHECK
        at = self.tokens.conv(cmd)
        if at is None:
            self.front = taken
            return
        spec = self.spec
        waits: list[tuple[float, str]] = [(taken, "control")]
        if cmd["weights_needed"]:
            waits.append((self.weights[cmd["weights_needed"] - 1], "weights"))
        last = min(at.top + cmd["kernel_rows"], source.height) - 1
        loaded = bool(source.command["loaded"])
        if last >= 0:
            waits.append((self.rows[cmd["source"]].done[last], "load" if loaded else "drain"))
        if cmd["add_enable"]:
            other = self.tokens.buffer(cmd["add_buffer"])
            waits.append((self.rows[cmd["add_buffer"]].done[at.y], "load" if other.command["loaded"] else "drain"))
        if at.y >= destination.rows:
            freed = self.rows[cmd["destination"]].freed[at.y - destination.rows]
            waits.append((freed, "store" if destination.freed_by_store else "drain"))
        ready, cause = max(waits)
        groups = -(-destination.width // spec.pixel_lanes)
        steps = cmd["steps_count"]
        fills = cmd["fills_count"] * cmd["fills_repeat"]
        chunks = spec.pixel_lanes // spec.requantise_pixels
        per_cog = max(1, (spec.co_lanes >> cmd["lane_groups_log2"]) // spec.ci_lanes)
        cogs = -(-cmd["words"] // per_cog)
        drain = cmd["words"] * chunks + cogs * (1 if not cmd["add_enable"] else 1 + 4 * per_cog)
        group = max(steps, fills, drain)
        begin = max(self.array, ready + FRONT + ARRAY)
        idle = begin - self.array
        if idle > 0:
            fill = min(idle, FRONT + ARRAY)
            self.stalls["fill"] += fill
            self.stalls[cause] += idle - fill
        self.busy += groups * steps
        self.stalls["fill" if fills >= drain else "requantise"] += groups * (group - steps)
        self.array = begin + groups * group
        # The front runs ahead of the array by what the window holds.
        ahead = min(spec.window_slots, fills * groups) * group / fills
        self.front = max(ready + FRONT + fills * groups, self.array - ahead) + 1
        self.drain = max(self.drain, self.array) + DRAIN + (cmd["words"] - (cogs - 1) * per_cog) * chunks
        self.rows[cmd["destination"]].done.append(self.drain)
        if cmd["free_source"]:
            self.rows[cmd["source"]].free_to(source.freed_conv, self.drain)
        if cmd["add_enable"] and cmd["add_free"]:
            self.rows[cmd["add_buffer"]].free_to(at.y + 1, self.drain)
        self.events["values"] += destination.width * cmd["words"] * spec.ci_lanes
        self.events["write_words"] += destination.width * cmd["words"]
        columns = spec.segment_pixels if cmd["x_stride"] == 1 else spec.pixel_lanes
        self.events["read_words"] += groups * fills * columns

    def _store(self, cmd: Command) -> None:
        spec = self.spec
        row = self.tokens.store(cmd)
        start = self._dispatch("store", self.store) + CHECK
        if row is None:
            self.store = start
            return
        rows = self.rows[cmd["buffer"]]
        time = max(start, rows.done[row])
        for sub in range(cmd["sub_rows"]):
            channel = cmd["channel"] + sub * cmd["channel_step"]
            words = (channel + cmd["pixel_bytes"] - 1) // spec.ci_lanes - channel // spec.ci_lanes + 1
            at = cmd["address"] + (row * cmd["sub_rows"] + sub) * cmd["row_stride"]
            span = (cmd["x_count"] - 1) * cmd["pixel_pitch"] + cmd["pixel_bytes"]
            beats = self._beats(at, at + span)
            dense = cmd["pixel_pitch"] == cmd["pixel_bytes"]
            per_pixel = words if dense else 3 * words + cmd["pixel_pitch"] // spec.bus_bytes
            began = time + STORE_SETUP
            time = max(began + cmd["x_count"] * per_pixel, self._transfer(began, beats))
            self.events["write_bytes"] += beats * spec.bus_bytes
            self.events["read_words"] += cmd["x_count"] * words
        self.store = time + 2
        self.written = time + STORE_TAIL + self.memory.latency_cycles
        if self.tokens.buffer(cmd["buffer"]).freed_by_store:
            rows.free_to(row + 1, self.store)


def predict(program: Program, memory: Memory | None = None) -> Counters:
    """Predict one frame's counters. Raises :class:`ProgramError` for a program that ``verify`` refuses."""
    model = _Model(program, memory or Memory.of(program.spec))
    for index, cmd in program.walk():
        try:
            model.execute(index, cmd)
        except IndexError as error:
            raise ProgramError("waits for a row that never comes", where=f"command {index}") from error
    cycles = round(model.sequencer)
    stalls = {cause: round(time) for cause, time in model.stalls.items()}
    # Before the first row and after the last the array waits for commands, weights and the last store.
    rest = cycles - model.busy - sum(stalls.values())
    stalls["store" if rest > 0 else "control"] += rest
    spec = program.spec
    return Counters(
        cycles=cycles,
        busy_cycles=model.busy,
        **{f"{cause}_stall_cycles": time for cause, time in stalls.items()},
        macs_issued=model.busy * spec.macs_per_cycle,
        dram_command_read_bytes=len(program.commands) * COMMAND_BYTES,
        dram_weight_read_bytes=model.events["weight_bytes"],
        dram_load_read_bytes=model.events["load_bytes"],
        dram_write_bytes=model.events["write_bytes"],
        scratchpad_read_words=model.events["read_words"],
        scratchpad_write_words=model.events["write_words"],
        weight_read_words=model.busy,
        requantised_values=model.events["values"],
        commands=model.events["commands"],
    )


__all__ = ["Memory", "predict"]
