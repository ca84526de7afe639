"""A frame on a GPU: a recorded measurement where there is one, else a roofline labelled as modelled.

The roofline flatters the GPU on purpose, so that a claim against it is safe: no launch overhead, a batch that
fills the machine, dense FP16 peaks, and (but for the high bound of energy) feature maps that never leave the chip.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from codesign.energy.account import Evidence
from codesign.energy.interval import Interval
from codesign.energy.records import Band, Device, Positive, Precision, Text, constant, devices
from codesign.hw.errors import InputError

VALUE_BYTES: dict[Precision, int] = {"FP16": 2, "INT8": 1}
MINIMUM_SECONDS = 10.0
"""Shortest loop worth recording, in seconds: the driver updates its energy counter about ten times a second."""


@dataclass(frozen=True)
class Layer:
    """Values that one layer reads and writes: inputs and outputs, and weights."""

    feature_values: int
    weight_values: int


@dataclass(frozen=True)
class Workload:
    """A network at one size. Sizes are ``WIDTHxHEIGHT``; MACs are those of the user's operators."""

    network: str
    input_size: str
    output_size: str
    macs: int
    compulsory_values: int
    """Values that every machine must move: inputs, outputs and weights."""
    layers: tuple[Layer, ...] = ()

    def moved_bytes(self, l2_bytes: int, precision: Precision = "FP16") -> Interval:
        """Bytes moved to and from the board's memory.

        Low bound and value: the compulsory ones, once each. High bound: layer by layer, where a layer whose feature
        maps exceed ``l2_bytes`` reads and writes them in memory.
        """
        size = VALUE_BYTES[precision]
        least = float(size * self.compulsory_values)
        spilled = sum(size * layer.feature_values for layer in self.layers if size * layer.feature_values > l2_bytes)
        return Interval(least, least, least + spilled)


@dataclass(frozen=True)
class GpuFigures:
    """One frame on a GPU, with the board's energy including and excluding idle power."""

    device: Device
    seconds: Interval
    joules: Interval
    joules_above_idle: Interval
    watts: Interval
    precision: str
    evidence: Evidence
    quality_db: float | None
    notes: str
    records: tuple[str, ...]


class Recorded(BaseModel):
    """A measurement on a real GPU with its whole provenance: one JSON file (see ``docs/energy.md``).

    Bands are the median and the extremes of repeated loops. Energy is the board's, idle included, from the driver's
    energy counter; that of a batch is divided by its frames.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: Text
    input_size: Annotated[str, Field(pattern=r"^\d+x\d+$")]
    output_size: Annotated[str, Field(pattern=r"^\d+x\d+$")]
    device: Text
    """Key of the device table, such as ``H200``."""
    device_name: Text
    """Device name reported by the driver."""
    precision: Text
    batch: int = Field(gt=0, strict=True)
    ms_per_frame: Band
    j_per_frame: Band
    idle_w: Positive
    loop_seconds: float = Field(ge=MINIMUM_SECONDS, allow_inf_nan=False)
    loops: int = Field(ge=1, strict=True)
    sm_clock_mhz: Positive
    memory_clock_mhz: Positive
    temperature_c: Positive
    driver: Text
    cuda: Text
    software: Text
    """Software that ran, with versions: ``torch 2.13.0, torch.compile max-autotune, channels-last, CUDA graphs``."""
    method: Text
    """Method by which time and energy were measured."""
    command: Text
    """The command that reproduces it."""
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")]
    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{7,40}$")]
    quality_db: float | None = Field(default=None, allow_inf_nan=False)

    @model_validator(mode="after")
    def _possible(self) -> Recorded:
        if min(self.ms_per_frame.low, self.j_per_frame.low) <= 0.0:
            raise ValueError("time and energy of a frame must be positive")
        return self


def load_recorded(path: Path) -> Recorded:
    """Read one measurement. Raises :class:`InputError`, naming the field, for anything incomplete."""
    try:
        return Recorded.model_validate(json.loads(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        problem = error.errors()[0]
        place = ".".join(str(part) for part in problem["loc"])
        what = " ".join(filter(None, (place, problem["msg"])))
    except (OSError, ValueError) as error:
        what = str(error)
    raise InputError(f"is not a GPU measurement ({what})", where=str(path), hint="See docs/energy.md for the fields.")


def find_device(name: str) -> Device:
    """A GPU of the table. Raises :class:`InputError` for an unknown one."""
    table = devices()
    if name not in table:
        raise InputError(f"unknown GPU {name!r}", where="--gpu", hint=f"Choose one of {', '.join(table)}.")
    return table[name]


def on_gpu(
    workload: Workload, device_name: str, recorded: Sequence[Path] = (), precision: Precision | None = None
) -> GpuFigures:
    """``workload`` on a device: the fitting measurement of least energy (the best software wins), else the roofline.

    ``recorded``: measurement files to look through. ``precision`` None: whichever was measured, else FP16. Raises
    :class:`InputError` for an unknown device or a broken file.
    """
    device = find_device(device_name)
    fitting = [
        (record, path)
        for path in recorded
        if (record := load_recorded(path)).network == workload.network
        and (record.input_size, record.output_size) == (workload.input_size, workload.output_size)
        and record.device == device_name
        and precision in (None, record.precision)
    ]
    if not fitting:
        return roofline(workload, device, precision or "FP16")
    record, path = min(fitting, key=lambda pair: pair[0].j_per_frame.value)
    seconds, joules = record.ms_per_frame.interval * 1e-3, record.j_per_frame.interval
    unit: Precision = "INT8" if record.precision == "INT8" else "FP16"
    reached = 2.0 * workload.macs / seconds.value / device.peak_per_s(unit)
    return GpuFigures(
        device=device,
        seconds=seconds,
        joules=joules,
        joules_above_idle=_above_idle(joules, record.idle_w * seconds.value),
        # The extremes of power are not recorded; the loops' energies and times are close together.
        watts=Interval.exact(joules.value / seconds.value),
        precision=record.precision,
        evidence=Evidence.HARDWARE,
        quality_db=record.quality_db,
        notes=f"{record.software}; batch {record.batch}; {reached:.1%} of the {unit} peak; {record.method}; "
        f"{record.date}",
        records=(path.name,),
    )


def _above_idle(joules: Interval, idle_j: float) -> Interval:
    return Interval(*(max(0.0, bound - idle_j) for bound in (joules.value, joules.low, joules.high)))


def roofline(workload: Workload, device: Device, precision: Precision = "FP16") -> GpuFigures:
    """Roofline. Time: the longer of computing at peak and moving the compulsory bytes, over the share software reaches.

    Energy: operations and bits at their energies, plus idle power x time. Bounds correspond: the fastest run has the
    least energy.
    """
    share = constant("gpu_peak_share", "dimensionless")
    moved = workload.moved_bytes(device.l2_bytes, precision)
    operations = 2.0 * workload.macs
    ideal = max(operations / device.peak_per_s(precision), moved.value / (device.bandwidth_gb_s * 1e9))
    operation_j = constant(device.flop, "J")
    used: tuple[str, ...] = ("gpu_peak_share", device.flop, device.memory)
    if precision == "INT8":
        operation_j, used = operation_j * constant("gpu_int8_over_fp16", "dimensionless"), (*used, "gpu_int8_over_fp16")
    seconds = Interval(ideal / share.value, ideal / share.high, ideal / share.low)
    above_idle = operation_j * operations + constant(device.memory, "J") * (moved * 8.0)
    joules = above_idle + device.idle_w.interval * seconds
    watts = sorted(
        energy / time
        for energy, time in ((joules.low, seconds.low), (joules.value, seconds.value), (joules.high, seconds.high))
    )
    return GpuFigures(
        device=device,
        seconds=seconds,
        joules=joules,
        joules_above_idle=above_idle,
        watts=Interval(joules.value / seconds.value, watts[0], watts[-1]),
        precision=precision,
        evidence=Evidence.MODEL,
        quality_db=None,
        notes=f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%}) of the roofline; no launch overhead",
        records=used,
    )
