"""What all engines have in common: make another callable for other weights, see that it works, change the handle."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, forward, tensors_of
from fastforget.model import check_eval, eager

__all__ = ["Run", "Swapped", "parameter_names", "weights_of"]

Run = Callable[..., Any]
RunT = TypeVar("RunT", bound=Run)


class Swapped(ABC, Generic[RunT]):
    """An engine that runs a callable made for the current weights, and changes to another one for others.

    Each is run on the example inputs before it is used, and must say what the eager model says. To switch is to assign
    an attribute; what the old callable held is freed afterwards.

    Args:
        example: Inputs of the model, a tensor or a tuple or dict of what its forward takes. A few samples will do.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        ValueError: ``tolerance`` is not positive.
    """

    _running: RunT  # from `check` on

    def __init__(self, example: Inputs, tolerance: float) -> None:
        if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 < tolerance < math.inf:
            raise ValueError(f"`tolerance` must be a positive number, got {tolerance!r}")
        self._example = _cloned(example)
        self._tolerance = float(tolerance)
        self._layout: dict[str, tuple[Any, ...]] | None = None  # of the model that `check` accepted

    @abstractmethod
    def _first(self, model: nn.Module) -> RunT:
        """Return what runs the weights of the model now, after checking that it can be given others."""

    @abstractmethod
    def _make(self, model: nn.Module) -> RunT:
        """Return another callable, which runs the weights of the model and keeps nothing of its storage."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict; arguments and result as for the model."""
        self._need_check()
        return self._running(*args, **kwargs)

    def check(self, model: nn.Module) -> None:
        """Make sure that the engine runs the weights of a model, and that it would run others.

        It is shown by example: the outputs are compared with those of the model; then it is made to run weights that
        are all a little different, and the outputs are compared again.

        Args:
            model: The eager module, in eval mode.

        Raises:
            ValueError: It does not; says why and what to do.
        """
        source = eager(model)
        check_eval(source)
        running = self._first(source)
        expected = self._outputs(source)
        self._compare(running, expected)
        other = _disturbed(source)
        changed = self._outputs(other)
        if self._distance(changed, expected) < 2:
            raise ValueError("`example` must be inputs whose outputs depend on the weights; they hardly do")
        self._compare(self._make(other), changed, before=expected)
        self._running, self._layout = running, _layout(source)

    def stage(self, model: nn.Module) -> Callable[[], None]:
        """Prepare to run the weights of a model, while predictions go on with the old ones.

        Args:
            model: An eager module with the architecture of the one that was checked.

        Returns:
            What switches to them, by assigning an attribute; to be called once, before anything else is staged. What
            ran before is freed with it.

        Raises:
            RuntimeError: No model was checked before.
            ValueError: It cannot run them, or not with the outputs of the model; nothing has changed.
        """
        checked = self._need_check()
        source = eager(model)
        check_eval(source)
        layout = _layout(source)
        for name in sorted(layout.keys() | checked.keys()):
            if layout.get(name) != checked.get(name):
                raise ValueError(
                    f"`model` must be built like the one that was checked, got `{name}`: {layout.get(name, 'none')} "
                    f"instead of {checked.get(name, 'none')}"
                )
        expected = self._outputs(source)
        made = self._make(source)
        self._compare(made, expected, before=self._outputs(self._running))

        def switch() -> None:
            nonlocal made
            self._running, made = made, self._running  # kept, since to free it can take longer than this

        return switch

    def _need_check(self) -> dict[str, tuple[Any, ...]]:
        """Return the layout of the model that was checked."""
        if self._layout is None:
            raise RuntimeError("`check` must have accepted a model first")
        return self._layout

    def _used(self, model: nn.Module, names: Sequence[str]) -> list[str]:
        """Return those of the named parameters that the outputs on the example depend on."""
        if not names:
            return []
        watched = copy.deepcopy(model).requires_grad_()
        parameters = dict(watched.named_parameters())
        with torch.enable_grad():
            outputs = tensors_of(forward(watched, _cloned(self._example)))
            sums = [values.sum() for values in outputs if values.requires_grad]
            if not sums:
                return list(names)
            gradients = torch.autograd.grad(sums, [parameters[name] for name in names], allow_unused=True)
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]

    def _outputs(self, run: Run) -> list[Tensor]:
        with torch.no_grad():
            return tensors_of(forward(run, _cloned(self._example)))

    def _compare(self, run: Run, expected: list[Tensor], before: list[Tensor] | None = None) -> None:
        """Raise ValueError unless outputs are the expected ones; tells if they are those from before."""
        if any(bool(values.isnan().any()) for values in expected):
            raise ValueError("`model` must give numbers for the example inputs, got NaN")
        try:
            found = self._outputs(run)
        except Exception as error:
            raise ValueError(f"the engine must take the example inputs: {error}") from error
        shapes = [[tuple(values.shape) for values in outputs] for outputs in (found, expected)]
        if shapes[0] != shapes[1]:
            raise ValueError(f"outputs must have shapes {shapes[1]}, as those of the eager model, got {shapes[0]}")
        distance = self._distance(found, expected)
        if distance <= 1:
            return
        if before is not None and self._distance(found, before) <= 1:
            raise ValueError("the engine must run the weights it is given, got the outputs of those from before")
        raise ValueError(
            f"outputs must be those of the eager model within {self._tolerance:g}, got a difference of "
            f"{distance * self._tolerance:.2g}: other weights, or less precise arithmetic (then allow it: `tolerance`)"
        )

    def _distance(self, found: list[Tensor], expected: list[Tensor]) -> float:
        """Return the largest difference in units of the tolerance; infinite for NaN."""
        largest = 0.0
        for values, right in zip(found, expected, strict=True):
            a, b = values.double().cpu(), right.double().cpu()
            # Equal infinities are no difference: models mask classes with them.
            ratios = torch.where(a == b, 0.0, (a - b).abs() / (self._tolerance * (1 + b.abs())))
            largest = max(largest, float(ratios.nan_to_num(nan=math.inf).max()) if ratios.numel() else 0.0)
        return largest


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under all their names; a shared one has several."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def parameter_names(model: nn.Module) -> dict[str, set[str]]:
    """Return all names of each parameter by its first one."""
    everything = list(model.named_parameters(remove_duplicate=False))
    return {first: {name for name, value in everything if value is own} for first, own in model.named_parameters()}


def _cloned(inputs: Inputs) -> Any:
    """Return a copy: a model may write to its inputs."""
    return pytree.tree_map(lambda value: value.detach().clone() if isinstance(value, Tensor) else value, inputs)


def _layout(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in weights_of(model).items()}


def _disturbed(model: nn.Module) -> nn.Module:
    """Return a copy in which every parameter is a little different."""
    made, generator = copy.deepcopy(model), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in filter(torch.is_floating_point, made.parameters()):
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            size = float(parameter.float().square().mean().sqrt()) if parameter.numel() else 0.0
            parameter.add_(noise, alpha=0.1 * size or 0.01)
    return made
