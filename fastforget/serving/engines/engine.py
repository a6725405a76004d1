"""What a live model asks of whatever runs its weights in a form of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

from torch import nn

__all__ = ["Engine", "PinningEngine", "Predictor"]

Predictor = Callable[..., Any]  # arguments and result as for the model


@runtime_checkable
class Engine(Protocol):
    """Runs the weights of a model in a form of its own, which does not see an edit in place.

    Edits are worked out on the eager model; the engine predicts. It is asked to prepare for edited weights while it
    predicts with the old ones, and to switch when no prediction is inside.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, from any number of threads; arguments and result as for the model."""
        ...

    def check(self, model: nn.Module) -> None:
        """Make sure that the engine runs the weights of a model.

        Args:
            model: The eager module, in eval mode.

        Raises:
            ValueError: It does not, or could not take others; says why and what to do.
        """
        ...

    def stage(self, model: nn.Module) -> Callable[[], None]:
        """Prepare to run the weights of a model, while predictions go on with the old ones.

        Args:
            model: An eager module of the same architecture. Nothing of its storage is kept.

        Returns:
            What switches to them: short, and without failure. It is called once, when no prediction is inside and
            before anything else is staged. If it is never called, nothing has changed. It may hold what ran before, so
            let go of it when predictions go on.

        Raises:
            ValueError: It cannot run them; nothing has changed.
        """
        ...


@runtime_checkable
class PinningEngine(Engine, Protocol):
    """An engine whose predictors hold weights of their own, so that old and new ones run side by side.

    What `stage` returned may then be called while predictions are inside: they end with the weights with which they
    began. No prediction waits for an edit.

    Attributes:
        reuses: Whether `stage` writes into the predictor before the current one: no prediction may be inside that one.
    """

    reuses: bool

    def pinned(self) -> Predictor:
        """Return what predicts now; it keeps its weights when others are switched to.

        Returns:
            The predictor; equal to what was returned before, until others are switched to.
        """
        ...
