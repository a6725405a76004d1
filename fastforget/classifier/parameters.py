"""The parameters of a model that may be worked on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from fastforget.classifier.devices import check_device
from fastforget.classifier.offloading import check_in_model

__all__ = ["chosen_parameters", "without_embedding_tables"]

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def chosen_parameters(model: nn.Module, names: Iterable[str] | None) -> dict[str, Tensor]:
    """Return the parameters to work on by name, after checking that they can be.

    Args:
        model: The eager module.
        names: The parameters wanted; frozen ones are accepted when named. None: all.

    Raises:
        ValueError: Unknown names, none, frozen, quantised, mixed dtypes or devices.
        NotImplementedError: On a device that has no kernels, or kept outside of the model.
    """
    everything = dict(model.named_parameters())
    if names is not None:
        wanted = list(names)
        unknown = [name for name in wanted if name not in everything]
        if unknown:
            raise ValueError(f"`parameters` must name parameters of the model, got {unknown[0]!r}")
    else:
        wanted = list(everything)
    _check_quantised(model)
    check_in_model(model, wanted)
    if not wanted:
        raise ValueError("`model` must have parameters, got none")
    chosen: dict[str, Tensor] = {name: everything[name] for name in wanted}
    first_name, first = next(iter(chosen.items()))
    for name, parameter in chosen.items():
        _check_parameter(name, parameter, named=names is not None)
        if parameter.device != first.device:
            raise ValueError(
                f"parameters must be on one device, got `{first_name}` on {first.device} and `{name}` on "
                f"{parameter.device}"
            )
        if parameter.dtype != first.dtype:
            raise ValueError(
                f"parameters must have one dtype, got `{first_name}` of {first.dtype} and `{name}` of {parameter.dtype}"
            )
    check_device(f"`{first_name}`", first)
    return chosen


def without_embedding_tables(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those parameters that are not tables of embeddings.

    In a table each token has a row of its own. The codes of a class have tokens, and so rows, of their own: an edit of
    these rows would not reach the texts of the class, which pass through others.

    Args:
        model: The eager module.
        parameters: Some of its parameters by name.

    Returns:
        The parameters that are no table, or are used by another module as well; all of them if there are no such.
    """
    tables, used = set[int](), set[int]()
    for module in model.modules():
        owned = set(map(id, module._parameters.values()))  # noqa: SLF001 - some are None, which is no parameter
        (tables if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) else used).update(owned)
    tables -= used  # a table may also be the weight of a linear layer
    remaining = {name: value for name, value in parameters.items() if id(value) not in tables}
    return remaining or dict(parameters)


def _check_parameter(name: str, parameter: Tensor, *, named: bool) -> None:
    if isinstance(parameter, nn.parameter.UninitializedParameter):
        raise ValueError(f"parameter `{name}` must be initialised; run the model once first")  # noqa: TRY004
    if parameter.is_inference():
        raise ValueError(
            f"parameter `{name}` must not be an inference tensor: it cannot be edited in place; create or load the "
            "model outside torch.inference_mode()"
        )
    if parameter.dtype not in _FLOATS:
        raise ValueError(f"parameter `{name}` must be floating point, got {parameter.dtype}")
    if not parameter.requires_grad and not named:
        raise ValueError(
            f"parameter `{name}` is frozen (requires_grad=False); name the parameters to work on with "
            "parameters=[...], or unfreeze it"
        )


def _check_quantised(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if "quantized" in type(module).__module__:
            raise ValueError(
                f"module `{path}` is quantised ({type(module).__name__}); use the float model it came from"
            )
