"""Assertions that tests share."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget import ops
from fastforget.classifier.inputs import split_samples
from fastforget.classifier.modes import recurrent_backward
from fastforget.classifier.running import forward
from fastforget.fisher import FisherDiagonal, fisher_diagonal
from fastforget.ops import _C, reference

TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 1e-5, torch.float16: 1e-5}

ON_DEVICE = _C.emulation or os.environ.get("FASTFORGET_TEST_DEVICE", "cpu") != "cpu"
# Mark of tests that expect an error for the values of tensors.
reads_data = pytest.mark.skipif(ON_DEVICE, reason="a device's data is not read by the host")


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5, name: str = "result") -> None:
    """Check that the norm of the difference is at most ``tolerance`` times the norm of the expected tensor."""
    assert actual.shape == expected.shape, name
    error, scale = (actual.double() - expected.double()).norm(), expected.double().norm()
    assert torch.isfinite(scale), name
    assert error <= tolerance * scale, f"{name}: relative error {float(error / scale):.2e}"


def assert_same_bits(actual: Tensor, expected: Tensor) -> None:
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    assert torch.equal(bits(actual), bits(expected))


def bits(tensor: Tensor) -> Tensor:
    """Return the bits of a tensor as integers, so that NaN equals NaN, and -0 differs from 0."""
    return (
        tensor.contiguous()
        .view(-1)
        .view({1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64, 16: torch.int64}[tensor.element_size()])
    )


def by_fault(faults: Mapping[str, Any], *data: str) -> list[Any]:
    """Return the names of faults as parameters of a test. Those in ``data`` are faults in the values of tensors."""
    return [pytest.param(fault, marks=reads_data if fault in data else ()) for fault in faults]


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, Tensor) else value for name, value in values.items()}


def _doubled(values: Mapping[str, Any]) -> dict[str, Any]:
    wide = lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v  # noqa: E731
    return {name: wide(value) for name, value in values.items()}


def assert_accumulates(name: str, operands: Mapping[str, Any], results: Mapping[str, Tensor | None]) -> None:
    """Check that an operator adds to its results what its float64 reference adds.

    Operands must not change, and the bits must be the same again, with one thread and with two.
    """
    before, tolerance = _copied(operands), TOLERANCE[operands["grad"].dtype]
    expected = _doubled(_copied(results))
    getattr(reference, name)(**_doubled(operands), **expected)
    runs = []
    for count in (1, 1, 2):
        actual = _copied(results)
        with threads(count):
            getattr(ops, name)(**operands, **actual)
        runs.append(actual)
    for key, value in expected.items():
        if value is not None:
            assert_close(runs[0][key], value, tolerance, f"{name} {key}")
            assert_same_bits(runs[1][key], runs[0][key])
            assert_same_bits(runs[2][key], runs[0][key])
    for key, value in before.items():
        if isinstance(value, Tensor):
            assert_same_bits(operands[key], value)


def assert_traceable(name: str, *args: Any) -> None:
    """Check an operator with ``torch.library.opcheck`` and in a whole graph of ``torch.compile``."""
    overload = getattr(torch.ops.fastforget, name).default
    torch.library.opcheck(overload, args)

    def copied() -> tuple[Any, ...]:
        return pytree.tree_map(lambda a: a.clone() if isinstance(a, Tensor) else a, args)

    def run(*values: Any) -> Any:
        result = overload(*values)
        return 0 if result is None else result

    torch.compiler.reset()
    eager, compiled = copied(), copied()
    expected = run(*eager)
    found = torch.compile(run, fullgraph=True, backend="aot_eager")(*compiled)
    pairs = zip(pytree.tree_leaves((found, compiled)), pytree.tree_leaves((expected, eager)), strict=True)
    for a, b in pairs:
        if isinstance(b, Tensor):
            assert_same_bits(a, b)


def prepared(build: Callable[[], nn.Module]) -> nn.Module:
    """Return a module in eval mode. All its parameters and buffers differ from their usual initial values."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_()
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


def square_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return a loss [N] for outputs [N, ...] of any shape and targets [N]."""
    return ((outputs.flatten(1) - targets[:, None]) ** 2).mean(1)


def batch_one_loop(
    model: nn.Module, inputs: Any, targets: Tensor, loss: Callable[..., Tensor], weights: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return weighted means of squared and plain gradients, one sample at a time, for weights [G, N]."""
    parameters = dict(model.named_parameters())
    fisher = {name: p.new_zeros((len(weights), *p.shape)) for name, p in parameters.items()}
    gradient = {name: p.new_zeros((len(weights), *p.shape)) for name, p in parameters.items()}
    shares = (weights / weights.sum(1, keepdim=True)).to(next(iter(parameters.values())).dtype)
    for n, (x, t) in enumerate(split_samples(inputs, targets, weights.shape[1])):
        with recurrent_backward(model):
            grads = torch.autograd.grad(loss(forward(model, x), t).sum(), list(parameters.values()), allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                fisher[name] += torch.einsum("g,...->g...", shares[:, n], grad**2)
                gradient[name] += torch.einsum("g,...->g...", shares[:, n], grad)
    return fisher, gradient


def assert_fisher(
    build: Callable[[], nn.Module],
    inputs: Any,
    targets: Tensor,
    *,
    loss: Callable[..., Tensor] = square_error,
    fallback: Iterable[str] = (),
    weights: Tensor | None = None,
    zero: Iterable[str] = (),
) -> FisherDiagonal:
    """Check ``fisher_diagonal`` in float32 against a float64 loop over single samples, to 1e-5 per tensor.

    Gradients are compared on the scale of the per-sample gradients, because their mean may cancel. Parameters in
    ``zero`` have no gradient in exact arithmetic, such as the bias of keys. Their results must be rounding only.
    """
    model = prepared(build)
    exact = build().eval()
    exact.load_state_dict(model.state_dict())
    wide = pytree.tree_map(
        lambda v: v.double() if isinstance(v, Tensor) and v.is_floating_point() else v, (inputs, targets)
    )
    rows = torch.ones(1, len(targets)) if weights is None else weights.reshape(-1, len(targets))
    fisher, gradient = batch_one_loop(exact.double(), *wide, loss, rows.double())
    found = fisher_diagonal(model, inputs, targets, loss=loss, weights=weights, with_gradient=True)
    assert set(found.fallback) == set(fallback), found.fallback
    assert list(found) == [name for name, _ in model.named_parameters()]
    assert found.gradient is not None
    largest = max(float(value.norm()) for value in fisher.values())
    for name, expected in fisher.items():
        if weights is None or weights.dim() == 1:
            expected, mean = expected[0], gradient[name][0]  # noqa: PLW2901
        else:
            mean = gradient[name]
        assert found[name].dtype == torch.float32
        if name in zero:
            assert expected.norm() < 1e-24 * largest
            assert found[name].norm() < 1e-12 * largest
            continue
        assert (found[name] - expected).norm() <= 1e-5 * expected.norm(), name
        assert (found.gradient[name] - mean).norm() <= 1e-5 * expected.sqrt().norm(), name
    return found
