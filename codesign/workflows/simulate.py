"""The verbs of the toolkit as functions: find a network, compile it, run it, count."""

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
import torch
from numpy.typing import NDArray

from codesign import networks
from codesign.compile.driver import CompiledNetwork, compile_network
from codesign.compile.importing.model import ImportedModel, load_model
from codesign.compile.ir.evaluate import size_free
from codesign.compile.ir.relax import from_module
from codesign.compile.scanline.module import LoadedModule, export
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError, UnsupportedError
from codesign.hw.model import reference
from codesign.hw.program.program import Program
from codesign.hw.spec import AccelSpec, load_spec
from codesign.hw.timing import model as timing
from codesign.sim.build import library
from codesign.sim.model import Dram
from codesign.sim.run import Waves
from codesign.sim.run import run as run_rtl
from codesign.sim.timeline import Activity, write_timeline
from codesign.workflows.frames import (
    CROP,
    TRAINING_PHOTOGRAPHS,
    Frame,
    Judged,
    calibration_frames,
    judge,
    make_frame,
    photographs,
)
from codesign.workflows.judge import Execution, mismatches

_T = TypeVar("_T")

Backend = Literal["rtl", "reference"]
Size = tuple[int, int]
Say = Callable[[str], None]
Tick = Callable[[int, int], None]

DEFAULT_SIZE: Size = (64, 64)


@dataclass(frozen=True)
class Source:
    """What the user named: a reference network, a model file, or a torch module of their own."""

    name: str
    network: networks.Network | None
    module: torch.nn.Module | None
    path: Path | None
    trained: bool

    @property
    def channels(self) -> int | None:
        return None if self.network is None else self.network.channels

    @property
    def images_out(self) -> bool:
        return self.network is not None and self.network.task != "flow"


def find(source: str | Path | torch.nn.Module, weights: str | Path | None = None) -> Source:
    """A network by name (``sesr_m5_x2``), a model file (``.onnx``, ``.pt2``), or a torch module.

    Raises :class:`InputError` for an unknown name, or weights given with a model that has its own.
    """
    if isinstance(source, torch.nn.Module):
        return Source(type(source).__name__.lower(), None, source.eval(), None, True)
    text = str(source)
    if Path(text).suffix or "/" in text:
        if weights is not None:
            raise InputError("a model file has its weights inside", where="--weights", hint="Leave --weights out.")
        return Source(Path(text).stem, None, None, Path(text), True)
    network = networks.get(text)
    module = networks.load(text, weights)
    return Source(network.name, network, module, None, network.trained or weights is not None)


def import_source(source: Source, size: Size) -> ImportedModel:
    """The network as one Relax function for frames of ``size`` (width, height)."""
    what = source.module if source.module is not None else source.path
    assert what is not None
    return load_model(what, width=size[0], height=size[1], channels=source.channels)


@dataclass(frozen=True)
class Compiled:
    """A compiled network with the frame it was calibrated and will be judged with."""

    source: Source
    network: CompiledNetwork
    frame: Frame
    seconds: float

    def like_frame(self, given: Path, size: Size | None = None) -> Frame:
        """Another input of the same kind; ``size`` cuts it out of its centre. Raises :class:`InputError`."""
        return make_frame(channels=self.frame.tensor.shape[1], scale=self.frame.scale, size=size, given=given)


def compile_source(
    source: Source,
    accel: str | AccelSpec = "base",
    *,
    size: Size | None = None,
    image: Path | None = None,
    given: Path | None = None,
    method: Literal["minmax", "percentile", "mse"] = "percentile",
    images: Path | None = None,
    finetune_steps: int = 0,
    error_budget: float | None = None,
    dram_bytes_per_cycle: float | None = None,
    say: Say | None = None,
) -> Compiled:
    """Compile for an accelerator. ``size``: (width, height) of the input; without it the image's, or 64x64.

    ``images``: a folder of photographs to calibrate and fine-tune with, instead of scikit-image's. ``error_budget``:
    see :func:`codesign.compile.driver.compile_network`. ``dram_bytes_per_cycle``: the bandwidth that the plan is made
    for; the bus width by default.
    """
    began = time.perf_counter()
    spec = load_spec(accel) if isinstance(accel, str) else accel
    Dram(dram_bytes_per_cycle)  # refuses what no memory has
    if size is None and image is None and given is None:
        size = DEFAULT_SIZE
    if say is not None:
        say("import")
    if source.network is not None:
        frame = make_frame(
            channels=source.network.channels, scale=source.network.scale, size=size, image=image, given=given
        )
        model = import_source(source, (frame.width, frame.height))
    else:  # the model tells its channels and scale
        probe = import_source(source, size or DEFAULT_SIZE)
        scale = max(1, probe.output_shape[3] // probe.input_shape[3])
        frame = make_frame(channels=probe.input_shape[1], scale=scale, size=size, image=image, given=given)
        same = (frame.width, frame.height) == (size or DEFAULT_SIZE)
        model = probe if same else import_source(source, (frame.width, frame.height))
    channels = frame.tensor.shape[1]
    training: list[NDArray[np.float32]] = []
    if finetune_steps:
        if say is not None:
            say("read the images")
        training = photographs(channels, frame.scale, folder=images, limit=TRAINING_PHOTOGRAPHS)
    any_size = model.quantised or size_free(from_module(model.module))
    crop = (CROP, CROP) if any_size else (frame.width, frame.height)
    compiled = compile_network(
        model,
        spec,
        calibration=calibration_frames(channels, frame.scale, images, crop),
        method=method,
        name=source.name,
        pixel_output=source.images_out,
        finetune_steps=finetune_steps,
        finetune_images=training,
        error_budget=error_budget,
        dram_bytes_per_cycle=dram_bytes_per_cycle,
        on_stage=say,
    )
    return Compiled(source, compiled, frame, time.perf_counter() - began)


@dataclass(frozen=True)
class Simulation:
    """One frame on Scanline. ``evidence`` says where the cycles come from."""

    network: str
    accel: str
    input_size: str
    output_size: str
    macs: int
    evidence: Literal["rtl-measured", "modelled"]
    counters: Counters
    bit_exact: bool | None
    mismatches: int | None
    distinct_output_values: int
    wall_seconds: float
    simulated_seconds: float
    quality_db: float | None
    chroma_seconds: float
    compulsory_bytes: int
    host_mac_share: float
    dram: Dram
    spec: AccelSpec = field(repr=False)
    output: NDArray[np.float32] = field(repr=False)
    judged: Judged = field(repr=False)
    compiled: Compiled = field(repr=False)

    @property
    def mac_utilization(self) -> float:
        """MACs of the user's operators over what the array could do in these cycles."""
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
            "host_chroma_seconds": self.chroma_seconds,
            "counters": dataclasses.asdict(self.counters),
        }


def simulate(
    compiled: Compiled,
    *,
    backend: Backend = "rtl",
    dram: Dram | None = None,
    timeline: Path | None = None,
    waves: Waves | None = None,
    checkpoints: Path | None = None,
    began: float | None = None,
    say: Say | None = None,
    tick: Tick | None = None,
) -> Simulation:
    """Run the compiled network's frame through its module, accelerator regions on ``backend``.

    On ``rtl`` the output is compared, value by value, with the golden model's and with the integer evaluation of the
    quantised graph (region by region where the host has a part in the network); on ``reference`` cycles are modelled
    and nothing is compared.

    ``timeline``: a file for the trace of the engines; ``waves``: a waveform of the first region; ``checkpoints``: a
    folder in which simulations are kept, see :func:`codesign.sim.run.run`. ``tick`` is told cycles done and expected.
    Raises :class:`InputError` for a trace without RTL.
    """
    if backend != "rtl" and (timeline or waves or checkpoints):
        raise InputError(
            "timeline, waveform and checkpoints are the RTL's", where=f"backend {backend}", hint="Use --backend rtl."
        )
    began = time.perf_counter() if began is None else began
    with host_module(compiled, say) as module:
        return _run(
            compiled,
            module,
            backend=backend,
            dram=dram,
            timeline=timeline,
            waves=waves,
            checkpoints=checkpoints,
            began=began,
            say=say,
            tick=tick,
        )


@contextlib.contextmanager
def host_module(compiled: Compiled, say: Say | None) -> Iterator[Path]:
    """The network's module as a file: what the host computes, with calls for the accelerator's regions."""
    with tempfile.TemporaryDirectory(prefix="codesign-") as folder:
        path = Path(folder) / "module.so"
        if say is not None:
            say("build the host module")
        export(compiled.network.executable(), path)
        yield path


def _run(
    compiled: Compiled,
    module: Path,
    *,
    backend: Backend,
    dram: Dram | None,
    timeline: Path | None = None,
    waves: Waves | None = None,
    checkpoints: Path | None,
    began: float,
    say: Say | None = None,
    tick: Tick | None,
) -> Simulation:
    network, frame = compiled.network, compiled.frame
    collected: list[Counters] = []
    executions: list[Execution] = []
    logs: list[tuple[Program, Activity, int]] = []
    differing = 0
    simulated = 0.0
    dram = dram or Dram()
    if backend == "rtl":  # a model that is built first does not count
        building = time.perf_counter()
        library(network.spec, report=say)
        began += time.perf_counter() - building

    expected = 0
    if backend == "rtl" and tick is not None:
        memory = (dram.bytes_per_cycle, dram.latency_cycles)
        expected = sum(
            timing.predict(region.program, timing.Memory.of(network.spec, *memory)).cycles for region in network.regions
        )

    def ticked(cycles: int) -> None:
        if tick is not None:
            tick(sum(part.cycles for part in collected) + cycles, expected)

    def execute(program: Program, inputs: dict[str, NDArray[np.int8]]) -> dict[str, NDArray[np.int8]]:
        nonlocal differing, simulated

        def executed(share: float) -> None:
            if say is not None:
                say(f"golden model, {share:.0%}")

        if backend == "reference":
            collected.append(
                timing.predict(program, timing.Memory.of(program.spec, dram.bytes_per_cycle, dram.latency_cycles))
            )
            return reference.run(program, inputs, progress=executed)
        with _beside(lambda going: reference.run(program, inputs, progress=going)) as model:
            result = run_rtl(
                program,
                inputs,
                dram=dram,
                timeline=timeline is not None,
                waves=None if collected else waves,
                checkpoints=checkpoints,
                progress=ticked,
                report=say,
            )
            if say is not None:
                say("golden model")
            golden = model()
        if result.activity is not None:
            logs.append((program, result.activity, result.started_at))
        differing += sum(int(np.count_nonzero(result.outputs[name] != golden[name])) for name in golden)
        simulated += result.wall_seconds
        collected.append(result.counters)
        executions.append(Execution(program, inputs, result.outputs))
        return result.outputs

    output = LoadedModule(module, execute).run(frame.tensor)
    if not collected:
        raise UnsupportedError(
            "no operator runs on the accelerator", where=compiled.source.name, hint="See `compile` for the reasons."
        )
    if timeline is not None:
        write_timeline(logs, timeline, f"{compiled.source.name} on {network.spec.name}")
    exact: bool | None = None
    if backend == "rtl":
        differing += mismatches(network, frame.tensor, output, executions)
        exact = differing == 0
    judged = judge(frame, output)
    counters = _total(collected)
    _, _, height, width = output.shape
    return Simulation(
        network=compiled.source.name,
        accel=network.spec.name,
        input_size=f"{frame.width}x{frame.height}",
        output_size=f"{width}x{height}",
        macs=network.macs,
        evidence="rtl-measured" if backend == "rtl" else "modelled",
        counters=counters,
        bit_exact=exact,
        mismatches=differing if backend == "rtl" else None,
        distinct_output_values=len(np.unique(output)),
        wall_seconds=time.perf_counter() - began,
        simulated_seconds=simulated,
        quality_db=judged.psnr_db if compiled.source.trained else None,
        chroma_seconds=judged.chroma_seconds,
        compulsory_bytes=network.compulsory_bytes,
        host_mac_share=network.host_mac_share,
        dram=dram,
        spec=network.spec,
        output=output,
        judged=judged,
        compiled=compiled,
    )


@contextlib.contextmanager
def _beside(work: Callable[[Callable[[float], None]], _T]) -> Iterator[Callable[[], _T]]:
    """Run ``work`` in a thread beside the body, to which its result is a call; leaving the body early ends it.

    ``work`` is given a function to call now and then.
    """
    left = threading.Event()

    def going(_: float) -> None:
        if left.is_set():
            raise _LeftError

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(work, going)
        try:
            yield result.result
        finally:
            left.set()


class _LeftError(Exception):
    """Nobody waits for the result any more."""


def simulate_frames(
    compiled: Compiled,
    frames: Sequence[Frame],
    *,
    jobs: int | None = None,
    backend: Backend = "rtl",
    dram: Dram | None = None,
    checkpoints: Path | None = None,
    say: Say | None = None,
    tick: Tick | None = None,
) -> list[Simulation]:
    """Run several frames of the compiled network's size, ``jobs`` at a time (by default one per core).

    Each is one continuous simulation, as if it were alone; ``tick`` is told the cycles of all. Raises
    :class:`InputError` for a frame of another size.
    """
    for frame in frames:
        if frame.tensor.shape != compiled.frame.tensor.shape:
            raise InputError(
                f"is {frame.width}x{frame.height}, the network is compiled for "
                f"{compiled.frame.width}x{compiled.frame.height}",
                where=frame.source,
                hint="Give --size: of every image the centre is taken.",
            )
    library(compiled.network.spec, report=say)
    stopped = threading.Event()
    lock = threading.Lock()
    done = [0] * len(frames)

    def one(index: int) -> Simulation:
        def ticked(cycles: int, expected: int) -> None:
            if stopped.is_set():
                raise KeyboardInterrupt  # as the thread of a single frame is interrupted: checkpoints are written
            with lock:
                done[index] = cycles
                if tick is not None:
                    tick(sum(done), expected * len(frames))

        return _run(
            dataclasses.replace(compiled, frame=frames[index]),
            module,
            backend=backend,
            dram=dram,
            checkpoints=checkpoints,
            began=time.perf_counter(),
            tick=ticked,
        )

    with host_module(compiled, say) as module, ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
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


def run_float(compiled: Compiled) -> NDArray[np.float32]:
    """The network in FP32 by torch, for its quality: ``float32[1, C, H, W]``.

    Raises :class:`InputError` for a model file, which has no torch module.
    """
    if compiled.source.module is None:
        raise InputError("FP32 quality needs a torch module", where=compiled.source.name)
    with torch.no_grad():
        return np.asarray(compiled.source.module(torch.from_numpy(compiled.frame.tensor)).numpy(), np.float32)
