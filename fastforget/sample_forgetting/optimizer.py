"""The default optimiser of `learn_to_unlearn`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

__all__ = ["NormalizedDescent"]


class NormalizedDescent(torch.optim.Optimizer):
    r"""Descent by steps whose length does not depend on the length of the gradient.

    ::

        m <- momentum m + g / |g|
        theta <- theta - lr (1 - n / steps) |theta_0| m         in step n = 0, 1, ... steps - 1

    Norms are over all parameters together. Gradients differ by orders of magnitude from model to model, and from the
    first step to the last, where they nearly vanish. Weights do not, so the length of a step is a share of their norm.
    Steps get shorter so that the parameters settle where they would otherwise waver.

    Args:
        params: The parameters.
        lr: Length of the first step as a share of the norm of the parameters.
        steps: After how many steps the length is zero.
        momentum: In [0, 1).
    """

    def __init__(self, params: Iterable[Tensor], lr: float, steps: int, momentum: float = 0.9) -> None:
        leaves = list(params)
        super().__init__(leaves, {"lr": lr, "norm": float(_norm(leaves)), "steps": steps, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take a step down the gradients.

        Args:
            closure: Runs the model again and returns the loss, as for other optimisers.

        Returns:
            The loss that ``closure`` returned, if it is given.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            leaves = [leaf for leaf in group["params"] if leaf.grad is not None]
            norm = _norm([leaf.grad for leaf in leaves])
            scale = torch.where(norm > 0, 1 / norm, 0.0)
            for leaf in leaves:
                state = self.state[leaf]
                if not state:
                    state["step"], state["momentum"] = torch.zeros((), device="cpu"), torch.zeros_like(leaf)
                state["momentum"].mul_(group["momentum"]).add_(leaf.grad * scale.to(leaf))
                remaining = max(0.0, 1 - float(state["step"]) / group["steps"])
                leaf.add_(state["momentum"], alpha=-group["lr"] * group["norm"] * remaining)
                state["step"] += 1
        return loss


def _norm(tensors: list[Tensor]) -> Tensor:
    """Return the norm of all elements together, float64."""
    if not tensors:
        return torch.tensor(math.nan, device="cpu")
    return torch.stack([tensor.detach().double().square().sum() for tensor in tensors]).sum().sqrt()
