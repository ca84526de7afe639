"""The cost of an hour of film on each target: device-hours, kilowatt-hours, money; and whether claims about it hold.

Two claims are judged, network by network: that an hour of 4K film takes more than ``CLAIMED_HOURS`` GPU-hours, and that
custom silicon needs ``CLAIMED_RATIO`` times less energy than a GPU. A claim *holds* if even the band's unfavourable end
satisfies it, *fails* if even the favourable end does not, and is *open* otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from codesign.energy.account import DRAMS, EnergyAccount, Evidence, account
from codesign.energy.gpu import find_device, roofline
from codesign.energy.interval import Interval, engineering, span
from codesign.energy.records import constant, nodes
from codesign.hw.errors import InputError
from codesign.hw.spec import AccelSpec
from codesign.studies.costing import Costing, cost, prefixed, size_in
from codesign.workflows.compare import TargetRow, gpu_row, host_work, scanline_row
from codesign.workflows.recorded import RESULTS
from codesign.workflows.watch import Say, silent

NETWORKS = ("sesr_m5_x2", "srvgg16_x4", "edsr_baseline_x4", "dncnn17", "spynet", "rrdbnet_x4")
"""Networks studied by default, of every task, from light to heavy."""

CLAIMED_HOURS = 500.0
"""GPU-hours per hour of 4K film, as claimed for restoration; the claim does not name a network."""

CLAIMED_RATIO = 5.0
"""Claimed ratio of the energy of general-purpose cards to that of custom silicon."""

DIFFUSION_STEP_MACS, DIFFUSION_LATENT, DIFFUSION_STEPS = 566e9, 128, 50
"""MACs of one UNet step of a x4 diffusion up-scaler (473 M parameters) on a latent of 128x128, counted on a rebuilt
definition; samplers usually run 50 steps. Only its MACs are known here, and so only a GPU's roofline."""

Judgement = Literal["holds", "fails", "open"]


@dataclass(frozen=True)
class Bill:
    """An hour of film on one target. ``row`` has the frame's figures, their evidence and their boundary."""

    row: TargetRow
    frames: int

    @property
    def device_hours(self) -> Interval:
        """Hours for which one device is busy."""
        return self.row.ms_per_frame * (self.frames / 3.6e6)

    @property
    def kwh(self) -> Interval | None:
        return None if self.row.j_per_frame is None else self.row.j_per_frame * (self.frames / 3.6e6)

    @property
    def chip_kwh(self) -> Interval | None:
        """Energy without DRAM and regulator; None where that is not known."""
        return None if self.row.chip_j_per_frame is None else self.row.chip_j_per_frame * (self.frames / 3.6e6)


@dataclass(frozen=True)
class Against:
    """Energy of a frame on one GPU over that on Scanline."""

    device: str
    as_is: Interval
    """Ratio of the whole systems, each at its own node and voltage."""
    iso_node: Interval
    """Ratio with Scanline's chip at the recorded node nearest to the GPU's, DRAM unchanged."""
    iso_node_at: str
    chip_only: Interval
    """Ratio of the GPU's energy above idle to that of Scanline's die alone."""
    claim: Judgement
    """Verdict on the claim that ``as_is`` is at least CLAIMED_RATIO."""
    claim_iso_node: Judgement
    holds_below_share: float
    """Largest share of its roofline that the GPU may reach for the as-is claim to hold (central values)."""
    evidence: Evidence


@dataclass(frozen=True)
class NetworkHour:
    """An hour of film through one network."""

    costing: Costing
    bills: tuple[Bill, ...]  # Scanline is first
    against: tuple[Against, ...]
    hours_claim: dict[str, Judgement]
    """Verdict by GPU on the claim that the hour takes at least CLAIMED_HOURS."""
    account: EnergyAccount = field(repr=False)


@dataclass(frozen=True)
class Film:
    """Frames of ``resolution`` (width, height), ``fps`` a second. Raises :class:`InputError` for an impossible rate."""

    resolution: tuple[int, int]
    fps: float

    def __post_init__(self) -> None:
        if self.fps <= 0.0 or self.fps > 1000.0:
            raise InputError(
                f"{self.fps:g} frames a second", where="--fps", hint="Choose for example 24, 25, 30 or 60."
            )

    @property
    def frames(self) -> int:
        """Frames of an hour."""
        return round(self.fps * 3600)


@dataclass(frozen=True)
class Prices:
    """Prices in the user's currency. Raises :class:`InputError` for a negative one."""

    kwh: float
    device_hour: float | None = None

    def __post_init__(self) -> None:
        if self.kwh < 0.0 or (self.device_hour or 0.0) < 0.0:
            raise InputError("a price is negative", where="--price-kwh", hint="Give prices of 0 or more.")


@dataclass(frozen=True)
class FilmHour:
    """The study."""

    film: Film
    prices: Prices
    gpus: tuple[str, ...]
    spec: AccelSpec
    networks: tuple[NetworkHour, ...]
    command: str

    @property
    def verdicts(self) -> tuple[str, ...]:
        """The answers in sentences."""
        return tuple(_verdicts(self))


def film_hour(
    names: Sequence[str],
    film: Film,
    spec: AccelSpec,
    gpus: Sequence[str],
    prices: Prices,
    *,
    dram: str = DRAMS[0],
    results: Path = RESULTS,
    command: str = "",
    say: Say = silent,
) -> FilmHour:
    """Study ``names`` (NETWORKS when empty) on a film of the output's resolution.

    GPUs' rows are recorded measurements where ``results`` has fitting ones, rooflines elsewhere. Raises
    :class:`InputError` for unknown networks and GPUs, and a resolution that a network cannot make.
    """
    for gpu in gpus:
        find_device(gpu)
    chosen = tuple(names) or NETWORKS
    sizes = {name: _input_size(name, film.resolution) for name in chosen}
    recorded = sorted((results / "gpu").glob("*.json"))
    hours = []
    for name in chosen:
        costing = cost(name, sizes[name], spec, prefixed(say, name))
        hours.append(_hour(costing, film.frames, gpus, dram, recorded))
    return FilmHour(film, prices, tuple(gpus), spec, tuple(hours), command)


def _input_size(name: str, resolution: tuple[int, int]) -> tuple[int, int]:
    from codesign import networks

    return size_in(networks.get(name), resolution)


def _hour(costing: Costing, frames: int, gpus: Sequence[str], dram: str, recorded: Sequence[Path]) -> NetworkHour:
    bill = account(costing.counters, costing.spec, dram=dram)
    chip = scanline_row(
        costing.counters,
        costing.spec,
        bill,
        evidence=Evidence.MODEL,
        quality_db=None,
        apart=_scaled(costing) + host_work(costing.host_mac_share, 0.0),
    )
    others = [gpu_row(costing.workload, gpu, quality_db=None, recorded=recorded) for gpu in gpus]
    bills = tuple(Bill(row, frames) for row in (chip, *others))
    return NetworkHour(
        costing=costing,
        bills=bills,
        against=tuple(_against(costing, bill, row, gpu) for row, gpu in zip(others, gpus, strict=True)),
        hours_claim={gpu: _judged(one.device_hours, CLAIMED_HOURS) for one, gpu in zip(bills[1:], gpus, strict=True)},
        account=bill,
    )


def _scaled(costing: Costing) -> str:
    if costing.modelled_size == costing.input_size:
        return ""
    return f"; compiled at {costing.modelled_size[0]}x{costing.modelled_size[1]} and multiplied by MACs"


def _against(costing: Costing, bill: EnergyAccount, row: TargetRow, gpu: str) -> Against:
    device = find_device(gpu)
    assert row.j_per_frame is not None
    node = nearest_node(device.node)
    iso = account(costing.counters, costing.spec, node=node, dram=bill.dram)
    as_is = row.j_per_frame / bill.system_j
    iso_node = row.j_per_frame / iso.system_j
    above_idle = row.j_above_idle if row.j_above_idle is not None else row.j_per_frame
    return Against(
        device=gpu,
        as_is=as_is,
        iso_node=iso_node,
        iso_node_at=node,
        chip_only=above_idle / bill.chip_j,
        claim=_judged(as_is, CLAIMED_RATIO),
        claim_iso_node=_judged(iso_node, CLAIMED_RATIO),
        holds_below_share=_share_at(costing, gpu, CLAIMED_RATIO * bill.system_j.value),
        evidence=row.energy_evidence,
    )


def nearest_node(node: str) -> str:
    """The recorded process node nearest to ``node``, by the ratio of their sizes."""
    wanted = float(node.removesuffix("nm"))
    ratios = {
        one: max(float(one.removesuffix("nm")) / wanted, wanted / float(one.removesuffix("nm"))) for one in nodes()
    }
    return min(ratios, key=lambda one: ratios[one])


def _share_at(costing: Costing, gpu: str, joules: float) -> float:
    """The share of its roofline at which a frame costs the GPU ``joules``, of which a part is idle power x time.

    At most 1: if computing and moving alone cost more, every share costs more.
    """
    figures = roofline(costing.workload, find_device(gpu))
    share = constant("gpu_peak_share", "dimensionless").value
    left = joules - figures.joules_above_idle.value
    idle_at_peak = (figures.joules.value - figures.joules_above_idle.value) * share
    if left <= 0.0:
        return 1.0
    return min(1.0, idle_at_peak / left)


def _judged(band: Interval, bound: float) -> Judgement:
    return "holds" if band.low >= bound else "fails" if band.high < bound else "open"


def diffusion_macs(resolution: tuple[int, int]) -> float:
    """MACs of one frame of ``resolution`` through a x4 diffusion up-scaler, in tiles, all steps."""
    tile = 4 * DIFFUSION_LATENT
    return DIFFUSION_STEP_MACS * DIFFUSION_STEPS * (resolution[0] * resolution[1]) / tile**2


def macs_of_claim(gpu: str, fps: float) -> Interval:
    """MACs per frame with which ``gpu`` takes CLAIMED_HOURS, at the central, lowest and highest share of its peak."""
    seconds = CLAIMED_HOURS / fps
    peak = find_device(gpu).peak_fp16_tflops * 1e12 / 2.0
    return constant("gpu_peak_share", "dimensionless") * (peak * seconds)


def _verdicts(study: FilmHour) -> Iterator[str]:
    for index, gpu in enumerate(study.gpus, start=1):
        claims = {hour.costing.network.name: hour.hours_claim[gpu] for hour in study.networks}
        dearest = max(study.networks, key=lambda hour: hour.bills[index].device_hours.value)
        hours, limit = dearest.bills[index].device_hours, macs_of_claim(gpu, study.film.fps)
        diffusion = Interval.exact(diffusion_macs(study.film.resolution) * CLAIMED_HOURS) / limit
        yield (
            f"{CLAIMED_HOURS:.0f} hours of an {gpu} for an hour of film: {_claims(claims)}. The dearest, "
            f"{dearest.costing.network.name}, takes {hours.value:.3g} hours ({hours.low:.3g} to {hours.high:.3g}). "
            f"{CLAIMED_HOURS:.0f} hours are {CLAIMED_HOURS / study.film.fps:.1f} s a frame, in which it computes "
            f"{engineering(limit.value)}MAC ({span(limit, 'MAC')}). A diffusion up-scaler of {DIFFUSION_STEPS} steps "
            f"has {engineering(diffusion_macs(study.film.resolution))}MAC: {diffusion.value:.3g} hours "
            f"({diffusion.low:.3g} to {diffusion.high:.3g})."
        )
    for gpu in study.gpus:
        rows = {hour.costing.network.name: next(a for a in hour.against if a.device == gpu) for hour in study.networks}
        node = next(iter(rows.values())).iso_node_at
        as_is = _claims({name: row.claim for name, row in rows.items()})
        near = _claims({name: row.claim_iso_node for name, row in rows.items()})
        yield (
            f"{CLAIMED_RATIO:g} times less energy than an {gpu}: as they are ({_range(rows, 'as_is')}), {as_is}; with "
            f"Scanline's chip at {node} ({_range(rows, 'iso_node')}), {near}."
        )


def _range(rows: Mapping[str, Against], name: str) -> str:
    """Range of the central ratios as text."""
    values = [getattr(row, name).value for row in rows.values()]
    return f"{min(values):.1f} to {max(values):.1f} times"


def _claims(found: dict[str, Judgement]) -> str:
    words = {"holds": "it holds for", "fails": "it fails for", "open": "the band leaves it open for"}
    return "; ".join(f"{words[what]} {which}" for what in ("holds", "fails", "open") if (which := _list(found, what)))


def _list(found: dict[str, Judgement], wanted: str) -> str:
    names = [name for name, judged in found.items() if judged == wanted]
    return "every network" if len(names) == len(found) and len(names) > 1 else ", ".join(names)


def to_json(study: FilmHour) -> dict[str, Any]:
    """The study for machines; intervals are ``{value, low, high}``."""

    def bill(one: Bill) -> dict[str, Any]:
        row = one.row
        energy = one.kwh
        rent = None if study.prices.device_hour is None or row.kind != "gpu" else study.prices.device_hour
        return {
            "target": row.target,
            "kind": row.kind,
            "precision": row.precision,
            "ms_per_frame": row.ms_per_frame.to_json(),
            "j_per_frame": None if row.j_per_frame is None else row.j_per_frame.to_json(),
            "chip_j_per_frame": None if row.chip_j_per_frame is None else row.chip_j_per_frame.to_json(),
            "device_hours": one.device_hours.to_json(),
            "kwh": None if energy is None else energy.to_json(),
            "chip_kwh": None if one.chip_kwh is None else one.chip_kwh.to_json(),
            "energy_cost": None if energy is None else (energy * study.prices.kwh).to_json(),
            "rent_cost": None if rent is None else (one.device_hours * rent).to_json(),
            "evidence": row.evidence.value,
            "energy_evidence": row.energy_evidence.value,
            "boundary": row.boundary,
            "notes": row.notes,
            "records": list(row.records),
        }

    return {
        "schema": "codesign.film-hour/1",
        "command": study.command,
        "resolution": f"{study.film.resolution[0]}x{study.film.resolution[1]}",
        "fps": study.film.fps,
        "frames": study.film.frames,
        "accel": study.spec.name,
        "price_kwh": study.prices.kwh,
        "price_device_hour": study.prices.device_hour,
        "claims": {"gpu_hours": CLAIMED_HOURS, "energy_ratio": CLAIMED_RATIO},
        "verdicts": list(study.verdicts),
        "diffusion_macs_per_frame": diffusion_macs(study.film.resolution),
        "networks": [
            {
                "network": hour.costing.network.name,
                "task": hour.costing.network.task,
                "input_size": hour.costing.workload.input_size,
                "output_size": hour.costing.workload.output_size,
                "macs": hour.costing.workload.macs,
                "host_mac_share": hour.costing.host_mac_share,
                "targets": [bill(one) for one in hour.bills],
                "hours_claim": hour.hours_claim,
                "against": [
                    {
                        "device": one.device,
                        "j_ratio": one.as_is.to_json(),
                        "j_ratio_iso_node": one.iso_node.to_json(),
                        "iso_node_at": one.iso_node_at,
                        "j_ratio_chip_only": one.chip_only.to_json(),
                        "claim": one.claim,
                        "claim_iso_node": one.claim_iso_node,
                        "claim_holds_below_share_of_roofline": one.holds_below_share,
                        "evidence": one.evidence.value,
                    }
                    for one in hour.against
                ],
            }
            for hour in study.networks
        ],
    }
