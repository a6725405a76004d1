"""The module behind a compiled or a replicated one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

__all__ = ["check_one_replica", "eager", "prefix_of", "uncompiled"]

_REPLICATED = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _remedy(given: object) -> str:
    return "; load it into its module first: module.load_state_dict(...)" if isinstance(given, Mapping) else ""


def eager(model: nn.Module) -> nn.Module:
    """Return the module behind ``torch.compile``, `torch.nn.DataParallel` and `DistributedDataParallel`.

    It has the same parameters, so that what changes in it serves; their names are those that it gives them.

    Raises:
        TypeError: Not a module, or one that runs outside Python (TorchScript).
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"`model` must be a torch.nn.Module, got {type(model).__name__}{_remedy(model)}")
    if isinstance(model, torch.jit.ScriptModule):
        raise TypeError("`model` must be an eager module, got a TorchScript module; use the one it was made from")
    inner = _inside(model)[1]
    return model if inner is None else eager(inner)


def prefix_of(model: nn.Module) -> str:
    """Return what comes before the names of the parameters in a module around another; "" for an eager one."""
    name, inner = _inside(model)
    return "" if inner is None else f"{name}.{prefix_of(inner)}"


def _inside(model: nn.Module) -> tuple[str, nn.Module | None]:
    """Return the name of what a module is around, and that module, if it is around one."""
    name = "module" if isinstance(model, _REPLICATED) else "_orig_mod"
    inner = getattr(model, name, None)
    return name, inner if isinstance(inner, nn.Module) else None


def check_one_replica(model: nn.Module) -> None:
    """Refuse a model of which other processes hold replicas, for work that depends on data.

    Raises:
        ValueError: It is in `DistributedDataParallel` over several ranks.
    """
    ranks = max((_ranks_of(module) for module in model.modules()), default=1) if isinstance(model, nn.Module) else 1
    if ranks > 1:
        raise ValueError(
            f"`model` must be whole, got DistributedDataParallel over {ranks} ranks, whose replicas would drift apart: "
            "edit its `module` on one rank, then send the parameters to the others"
        )


def _ranks_of(module: nn.Module) -> int:
    return int(module.process_group.size()) if isinstance(module, nn.parallel.DistributedDataParallel) else 1


@contextmanager
def uncompiled(model: nn.Module) -> Iterator[None]:
    """Run modules as they were written, where torch.compile has replaced them or compiled them in place.

    Two threads may do so at once: the second does not take what the first put in place for the user's own.
    """
    replaced: list[tuple[nn.Module, str, Any]] = []
    for module in model.modules():
        own = vars(module)
        original = own.get("_modules", {}).get("_orig_mod")
        if own.get("_compiled_call_impl") is not None:
            replaced.append((module, "_compiled_call_impl", own["_compiled_call_impl"]))
            own["_compiled_call_impl"] = None
        if original is not None and own.get("forward", original.__call__) != original.__call__:
            replaced.append((module, "forward", own["forward"]))
            own["forward"] = original.__call__
    try:
        yield
    finally:
        for module, name, value in replaced:
            vars(module)[name] = value
