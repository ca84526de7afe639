"""Every architecture that spandrel knows, compiled: what is imported right, what runs on the machine, and why not.

    python benchmarks/zoo.py                   goes on with benchmarks/results/zoo.json
    python benchmarks/zoo.py --only RCAN SPAN  these, anew
    python benchmarks/zoo.py --page            writes docs/zoo.md from the results

Each network has its published default setting, or its smallest published one, with seeded weights, and is opened as the
.pth file that it would be published as. It is compiled in a process of its own, within limits of time and memory.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import traceback
import typing
from pathlib import Path
from typing import Any

import provenance
import torch

from codesign.compile.driver import Quantisation
from codesign.compile.importing.published.restorer import spandrel
from codesign.hw.errors import CodesignError
from codesign.hw.files import write_text
from codesign.workflows.compile import compile_source
from codesign.workflows.frames import FrameChoice
from codesign.workflows.sources import find

RESULTS = Path(__file__).parent / "results" / "zoo.json"
PAGE = Path(__file__).parents[1] / "docs" / "zoo.md"
SIZE = (64, 64)
MEMORY = 12 << 30

_LIGHT: dict[str, Any] = {"img_size": 64, "embed_dim": 60, "upscale": 2, "upsampler": "pixelshuffledirect"}
SETTINGS: dict[str, dict[str, Any]] = {
    "SwinIR": {**_LIGHT, "depths": [6] * 4, "num_heads": [6] * 4, "window_size": 8, "mlp_ratio": 2},
    "Swin2SR": {**_LIGHT, "depths": [6] * 4, "num_heads": [6] * 4, "window_size": 8, "mlp_ratio": 2},
    "DAT": {**_LIGHT, "depth": [18], "num_heads": [6], "split_size": [8, 32], "expansion_factor": 2},
    "HAT": {
        "img_size": 64,
        "embed_dim": 144,
        "depths": [6] * 6,
        "num_heads": [6] * 6,
        "window_size": 16,
        "compress_ratio": 24,
        "squeeze_factor": 24,
        "mlp_ratio": 2,
        "upscale": 2,
        "upsampler": "pixelshuffle",
    },
    "SPAN": {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 48, "upscale": 2},
    "SAFMN": {"dim": 36, "n_blocks": 8, "upscaling_factor": 2},
    "SAFMNBCIE": {"dim": 36, "n_blocks": 8},
    "MMRealSR": {"num_in_ch": 3, "num_out_ch": 3},
    "NAFNet": {"width": 32, "enc_blk_nums": [1, 1, 1, 28], "middle_blk_num": 1, "dec_blk_nums": [1, 1, 1, 1]},
}
"""Where the default is not a published setting, or there is a smaller one: as the authors' repositories list it."""

CHOSEN = {"KBNet": "KBNet_s", "RealCUGAN": "UpCunet2x", "PLKSR": "PLKSR"}
"""The class of an architecture that has several."""


def architectures() -> list[str]:
    return sorted(str(one.architecture.id) for one in spandrel().MAIN_REGISTRY.architectures())


def built(name: str) -> torch.nn.Module:
    """The network of architecture ``name`` with seeded weights."""
    found = spandrel().MAIN_REGISTRY[name].architecture
    (kind,) = (base.__args__[0] for base in type(found).__orig_bases__ if hasattr(base, "__args__"))
    kinds = {one.__name__: one for one in typing.get_args(kind) or (kind,)}
    network = kinds[CHOSEN.get(name, next(iter(kinds)))]
    torch.manual_seed(0)
    return network(**SETTINGS.get(name, {})).eval()


def measured(name: str, accel: str) -> dict[str, Any]:
    """The row of one architecture; an error is a row too."""
    row: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.pth"
        network = built(name)
        row["weights"] = sum(weight.numel() for weight in network.parameters())
        torch.save(network.state_dict(), path)
        began = time.monotonic()
        try:
            source = find(path)
            compiled = compile_source(source, accel, FrameChoice(size=SIZE), quantisation=Quantisation("minmax"))
        except CodesignError as error:
            return {**row, "outcome": "refused", "why": " ".join(str(error).split())[:400]}
        found = compiled.network
        host: dict[str, int] = {}
        for placement in found.placements:
            if not placement.on_accelerator:
                host[placement.operator] = host.get(placement.operator, 0) + 1
        macs = sum(placement.macs for placement in found.placements)
        on_machine = sum(placement.macs for placement in found.placements if placement.on_accelerator)
        return {
            **row,
            "outcome": "compiled",
            "import": str(found.source.check),
            "regions": len(found.regions),
            "macs": macs,
            "macs_on_machine": on_machine,
            "host": dict(sorted(host.items(), key=lambda item: -item[1])),
            "seconds": round(time.monotonic() - began, 1),
        }


def child(name: str, accel: str) -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    try:
        row = measured(name, accel)
    except Exception as error:  # a traceback is what this looks for
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(last.filename).name}:{last.lineno}"
        text = f"{type(error).__name__}: {' '.join(str(error).split())[:300]} ({where})"
        row = {"outcome": "traceback", "why": text}
    print(json.dumps(row))


def in_process(name: str, accel: str, limit: float) -> dict[str, Any]:
    command = [sys.executable, __file__, "--child", name, "--accel", accel]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"outcome": "timeout", "why": f"more than {limit:g} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        last = (done.stderr.strip().splitlines() or [""])[-1][:300]
        return {"outcome": "crash", "why": f"exit {done.returncode}: {last}"}
    return dict(json.loads(lines[-1]))


def page(record: dict[str, Any]) -> str:
    """The results as a page."""
    rows = record["architectures"]
    lines = [
        "# The zoo",
        "",
        f"Architectures of spandrel {record['spandrel']}, seeded weights, {SIZE[0]}x{SIZE[1]}, on `{record['accel']}`:",
        "written by `python benchmarks/zoo.py --page` from `benchmarks/results/zoo.json`.",
        "",
        "| architecture | weights | outcome | import | regions | MACs on the machine | on the host | seconds |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for name, row in sorted(rows.items()):
        if row["outcome"] == "compiled":
            share = f"{row['macs_on_machine'] / row['macs']:.1%}" if row["macs"] else "none"
            host = ", ".join(f"{count} {op}" for op, count in list(row["host"].items())[:5])
            cells = (row["import"], row["regions"], share, host, row["seconds"])
        else:
            cells = ("", "", "", row["why"].replace("|", "/"), "")
        lines.append("| " + " | ".join(map(str, (name, f"{row.get('weights', 0):,}", row["outcome"], *cells))) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", default=[])
    parser.add_argument("--accel", default="base")
    parser.add_argument("--limit", type=float, default=240.0, help="seconds for one architecture")
    parser.add_argument("--page", action="store_true")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return child(options.child, options.accel)
    record = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"architectures": {}}
    if options.page:
        return write_text(PAGE, page(record))
    for name in options.only or [one for one in architectures() if one not in record["architectures"]]:
        row = in_process(name, options.accel, options.limit)
        record["architectures"][name] = row
        record |= {
            "command": "python benchmarks/zoo.py",
            "commit": provenance.commit(),
            "machine": provenance.machine(),
            "accel": options.accel,
            "spandrel": __import__("importlib.metadata").metadata.version("spandrel"),
        }
        write_text(RESULTS, json.dumps(record, indent=1) + "\n")
        print(name, row, flush=True)


if __name__ == "__main__":
    main()
