"""Whether a copy of a model can answer in its place."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["can_stand_in"]

_PLAIN = (str, bytes, int, float, complex, bool, type(None), torch.dtype, torch.device)
_MOST = 10**6  # objects to look at; a copy that holds more is not looked through


def can_stand_in(model: nn.Module, twin: nn.Module) -> bool:
    """Say whether a copy of a model answers as the model does, and from its own weights.

    Not so where a part is compiled, which would be compiled anew for the copy; where a tensor beside the parameters
    shares their memory in the model and not in the copy; and where a function that copies share, such as a hook, holds
    a part of the model.

    Args:
        model: The eager module.
        twin: Its deep copy.

    Returns:
        Whether it does, as far as can be seen.
    """
    return not any(map(_is_compiled, model.modules())) and _shares_alike(model, twin) and not _reaches(twin, model)


def _is_compiled(module: nn.Module) -> bool:
    in_place = vars(module).get("_compiled_call_impl") is not None
    return in_place or "_orig_mod" in module._modules or hasattr(module.forward, "_torchdynamo_orig_callable")  # noqa: SLF001


def _shares_alike(model: nn.Module, twin: nn.Module) -> bool:
    """Whether the same tensors share memory in both."""
    try:
        return _sharing(model) == _sharing(twin)
    except (NotImplementedError, RuntimeError):  # tensors of classes that have no storage of their own
        return False


def _sharing(model: nn.Module) -> list[int]:
    """Return for each tensor that the modules hold the number of its memory, in the order in which they were met."""
    met: dict[int, int] = {}
    tensors = [leaf for module in model.modules() for leaf in _leaves(module) if isinstance(leaf, Tensor)]
    return [met.setdefault(tensor.untyped_storage()._cdata, len(met)) for tensor in tensors]  # noqa: SLF001


def _leaves(module: nn.Module) -> list[Any]:
    own = vars(module)
    return pytree.tree_leaves([own["_parameters"], own["_buffers"], [own[name] for name in sorted(own)]])


def _reaches(twin: nn.Module, model: nn.Module) -> bool:
    """Whether anything that the copy holds leads to the model, or cannot be looked through."""
    own = {id(part) for part in (*model.modules(), *model.parameters(), *model.buffers())}
    seen: dict[int, Any] = {}  # with the objects, whose identities must stay theirs
    waiting: list[Any] = [twin]
    while waiting:
        one = waiting.pop()
        if id(one) in own or len(seen) > _MOST:
            return True
        if id(one) not in seen:
            seen[id(one)] = one
            waiting += [held for held in _held(one) if not isinstance(held, _PLAIN)]
    return False


def _held(one: Any) -> Iterator[Any]:
    """Yield what an object holds; of a function not all globals, but those that it names."""
    if isinstance(one, FunctionType):
        yield from (one.__closure__, one.__defaults__, one.__kwdefaults__, vars(one))
        named = (one.__globals__.get(name) for name in one.__code__.co_names)
        yield from (found for found in named if isinstance(found, (nn.Module, Tensor)))
    elif isinstance(one, weakref.ref):
        yield one()
    elif not isinstance(one, (type, ModuleType)):
        yield from gc.get_referents(one)
