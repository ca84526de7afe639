"""Loss of flow networks by quantisation: ``python benchmarks/flow.py --data DIR`` → ``results/flow.json``, row by row.

With trained weights (SpyNet's from ``DIR/weights``, ``flow_small``'s from this project): end-point errors in FP32, in
INT8 (where flows have 16 bits) and mixed by an error budget, on Sintel against PWC-Net's own flow (``DIR/sintel``: a
reference, not a truth) and on scikit-image's stereo pair against its ground truth; and the cost of mixing on ``base``,
by the cycle model. With seeded weights: the distance of the quantised output from FP32's, relative to the latter.

Calibration uses the extremes of three pairs of ``DIR/clip`` of the pair's size; bit widths are chosen on the same pairs
at a quarter of the size, where backward passes take a sixteenth of the time. Quantised networks run in their
quantise/dequantise form. Existing rows are kept; ``--again`` measures all anew.
"""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from skimage import data as samples

from codesign import networks
from codesign.compile.importing.model import load_model
from codesign.compile.ir.evaluate import run
from codesign.compile.ir.relax import from_module
from codesign.compile.quantise.budget import Mixed, products, within
from codesign.compile.quantise.quantise import Calibrated, calibrate
from codesign.compile.quantise.widths import Widths
from codesign.compile.scanline.emit import emit
from codesign.compile.scanline.lower import lower
from codesign.compile.scanline.partition import partition
from codesign.compile.scanline.plan.cascade import make_plan
from codesign.hw.files import write_text
from codesign.hw.spec import BASE
from codesign.hw.timing import model as timing
from codesign.metrics.motion import end_point_error
from codesign.pictures import images
from codesign.pictures.flows import load_flow
from codesign.pictures.images import Pixels

RESULTS = Path(__file__).parent / "results" / "flow.json"
COMMAND = "python benchmarks/flow.py --data DIR"

BUDGET_PIXELS, PART = 0.1, 4
"""Error budget in pixels, on calibration pairs of a quarter of the size: a third of SpyNet's error in 8 bits there."""

SEEDED: dict[str, tuple[int, tuple[int, int]]] = {
    "pwcnet": (2, (256, 128)),
    "raft": (2, (256, 128)),
    "raft_small": (2, (256, 128)),
    "rife": (2, (256, 128)),
    "basicvsr_x4": (3, (64, 64)),
}
"""Number and size of the frames that a network takes."""

Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Pair:
    name: str
    against: str
    frames: Frames  # [1, 6, H, W]
    truth: NDArray[np.float32]  # [2, H, W], NaN where unknown


def stacked(*frames: Pixels) -> Frames:
    joined = np.concatenate([images.to_real(frame) for frame in frames], axis=2)
    return np.ascontiguousarray(joined.transpose(2, 0, 1)[None], np.float32)


def pairs(data: Path) -> list[Pair]:
    sintel = [images.load_image(data / "sintel" / f"frame_00{index}.png") for index in (10, 11)]
    reference = load_flow(data / "sintel" / "pwcnet_reference_0010.flo")
    left, right, disparity = samples.stereo_motorcycle()
    known = np.where(np.isfinite(disparity), disparity, np.nan)
    return [
        Pair("sintel 0010", "PWC-Net's flow", stacked(*sintel), reference),
        Pair("motorcycle", "ground truth", stacked(left, right), np.stack([-known, 0.0 * known]).astype(np.float32)),
    ]


def calibration(data: Path, width: int, height: int, frames: int = 2) -> list[Frames]:
    """Parts of the clip from its beginning, its middle, and backwards from its end."""
    clip = [images.fit(images.load_image(path), width, height) for path in images.image_files(data / "clip")]
    return [stacked(*run_) for run_ in (clip[:frames], clip[5 : 5 + frames], clip[::-1][:frames])]


def calibrated(module: torch.nn.Module, shots: list[Frames]) -> Calibrated:
    _, channels, height, width = shots[0].shape
    return calibrate(load_model(module, width=width, height=height, channels=channels).module, shots, "minmax")


def output(network: Calibrated, widths: Widths, frames: Frames) -> NDArray[np.float32]:
    """The quantised network's result, ``[C, H, W]``."""
    with torch.inference_mode():
        return run(from_module(network.quantised(widths).module), torch.from_numpy(frames))[0].numpy()


def whole(network: Calibrated, widths: Widths) -> Widths:
    """``widths`` that were chosen at another size, for ``network``, whose operators have the same names."""
    found = network.with_consequences(network.least | widths)
    missing = (widths.tensors - {unit.name for unit in network.parts}) | (
        widths.weights - {unit.head.name for unit in network.parts}
    )
    if found is None or missing:
        raise SystemExit(f"the network has other operators at this size: {', '.join(sorted(missing)) or 'unlike'}")
    return found


def on_machine(network: Calibrated, widths: Widths) -> dict[str, Any]:
    """Cost of a frame on ``base`` by the cycle model, regions one after another, without the host's part."""
    parted = partition(from_module(network.quantised(widths).module), BASE)
    found = [timing.predict(emit(make_plan(BASE, lower(region, region.symbol)))) for region in parted.regions]
    return {
        "products": products(network, widths),
        "cycles": sum(one.cycles for one in found),
        "dram_bytes": sum(one.dram_read_bytes + one.dram_write_bytes for one in found),
        "host_operators": sorted({one.operator for one in parted.placements if not one.on_accelerator}),
    }


def chosen(module: torch.nn.Module, data: Path, width: int, height: int, console: Console) -> Mixed:
    shots = calibration(data, width // PART, height // PART)
    return within(calibrated(module, shots), BUDGET_PIXELS, shots, lambda text: console.print(f"  {text}"))


def trained(name: str, weights: Path | None, pair: Pair, data: Path, console: Console) -> dict[str, Any]:
    module = networks.load(name, weights)
    height, width = pair.frames.shape[2:]
    mixed = chosen(module, data, width, height, console)
    network = calibrated(module, calibration(data, width, height))
    widths = whole(network, mixed.widths)
    with torch.inference_mode():
        full = module(torch.from_numpy(pair.frames))[0].numpy()
    results = {"int8": network.least, "mixed": widths}
    values = {form: output(network, its, pair.frames) for form, its in results.items()}
    return {
        "weights": "this project's" if weights is None else weights.name,
        "against": pair.against,
        "mean_flow_pixels": float(np.nanmean(np.hypot(*pair.truth))),
        "fp32": asdict(end_point_error(full, pair.truth)),
        **{form: asdict(end_point_error(found, pair.truth)) for form, found in values.items()},
        **{f"{form}_from_fp32": asdict(end_point_error(found, full)) for form, found in values.items()},
        "budget": mixed.to_json(),
        "base": {form: on_machine(network, its) for form, its in results.items()},
    }


def seeded(name: str, data: Path, console: Console) -> dict[str, Any]:
    frames, (width, height) = SEEDED[name]
    module = networks.load(name)
    shots = calibration(data, width, height, frames)
    network = calibrated(module, shots[:2])
    with torch.inference_mode():
        full = module(torch.from_numpy(shots[2]))[0].numpy()
    size = float(np.sqrt(np.square(full).sum(0)).mean())
    error = float(np.sqrt(np.square(output(network, network.least, shots[2]) - full).sum(0)).mean())
    return {"weights": "seeded", "quality": None, "int8_from_fp32_relative": error / size}


def rows(data: Path) -> Iterator[tuple[str, str, str]]:
    for name in ("spynet", "flow_small"):
        for pair in pairs(data):
            yield name, pair.name, f"{pair.frames.shape[3]}x{pair.frames.shape[2]}"
    for name, (_, (width, height)) in SEEDED.items():
        yield name, "clip 0025", f"{width}x{height}"


def main(
    data: Annotated[Path, typer.Option(help="Folder with sintel/, clip/ and weights/.")],
    again: Annotated[bool, typer.Option("--again", help="Measure existing rows again.")] = False,
    only: Annotated[str, typer.Option(help="Measure only this network.")] = "",
) -> None:
    console = Console()
    known = {"spynet": data / "weights" / "spynet_sintel_final.npz", "flow_small": None}
    held = json.loads(RESULTS.read_text())["rows"] if RESULTS.is_file() else []
    kept = {(row["network"], row["pair"]): row for row in held}
    by_name = {pair.name: pair for pair in pairs(data)}
    for name, on, size in rows(data):
        if ((name, on) in kept and not again) or only not in ("", name):
            continue
        console.print(f"{name}, {on}")
        began = time.perf_counter()
        if name in known:
            row = trained(name, known[name], by_name[on], data, console)
            epes = ", ".join(f"{row[form]['epe_pixels']:.3f} px {form}" for form in ("fp32", "int8", "mixed"))
            console.print(f"  EPE {epes}")
        else:
            row = seeded(name, data, console)
            console.print(f"  {row['int8_from_fp32_relative']:.2%} from FP32")
        seconds = time.perf_counter() - began
        kept[name, on] = {"network": name, "pair": on, "size": size, **row, "seconds": seconds}
        done = [kept[key[:2]] for key in rows(data) if key[:2] in kept]
        text = {"command": COMMAND, "machine": platform.machine(), "rows": done}
        write_text(RESULTS, json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
