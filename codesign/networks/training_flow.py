"""Trains ``flow_small`` on synthetic motion: ``python -m codesign.networks.training_flow --data DIR --out FILE``.

Every pair is made from two photographs: a background and a patch of another shape in front of it, each moving by a
random similarity and a smooth deformation, so that the true flow, occlusions included, is known (as in FlyingChairs;
Dosovitskiy et al., ICCV 2015). Photographs are ``DIR/bsds/train/*.jpg`` (BSDS500; Arbelaez et al., TPAMI 2011), or
without ``--data`` the four in scikit-image. Progress is measured on pairs made from ``DIR/bsds/val``. The loss is the
end-point error over all levels; the step falls along a cosine; the weights kept are an exponential average.

The shipped weights grew in two stages, one core each, minutes by the clock: 32 minutes with the defaults, then 23 with
``--start FIRST --side 224 --batch 4 --rate 1e-3 --reach 4 90 90``, which taught it long motion: its end-point error on
scikit-image's stereo pair fell from 35 to 7.9 pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import torch.nn.functional as F
import typer

from codesign.hw.files import replaced
from codesign.networks import load
from codesign.networks.flow_small import REACH, FlowSmall, Level, enlarged
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
from codesign.pictures.images import image_files, load_image

LEVEL_WEIGHTS = (0.1, 0.1, 0.15, 0.25, 0.4)
"""Weights in the loss of the errors of each level, coarsest first, and of the whole frame; in pixels of the frame."""


MATCHING, SHARPNESS = 0.3, 10.0
"""Weight of :func:`mismatch` in the loss, and the factor of the costs in its softmax."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a run; the same recipe gives the same weights on the same machine, but for ``minutes``."""

    steps: int = 4000
    minutes: float | None = None  # if set, training ends then at the latest, and the schedule follows the clock
    batch: int = 8
    side: int = 128  # pixels of a pair
    reach: float = 60.0  # largest motion, in pixels
    least_reach: float = 1.0
    first_reach: float = 12.0
    doubling: int = 1000  # steps in which the reach doubles
    rate: float = 2e-3
    final_rate: float = 1e-5
    warm_up: int = 100
    average: float = 0.998
    seed: int = 11
    report: int = 100  # steps between progress lines, and between checkpoints


@dataclass(frozen=True)
class Motion:
    """Pairs ``float32[N, 6, H, W]`` in [0, 1] and their flow ``[N, 2, H, W]``."""

    pairs: torch.Tensor
    flow: torch.Tensor


def photographs(folder: Path | None) -> list[torch.Tensor]:
    """Photographs as ``float32[1, 3, H, W]`` each. Raises :class:`InputError` for a folder without images."""
    if folder is None:
        from skimage import data

        pixels = [data.astronaut(), data.coffee(), data.chelsea(), data.rocket()]
    else:
        pixels = [load_image(path) for path in image_files(folder)]
    return [torch.from_numpy(np.asarray(image).transpose(2, 0, 1)[None].astype(np.float32) / 255.0) for image in pixels]


def _smooth(rng: np.random.Generator, side: int, cells: int, channels: int) -> torch.Tensor:
    """Noise of standard deviation 1 that varies over a ``cells``-th of the frame, ``[1, channels, side, side]``."""
    coarse = torch.from_numpy(rng.standard_normal((1, channels, cells + 3, cells + 3)).astype(np.float32))
    fine = F.interpolate(coarse, (side * (cells + 3) // cells,) * 2, mode="bicubic", align_corners=False)
    start = side // cells
    return fine[:, :, start : start + side, start : start + side]


def _flow(rng: np.random.Generator, side: int, reach: float) -> torch.Tensor:
    """A similarity about the middle, by about ``reach`` pixels, and a smooth deformation: ``[1, 2, side, side]``."""
    middle = (side - 1) / 2
    y, x = torch.meshgrid(torch.arange(side) - middle, torch.arange(side) - middle, indexing="ij")
    strength = reach / side
    angle, grow = rng.normal(0.0, 0.3 * strength), rng.normal(0.0, 0.3 * strength)
    move = rng.normal(0.0, 0.6 * reach, 2)
    across = grow * x - angle * y + move[0]
    down = angle * x + grow * y + move[1]
    bend = _smooth(rng, side, int(rng.integers(2, 6)), 2) * float(rng.exponential(0.08)) * reach
    return (torch.stack((across, down))[None] + bend).float()


def _seen(image: torch.Tensor, place: torch.Tensor) -> torch.Tensor:
    """``image[1, C, H, W]`` at ``place[1, 2, h, w]``, mirrored beyond its borders."""
    height, width = image.shape[2:]
    grid = torch.stack((2.0 * place[:, 0] / (width - 1) - 1.0, 2.0 * place[:, 1] / (height - 1) - 1.0), 3)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="reflection", align_corners=True)


def _grey(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Another exposure: contrast, brightness, gamma, colour, noise."""
    gain = torch.from_numpy(rng.normal(1.0, 0.05, (1, 3, 1, 1)).astype(np.float32)) * float(rng.normal(1.0, 0.1))
    image = torch.clamp(image * gain + float(rng.normal(0.0, 0.03)), 0.0, 1.0) ** float(np.exp(rng.normal(0.0, 0.1)))
    noise = torch.from_numpy(rng.standard_normal(image.shape).astype(np.float32)) * float(rng.exponential(0.01))
    return torch.clamp(image + noise, 0.0, 1.0)


def make_pair(images: Sequence[torch.Tensor], rng: np.random.Generator, side: int, least: float, most: float) -> Motion:
    """One pair. The second image is cut from a photograph, the first is sampled from it along the flow, by about
    ``least`` to ``most`` pixels."""
    base = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy")).float()[None]
    shape = _smooth(rng, side, int(rng.integers(2, 5)), 1)
    level = float(rng.normal(1.0, 0.5))
    first = second = flow = None
    for front in (False, True):
        image = images[int(rng.integers(len(images)))]
        if rng.integers(2):
            image = image.flip(3)
        zoom = float(np.exp(rng.normal(-0.1, 0.3)))
        offset = (
            torch.from_numpy(rng.random(2) * (np.array(image.shape[:1:-1]) - side * zoom)).float().reshape(1, 2, 1, 1)
        )
        moved = _flow(rng, side, float(np.exp(rng.uniform(np.log(least), np.log(most)))))
        there = _seen(image, base * zoom + offset)
        here = _seen(image, (base + moved) * zoom + offset)
        if not front or first is None or second is None or flow is None:
            first, second, flow = here, there, moved
            continue
        cover2 = torch.sigmoid(8.0 * (shape - level))
        cover1 = _seen(cover2, base + moved)
        second = second + cover2 * (there - second)
        first = first + cover1 * (here - first)
        flow = torch.where(cover1 > 0.5, moved, flow)
    assert first is not None
    assert second is not None
    assert flow is not None
    both = torch.cat((first, second), 1)
    return Motion(torch.cat((_grey(both[:, :3], rng), _grey(both[:, 3:], rng)), 1), flow)


def batch(images: Sequence[torch.Tensor], recipe: Recipe, step: int, count: int | None = None) -> Motion:
    """The pairs of a step: the same whether or not training was interrupted before it."""
    rng = np.random.default_rng((recipe.seed, step))
    reach = min(recipe.reach, recipe.first_reach * 2.0 ** min(step / recipe.doubling, 10.0))
    made = [make_pair(images, rng, recipe.side, recipe.least_reach, reach) for _ in range(count or recipe.batch)]
    return Motion(torch.cat([one.pairs for one in made]), torch.cat([one.flow for one in made]))


def error(estimate: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """Mean end-point error in pixels of the frame; a coarse ``estimate`` is compared with the means of ``truth``."""
    factor = truth.shape[3] // estimate.shape[3]
    coarse = F.avg_pool2d(truth, factor) if factor > 1 else truth
    gap = estimate * float(factor) - coarse
    return torch.sqrt((gap * gap).sum(1) + 1e-4).mean()


def mismatch(level: Level, truth: torch.Tensor) -> torch.Tensor:
    """Cross entropy of a cost volume and the remaining displacement, where that is within reach.

    Without it, matching features are found only by chance, and thousands of steps pass before the error falls.
    """
    coarse = F.avg_pool2d(truth, truth.shape[3] // level.flow.shape[3]) * (level.flow.shape[3] / truth.shape[3])
    left = torch.round(coarse - level.before.detach())
    within = (left.abs().amax(1) <= REACH).float()
    index = ((left[:, 1] + REACH) * (2 * REACH + 1) + left[:, 0] + REACH).clamp(0, (2 * REACH + 1) ** 2 - 1).long()
    entropy = F.cross_entropy(SHARPNESS * level.costs, index, reduction="none")
    return (entropy * within).sum() / within.sum().clamp_min(1.0)


def train(
    images: Sequence[torch.Tensor],
    recipe: Recipe,
    *,
    start: FlowSmall | None = None,
    held_out: Motion | None = None,
    kept: Checkpointing = Checkpointing(),
) -> FlowSmall:
    """Train and return the network, from random weights or those of ``start``.

    The checkpoint of ``kept`` is written at every report. Raises :class:`InputError` for an unreadable checkpoint.
    """
    torch.manual_seed(recipe.seed)
    model = FlowSmall()
    model.start()
    if start is not None:
        model.load_state_dict(start.state_dict())
    optimiser = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=1e-4)
    run = TrainingRun(recipe, model, optimiser, kept)
    for step in range(run.first, recipe.steps):
        phase = run.phase(step)
        if phase >= 1.0:
            break
        motion = batch(images, recipe, step)
        found = model.levels(motion.pairs)
        errors = [error(flow, motion.flow) for flow in (*(level.flow for level in found), enlarged(found[-1].flow))]
        loss = torch.stack([weight * one for weight, one in zip(LEVEL_WEIGHTS, errors, strict=True)]).sum()
        loss = loss + MATCHING * torch.stack([mismatch(level, motion.flow) for level in found]).sum()
        run.learn(step, phase, loss, clip_norm=5.0)
        if (step + 1) % recipe.report == 0:
            told = "" if held_out is None else f", held-out EPE {held_out_error(run.average, held_out):.3f} px"
            progress = f"step {step + 1} ({phase:.0%}), EPE {errors[-1].item():.3f} px"
            print(f"{progress}, {run.seconds:.0f} s{told}", flush=True)
            run.save(step + 1)
    return run.average.eval()


def held_out_error(net: torch.nn.Module, motion: Motion) -> float:
    """Mean end-point error of ``net`` in pixels."""
    with torch.no_grad():
        return float(torch.sqrt(((net(motion.pairs) - motion.flow) ** 2).sum(1)).mean())


def save_weights(net: torch.nn.Module, path: Path) -> None:
    """Write the weights as ``.npz``, float16, whole or not at all."""
    state: dict[str, Any] = {name: value.numpy().astype(np.float16) for name, value in net.state_dict().items()}
    with replaced(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, **state)


app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Out,
    data: Annotated[Path | None, typer.Option(help="Folder with bsds/train and bsds/val.")] = None,
    steps: Steps = Recipe.steps,
    minutes: Minutes = None,
    start: Start = None,
    side: Annotated[int, typer.Option(min=64, help="Pixels of a pair, a multiple of 32.")] = Recipe.side,
    count: Annotated[int, typer.Option("--batch", min=1, help="Pairs of a step.")] = Recipe.batch,
    rate: Annotated[float, typer.Option(help="The optimiser's first learning rate.")] = Recipe.rate,
    reach: Annotated[tuple[float, float, float], typer.Option(help="Motion in pixels: least, at first, at last.")] = (
        Recipe.least_reach,
        Recipe.first_reach,
        Recipe.reach,
    ),
    resume: Resume = False,
    threads: Threads = 1,
) -> None:
    """Train flow_small and write its weights."""
    least, at_first, at_last = reach
    recipe = Recipe(steps, minutes, count, side, at_last, least, at_first, rate=rate)
    with command(threads):
        images = photographs(None if data is None else data / "bsds" / "train")
        unseen = None
        if data is not None:
            shape = replace(recipe, seed=1, first_reach=recipe.reach)
            unseen = batch(photographs(data / "bsds" / "val"), shape, 0, 24)
        first = None if start is None else load("flow_small", start)
        assert first is None or isinstance(first, FlowSmall)
        kept = Checkpointing(out.with_suffix(".checkpoint"), resume)
        net = train(images, recipe, start=first, held_out=unseen, kept=kept)
        save_weights(net, out)
    if unseen is not None:
        print(f"held-out EPE {held_out_error(net, unseen):.3f} px, of mean {float(unseen.flow.norm(dim=1).mean()):.2f}")


if __name__ == "__main__":
    app()
