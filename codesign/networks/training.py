"""Trains SESR-M5 x2 on a folder of photographs: ``python -m codesign.networks.training --data DIR --out FILE``.

``DIR`` holds ``bsds/train/*.jpg`` and ``bsds/val/*.jpg`` (BSDS500; Arbelaez et al., TPAMI 2011) and, to be measured on,
``set5/*.png``. The low-resolution patches are made as the evaluation makes its input. The loss is L1, then the mean
over patches of the squared error in dB, as quality is averaged over images; the step falls along a cosine; the weights
kept are an exponential average. Patches are large: of one of 48 pixels a side, the network sees most through the zeros
beyond its border, which photographs have little of, and it learns too much about them.

The paper trains wide linear blocks with Adam and collapses them. Here the collapsed kernels are trained themselves,
with SOAP: Set5 stood at 36.76 dB after 1000 steps, where Adam on linear blocks stood after 2000.

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

import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from numpy.typing import NDArray
from torch.nn import functional as F

from codesign.hw.errors import CodesignError, InputError
from codesign.hw.files import replaced
from codesign.metrics import degrade, set5
from codesign.networks import load
from codesign.networks.sesr import Sesr
from codesign.networks.soap import Soap
from codesign.pictures.images import Reals, crop_to_multiple, load_image, luma, resize, to_real

SCALE = 2
LAYERS = 5


@dataclass(frozen=True)
class Recipe:
    """What a run does; the same recipe gives the same weights on the same machine."""

    steps: int = 16_000
    batch: int = 3
    patch: int = 152  # low-resolution pixels a side
    rate: float = 3e-3
    final_rate: float = 1e-5
    warm_up: int = 200
    decibels_from: float = 0.4  # share of the training after which the loss is in dB
    shrinks: tuple[float, ...] = (1.0, 0.95)  # of the photographs
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
        raise InputError("holds no bsds/*/*.jpg", where=str(data))
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
    checkpoint: Path | None = None,
    resume: bool = False,
    data: Path | None = None,
) -> Sesr:
    """Train and return the network, from random weights or those of ``start``.

    ``checkpoint`` is written at every report, and continued from with ``resume``. With ``data``, the folder of
    ``set5/*.png``, progress includes the quality on it. Raises :class:`InputError` for an unreadable checkpoint.
    """
    torch.manual_seed(recipe.seed)
    model = Sesr(LAYERS, SCALE)
    if start is None:
        model.start()
    else:
        model.load_state_dict(start.state_dict())
    model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    average = copy.deepcopy(model)
    optimiser = Soap(model.parameters(), lr=recipe.rate)
    first, spent = 0, 0.0
    if checkpoint is not None and resume:
        try:
            state = torch.load(checkpoint, weights_only=True)
            model.load_state_dict(state["model"])
            average.load_state_dict(state["average"])
            optimiser.load_state_dict(state["optimiser"])
            first, spent = int(state["step"]), float(state["seconds"])
        except FileNotFoundError as error:
            raise InputError("no such checkpoint", where=str(checkpoint), hint="Start without --resume.") from error
        except Exception as error:  # readers of foreign files raise anything
            raise InputError("is not a checkpoint of this network", where=str(checkpoint)) from error
    began = time.monotonic() - spent
    for step, (low, high) in enumerate(batches(pairs, recipe, first), start=first):
        seconds = time.monotonic() - began
        phase = step / recipe.steps
        if recipe.minutes is not None:
            phase = max(phase, seconds / (60.0 * recipe.minutes))
            if phase >= 1.0:
                break
        rate = recipe.final_rate + (recipe.rate - recipe.final_rate) * 0.5 * (1.0 + math.cos(math.pi * phase))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / recipe.warm_up)
        output = model(low)
        loss = decibels(output, high) if phase >= recipe.decibels_from else F.l1_loss(output, high)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        keep = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1.0 - keep)
        if (step + 1) % recipe.report == 0:
            _report(step + 1, recipe, phase, loss.item(), seconds, average, data)
            if checkpoint is not None:
                with replaced(checkpoint) as temporary:
                    torch.save(
                        {
                            "model": model.state_dict(),
                            "average": average.state_dict(),
                            "optimiser": optimiser.state_dict(),
                            "step": step + 1,
                            "seconds": seconds,
                        },
                        temporary,
                    )
    average.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    return average.eval()


def _report(step: int, recipe: Recipe, phase: float, loss: float, seconds: float, net: Sesr, data: Path | None) -> None:
    quality = f", Set5 Y-PSNR {quality_on_set5(net, data):.3f} dB" if data is not None else ""
    print(f"step {step}/{recipe.steps} ({phase:.0%}), loss {loss:.5f}, {seconds:.0f} s{quality}", flush=True)


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
    out: Annotated[Path, typer.Option(help="The .npz to write.")],
    steps: Annotated[int, typer.Option(min=1, help="Steps of training.")] = Recipe.steps,
    minutes: Annotated[float | None, typer.Option(min=0.0, help="Finish within this time instead.")] = None,
    start: Annotated[Path | None, typer.Option(help="Weights to start from instead of random ones.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint beside --out.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
) -> None:
    """Train SESR-M5 x2 and write its weights."""
    torch.set_num_threads(threads)
    measured = data if (data / "set5").is_dir() else None
    checkpoint = out.with_suffix(".checkpoint")
    try:
        recipe = Recipe(steps=steps, minutes=minutes)
        first = None if start is None else load(f"sesr_m{LAYERS}_x{SCALE}", start)
        assert first is None or isinstance(first, Sesr)
        pairs = load_pairs(data, recipe.shrinks)
        net = train(pairs, recipe, start=first, checkpoint=checkpoint, resume=resume, data=measured)
        save_weights(net, out)
    except CodesignError as error:
        print(error, file=sys.stderr)
        raise typer.Exit(2) from error
    if measured is not None:
        print(f"Set5 x{SCALE}: {quality_on_set5(net, measured):.3f} dB")


if __name__ == "__main__":
    app()
