"""Models whose values are kept elsewhere: hooks of accelerate bring them to a device for one forward of a module."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain

from torch import Tensor, nn

__all__ = ["check_in_model", "offloaded_names", "offloaded_values"]


def offloaded_values(model: nn.Module) -> dict[str, Tensor]:
    """Return the parameters and buffers that accelerate's hooks keep, by name: the model's own have no values.

    Such hooks come from ``cpu_offload``, ``disk_offload``, ``dispatch_model`` and ``device_map="auto"``. They hold the
    values in the memory of the host or in files, and give them to a module for as long as it runs.

    Args:
        model: Any module, with hooks or without.

    Returns:
        The values where the hooks keep them; those in files are read.
    """
    return {name: kept[key] for name, (kept, key) in _places(model)}


def offloaded_names(model: nn.Module) -> set[str]:
    """Return the names of what `offloaded_values` returns, without a look at the values."""
    return {name for name, _ in _places(model)}


def check_in_model(model: nn.Module, names: Iterable[str]) -> None:
    """Refuse parameters that hooks keep: what is written to the model would not reach their values.

    Args:
        model: The eager module.
        names: Of parameters that are to be worked on.

    Raises:
        NotImplementedError: One is offloaded.
    """
    offloaded = offloaded_names(model)
    for name in names:
        if name in offloaded:
            raise NotImplementedError(
                f"parameter `{name}` is offloaded: hooks of accelerate keep its values outside of the model. Name "
                "parameters that are in it (parameters=[...]), or bring all to the CPU with "
                "accelerate.hooks.remove_hook_from_submodules(model)"
            )


def _places(model: nn.Module) -> Iterator[tuple[str, tuple[Mapping[str, Tensor], str]]]:
    """Yield each name with the mapping that holds its value, and the key there."""
    for path, module in model.named_modules(remove_duplicate=False):
        hook = getattr(module, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):  # accelerate chains hooks in one that has them as `hooks`
            weights = getattr(one, "weights_map", None)
            if weights is None or not getattr(one, "offload", False):
                continue
            inside = getattr(one, "place_submodules", False)
            named = chain(module.named_parameters(recurse=inside), module.named_buffers(recurse=inside))
            for name, tensor in named:
                if tensor.device.type == "meta":
                    yield f"{path}.{name}" if path else name, (weights, name)
