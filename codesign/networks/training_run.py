"""A training that can be interrupted: the schedule, the averaged weights, the checkpoint; and its command's options."""

from __future__ import annotations

import contextlib
import copy
import math
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Generic, Protocol, TypeVar

import torch
import typer

from codesign.hw.errors import CodesignError, InputError
from codesign.hw.files import replaced

Minutes = Annotated[float | None, typer.Option(min=0.0, help="Finish within this time instead.")]
Start = Annotated[Path | None, typer.Option(help="Weights to start from instead of random ones.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue from the checkpoint beside --out.")]
Threads = Annotated[int, typer.Option(min=1, help="CPU threads.")]
Out = Annotated[Path, typer.Option(help="The .npz to write.")]
Steps = Annotated[int, typer.Option(min=1, help="Steps of training.")]


class Schedule(Protocol):
    """The part of a recipe that every training has."""

    @property
    def steps(self) -> int: ...
    @property
    def minutes(self) -> float | None:
        """If set, training ends then at the latest, and the schedule follows the clock."""

    @property
    def rate(self) -> float: ...
    @property
    def final_rate(self) -> float: ...
    @property
    def warm_up(self) -> int:
        """Steps in which the rate grows from 0."""

    @property
    def average(self) -> float:
        """Share of the averaged weights that each step keeps."""

    @property
    def report(self) -> int:
        """Steps between progress lines, and between checkpoints."""


@dataclass(frozen=True)
class Checkpointing:
    """The file that a training is continued from, if it is kept at all."""

    path: Path | None = None
    resume: bool = False


_M = TypeVar("_M", bound=torch.nn.Module)


class TrainingRun(Generic[_M]):
    """A model that is trained by ``optimiser``, and the exponential average of its weights.

    Raises :class:`InputError` for an unreadable checkpoint.
    """

    def __init__(
        self, recipe: Schedule, model: _M, optimiser: torch.optim.Optimizer, kept: Checkpointing = Checkpointing()
    ) -> None:
        self.recipe, self.model, self.optimiser, self.kept = recipe, model, optimiser, kept
        self.average = copy.deepcopy(model)
        self.first, spent = self._resumed() if kept.path is not None and kept.resume else (0, 0.0)
        self.began = time.monotonic() - spent

    @property
    def seconds(self) -> float:
        """Time spent, that of the runs before an interruption included."""
        return time.monotonic() - self.began

    def phase(self, step: int) -> float:
        """Share of the training that is done, by steps or by the clock."""
        phase = step / self.recipe.steps
        if self.recipe.minutes is not None:
            phase = max(phase, self.seconds / (60.0 * self.recipe.minutes))
        return min(phase, 1.0)

    def learn(self, step: int, phase: float, loss: torch.Tensor, *, clip_norm: float | None = None) -> None:
        """One step down the gradient of ``loss``; the rate falls along a cosine."""
        recipe = self.recipe
        rate = recipe.final_rate + (recipe.rate - recipe.final_rate) * 0.5 * (1.0 + math.cos(math.pi * phase))
        for group in self.optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / recipe.warm_up)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        if clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), clip_norm)
        self.optimiser.step()
        keep = min(recipe.average, (step + 1) / (step + 10))
        with torch.no_grad():
            for mean, value in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(value, 1.0 - keep)

    def save(self, step: int) -> None:
        """Write the checkpoint, whole or not at all, after ``step`` steps."""
        if self.kept.path is None:
            return
        with replaced(self.kept.path) as temporary:
            torch.save(
                {
                    "model": self.model.state_dict(),
                    "average": self.average.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "step": step,
                    "seconds": self.seconds,
                },
                temporary,
            )

    def _resumed(self) -> tuple[int, float]:
        """The next step and the seconds spent."""
        path = self.kept.path
        assert path is not None
        try:
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            return int(state["step"]), float(state["seconds"])
        except FileNotFoundError as missing:
            raise InputError("no such checkpoint", where=str(path), hint="Start without --resume.") from missing
        except Exception as broken:  # readers of foreign files raise anything
            raise InputError(
                "is not a checkpoint of this network", where=str(path), hint="Start without --resume."
            ) from broken


@contextlib.contextmanager
def command(threads: int) -> Iterator[None]:
    """The body of a training command: torch on ``threads`` threads, and known errors as a message and exit code 2."""
    torch.set_num_threads(threads)
    try:
        yield
    except CodesignError as failure:
        print(failure, file=sys.stderr)
        raise typer.Exit(2) from failure
