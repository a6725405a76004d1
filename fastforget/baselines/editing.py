"""An edit of a model with checked settings, which an error undoes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import nn

from fastforget.classifier.arguments import NOT_NEGATIVE, POSITIVE, SHARE, check_integer, check_number
from fastforget.classifier.compilation import check_one_replica, eager
from fastforget.classifier.kept_values import keep_nothing
from fastforget.classifier.modes import recurrent_backward, reproducible

__all__ = ["editing"]

# What settings of these names must be in every method: integers, with the least one; numbers; any other is positive.
_INTEGERS = {"epochs": 1, "k": 1, "max_epochs": 0, "noise_steps": 0, "seed": 0}
_NUMBERS = {"alpha": NOT_NEGATIVE, "gamma": NOT_NEGATIVE, "penalty": NOT_NEGATIVE, "share": SHARE}


@contextmanager
def editing(model: nn.Module, seed: int, *, train: bool = True, **settings: float) -> Iterator[nn.Module]:
    """Edit a model with a random state of its own; afterwards every module is in its mode again, without gradients.

    Args:
        model: The model; of a compiled or replicated one, the module behind it is edited.
        seed: Of the random state, which is put back.
        train: Whether modules are in train mode meanwhile, as in the methods' papers: batch norms learn.
        settings: The method's, by name; checked before anything is done.

    Yields:
        The eager module.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has a wrong value, a parameter is not finite in the end, or the model is in
            DistributedDataParallel over several ranks.
    """
    check_one_replica(model)
    model = eager(model)
    _check_settings({"seed": seed, **settings})
    modes = {module: module.training for module in model.modules()}
    values = [*model.parameters(), *model.buffers()]
    before = [value.detach().clone() for value in values]
    keeping = keep_nothing(model)
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
            keeping.remove()
            for parameter in model.parameters():
                parameter.grad = None
            for module, mode in modes.items():
                module.training = mode


def _check_settings(settings: Mapping[str, float]) -> None:
    for name, value in settings.items():
        if name in _INTEGERS:
            check_integer(name, value, _INTEGERS[name])
        else:
            check_number(name, value, _NUMBERS.get(name, POSITIVE))


def _check_finite(model: nn.Module) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ValueError("the parameters must stay finite: use a smaller `lr`")
