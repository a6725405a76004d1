"""An edit of a model with checked settings, which an error undoes, and its receipt."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import nn

from fastforget.classifier.arguments import NOT_NEGATIVE, POSITIVE, SHARE, check_integer, check_number
from fastforget.classifier.compilation import check_one_replica
from fastforget.classifier.kept_values import keep_nothing
from fastforget.classifier.modes import recurrent_backward, reproducible
from fastforget.edits.recorder import Recording, recording

__all__ = ["check_settings", "editing"]

# What settings of these names must be in every method: texts; integers, with the least one; numbers. Any other is
# positive.
_TEXTS = {"square"}  # which fisher_diagonal checks
_INTEGERS = {"copies": 1, "epochs": 1, "k": 1, "max_epochs": 0, "noise_steps": 0, "seed": 0}
_NUMBERS = {"alpha": NOT_NEGATIVE, "gamma": NOT_NEGATIVE, "penalty": NOT_NEGATIVE, "share": SHARE}


@contextmanager
def editing(
    method: str, model: nn.Module, seed: int, *, train: bool = True, **settings: float | str
) -> Iterator[Recording]:
    """Edit a model with a random state of its own; afterwards every module is in its mode again, without gradients.

    Args:
        method: Its name, for the receipt.
        model: The model; of a compiled or replicated one, the module behind it is edited.
        seed: Of the random state, which is put back.
        train: Whether modules are in train mode meanwhile, as in the methods' papers: batch norms learn.
        settings: The method's, by name; checked before anything is done.

    Yields:
        The recording: the eager module to edit and, after the block, the receipt.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has a wrong value, a parameter is not finite in the end, or the model is in
            DistributedDataParallel over several ranks.
        NotImplementedError: A parameter or buffer is on a device without kernels.
    """
    check_one_replica(model)
    settings = {"seed": seed, **settings}
    check_settings(settings)
    with recording(model, method, settings=settings) as edit:
        modes = {module: module.training for module in edit.model.modules()}
        keeping = keep_nothing(edit.model)
        try:
            with reproducible(edit.model, seed):
                edit.model.train(train)
                with recurrent_backward(edit.model):
                    yield edit
                _check_finite(edit.model)
        finally:
            keeping.remove()
            for parameter in edit.model.parameters():
                parameter.grad = None
            for module, mode in modes.items():
                module.training = mode


def check_settings(settings: Mapping[str, float | str]) -> None:
    """Check settings by their names.

    Args:
        settings: By name.

    Raises:
        TypeError: A setting has the wrong type.
        ValueError: A setting has a wrong value.
    """
    for name, value in settings.items():
        if name in _INTEGERS:
            check_integer(name, value, _INTEGERS[name])
        elif name not in _TEXTS:
            check_number(name, value, _NUMBERS.get(name, POSITIVE))


def _check_finite(model: nn.Module) -> None:
    if not all(bool(parameter.isfinite().all()) for parameter in model.parameters()):
        raise ValueError("the parameters must stay finite: use a smaller `lr`")
