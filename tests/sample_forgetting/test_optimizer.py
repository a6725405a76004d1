"""The default optimiser: steps whose length does not depend on the gradient's."""

import torch
from asserts import assert_close, assert_same_bits
from torch import Tensor

from fastforget.sample_forgetting.optimizer import NormalizedDescent


def parameters() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]


def gradients(step: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(step + 1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((3, 4), (5,))]


def run(steps: int, scale: float = 1.0) -> list[Tensor]:
    leaves = [value.requires_grad_() for value in parameters()]
    optimizer = NormalizedDescent(leaves, 0.1, 4, momentum=0.5)
    for step in range(steps):
        for leaf, gradient in zip(leaves, gradients(step), strict=True):
            leaf.grad = scale * gradient
        optimizer.step()
    return [leaf.detach() for leaf in leaves]


def test_the_formula() -> None:
    theta = torch.cat([value.flatten() for value in parameters()])
    norm, momentum = theta.norm(), torch.zeros_like(theta)
    for step in range(4):
        gradient = torch.cat([value.flatten() for value in gradients(step)])
        momentum = 0.5 * momentum + gradient / gradient.norm()
        theta = theta - 0.1 * (1 - step / 4) * norm * momentum
    assert_close(torch.cat([value.flatten() for value in run(4)]), theta, 1e-12)


def test_the_scale_of_gradients_does_not_matter() -> None:
    for one, other in zip(run(3), run(3, 2.0**-40), strict=True):
        assert_same_bits(one, other)


def test_after_the_last_step_nothing_moves() -> None:
    for one, other in zip(run(4), run(6), strict=True):
        assert_same_bits(one, other)


def test_without_a_gradient_it_stays() -> None:
    for one, other in zip(run(1, 0.0), parameters(), strict=True):
        assert_same_bits(one, other)


def test_a_closure_is_run() -> None:
    (leaf, _), calls = parameters(), []
    leaf.requires_grad_()
    optimizer = NormalizedDescent([leaf], 0.1, 4)

    def closure() -> float:
        calls.append(torch.is_grad_enabled())
        leaf.grad = torch.ones_like(leaf)
        return 3.0

    assert optimizer.step(closure) == 3.0
    assert calls == [True]
