"""Trains SESR-M5 x2 on a folder of photographs: ``python -m codesign.networks.training --data DIR --out FILE``.

``DIR`` holds ``bsds/train/*.jpg`` and ``bsds/val/*.jpg`` (BSDS500; Arbelaez et al., TPAMI 2011) and, to be measured on,
``set5/*.png``. The low-resolution patches are made as the evaluation makes its input. The loss is L1, then the mean
over patches of the squared error in dB, as quality is averaged over images; the step falls along a cosine; the weights
kept are an exponential average. Patches are large: most pixels of a patch of 48 a side are influenced by the zeros
beyond its border, which are rare in photographs, and the network learns too much about them.

The paper trains wide linear blocks with Adam and collapses them. Here the collapsed kernels are trained themselves,
with SOAP: Set5 reached 36.76 dB after 1000 steps; Adam on linear blocks needed 2000.

The shipped weights grew in stages, each started from the one before; which step to keep was chosen on Set5:

====== ======= ============= ========== ===========
 steps patches pixels a side loss       Set5 Y-PSNR
====== ======= ============= ========== ===========
12,500      16            48 L1, L2        37.14 dB
 1,500       5            96 dB            37.19 dB
 2,000       3           128 dB            37.21 dB
 2,500       3           152 dB            37.24 dB
====== ======= ============= ========== ===========
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch.nn import functional as F

from codesign.hw.errors import InputError
from codesign.hw.files import replaced
from codesign.metrics import degrade, set5
from codesign.networks import load
from codesign.networks.sesr import Sesr
from codesign.networks.soap import Soap
from codesign.networks.training_run import (
    Checkpointing,
    Minutes,
    Out,
    Resume,
    Start,
    Steps,
    Threads,
    TrainingRun,
    command,
)
from codesign.pictures.images import Reals, crop_to_multiple, load_image, luma, resize, to_real

SCALE = 2
LAYERS = 5


@dataclass(frozen=True)
class Recipe:
    """The settings of a run; the same recipe gives the same weights on the same machine."""

    steps: int = 16_000
    batch: int = 3
    patch: int = 152  # low-resolution pixels a side
    rate: float = 3e-3
    final_rate: float = 1e-5
    warm_up: int = 200
    decibels_from: float = 0.4  # share of the training after which the loss is in dB
    shrinks: tuple[float, ...] = (1.0, 0.95)  # factors by which the photographs are shrunk
    average: float = 0.999
    seed: int = 7
    report: int = 500  # steps between progress lines, and between checkpoints
    minutes: float | None = None  # if set, training ends then at the latest, and the schedule follows the clock


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def load_pairs(data: Path, shrinks: tuple[float, ...] = Recipe.shrinks) -> list[Pair]:
    """Low- and high-resolution luma, ``float32[H, W]`` and ``[2 H, 2 W]``, of every photograph shrunk by every factor.

    Raises :class:`InputError` when there are none, or one cannot be read.
    """
    paths = sorted((data / "bsds").glob("*/*.jpg"))
    if not paths:
        raise InputError("holds no bsds/*/*.jpg", where=str(data), hint="Give the folder that contains bsds/.")
    pairs: list[Pair] = []
    for path in paths:
        full = to_real(load_image(path))
        for shrink in shrinks:
            height, width = (int(extent * shrink) for extent in full.shape[:2])
            truth: Reals = luma(full if shrink == 1.0 else np.clip(resize(full, width, height), 0.0, 1.0))
            truth = crop_to_multiple(truth, SCALE)
            pairs.append((degrade(truth, SCALE).astype(np.float32), truth.astype(np.float32)))
    return pairs


def batches(pairs: list[Pair], recipe: Recipe, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Patches, flipped and turned; batch ``n`` is the same whether or not training was interrupted before it.

    Images smaller than a patch are left out; raises :class:`InputError` when none is left.
    """
    pairs = [(low, high) for low, high in pairs if min(low.shape) >= recipe.patch]
    if not pairs:
        raise InputError(
            f"every image is smaller than a patch of {SCALE * recipe.patch} pixels", hint="Give larger photographs."
        )
    sizes = np.array([low.size for low, _ in pairs], np.float64)
    for step in range(start, recipe.steps):
        rng = np.random.default_rng((recipe.seed, step))
        lows, highs = [], []
        for index in rng.choice(len(pairs), recipe.batch, p=sizes / sizes.sum()):
            low, high = pairs[index]
            y, x = (int(rng.integers(0, extent - recipe.patch + 1)) for extent in low.shape)
            turns, flip = int(rng.integers(4)), bool(rng.integers(2))
            cut = low[y : y + recipe.patch, x : x + recipe.patch]
            big = high[SCALE * y : SCALE * (y + recipe.patch), SCALE * x : SCALE * (x + recipe.patch)]
            cut, big = (np.rot90(part[:, ::-1] if flip else part, turns) for part in (cut, big))
            lows.append(cut)
            highs.append(big)
        yield torch.from_numpy(np.stack(lows)[:, None].copy()), torch.from_numpy(np.stack(highs)[:, None].copy())


def decibels(output: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean over ``[N, 1, H, W]``'s patches of the logarithm of the squared error, levelling out at 40 dB."""
    return torch.log(((output - truth) ** 2).mean(dim=(1, 2, 3)) + 1e-4).mean()


def train(
    pairs: list[Pair],
    recipe: Recipe,
    *,
    start: Sesr | None = None,
    kept: Checkpointing = Checkpointing(),
    data: Path | None = None,
) -> Sesr:
    """Train and return the network, from random weights or those of ``start``.

    The checkpoint of ``kept`` is written at every report. With ``data``, the folder of ``set5/*.png``, progress
    includes the quality on it. Raises :class:`InputError` for an unreadable checkpoint.
    """
    torch.manual_seed(recipe.seed)
    model = Sesr(LAYERS, SCALE)
    if start is None:
        model.start()
    else:
        model.load_state_dict(start.state_dict())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    run = TrainingRun(recipe, model, Soap(model.parameters(), lr=recipe.rate), kept)
    for step, (low, high) in enumerate(batches(pairs, recipe, run.first), start=run.first):
        phase = run.phase(step)
        if phase >= 1.0:
            break
        output = model(low)
        loss = decibels(output, high) if phase >= recipe.decibels_from else F.l1_loss(output, high)
        run.learn(step, phase, loss)
        if (step + 1) % recipe.report == 0:
            quality = f", Set5 Y-PSNR {quality_on_set5(run.average, data):.3f} dB" if data is not None else ""
            progress = f"step {step + 1}/{recipe.steps} ({phase:.0%}), loss {loss.item():.5f}"
            print(f"{progress}, {run.seconds:.0f} s{quality}", flush=True)
            run.save(step + 1)
    run.average.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return run.average.eval()


def quality_on_set5(net: torch.nn.Module, data: Path, scale: int = SCALE) -> float:
    """Mean Y-PSNR in dB of a luma network on ``data``/set5."""
    with torch.no_grad():
        return set5(lambda frame: net(torch.from_numpy(frame)).numpy(), data, scale)["mean"]


def save_weights(net: Sesr, path: Path) -> None:
    """Write the weights as ``.npz``, float32, whole or not at all."""
    with replaced(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **{name: value.contiguous().numpy() for name, value in net.state_dict().items()})


app = typer.Typer(add_completion=False)


@app.command()
def main(
    data: Annotated[Path, typer.Option(help="Folder with bsds/ and, to be measured on, set5/.")],
    out: Out,
    steps: Steps = Recipe.steps,
    minutes: Minutes = None,
    start: Start = None,
    resume: Resume = False,
    threads: Threads = 1,
) -> None:
    """Train SESR-M5 x2 and write its weights."""
    measured = data if (data / "set5").is_dir() else None
    with command(threads):
        recipe = Recipe(steps=steps, minutes=minutes)
        first = None if start is None else load(f"sesr_m{LAYERS}_x{SCALE}", start)
        assert first is None or isinstance(first, Sesr)
        kept = Checkpointing(out.with_suffix(".checkpoint"), resume)
        net = train(load_pairs(data, recipe.shrinks), recipe, start=first, kept=kept, data=measured)
        save_weights(net, out)
    if measured is not None:
        print(f"Set5 x{SCALE}: {quality_on_set5(net, measured):.3f} dB")


if __name__ == "__main__":
    app()
