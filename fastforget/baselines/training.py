"""What the baselines share: passes over batches, an edit that is undone by an error, and steps through a mask."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.batch import Inputs, batch_size, forward, logits_of
from fastforget.model import eager, recurrent_backward, reproducible

__all__ = [
    "Batches",
    "MaskedStep",
    "again",
    "classifier",
    "descend",
    "divergence",
    "editing",
    "layers",
    "outputs",
    "paired",
    "step",
    "trained_parameters",
    "wrong_labels",
]

Batches: TypeAlias = Iterable[tuple[Any, Tensor]]
Loss: TypeAlias = Callable[[Inputs, Tensor], Tensor]
_COUNTS = ("epochs", "k", "max_epochs", "noise_steps", "seed")
_MAYBE_ZERO = ("alpha", "gamma", "max_epochs", "noise_steps", "penalty", "seed")


def again(batches: Batches) -> Batches:
    """Return batches that can be gone through more than once: what may not be is kept."""
    return batches if isinstance(batches, Sized) else list(batches)


@contextmanager
def editing(model: nn.Module, seed: int, *, train: bool = True, **settings: float) -> Iterator[nn.Module]:
    """Edit a model with a random state of its own; afterwards every module is in its mode again, without gradients.

    Args:
        model: The model; what is behind it is edited where it is compiled.
        seed: Of the random state, which is put back.
        train: Whether modules are in train mode meanwhile, as in the methods' papers: batch norms learn.
        settings: The method's, by name, to be checked before.

    Yields:
        The eager module.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has a wrong value, or a parameter is not finite in the end.
    """
    model = eager(model)
    _check_settings({"seed": seed, **settings})
    modes = {module: module.training for module in model.modules()}
    values = [*model.parameters(), *model.buffers()]
    before = [value.detach().clone() for value in values]
    with reproducible(model, seed):
        try:
            model.train(train)
            with recurrent_backward(model):
                yield model
            _check_finite(model)
        except BaseException:
            with torch.no_grad():
                for value, old in zip(values, before, strict=True):
                    value.copy_(old)
            raise
        finally:
            for parameter in model.parameters():
                parameter.grad = None
            for module, mode in modes.items():
                module.training = mode


def _check_settings(settings: Mapping[str, float]) -> None:
    for name, value in settings.items():
        kinds = (int,) if name in _COUNTS else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            raise TypeError(f"`{name}` must be {'an integer' if name in _COUNTS else 'a number'}, got {value!r}")
        zero = name in _MAYBE_ZERO
        if not (value >= 0 if zero else value > 0) or value == math.inf:
            raise ValueError(f"`{name}` must be {'at least 0' if zero else 'positive'}, got {value}")
        if name == "share" and value > 1:
            raise ValueError(f"`{name}` must be at most 1, got {value}")


def _check_finite(model: nn.Module) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ValueError("the parameters must stay finite: use a smaller `lr`")


def outputs(model: nn.Module, inputs: Inputs) -> Tensor:
    """Return the logits [N, C]."""
    return logits_of(forward(model, inputs))


def trained_parameters(model: nn.Module) -> list[nn.Parameter]:
    """Return the parameters that need a gradient."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def descend(batches: Batches, loss: Loss, optimizer: torch.optim.Optimizer | MaskedStep) -> None:
    """Go through batches once, with a step down the loss for each.

    Args:
        batches: (inputs, targets).
        loss: Of a batch, a scalar.
        optimizer: Takes the steps.

    Raises:
        ValueError: There is no batch, or one is empty.
    """
    found = 0
    for inputs, targets in batches:
        batch_size(inputs, targets)
        found += 1
        step(loss(inputs, targets), optimizer)
    if not found:
        raise ValueError("there must be at least one batch, got none")


def step(loss: Tensor, optimizer: torch.optim.Optimizer | MaskedStep) -> None:
    """Take a step down a loss.

    Args:
        loss: A scalar.
        optimizer: Takes the step.

    Raises:
        ValueError: The loss is not finite.
    """
    if not math.isfinite(loss.item()):
        raise ValueError(f"the loss must stay finite, got {loss.item()}: use a smaller `lr`")
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def paired(one: Batches, other: Batches) -> Iterator[tuple[tuple[Any, Tensor], tuple[Any, Tensor]]]:
    """Yield every batch of ``one`` beside one of ``other``, which is gone through again as often as needed.

    Raises:
        ValueError: There is none in one of them.
    """
    kept = again(other)
    second, found = iter(kept), False
    for first in one:
        found = True
        beside = next(second, None)
        if beside is None:
            second = iter(kept)
            beside = next(second, None)
        if beside is None:
            break
        yield first, beside
    else:
        if found:
            return
    raise ValueError("there must be at least one batch, got none")


def wrong_labels(targets: Tensor, classes: int) -> Tensor:
    """Return classes drawn at random, none of them the right one."""
    return (targets + torch.randint(1, classes, targets.shape, device=targets.device)) % classes


class MaskedStep:
    """Steps of an optimiser that leave the elements outside masks as they are, to the bit.

    A gradient set to zero does not do that: momentum and weight decay go on moving the weights.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, masks: Mapping[nn.Parameter, Tensor]) -> None:
        """Wrap an optimiser.

        Args:
            optimizer: Of some parameters.
            masks: Of parameters of which only a part may move: bool, in their shapes.

        Raises:
            ValueError: A mask has another shape or type.
        """
        for parameter, mask in masks.items():
            if mask.dtype != torch.bool or mask.shape != parameter.shape:
                raise ValueError(f"masks must be bool of shape {tuple(parameter.shape)}, got {mask.dtype}")
        self._optimizer, self._masks = optimizer, dict(masks)

    def zero_grad(self) -> None:
        """Drop all gradients."""
        self._optimizer.zero_grad()

    @torch.no_grad()
    def step(self) -> None:
        """Take a step."""
        before = {parameter: parameter.clone() for parameter in self._masks}
        self._optimizer.step()
        for parameter, mask in self._masks.items():
            parameter.copy_(torch.where(mask, parameter, before[parameter]))


def layers(model: nn.Module) -> Sequence[nn.Module]:
    """Return the modules that have parameters of their own, in the order in which they were made."""
    return [module for module in model.modules() if next(module.parameters(recurse=False), None) is not None]


def classifier(model: nn.Module, classes: int) -> tuple[nn.Module, str, nn.Linear]:
    """Return the last linear layer with an output for each class, with its parent and its name there.

    Raises:
        ValueError: There is none.
    """
    found = None
    for parent in model.modules():
        for name, child in parent.named_children():
            if isinstance(child, nn.Linear) and child.out_features == classes:
                found = parent, name, child
    if found is None:
        raise ValueError(f"`model` must have a linear layer with {classes} outputs below it")
    return found


def divergence(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """Return KL(teacher || student) of the softmax of logits [N, C] at a temperature, times its square; the mean."""
    pair = student.div(temperature).log_softmax(1), teacher.div(temperature).log_softmax(1)
    return F.kl_div(*pair, reduction="batchmean", log_target=True) * temperature**2
