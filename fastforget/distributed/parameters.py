"""The parameters of a sharded model that may be worked on."""

from __future__ import annotations

import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import DTensor

from fastforget.classifier.modes import check_eval
from fastforget.classifier.parameters import chosen_parameters
from fastforget.distributed.sharding import Sharding, to_local
from fastforget.fisher.dtypes import sum_dtype

__all__ = ["check_where_shards_are", "sharded_parameters"]


def sharded_parameters(model: nn.Module, group: dist.ProcessGroup | None) -> dict[str, DTensor]:
    """Return the parameters of a sharded model by name, after checking that they can be worked on.

    Args:
        model: The eager module, with no parameter gathered.
        group: The ranks.

    Returns:
        The sharded parameters. They stay the same objects while the model gathers them.

    Raises:
        ValueError: A parameter is frozen, not sharded, or on a mesh of other ranks; or a module is in train mode.
        NotImplementedError: A parameter is sharded in another way, of another dtype, on a device without kernels, or
            offloaded.
    """
    check_eval(model)
    parameters: dict[str, DTensor] = {}
    for name, parameter in chosen_parameters(model, None).items():
        if not isinstance(parameter, DTensor):
            raise ValueError(f"parameter `{name}` must be sharded by fully_shard, got a plain tensor")  # noqa: TRY004
        if parameter.dtype != sum_dtype(parameter.dtype):
            raise NotImplementedError(f"parameter `{name}` must be float32 or float64, got {parameter.dtype}")
        Sharding.of(f"parameter `{name}`", parameter, group)
        check_where_shards_are(name, parameter)
        parameters[name] = parameter
    return parameters


def check_where_shards_are(name: str, parameter: DTensor) -> None:
    """Refuse a parameter whose shards are not on the devices of its mesh: sums would be in two places.

    Args:
        name: Of the parameter.
        parameter: Sharded.

    Raises:
        NotImplementedError: Its shards are offloaded.
    """
    there, wanted = to_local(parameter).device.type, parameter.device_mesh.device_type
    if there != wanted:
        raise NotImplementedError(
            f"parameter `{name}` is offloaded: its shards are on {there} and its mesh is on {wanted}. Shard without "
            "CPUOffloadPolicy, or over a mesh of processors: init_device_mesh('cpu', ...)"
        )
