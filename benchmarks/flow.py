"""End-point errors of flow networks, FP32 and INT8: ``python benchmarks/flow.py --data DIR`` → ``results/flow.json``.

Pairs: Sintel against PWC-Net's own flow for it (``DIR/sintel``: a reference, no truth), and scikit-image's stereo
pair against its ground truth. SpyNet has its published weights (``DIR/weights``), ``flow_small`` this project's.
INT8 is the project's quantiser, calibrated by extremes on three pairs of ``DIR/clip`` (for the stereo pair, cut to its
size), and evaluated in its quantise/dequantise form.
"""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from rich.console import Console
from skimage import data as samples

from codesign import images, networks
from codesign.compile.evaluate import run
from codesign.compile.frontend import load_model
from codesign.compile.quantize import quantise, read_canonical
from codesign.flows import load_flow
from codesign.hw.files import write_text
from codesign.images import Pixels
from codesign.metrics.motion import end_point_error

RESULTS = Path(__file__).parent / "results" / "flow.json"


@dataclass(frozen=True)
class Pair:
    name: str
    against: str
    frames: NDArray[np.float32]  # [1, 6, H, W]
    truth: NDArray[np.float32]  # [2, H, W], NaN where unknown


def stacked(first: Pixels, second: Pixels) -> NDArray[np.float32]:
    both = np.concatenate([images.to_real(first), images.to_real(second)], axis=2)
    return np.ascontiguousarray(both.transpose(2, 0, 1)[None], np.float32)


def pairs(data: Path) -> list[Pair]:
    sintel = [images.load_image(data / "sintel" / f"frame_00{index}.png") for index in (10, 11)]
    reference = load_flow(data / "sintel" / "pwcnet_reference_0010.flo")
    left, right, disparity = samples.stereo_motorcycle()
    known = np.where(np.isfinite(disparity), disparity, np.nan)
    return [
        Pair("sintel 0010", "PWC-Net's flow", stacked(*sintel), reference),
        Pair("motorcycle", "ground truth", stacked(left, right), np.stack([-known, 0.0 * known]).astype(np.float32)),
    ]


def calibration(data: Path, width: int, height: int) -> list[NDArray[np.float32]]:
    clip = [images.fit(images.load_image(path), width, height) for path in images.image_files(data / "clip")]
    return [stacked(clip[a], clip[b]) for a, b in ((0, 1), (5, 6), (9, 8))]


def main(data: Annotated[Path, typer.Option(help="Folder with sintel/, clip/ and weights/.")]) -> None:
    console = Console()
    rows: list[dict[str, Any]] = []
    for name, weights in (("flow_small", None), ("spynet", data / "weights" / "spynet_sintel_final.npz")):
        module = networks.load(name, weights)
        for pair in pairs(data):
            height, width = pair.frames.shape[2:]
            model = load_model(module, width=width, height=height, channels=6)
            graph = read_canonical(quantise(model.module, calibration(data, width, height), "minmax"))
            with torch.inference_mode():
                frames = torch.from_numpy(pair.frames)
                full, quantised = module(frames)[0].numpy(), run(graph, frames)[0].numpy()
            row = {
                "network": name, "weights": "this project's" if weights is None else weights.name, "pair": pair.name,
                "against": pair.against, "size": f"{width}x{height}",
                "mean_flow_pixels": float(np.nanmean(np.hypot(*pair.truth))),
                "fp32": asdict(end_point_error(full, pair.truth)),
                "int8": asdict(end_point_error(quantised, pair.truth)),
                "int8_from_fp32": asdict(end_point_error(quantised, full)),
            }  # fmt: skip
            rows.append(row)
            console.print(
                f"{name}, {pair.name}: EPE {row['fp32']['epe_pixels']:.3f} px FP32, "
                f"{row['int8']['epe_pixels']:.3f} px INT8"
            )
            text = {"command": "python benchmarks/flow.py --data DIR", "machine": platform.machine(), "rows": rows}
            write_text(RESULTS, json.dumps(text, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
