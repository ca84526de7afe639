"""Frames of a compiled network run on the RTL or the golden model, compared value by value, and counted."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import AccelSpec
from codesign.hw.timing import model as timing
from codesign.sim.build import library
from codesign.sim.model import Dram
from codesign.sim.run import run as run_rtl
from codesign.sim.timeline import write_timeline
from codesign.workflows.compile import Compiled
from codesign.workflows.frames import Frame, Judged, judge
from codesign.workflows.judge import Execution, Tensors, mismatches
from codesign.workflows.watch import Backend, Say, Watch, silent

_T = TypeVar("_T")


@dataclass(frozen=True)
class Simulation:
    """One frame on Scanline. ``evidence`` says where the cycles come from."""

    compiled: Compiled = field(repr=False)
    dram: Dram
    evidence: Literal["rtl-measured", "modelled"]
    counters: Counters
    mismatches: int | None
    """Values that differ between RTL, golden model and integer graph; None: modelled, nothing was compared."""
    output: NDArray[np.float32] = field(repr=False)
    judged: Judged = field(repr=False)
    wall_seconds: float
    simulated_seconds: float

    @property
    def network(self) -> str:
        return self.compiled.source.name

    @property
    def spec(self) -> AccelSpec:
        return self.compiled.network.spec

    @property
    def accel(self) -> str:
        return self.spec.name

    @property
    def input_size(self) -> str:
        """``WxH``, as :attr:`output_size`."""
        return f"{self.compiled.frame.width}x{self.compiled.frame.height}"

    @property
    def output_size(self) -> str:
        return f"{self.output.shape[3]}x{self.output.shape[2]}"

    @property
    def macs(self) -> int:
        return self.compiled.network.macs

    @property
    def host_mac_share(self) -> float:
        return self.compiled.network.host_mac_share

    @property
    def compulsory_bytes(self) -> int:
        return self.compiled.network.compulsory_bytes

    @property
    def bit_exact(self) -> bool | None:
        return None if self.mismatches is None else self.mismatches == 0

    @property
    def quality_db(self) -> float | None:
        """PSNR against the ground truth; None without one, and for seeded weights."""
        return self.judged.psnr_db if self.compiled.source.trained else None

    @property
    def distinct_output_values(self) -> int:
        return len(np.unique(self.output))

    @property
    def mac_utilization(self) -> float:
        """MACs of the user's operators over the most that the array could do in these cycles."""
        return self.macs / (self.counters.cycles * self.spec.macs_per_cycle)

    @property
    def milliseconds(self) -> float:
        return self.counters.cycles / self.spec.clock_hz * 1e3

    def to_json(self) -> dict[str, Any]:
        """The figures for machines."""
        speed = self.counters.cycles / self.simulated_seconds if self.simulated_seconds else None
        return {
            "network": self.network,
            "accel": self.accel,
            "input_size": self.input_size,
            "output_size": self.output_size,
            "macs": self.macs,
            "cycles": self.counters.cycles,
            "cycles_evidence": self.evidence,
            "ms_per_frame": self.milliseconds,
            "mac_utilization": self.mac_utilization,
            "dram_read_bytes": self.counters.dram_read_bytes,
            "dram_write_bytes": self.counters.dram_write_bytes,
            "compulsory_bytes": self.compulsory_bytes,
            "stalls": {"busy": self.counters.busy_cycles, **self.counters.stalls},
            "bit_exact": self.bit_exact,
            "mismatches": self.mismatches,
            "distinct_output_values": self.distinct_output_values,
            "wall_seconds": self.wall_seconds,
            "sim_cycles_per_second": speed if self.evidence == "rtl-measured" else None,
            "quality_db": self.quality_db,
            "host_mac_share": self.host_mac_share,
            "host_chroma_seconds": self.judged.chroma_seconds,
            "import": self.compiled.network.source.check.to_json(),
            **self.compiled.input_json(),
            "counters": dataclasses.asdict(self.counters),
        }


def simulate(
    compiled: Compiled,
    backend: Backend = "rtl",
    dram: Dram = Dram(),
    watch: Watch = Watch(),
    *,
    began: float | None = None,
) -> Simulation:
    """Run the compiled network's frame through its module, accelerator regions on ``backend``.

    On ``rtl`` the output is compared, value by value, with the golden model's and with the integer evaluation of the
    quantised graph (region by region where the host has a part in the network); on ``reference`` cycles are modelled
    and nothing is compared. ``began``: when the work started whose seconds the result states, now by default. Raises
    :class:`InputError` for a trace without RTL.
    """
    watch.check(backend)
    began = time.perf_counter() if began is None else began
    with host_module(compiled, watch.say) as module:
        return _simulated(compiled, module, backend, dram, watch, began)


@contextlib.contextmanager
def host_module(compiled: Compiled, say: Say = silent) -> Iterator[Path]:
    """The network's module as a file: the host's operators, and calls of the accelerator's regions."""
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        path = Path(folder) / "module.so"
        say("build the host module")
        export(compiled.network.executable(), path)
        yield path


def _simulated(
    compiled: Compiled, module: Path, backend: Backend, dram: Dram, watch: Watch, began: float
) -> Simulation:
    """Run one frame, then judge it."""
    network, frame = compiled.network, compiled.frame
    on_rtl = backend == "rtl"
    if on_rtl:  # the time to build the Verilated model does not count
        building = time.perf_counter()
        library(network.spec, report=watch.say)
        began += time.perf_counter() - building
    output, executions = _run(compiled, module, _OnRtl.of(compiled, dram, watch) if on_rtl else _Modelled(dram, watch))
    results = [(one.program, one.rtl) for one in executions if one.rtl is not None]
    if watch.timeline is not None:
        logs = [(program, rtl.activity, rtl.started_at) for program, rtl in results if rtl.activity is not None]
        write_timeline(logs, watch.timeline, f"{compiled.source.name} on {network.spec.name}")
    return Simulation(
        compiled=compiled,
        dram=dram,
        evidence="rtl-measured" if on_rtl else "modelled",
        counters=_total([one.counters for one in executions]),
        mismatches=mismatches(network, frame.tensor, output, executions) if on_rtl else None,
        output=output,
        judged=judge(frame, output),
        wall_seconds=time.perf_counter() - began,
        simulated_seconds=sum(rtl.wall_seconds for _, rtl in results),
    )


Execute = Callable[[Program, Tensors, Sequence[Execution]], Execution]
"""Runs one region; it is given the executions of the regions before it."""


def _run(compiled: Compiled, module: Path, execute: Execute) -> tuple[NDArray[np.float32], list[Execution]]:
    """The frame through the host's ``module``: the output ``float32[1, C, H, W]`` and its regions' executions."""
    executions: list[Execution] = []

    def region(program: Program, inputs: Tensors) -> Tensors:
        executions.append(execute(program, inputs, executions))
        return executions[-1].outputs

    output = LoadedModule(module, region).run(compiled.frame.tensor)
    if not executions:
        raise UnsupportedError(
            "no operator runs on the accelerator", where=compiled.source.name, hint="See `compile` for the reasons."
        )
    return output, executions


@dataclass(frozen=True)
class _Modelled:
    """Regions on the golden model, with the cycle model's counters."""

    dram: Dram
    watch: Watch

    def __call__(self, program: Program, inputs: Tensors, _: Sequence[Execution]) -> Execution:
        outputs = reference.run(program, inputs, progress=lambda share: self.watch.say(f"golden model, {share:.0%}"))
        return Execution(program, inputs, outputs, timing.predict(program, _memory(program.spec, self.dram)))


@dataclass(frozen=True)
class _OnRtl:
    """Regions on the RTL, the golden model in the background."""

    dram: Dram
    watch: Watch
    expected_cycles: int

    @classmethod
    def of(cls, compiled: Compiled, dram: Dram, watch: Watch) -> _OnRtl:
        memory = _memory(compiled.network.spec, dram)
        told = compiled.network.regions if watch.tick is not silent else ()
        return cls(dram, watch, sum(timing.predict(region.program, memory).cycles for region in told))

    def __call__(self, program: Program, inputs: Tensors, before: Sequence[Execution]) -> Execution:
        watch = self.watch
        done = sum(one.counters.cycles for one in before)
        with _in_background(lambda going: reference.run(program, inputs, progress=going)) as golden_model:
            rtl = run_rtl(
                program,
                inputs,
                dram=self.dram,
                timeline=watch.timeline is not None,
                waves=None if before else watch.waves,
                checkpoints=watch.checkpoints,
                assertions=watch.assertions,
                progress=lambda cycles: watch.tick(done + cycles, self.expected_cycles),
                report=watch.say,
            )
            watch.say("golden model")
            golden = golden_model()
        return Execution(program, inputs, rtl.outputs, rtl.counters, golden, rtl)


def _memory(spec: AccelSpec, dram: Dram) -> timing.Memory:
    return timing.Memory.of(spec, dram.bytes_per_cycle, dram.latency_cycles)


@contextlib.contextmanager
def _in_background(work: Callable[[Callable[[float], None]], _T]) -> Iterator[Callable[[], _T]]:
    """Run ``work`` in a thread; yields a function that waits for its result. Leaving the block early cancels it.

    ``work`` is given a function to call now and then, which raises when it is cancelled.
    """
    left = threading.Event()

    def going(_: float) -> None:
        if left.is_set():
            raise _Cancelled

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work, going)
        try:
            yield result.result
        finally:
            left.set()


class _Cancelled(Exception):  # noqa: N818
    """Nobody waits for the result any more."""


def simulate_frames(
    compiled: Compiled,
    frames: Sequence[Frame],
    backend: Backend = "rtl",
    dram: Dram = Dram(),
    watch: Watch = Watch(),
    *,
    jobs: int | None = None,
) -> list[Simulation]:
    """Run several frames of the compiled network's size, ``jobs`` at a time (by default one per core).

    Each is one continuous simulation, as if it were alone; ``watch.tick`` is told the cycles of all. Raises
    :class:`InputError` for a frame of another size.
    """
    watch.check(backend)
    for frame in frames:
        if frame.tensor.shape != compiled.frame.tensor.shape:
            raise InputError(
                f"is {frame.width}x{frame.height}, the network is compiled for "
                f"{compiled.frame.width}x{compiled.frame.height}",
                where=frame.source,
                hint="Give --size: the centre of every image is taken.",
            )
    library(compiled.network.spec, report=watch.say)
    stopped = threading.Event()
    lock = threading.Lock()
    done = [0] * len(frames)

    def one(index: int) -> Simulation:
        def tick(cycles: int, expected: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt  # as the thread of a single frame is interrupted: checkpoints are written
            with lock:
                done[index] = cycles
                watch.tick(sum(done), expected * len(frames))

        own = Watch(tick=tick, checkpoints=watch.checkpoints, assertions=watch.assertions)
        framed = dataclasses.replace(compiled, frame=frames[index])
        return _simulated(framed, module, backend, dram, own, time.perf_counter())

    with host_module(compiled, watch.say) as module, ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        running = [pool.submit(one, index) for index in range(len(frames))]
        try:
            return [job.result() for job in running]
        except BaseException:
            stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


def _total(parts: list[Counters]) -> Counters:
    """Regions run one after another: their events add up."""
    return Counters(**{f.name: sum(getattr(part, f.name) for part in parts) for f in dataclasses.fields(Counters)})
