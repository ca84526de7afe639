"""``python -m codesign study NAME``: claims about whole tasks, measured.

A study is a module of :mod:`codesign.studies` with a function that returns a small frozen result, and a command here
that prints it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from codesign.cli.console import Accel, Json, command_line, out, parse_size, progress, write_json
from codesign.energy.interval import Interval, engineering, span
from codesign.hw.errors import InputError

if TYPE_CHECKING:
    from codesign.studies.film_hour import FilmHour
    from codesign.studies.int8 import Int8Study

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich")


Gpus = Annotated[str, typer.Option(help="Comma-separated GPUs: H200, H100, A100, RTX4090, Orin.")]


@app.callback()
def study() -> None:
    """Claims about whole tasks, measured: each study states the input, the machine and the result."""


@app.command(
    name="film-hour",
    epilog="Example: [bold]python -m codesign study film-hour --resolution 3840x2160 --fps 24 srvgg16_x4[/]",
)
def film_hour_command(
    networks: Annotated[list[str] | None, typer.Argument(help="Reference networks; six by default.")] = None,
    resolution: Annotated[str, typer.Option(help="Output size, width first.", metavar="WxH")] = "3840x2160",
    fps: Annotated[float, typer.Option(help="Frames a second.")] = 24.0,
    accel: Accel = "base",
    gpu: Gpus = "H200,A100,RTX4090",
    price_kwh: Annotated[float, typer.Option(help="Price of a kilowatt-hour, in your currency.")] = 0.25,
    price_device_hour: Annotated[float | None, typer.Option(help="Rent of a GPU for an hour.")] = None,
    json_to: Json = None,
) -> None:
    """Device-hours, energy and cost of an hour of film, and whether the claims about it hold."""
    from codesign.hw.spec import load_spec
    from codesign.studies import film_hour

    size = parse_size(resolution)
    assert size is not None
    with progress("Studying") as (say, _):
        study = film_hour.film_hour(
            networks or [],
            film_hour.Film(size, fps),
            load_spec(accel),
            [name.strip() for name in gpu.split(",") if name.strip()],
            film_hour.Prices(price_kwh, price_device_hour),
            command=command_line(),
            say=say,
        )
    if json_to is not None:
        write_json(film_hour.to_json(study), json_to)
        return
    _print_film_hour(study)


def _print_film_hour(study: FilmHour) -> None:
    width, height = study.film.resolution
    table = Table(
        title=f"An hour of film, {width}x{height}, {study.film.fps:g} frames a second",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("network, target", "device-hours", "energy", "cost", "energy/frame"):
        table.add_column(heading, justify="left" if heading == "network, target" else "right")
    for hour in study.networks:
        table.add_row(
            Text(hour.costing.network.name, "bold"), Text(f"{engineering(hour.costing.workload.macs)}MAC", "dim")
        )
        for one in hour.bills:
            cost = one.kwh
            if cost is not None:
                cost = cost * study.prices.kwh
                if study.prices.device_hour is not None and one.row.kind == "gpu":
                    cost = cost + one.device_hours * study.prices.device_hour
            target = one.row.target.split(" (")[0].split(",")[0]
            table.add_row(
                Text.assemble(f"  {target}\n  ", (one.row.energy_evidence, "cyan")),
                _band(one.device_hours),
                _band(None if one.kwh is None else one.kwh * 1e3, "Wh"),
                "-" if cost is None else f"{cost.value:.3g}",
                _band(one.row.j_per_frame, "J"),
            )
    out.print(table)
    priced = "energy and rent" if study.prices.device_hour is not None else "energy alone"
    out.print(f"Cost: {priced}, {study.prices.kwh:g} per kWh. Bands are bounds, low to high.", style="dim")
    for hour in study.networks:
        if hour.costing.host_mac_share > 0.0:
            out.print(
                f"{hour.costing.network.name}: {hour.costing.host_mac_share:.1%} of its MACs run on the host, not "
                "in Scanline's figures.",
                style="dim",
            )
    ratios = Table(
        title="How many times less energy than the GPU a frame takes on Scanline", box=box.SIMPLE_HEAD, pad_edge=False
    )
    for heading in ("network, GPU", "as they are", "near its node", "chips alone", "5 x below"):
        ratios.add_column(heading, justify="left" if heading == "network, GPU" else "right", no_wrap=True)
    for hour in study.networks:
        ratios.add_row(Text(hour.costing.network.name, "bold"))
        for row in hour.against:
            ratios.add_row(
                f"  {row.device}",
                _band(row.as_is),
                _band(row.iso_node, f" ({row.iso_node_at})"),
                _band(row.chip_only),
                f"{row.holds_below_share:.0%}",
            )
    out.print(ratios)
    out.print("5 x below: the share of its roofline that the GPU may reach at most for a ratio of 5.", style="dim")
    for text in study.verdicts:
        out.print(f"- {text}")


@app.command(name="int8", epilog="Example: [bold]python -m codesign study int8 sesr_m5_x2 --size 1280x720[/]")
def int8_command(
    networks: Annotated[list[str] | None, typer.Argument(help="Reference networks; five by default.")] = None,
    size: Annotated[str, typer.Option(help="Input size, width first.", metavar="WxH")] = "1280x720",
    accel: Accel = "base",
    gpu: Annotated[str, typer.Option(help="H200, H100, A100, RTX4090 or Orin.")] = "H200",
    weights: Annotated[list[str] | None, typer.Option(help="Trained weights.", metavar="NETWORK=FILE")] = None,
    json_to: Json = None,
) -> None:
    """Speed, energy and quality of INT8 against FP16."""
    from codesign.hw.spec import load_spec
    from codesign.studies import int8

    frame = parse_size(size)
    assert frame is not None
    with progress("Studying") as (say, _):
        study = int8.int8_study(
            networks or [],
            frame,
            load_spec(accel),
            gpu,
            weights=_weights(weights or []),
            command=command_line(),
            say=say,
        )
    if json_to is not None:
        write_json(int8.to_json(study), json_to)
        return
    _print_int8(study)


def _weights(given: list[str]) -> dict[str, Path]:
    found = {}
    for text in given:
        name, equals, file = text.partition("=")
        if not equals:
            raise InputError(f"{text!r} does not name a network", where="--weights", hint="Write NETWORK=FILE.")
        found[name] = Path(file)
    return found


def _print_int8(study: Int8Study) -> None:
    table = Table(
        title=f"INT8 against FP16 on an {study.gpu}, input {study.size[0]}x{study.size[1]}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("network", "faster", "less energy", "FP16", "INT8", "INT8 from FP32", "Scanline"):
        table.add_column(heading, justify="left" if heading == "network" else "right")
    for row in study.rows:
        loss = row.loss
        table.add_row(
            Text.assemble(row.costing.network.name, (f"\n{row.int8.evidence}", "cyan")),
            f"{row.speedup.value:.2f} x",
            _band(row.energy_ratio, " x"),
            _decibels(loss.fp16_db),
            _decibels(loss.int8_db),
            f"{loss.int8_over_fp32_db:.1f} dB",
            _band(row.scanline_ratio, " x"),
        )
    out.print(table)
    out.print(
        "FP16, INT8: PSNR against the truth, where weights are trained. INT8 from FP32: PSNR against the network's own "
        "FP32 output. Scanline: how many times less energy than the GPU in INT8.",
        style="dim",
    )
    out.print(study.verdict, style="bold")


def _decibels(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f} dB"


def _band(band: Interval | None, unit: str = "") -> Text:
    """A value above its bounds, with an SI prefix if there is a unit."""
    if band is None:
        return Text("-")
    if unit and not unit.startswith(" "):
        value, bounds = f"{engineering(band.value)}{unit}", span(band, unit)
    else:
        value, bounds = f"{band.value:.3g}{unit}", f"{band.low:.3g} to {band.high:.3g}"
    return Text.assemble(value, ("" if band.is_exact else f"\n{bounds}", "dim"))


FlowNet = Annotated[str, typer.Option("--flow", help="A flow network with trained weights.")]
FlowWeights = Annotated[Path | None, typer.Option("--weights", help="Weights for it.")]


@app.command(
    name="temporal", epilog="Example: [bold]python -m codesign study temporal --clip FOLDER --flow flow_small[/]"
)
def temporal_command(
    clip: Annotated[Path | None, typer.Option(help="A folder of frames; a moving camera by default.")] = None,
    size: Annotated[str | None, typer.Option(help="Size cut from the centre of each frame.", metavar="WxH")] = None,
    grain: Annotated[float, typer.Option(help="Standard deviation of the grain, on a scale of 255.", min=1.0)] = 15.0,
    flow: FlowNet = "flow_small",
    weights: FlowWeights = None,
    json_to: Json = None,
) -> None:
    """Flicker of flow-guided restoration compared with frame by frame, against the claim of -80 %."""
    from codesign.studies import temporal
    from codesign.studies.clips import flow_by, from_folder, moving_camera

    with progress("Studying") as (say, _):
        shown = moving_camera(parse_size(size) or (192, 128)) if clip is None else from_folder(clip, parse_size(size))
        result = temporal.temporal(shown, flow_by(flow, weights), flow, grain=grain, say=say)
    if json_to is not None:
        write_json(result.to_json(), json_to)
        return
    table = Table(
        title=f"{result.frames} frames of {result.size[0]}x{result.size[1]} of {result.source}, grain of "
        f"{grain:g}/255, flow by {flow}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("restored by", "warping error", "against frame by frame", "PSNR"):
        table.add_column(heading, justify="left" if heading == "restored by" else "right")
    table.add_row("frame by frame", f"{result.per_frame_error:.2e}", "", f"{result.per_frame_db:.2f} dB")
    table.add_row("flow-guided", f"{result.guided_error:.2e}", f"{result.change:+.1%}", f"{result.guided_db:.2f} dB")
    table.add_row("the clean clip itself", f"{result.truth_error:.2e}", "", "")
    out.print(table)
    _print_claim("-80 %", result.change, result.holds)


@app.command(name="stabilise", epilog="Example: [bold]python -m codesign study stabilise --shake 4[/]")
def stabilise_command(
    frames: Annotated[int, typer.Option(help="Frames of the clip.", min=8)] = 40,
    size: Annotated[str, typer.Option(help="Frame size of the camera.", metavar="WxH")] = "256x192",
    shake: Annotated[float, typer.Option(help="Standard deviation of the camera's shake, in pixels.", min=0.1)] = 4.0,
    flow: FlowNet = "flow_small",
    weights: FlowWeights = None,
    save: Annotated[Path | None, typer.Option(help="Folder for the stabilised frames.")] = None,
    json_to: Json = None,
) -> None:
    """Jitter left of a known shake after stabilisation by dense flow, against the claim of -95 %."""
    from codesign.pictures.images import save_image, to_pixels
    from codesign.studies import stabilise
    from codesign.studies.clips import flow_by

    camera = parse_size(size)
    assert camera is not None
    with progress("Studying") as (say, _):
        clip, even = stabilise.shaken(camera, frames, shake)
        result, made = stabilise.stabilise(clip, even, shake, flow_by(flow, weights), flow, say=say)
    if save is not None:
        save.mkdir(parents=True, exist_ok=True)
        for index, frame in enumerate(made):
            save_image(to_pixels(frame), save / f"frame_{index:04d}.png")
    if json_to is not None:
        write_json(result.to_json(), json_to)
        return
    table = Table(
        title=f"{frames} frames of {size} of {result.source}, shaken by {shake:g} pixels, flow by {flow}",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    for heading in ("camera path", "jitter, pixels", "against shaken"):
        table.add_column(heading, justify="left" if heading == "camera path" else "right")
    table.add_row("shaken", f"{result.jitter_before:.3f}", "")
    table.add_row("stabilised", f"{result.jitter_after:.3f}", f"{result.change:+.1%}")
    table.add_row("intended path", f"{result.jitter_even:.3f}", "")
    out.print(table)
    _print_claim("-95 %", result.change, result.holds)


def _print_claim(claim: str, change: float, holds: bool) -> None:
    out.print(f"Claimed {claim}, measured {change:+.1%}: {'holds' if holds else 'does not hold'} here.")
