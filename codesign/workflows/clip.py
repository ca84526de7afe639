"""A recurrent network on a clip: compiled once, then run frame after frame in one machine, whose memory keeps
states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from codesign.compile.clip import ClipProgram, clip_program
from codesign.compile.driver import CompiledNetwork, Quantisation, compile_network
from codesign.compile.importing.model import load_model
from codesign.compile.referee.integer import evaluate_region
from codesign.hw import numerics
from codesign.hw.counters import Counters
from codesign.hw.errors import InputError
from codesign.hw.model import clip as stream
from codesign.hw.program.program import TensorSlot
from codesign.hw.spec import AccelSpec, load_spec
from codesign.hw.timing import model as timing
from codesign.networks.recurrent import Following, Recurrent
from codesign.pictures import images
from codesign.pictures.flows import flow_picture
from codesign.pictures.images import Pixels
from codesign.sim.clip import run_stream
from codesign.sim.model import Dram
from codesign.workflows.frames import PAIR_CHANNELS, PAIR_SHIFT
from codesign.workflows.sources import Size, Source
from codesign.workflows.watch import Backend, Say, Watch, silent

CALIBRATION_FRAMES = 4

Reals = NDArray[np.float32]


@dataclass(frozen=True)
class CompiledClip:
    """A recurrent network for frames of one size."""

    source: Source
    network: CompiledNetwork = field(repr=False)
    program: ClipProgram = field(repr=False)


def moving_photograph(size: Size, count: int, photograph: Pixels | None = None) -> list[Reals]:
    """Frames ``float32[1, 3, H, W]`` of a photograph that moves by ``PAIR_SHIFT`` per frame."""
    photograph = images.reference_photograph() if photograph is None else photograph
    (width, height), (right, down) = size, PAIR_SHIFT
    whole = images.fit(photograph, width + right * (count - 1), height + down * (count - 1))
    frames: list[Reals] = []
    for number in range(count):
        x, y = (count - 1 - number) * right, (count - 1 - number) * down
        frames.append(frame_of(whole[y : y + height, x : x + width]))
    return frames


def frame_of(pixels: Pixels) -> Reals:
    """``uint8[H, W, 3]`` as ``float32[1, 3, H, W]`` in [0, 1]."""
    return np.ascontiguousarray(images.to_real(pixels).transpose(2, 0, 1)[None], np.float32)


def compile_clip(
    source: Source,
    accel: str | AccelSpec,
    size: Size,
    *,
    calibration: Sequence[Reals] = (),
    quantisation: Quantisation = Quantisation(),
    say: Say = silent,
) -> CompiledClip:
    """Compile a recurrent torch module, or a network of two images, for which the frame before is kept as a state.

    ``calibration``: consecutive frames; by default a moving photograph. Raises :class:`InputError` for any other
    network, :class:`UnsupportedError` for one with operators on the host.
    """
    module = source.module
    if source.network is not None and source.network.channels == PAIR_CHANNELS:
        module = None if module is None else Following(module).eval()
    if not isinstance(module, torch.nn.Module) or not isinstance(module, Recurrent):
        raise InputError(
            "keeps no state from frame to frame",
            where=source.name,
            hint="Give a network of two images, or a torch module with a method state_shapes.",
        )
    width, height = size
    states = module.state_shapes(width, height)
    model = load_model(module, width=width, height=height, channels=3, states=states, check=source.checked)
    network = compile_network(
        model,
        load_spec(accel) if isinstance(accel, str) else accel,
        name=source.name,
        quantisation=quantisation,
        on_stage=say,
        calibration=list(calibration) or moving_photograph(size, CALIBRATION_FRAMES),
    )
    return CompiledClip(source, network, clip_program(network))


@dataclass(frozen=True)
class ClipFrame:
    """One frame of a clip on the machine. ``mismatches`` counts values, states included, that differ anywhere."""

    number: int
    counters: Counters
    mismatches: int | None  # None: modelled, nothing to compare
    output: NDArray[np.float32] = field(repr=False)  # [1, C, H, W]
    simulated_seconds: float

    @property
    def bit_exact(self) -> bool | None:
        return None if self.mismatches is None else self.mismatches == 0

    def picture(self) -> Pixels:
        """The output as an image; a flow in the colours of its direction."""
        real = self.output[0].astype(np.float64)
        return flow_picture(real) if len(real) == 2 else images.to_pixels(real.transpose(1, 2, 0))

    def to_json(self) -> dict[str, Any]:
        return {
            "frame": self.number,
            "cycles": self.counters.cycles,
            "cycles_evidence": "modelled" if self.mismatches is None else "rtl-measured",
            "dram_read_bytes": self.counters.dram_read_bytes,
            "dram_write_bytes": self.counters.dram_write_bytes,
            "gathered_reads": self.counters.gathered_reads,
            "bit_exact": self.bit_exact,
            "mismatches": self.mismatches,
            "simulated_seconds": self.simulated_seconds,
        }


def simulate_clip(
    compiled: CompiledClip,
    frames: Sequence[Reals],
    backend: Backend = "rtl",
    dram: Dram = Dram(),
    watch: Watch = Watch(),
) -> Iterator[ClipFrame]:
    """Run consecutive ``frames`` (``float32[1, 3, H, W]``), yielding each as it is done.

    On ``rtl`` every output and every state is compared with the golden model's, which keeps its states in a memory of
    its own, and with the integer evaluation of the quantised graph, which is given them.
    """
    clip, network = compiled.program, compiled.network
    program = clip.program
    part = network.regions[0].part
    slots = {slot.name: slot for slot in (*program.inputs, *program.outputs)}
    coded = [{clip.frame: codes_of(slots[clip.frame], frame)} for frame in frames]
    turns = clip.stream()
    golden = stream.run(turns, coded)
    memory = timing.Memory.of(program.spec, dram.bytes_per_cycle, dram.latency_cycles)
    if backend == "reference":
        predicted = [timing.predict(turn, memory) for turn in turns.turns]
        for number, outputs in enumerate(golden):
            yield ClipFrame(
                number, predicted[number % 2], None, _real(slots[clip.result], outputs[clip.result], network), 0.0
            )
        return
    expected = len(frames) * timing.predict(program, memory).cycles
    held = {
        one.before: np.full(_shape(slots[one.before]), slots[one.before].zero_point, np.int8) for one in clip.carried
    }
    measured = run_stream(
        turns,
        coded,
        dram=dram,
        progress=lambda cycles: watch.tick(cycles, expected),
        report=watch.say,
        assertions=watch.assertions,
    )
    for number, (inputs, result, wanted) in enumerate(zip(coded, measured, golden, strict=True)):
        known: dict[str, NDArray[np.int8]] = {**inputs, **held}
        given = [known[slot.name].transpose(2, 0, 1)[None] for slot in program.inputs]
        judged = evaluate_region(part.graph, dict(zip(part.inputs, given, strict=True)), part.outputs)
        right = dict(zip((slot.name for slot in program.outputs), judged, strict=True))
        differing = sum(
            int(np.count_nonzero(result.outputs[name] != wanted[name]))
            + int(np.count_nonzero(wanted[name].transpose(2, 0, 1)[None] != right[name]))
            for name in wanted
        )
        known |= wanted
        held = {one.before: known[one.after] for one in clip.carried}
        yield ClipFrame(
            number,
            result.counters,
            differing,
            _real(slots[clip.result], wanted[clip.result], network),
            result.wall_seconds,
        )


def codes_of(slot: TensorSlot, frame: Reals) -> NDArray[np.int8]:
    """A frame in the machine's codes: ``int8[H, W, C]``."""
    codes = np.clip(np.rint(frame / np.float32(slot.scale)) + slot.zero_point, -128, 127).astype(np.int8)
    return np.ascontiguousarray(codes[0].transpose(1, 2, 0))


def _real(slot: TensorSlot, codes: NDArray[np.int8], network: CompiledNetwork) -> NDArray[np.float32]:
    wide = slot.channels == 2 * network.source.output_shape[1]
    values = numerics.from_byte_planes(codes).astype(np.float32) if wide else codes.astype(np.float32) - slot.zero_point
    return np.ascontiguousarray((values * np.float32(slot.scale)).transpose(2, 0, 1)[None])


def _shape(slot: TensorSlot) -> tuple[int, int, int]:
    return slot.height, slot.width, slot.channels
