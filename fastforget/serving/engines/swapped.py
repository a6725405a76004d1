"""What all engines have in common that make a predictor for other weights, check it, and put it in place of the old."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from fastforget.classifier.compilation import eager
from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.modes import check_eval
from fastforget.classifier.running import forward
from fastforget.serving.engines.comparison import OutputComparison, copy_inputs, nudge_parameters
from fastforget.serving.engines.engine import Predictor

__all__ = ["Pinned", "Swapped", "parameter_names", "weights_of"]

PredictorT = TypeVar("PredictorT", bound=Predictor)


@dataclass(frozen=True, eq=False)
class Pinned(Generic[PredictorT]):
    """An engine as it predicts at one time, whatever is swapped later.

    Attributes:
        engine: The engine.
        predictor: What it ran then.
    """

    engine: Swapped[PredictorT]
    predictor: PredictorT

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict; arguments and result as for the model."""
        return self.engine.run(self.predictor, args, kwargs)

    def __eq__(self, other: object) -> bool:
        """Whether both run the same predictor."""
        return isinstance(other, Pinned) and self.predictor is other.predictor

    def __hash__(self) -> int:
        """Hash the predictor by what it is, not by what it holds."""
        return id(self.predictor)


class Swapped(ABC, Generic[PredictorT]):
    """An engine that runs a predictor made for the current weights, and swaps it for another one for other weights.

    Each runs on the example inputs before it is used, and must say what the eager model says. To swap is to assign an
    attribute; what the old predictor held is freed afterwards.

    Args:
        example: Inputs of the model, a tensor or a tuple or dict of what its forward takes. A few samples will do.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        ValueError: ``tolerance`` is not positive.
    """

    reuses: ClassVar[bool] = False  # see `PinningEngine`
    _predictor: PredictorT  # from `check` on

    def __init__(self, example: Inputs, tolerance: float) -> None:
        self._comparison = OutputComparison(example, tolerance)
        self._shapes: dict[str, tuple[Any, ...]] | None = None  # of the weights of the model that `check` accepted

    @abstractmethod
    def _adopt(self, model: nn.Module) -> PredictorT:
        """Return what runs the weights of the model now, after checking that it can be given others."""

    @abstractmethod
    def _rebuild(self, model: nn.Module) -> PredictorT:
        """Return another predictor, which runs the weights of the model and keeps nothing of its storage."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict; arguments and result as for the model."""
        return self.pinned()(*args, **kwargs)

    def pinned(self) -> Pinned[PredictorT]:
        """Return what predicts now; it keeps its weights when others are switched to.

        Returns:
            The predictor.

        Raises:
            RuntimeError: No model was checked before.
        """
        self._checked_shapes()
        return Pinned(self, self._predictor)

    def run(self, predictor: PredictorT, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Predict with one of its predictors.

        Args:
            predictor: The predictor.
            args: As the model takes them; likewise ``kwargs``.
            kwargs: By name.

        Returns:
            What the model would return.
        """
        return predictor(*args, **kwargs)

    def check(self, model: nn.Module) -> None:
        """Make sure that the engine runs the weights of a model, and that it would run others.

        It is shown by example: the outputs are compared with those of the model. Then all weights are made a little
        different, and the outputs for them are compared again.

        Args:
            model: The eager module, in eval mode.

        Raises:
            ValueError: It does not; says why and what to do.
        """
        source = eager(model)
        check_eval(source)
        predictor = self._adopt(source)
        expected = self._comparison.outputs(source)
        self._comparison.check(predictor, expected)
        other = copy.deepcopy(source)
        nudge_parameters(other)
        changed = self._comparison.outputs(other)
        self._comparison.check_distinct(changed, expected)
        self._comparison.check(self._rebuild(other), changed, before=expected)
        self._predictor, self._shapes = predictor, _weight_shapes(source)

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
        checked = self._checked_shapes()
        source = eager(model)
        check_eval(source)
        shapes = _weight_shapes(source)
        for name in sorted(shapes.keys() | checked.keys()):
            if shapes.get(name) != checked.get(name):
                raise ValueError(
                    f"`model` must be built like the one that was checked, got `{name}`: {shapes.get(name, 'none')} "
                    f"instead of {checked.get(name, 'none')}"
                )
        expected = self._comparison.outputs(source)
        made = self._rebuild(source)
        self._comparison.check(made, expected, before=self._comparison.outputs(self._predictor))

        def switch() -> None:
            nonlocal made
            self._predictor, made = made, self._predictor  # kept, since to free it can take longer than this

        return switch

    def _checked_shapes(self) -> dict[str, tuple[Any, ...]]:
        """Return shapes and dtypes of the weights of the model that was checked."""
        if self._shapes is None:
            raise RuntimeError("`check` must have accepted a model first")
        return self._shapes

    def _used_parameters(self, model: nn.Module, names: Sequence[str]) -> list[str]:
        """Return those of the named parameters on which the outputs for the example depend."""
        if not names:
            return []
        watched = copy.deepcopy(model).requires_grad_()
        parameters = dict(watched.named_parameters())
        with torch.enable_grad():
            outputs = tensors_of(forward(watched, copy_inputs(self._comparison.example)))
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
    """Return all names of each parameter, by its first one."""
    everything = list(model.named_parameters(remove_duplicate=False))
    return {first: {name for name, value in everything if value is own} for first, own in model.named_parameters()}


def _weight_shapes(model: nn.Module) -> dict[str, tuple[Any, ...]]:
    return {name: (tuple(value.shape), value.dtype) for name, value in weights_of(model).items()}
