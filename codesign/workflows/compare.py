"""The same frame on Scanline and on GPUs, with the boundary, precision and evidence of every figure."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from codesign.compile.driver import CompiledNetwork
from codesign.energy.account import DRAM_NAMES, DRAMS, EnergyAccount, Evidence, account, layer_energy
from codesign.energy.gpu import Layer, Workload, find_device, on_gpu
from codesign.energy.interval import Interval, engineering
from codesign.hw.counters import Counters, LayerCounters
from codesign.hw.spec import AccelSpec
from codesign.hw.timing.model import Memory, profile
from codesign.pictures.images import Pixels, to_pixels
from codesign.sim.silicon.synthesis import FpgaFit, fitted
from codesign.workflows.compile import Compiled, run_float
from codesign.workflows.frames import bicubic_baseline, judge
from codesign.workflows.recorded import RESULTS
from codesign.workflows.simulate import Simulation


@dataclass(frozen=True)
class TargetRow:
    """One target's figures for one frame, with the evidence of each.

    ``chip_j_per_frame`` leaves out DRAM and regulator; ``j_above_idle`` leaves out a GPU's idle power. Both are None
    where the figure does not exist; an FPGA has no energy at all. ``records`` names energy records, or the file of a
    measurement.
    """

    target: str
    kind: Literal["asic", "fpga", "gpu"]
    ms_per_frame: Interval
    j_per_frame: Interval | None
    chip_j_per_frame: Interval | None
    j_above_idle: Interval | None
    watts: Interval | None
    precision: str
    quality_db: float | None
    evidence: Evidence  # evidence of the time
    energy_evidence: Evidence
    quality_evidence: Evidence
    boundary: str
    notes: str
    records: tuple[str, ...]

    @property
    def fps(self) -> Interval:
        """Frames per second."""
        return Interval.exact(1e3) / self.ms_per_frame

    @property
    def evidence_by_figure(self) -> dict[str, Evidence | None]:
        """Evidence of every figure by name."""
        return {
            "fps": self.evidence,
            "ms_per_frame": self.evidence,
            "j_per_frame": None if self.j_per_frame is None else self.energy_evidence,
            "watts": None if self.watts is None else self.energy_evidence,
            "quality_db": None if self.quality_db is None else self.quality_evidence,
        }


@dataclass(frozen=True)
class LayerFigures:
    """A layer on Scanline. The spans of a cascade's layers overlap, since they take turns on the array."""

    name: str
    macs: int
    """MACs of the user's operators; the array may issue more."""
    busy_cycles: int
    begin_cycle: int
    end_cycle: int
    utilization: float
    """The user's MACs over the most that the array could do in its cycles on this layer."""
    joules: Interval
    """Dynamic energy on the chip, with a share of control and clock; no DRAM, no leakage."""
    evidence: Evidence
    events: LayerCounters = field(repr=False)
    """Event counts from which the joules are computed; cycles count from the region's start."""


@dataclass(frozen=True)
class Roofline:
    """A target's peak and bandwidth, and this network's position below them."""

    target: str
    peak_macs_per_s: float
    bytes_per_s: float
    macs_per_byte: float
    """This network's MACs over the bytes that the target moves."""
    reached_macs_per_s: Interval
    evidence: Evidence
    records: tuple[str, ...]


@dataclass(frozen=True)
class Comparison:
    """The contents of the table, the JSON and the report; the first row is Scanline's."""

    network: str
    input_size: str
    output_size: str
    macs: int
    rows: tuple[TargetRow, ...]
    quality_db: dict[str, float | None]  # bicubic, fp32, int8
    account: EnergyAccount
    simulation: dict[str, Any] = field(repr=False)
    command: str
    layers: tuple[LayerFigures, ...] = ()
    rooflines: tuple[Roofline, ...] = ()
    workload: Workload | None = field(default=None, repr=False)
    """Input of the GPUs' rooflines."""
    input_remarks: tuple[str, ...] = ()
    """What the network is, and what was done to the frame."""

    @property
    def best_other(self) -> TargetRow | None:
        """The target other than Scanline with the least energy."""
        return min((row for row in self.rows[1:] if row.j_per_frame), key=lambda row: _joules(row).value, default=None)

    @property
    def ratio(self) -> Interval | None:
        """Joules of the best other target over Scanline's, each at its own node."""
        best = self.best_other
        return None if best is None else _joules(best) / _joules(self.rows[0])

    @property
    def ratio_at_7nm(self) -> Interval | None:
        """The ratio with Scanline's chip estimated at 7 nm, nearer to the GPUs' nodes."""
        best = self.best_other
        return None if best is None else _joules(best) / self.account.at_7nm_j

    @property
    def verdict(self) -> str:
        """The ratio of joules in a sentence, with its band; only a ratio shown by the whole band is claimed without
        doubt."""
        chip, best, ratio = self.rows[0], self.best_other, self.ratio
        mine = f"{engineering(_joules(chip).value)}J"
        if best is None or ratio is None:
            return f"{self.network} at {self.input_size} takes {mine} a frame on {chip.target}."
        less = ratio.value >= 1.0
        shown = ratio if less else _joules(chip) / _joules(best)
        doubt = "" if shown.low >= 1.0 else "; the band does not exclude the opposite"
        theirs = f"{engineering(_joules(best).value)}J"
        return (
            f"{self.network} at {self.input_size} takes {mine} a frame on {chip.target} and {theirs} on {best.target} "
            f"({best.energy_evidence}): {times(shown.value)} times {'less' if less else 'more'} "
            f"({times(shown.low)} to {times(shown.high)}){doubt}."
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """Remarks that a reader needs beside the verdict."""
        chip, at_7nm = self.rows[0], self.ratio_at_7nm
        texts = ["Ratios compare each target at its own node and voltage."]
        if at_7nm is not None:
            texts.append(
                f"Were Scanline made at 7 nm, accounted with that node's records and its DRAM unchanged, the ratio "
                f"would be {times(at_7nm.value)} ({times(at_7nm.low)} to {times(at_7nm.high)}): modelled."
            )
        texts.append(
            f"With DRAM at 20 pJ per bit Scanline would take {engineering(self.account.costly_dram_j)}J a frame "
            f"instead of {engineering(_joules(chip).value)}J."
        )
        if any(row.kind == "gpu" and row.evidence is Evidence.MODEL for row in self.rows):
            texts.append(
                "A roofline flatters its GPU: no launch overhead, frames enough to fill it, feature maps kept on chip. "
                "It has no picture of its own; the PSNR beside it is the network's in FP32."
            )
        return (*texts, *self.input_remarks)


def _joules(row: TargetRow) -> Interval:
    """The energy of a row that has one."""
    assert row.j_per_frame is not None
    return row.j_per_frame


def times(ratio: float) -> str:
    """A ratio to two digits or whole: ``3.8``, ``11``, ``1200``."""
    return f"{ratio:.0f}" if ratio >= 9.95 else f"{ratio:.1f}" if ratio >= 0.95 else f"{ratio:.2f}"


def compare_targets(
    result: Simulation,
    gpus: Sequence[str],
    *,
    command: str,
    results: Path = RESULTS,
    dram: str = DRAMS[0],
) -> tuple[Comparison, dict[str, Pixels]]:
    """Compare a simulated frame with ``gpus``; returns the comparison and pictures ``uint8[H, W, 3]`` by name.

    ``results``: folder of measurements, GPUs' in ``gpu`` and FPGAs' in ``fpga``; ``dram``: the record of Scanline's
    memory. The same machine on an FPGA has a row if it was placed and routed there. Raises :class:`InputError` for an
    unknown GPU or DRAM and for a broken measurement.
    """
    frame = result.compiled.frame
    bicubic = bicubic_baseline(frame)
    # Without up-scaling there is nothing for a baseline to do: it would be the image itself.
    baseline = bicubic.psnr_db if frame.scale > 1 else None
    quality: dict[str, float | None] = {"bicubic": baseline, "fp32": None, "int8": result.quality_db}
    if result.compiled.source.module is not None and result.compiled.source.trained:
        quality["fp32"] = judge(frame, run_float(result.compiled)).psnr_db
    bill = account(result.counters, result.spec, dram=dram)
    chip = scanline_row(
        result.counters,
        result.spec,
        bill,
        evidence=Evidence(result.evidence),
        quality_db=result.quality_db,
        apart=host_work(result.host_mac_share, result.judged.chroma_seconds),
    )
    others = [fpga_row(chip, result.counters, result.spec, fit) for fit in fitted(result.spec, results / "fpga")]
    work = workload(result)
    recorded = sorted((results / "gpu").glob("*.json"))
    others += [gpu_row(work, name, quality_db=quality["fp32"], recorded=recorded) for name in gpus if name]
    pictures = {"bicubic": bicubic.pixels, "restored": result.judged.pixels}
    if frame.truth is not None:
        pictures["truth"] = to_pixels(frame.truth)
    comparison = Comparison(
        network=result.network,
        input_size=result.input_size,
        output_size=result.output_size,
        macs=result.macs,
        input_remarks=_input_remarks(result.compiled),
        rows=(chip, *others),
        quality_db=quality,
        account=bill,
        simulation=result.to_json(),
        command=command,
        layers=layer_figures(result, Memory.of(result.spec, result.dram.bytes_per_cycle, result.dram.latency_cycles)),
        rooflines=rooflines(result, work, (chip, *others)),
        workload=work,
    )
    return comparison, pictures


def _input_remarks(compiled: Compiled) -> tuple[str, ...]:
    card = compiled.source.card
    return ((f"{compiled.source.name}: {card}.",) if card is not None else ()) + compiled.remarks


def layer_figures(result: Simulation, memory: Memory) -> tuple[LayerFigures, ...]:
    """Figures by the cycle model of every layer of the accelerator's regions, one region after another."""
    figures: list[LayerFigures] = []
    offset = 0
    for region in result.compiled.network.regions:
        macs: dict[str, int] = {}
        for layer in region.plan.graph.computed:
            macs[layer.name] = macs.get(layer.name, 0) + layer.macs
        counters, layers = profile(region.program, memory)
        figures += [
            LayerFigures(
                name=one.name,
                macs=macs[one.name],
                busy_cycles=one.busy_cycles,
                begin_cycle=offset + one.begin_cycle,
                end_cycle=offset + one.end_cycle,
                utilization=macs[one.name] / (one.busy_cycles * result.spec.macs_per_cycle),
                joules=layer_energy(one, result.spec),
                evidence=Evidence.MODEL,
                events=one,
            )
            for one in layers
        ]
        offset += counters.cycles
    return tuple(figures)


def rooflines(result: Simulation, work: Workload, rows: Sequence[TargetRow]) -> tuple[Roofline, ...]:
    """The machines' limits, and the rate each reaches; for a GPU without a measurement the compulsory bytes are
    used."""
    spec, counters = result.spec, result.counters
    lines = []
    for row in rows:
        reached = Interval.exact(work.macs * 1e3) / row.ms_per_frame
        if row.kind == "gpu":
            device = find_device(row.target.split(",")[0])
            peak, bandwidth = device.peak_fp16_tflops * 1e12 / 2, device.bandwidth_gb_s * 1e9
            moved = work.moved_bytes(device.l2_bytes).value
        else:
            clock_hz = counters.cycles / (row.ms_per_frame.value * 1e-3)
            peak = spec.macs_per_cycle * clock_hz
            bandwidth = (result.dram.bytes_per_cycle or spec.bus_bytes) * clock_hz
            moved = float(counters.dram_read_bytes + counters.dram_write_bytes)
        lines.append(Roofline(row.target, peak, bandwidth, work.macs / moved, reached, row.evidence, row.records))
    return tuple(lines)


def host_work(mac_share: float, chroma_seconds: float) -> str:
    """Note on the host's part of the frame, whose time and energy are not in Scanline's figures."""
    texts = []
    if mac_share > 0.0:
        texts.append(f"{mac_share:.1%} of the MACs")
    if chroma_seconds > 0.0:
        texts.append(f"chroma ({engineering(chroma_seconds)}s)")
    return f"; on the host and not in the figures: {' and '.join(texts)}" if texts else ""


def scanline_row(
    counters: Counters,
    spec: AccelSpec,
    bill: EnergyAccount,
    *,
    evidence: Evidence,
    quality_db: float | None,
    apart: str = "",
) -> TargetRow:
    """Scanline as an ASIC: cycles over the specification's clock, energy as accounted in ``bill``.

    ``evidence``: that of the cycles; ``apart`` is added to the notes.
    """
    return TargetRow(
        target=f"Scanline {spec.name} ({bill.node.removesuffix('nm')} nm, {spec.clock_hz / 1e9:g} GHz)",
        kind="asic",
        ms_per_frame=Interval.exact(counters.cycles / spec.clock_hz * 1e3),
        j_per_frame=bill.system_j,
        chip_j_per_frame=bill.chip_j,
        j_above_idle=None,
        watts=bill.watts,
        precision="INT8",
        quality_db=quality_db,
        evidence=evidence,
        energy_evidence=Evidence.MODEL,
        quality_evidence=evidence,
        boundary=f"die, {DRAM_NAMES[bill.dram]} with interface, leakage, regulator",
        notes=f"cycles at the specification's clock, not yet timed on a netlist; energy from counted events{apart}",
        records=bill.records,
    )


def fpga_row(chip: TargetRow, counters: Counters, spec: AccelSpec, fit: FpgaFit) -> TargetRow:
    """The same cycles at the clock that the machine reached on an FPGA; its energy is not known."""
    used = ", ".join(f"{one.used / one.available:.0%} of the {name}s" for name, one in fit.resources.items())
    return dataclasses.replace(
        chip,
        target=f"Scanline {spec.name} ({fit.device}, {fit.fmax_hz / 1e6:.0f} MHz)",
        kind="fpga",
        ms_per_frame=Interval.exact(counters.cycles / fit.fmax_hz * 1e3),
        j_per_frame=None,
        chip_j_per_frame=None,
        watts=None,
        evidence=Evidence.NETLIST if chip.evidence is Evidence.RTL else chip.evidence,
        boundary="the FPGA's fabric alone: its DRAM is assumed to keep up at this clock",
        notes=f"clock as placed and routed, {used}; no pads; its energy is not modelled",
        records=(),
    )


def gpu_row(work: Workload, device: str, *, quality_db: float | None, recorded: Sequence[Path] = ()) -> TargetRow:
    """A GPU's row: the best fitting measurement, else a roofline labelled as modelled.

    ``quality_db``: the network's in FP32, used if the measurement has none. Raises as
    :func:`codesign.energy.gpu.on_gpu`.
    """
    figures = on_gpu(work, device, recorded)
    measured = figures.evidence is Evidence.HARDWARE
    own = figures.quality_db is not None
    return TargetRow(
        target=f"{device}, {'measured' if measured else 'roofline'}",
        kind="gpu",
        ms_per_frame=figures.seconds * 1e3,
        j_per_frame=figures.joules,
        chip_j_per_frame=None,
        j_above_idle=figures.joules_above_idle,
        watts=figures.watts,
        precision=figures.precision,
        quality_db=figures.quality_db if own else quality_db,
        evidence=figures.evidence,
        energy_evidence=figures.evidence,
        quality_evidence=Evidence.HARDWARE if own else Evidence.MODEL,
        boundary="GPU board with memory, idle included",
        notes=figures.notes,
        records=figures.records,
    )


def workload(result: Simulation) -> Workload:
    """The work of a GPU for the same frame."""
    return Workload(
        network=result.network,
        input_size=result.input_size,
        output_size=result.output_size,
        macs=result.macs,
        compulsory_values=result.compulsory_bytes,  # int8: a value is a byte
        layers=gpu_layers(result.compiled.network),
    )


def gpu_layers(network: CompiledNetwork) -> tuple[Layer, ...]:
    """The convolutions of the offloaded regions, each with its activation and residual add, as GPU software fuses
    them."""
    layers = []
    for region in network.regions:
        tensors = region.graph.tensors
        for layer in region.graph.computed:
            touched = [tensors[name] for name in layer.streamed]
            values = sum(t.height * t.width * t.channels for t in touched)
            out = tensors[layer.output]
            values += out.height * out.width * layer.channels
            layers.append(Layer(values, layer.kernel.weight_bytes))
    return tuple(layers)
