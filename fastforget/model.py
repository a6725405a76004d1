"""What this library asks of a model before it touches it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from fastforget import ops
from fastforget.waiting import random_devices

__all__ = [
    "check_device",
    "check_eval",
    "eager",
    "evaluating",
    "fresh_casts",
    "outside_tables",
    "ready_recurrent",
    "recurrent_backward",
    "reproducible",
    "uncompiled",
    "watched_parameters",
]

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def eager(model: nn.Module) -> nn.Module:
    """Return the module behind ``torch.compile``; both share their parameters.

    Raises:
        TypeError: Not a module, or one that runs outside Python (TorchScript).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("`model` must be an eager module, got a TorchScript module; use the one it was made from")
    original = getattr(model, "_orig_mod", model)
    return original if isinstance(original, nn.Module) else model


def check_eval(model: nn.Module) -> None:
    """Raise ValueError if a module is in train mode."""
    for path, module in model.named_modules():
        if module.training:
            raise ValueError(
                f"`model` must be in eval mode, got module {path or type(module).__name__!r} in train mode; call "
                "model.eval() first"
            )


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run modules as they were written that torch.compile has replaced, or has compiled in place.

    Two threads may do so at once: what the first one put in place the second does not take for what was there.
    """
    found: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        own = vars(module)
        original = own.get("_modules", {}).get("_orig_mod")
        if own.get("_compiled_call_impl") is not None:
            found.append((module, "_compiled_call_impl", own["_compiled_call_impl"]))
            own["_compiled_call_impl"] = None
        if original is not None and own.get("forward", original.__call__) != original.__call__:
            found.append((module, "forward", own["forward"]))
            own["forward"] = original.__call__
    try:
        yield
    finally:
        for module, name, value in found:
            vars(module)[name] = value


def ready_recurrent(model: nn.Module) -> list[tuple[nn.RNNBase, float]]:
    """Have recurrent layers in eval mode say that they train, without their dropout: the same outputs to the bit.

    cuDNN has a backward for them in train mode only.

    Returns:
        Those layers, with their dropout.
    """
    found = [
        (layer, layer.dropout) for layer in model.modules() if isinstance(layer, nn.RNNBase) and not layer.training
    ]
    for layer, _ in found:
        layer.training, layer.dropout = True, 0.0
    return found


@contextmanager
def recurrent_backward(model: nn.Module) -> Iterator[None]:
    """Let recurrent layers in eval mode have a backward, on every device."""
    found = ready_recurrent(model)
    try:
        yield
    finally:
        for layer, dropout in found:
            layer.training, layer.dropout = False, dropout


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put every module in eval mode, and back in its own afterwards."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        with recurrent_backward(model):
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@contextmanager
def fresh_casts() -> Iterator[None]:
    """Let weights move under ``torch.autocast``, which casts each once and takes that until its context ends.

    Meanwhile casts are made anew for every use; those of before are forgotten afterwards, in all threads.
    """
    kept = torch.is_autocast_cache_enabled()
    torch.clear_autocast_cache()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.set_autocast_cache_enabled(kept)
        torch.clear_autocast_cache()


@contextmanager
def reproducible(model: nn.Module, seed: int) -> Iterator[None]:
    """Seed the random state of the CPU and of the model's devices, with gradients on; put both back afterwards.

    Weights may move meanwhile.
    """
    devices = random_devices(*model.parameters())
    with torch.random.fork_rng(devices=devices), torch.enable_grad(), fresh_casts():
        torch.default_generator.manual_seed(seed)
        for device in devices:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield


def watched_parameters(model: nn.Module, names: Iterable[str] | None) -> dict[str, Tensor]:
    """Return the parameters to work on by name, after checking that they can be.

    Args:
        model: The eager module.
        names: The parameters wanted; frozen ones are accepted when named. None: all.

    Raises:
        ValueError: Unknown names, none, frozen, quantised, mixed dtypes or devices.
        NotImplementedError: On a device that has no kernels.
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


def outside_tables(model: nn.Module, parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return those parameters that are not tables of embeddings.

    In a table each token has a row of its own. The rows of the tokens in a class's codes are what these codes have for
    themselves, and the texts of the class do not pass through them.

    Args:
        model: The eager module.
        parameters: Some of its parameters by name.

    Returns:
        The parameters of no embedding, or of other modules as well; all of them if there are none.
    """
    tables, used = set[int](), set[int]()
    for module in model.modules():
        owned = {id(parameter) for parameter in module.parameters(recurse=False)}
        (tables if isinstance(module, (nn.Embedding, nn.EmbeddingBag)) else used).update(owned)
    tables -= used  # a table can be the weight of a linear layer as well
    found = {name: value for name, value in parameters.items() if id(value) not in tables}
    return found or dict(parameters)


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


def check_device(what: str, tensor: Tensor) -> None:
    """Raise NotImplementedError if this build has no kernels for a tensor's device."""
    kind = tensor.device.type
    if kind == "cpu" or (kind == "cuda" and ops.cuda_built()):
        return
    if kind == "cuda":
        raise NotImplementedError(
            f"{what} is on {tensor.device}; this build of fastforget has no CUDA kernels: build it with "
            "FASTFORGET_CUDA=1, see README"
        )
    kinds = "the CPU and CUDA devices" if ops.cuda_built() else "the CPU"
    raise NotImplementedError(f"{what} is on {tensor.device}; this build of fastforget has kernels for {kinds} only")
