"""What all engines have in common: make another callable for other weights, see that it works, change the handle."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastforget.batch import Inputs, forward, tensors_of
from fastforget.model import check_eval, eager
from fastforget.serving.engines.agreement import Agreement, Run, cloned, disturb

__all__ = ["Swapped", "parameter_names", "weights_of"]

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
        self._agreement = Agreement(example, tolerance)
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
        expected = self._agreement.outputs(source)
        self._agreement.check(running, expected)
        other = copy.deepcopy(source)
        disturb(other)
        changed = self._agreement.outputs(other)
        self._agreement.check_apart(changed, expected)
        self._agreement.check(self._make(other), changed, before=expected)
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
        expected = self._agreement.outputs(source)
        made = self._make(source)
        self._agreement.check(made, expected, before=self._agreement.outputs(self._running))

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
            outputs = tensors_of(forward(watched, cloned(self._agreement.example)))
            sums = [values.sum() for values in outputs if values.requires_grad]
            if not sums:
                return list(names)
            gradients = torch.autograd.grad(sums, [parameters[name] for name in names], allow_unused=True)
        return [name for name, gradient in zip(names, gradients, strict=True) if gradient is not None]


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers under all their names; a shared one has several."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    return parameters | dict(model.named_buffers(remove_duplicate=False))


def parameter_names(model: nn.Module) -> dict[str, set[str]]:
    """Return all names of each parameter by its first one."""
    everything = list(model.named_parameters(remove_duplicate=False))
    return {first: {name for name, value in everything if value is own} for first, own in model.named_parameters()}


def _layout(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in weights_of(model).items()}
