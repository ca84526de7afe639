"""Trains SESR-M5 x2 on a folder of photographs: ``python -m codesign.networks.training --data DIR --out FILE``.

``DIR`` holds ``bsds/train/*.jpg`` and ``bsds/val/*.jpg`` (BSDS500; Arbelaez et al., TPAMI 2011) and, to be measured on,
``set5/*.png``. The low-resolution patches are made as the evaluation makes its input. Adam on L1 with a cosine, then on
L2, which is what PSNR measures; the weights kept are an exponential average.
"""

from __future__ import annotations

import copy
import math
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

from codesign.hw.errors import InputError
from codesign.hw.files import replaced
from codesign.images import Reals, crop_to_multiple, load_image, luma, resize, to_real
from codesign.metrics import degrade, set5
from codesign.networks.sesr import Sesr, TrainableSesr

SCALE = 2
LAYERS = 5


@dataclass(frozen=True)
class Recipe:
    """What a run does; the same recipe gives the same weights on the same machine."""

    steps: int = 40_000
    batch: int = 16
    patch: int = 48  # low-resolution pixels a side
    rate: float = 1.5e-3
    final_rate: float = 1e-6
    squared_from: float = 0.6  # share of the steps after which the loss is L2
    average: float = 0.999
    hidden: int = 128
    seed: int = 7


Pair = tuple[NDArray[np.float32], NDArray[np.float32]]


def load_pairs(data: Path) -> list[Pair]:
    """Low- and high-resolution luma of every photograph, and of copies shrunk to 0.8 and 0.6."""
    paths = sorted((data / "bsds").glob("*/*.jpg"))
    if not paths:
        raise InputError("holds no bsds/*/*.jpg", where=str(data))
    pairs: list[Pair] = []
    for path in paths:
        full = to_real(load_image(path))
        for shrink in (1.0, 0.8, 0.6):
            height, width = (int(extent * shrink) for extent in full.shape[:2])
            truth: Reals = luma(full if shrink == 1.0 else np.clip(resize(full, width, height), 0.0, 1.0))
            truth = crop_to_multiple(truth, SCALE)
            pairs.append((degrade(truth, SCALE).astype(np.float32), truth.astype(np.float32)))
    return pairs


def batches(pairs: list[Pair], recipe: Recipe, start: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Patches, flipped and turned; batch ``n`` is the same whether or not training was interrupted before it."""
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


def train(pairs: list[Pair], recipe: Recipe, checkpoint: Path | None = None, data: Path | None = None) -> Sesr:
    """Train and return the collapsed network. ``checkpoint`` is written now and then, and resumed from if there."""
    torch.manual_seed(recipe.seed)
    model = TrainableSesr(LAYERS, SCALE, hidden=recipe.hidden)
    average = copy.deepcopy(model)
    optimiser = torch.optim.Adam(model.parameters(), lr=recipe.rate)
    first = 0
    if checkpoint is not None and checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimiser.load_state_dict(state["optimiser"])
        first = int(state["step"])
    began = time.monotonic()
    for step, (low, high) in enumerate(batches(pairs, recipe, first), start=first):
        phase = step / recipe.steps
        rate = recipe.final_rate + (recipe.rate - recipe.final_rate) * 0.5 * (1.0 + math.cos(math.pi * phase))
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200)
        output = model(low)
        squared = phase >= recipe.squared_from
        loss = F.mse_loss(output, high) * 30.0 if squared else F.l1_loss(output, high)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimiser.step()
        keep = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(average.parameters(), model.parameters(), strict=True):
                mean.lerp_(value, 1.0 - keep)
        if (step + 1) % 1000 == 0:
            _report(step + 1, recipe, float(loss), time.monotonic() - began, average, data)
            if checkpoint is not None:
                with replaced(checkpoint) as temporary:
                    torch.save(
                        {"model": model.state_dict(), "average": average.state_dict(),
                         "optimiser": optimiser.state_dict(), "step": step + 1},
                        temporary,
                    )  # fmt: skip
    return average.collapse()


def _report(step: int, recipe: Recipe, loss: float, seconds: float, average: TrainableSesr, data: Path | None) -> None:
    quality = ""
    if data is not None and (data / "set5").is_dir():
        net = average.collapse()
        with torch.no_grad():
            score = set5(lambda x: net(torch.from_numpy(x)).numpy(), data, SCALE)["mean"]
        quality = f", Set5 Y-PSNR {score:.3f} dB"
    print(f"step {step}/{recipe.steps}, loss {loss:.5f}, {seconds:.0f} s{quality}", flush=True)


def save_weights(net: Sesr, path: Path) -> None:
    """Write the collapsed weights as ``.npz``, whole or not at all."""
    with replaced(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **{name: value.numpy() for name, value in net.state_dict().items()})


def main(
    data: Annotated[Path, typer.Option(help="Folder with bsds/ and set5/.")],
    out: Annotated[Path, typer.Option(help="The .npz to write.")],
    steps: Annotated[int, typer.Option(help="Steps of training.")] = Recipe.steps,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 1,
) -> None:
    """Train SESR-M5 x2 and write its collapsed weights."""
    torch.set_num_threads(threads)
    net = train(load_pairs(data), Recipe(steps=steps), checkpoint=out.with_suffix(".checkpoint"), data=data)
    save_weights(net, out)


if __name__ == "__main__":
    typer.run(main)
