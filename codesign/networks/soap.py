"""SOAP: Adam in the eigenbasis of Shampoo's preconditioner (Vyas et al., ICLR 2025).

A kernel is the matrix of its outputs by its inputs and taps. The covariances of its gradient on both sides show which
directions move together; Adam runs on the gradient turned into their eigenvectors. For networks of a few thousand
weights that costs next to nothing beside the convolutions, and a step is worth about two of Adam's.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch


class Soap(torch.optim.Optimizer):
    """SOAP for small networks on one device; weights of fewer than two dimensions get plain Adam.

    ``memory``: decay of the averages of the gradient, its square and its covariances. ``refresh``: steps between
    updates of the eigenvectors, each one round of the power method.
    """

    def __init__(
        self, weights: Iterable[torch.nn.Parameter], lr: float = 3e-3, memory: float = 0.95, refresh: int = 10
    ) -> None:
        super().__init__(weights, {"lr": lr, "memory": memory, "refresh": refresh})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """One update from the gradients; the very first only measures their covariances."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["memory"], group["refresh"])

    def _update(self, weight: torch.Tensor, rate: float, memory: float, refresh: int) -> None:
        assert weight.grad is not None
        gradient = weight.grad.reshape(weight.shape[0], -1)
        turned = weight.ndim > 1
        state: dict[str, Any] = self.state[weight]
        if not state:
            state["step"] = 0
            state["mean"], state["square"] = torch.zeros_like(gradient), torch.zeros_like(gradient)
            if turned:
                state["left"], state["right"] = gradient @ gradient.T, gradient.T @ gradient
                state["left_basis"], state["right_basis"] = _eigenvectors(state["left"]), _eigenvectors(state["right"])
            return
        state["step"] += 1
        state["mean"].lerp_(gradient, 1.0 - memory)
        mean = state["mean"]
        if turned:
            left, right = state["left_basis"], state["right_basis"]
            mean, moved = left.T @ mean @ right, left.T @ gradient @ right
        else:
            moved = gradient
        state["square"].lerp_(moved * moved, 1.0 - memory)
        correction = 1.0 - memory ** state["step"]
        update = (mean / correction) / ((state["square"] / correction).sqrt() + 1e-12)
        if turned:
            update = left @ update @ right.T
        weight.add_(update.reshape(weight.shape), alpha=-rate)
        if turned:
            state["left"].lerp_(gradient @ gradient.T, 1.0 - memory)
            state["right"].lerp_(gradient.T @ gradient, 1.0 - memory)
            if state["step"] % refresh == 0:
                for side, axis in (("left", 0), ("right", 1)):
                    basis, covariance = state[f"{side}_basis"], state[side]
                    order = (basis * (covariance @ basis)).sum(dim=0).argsort(descending=True)
                    state["square"] = state["square"].index_select(axis, order)
                    state[f"{side}_basis"] = torch.linalg.qr(covariance @ basis[:, order])[0]


def _eigenvectors(covariance: torch.Tensor) -> torch.Tensor:
    """Eigenvectors as columns, largest eigenvalue first."""
    vectors: torch.Tensor = torch.linalg.eigh(covariance)[1]
    return vectors.flip(1)
