"""Tensors and models that tests share."""

from collections.abc import Sequence

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def sum_dtype(dtype: torch.dtype) -> torch.dtype:
    return torch.float64 if dtype == torch.float64 else torch.float32


def randn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Return normal values on the default device. They are the same on every device."""
    generator = torch.Generator("cpu").manual_seed(seed)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu").to(dtype)
    return drawn.to(torch.get_default_device())


def sample_weights(groups: int, samples: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Return weights [G, N]. About a third are zero, and the last sample is in no group."""
    weights = randn(groups, samples, seed=7).abs()
    weights[weights < 0.4] = 0
    weights[:, samples - 1 :] = 0 if samples > 1 else 1
    return weights.to(sum_dtype(dtype))


def strided(tensor: Tensor) -> Tensor:
    """Return the same values with gaps between the elements and between the samples."""
    wide = tensor.new_full([2 * size + 1 for size in tensor.shape], 7.0)
    view = wide[tuple(slice(1, 2 * size + 1, 2) for size in tensor.shape)]
    return view.copy_(tensor)


def reversed_dims(tensor: Tensor) -> Tensor:
    """Return the same values with the first dimension innermost in memory."""
    return tensor.permute(*range(tensor.dim() - 1, -1, -1)).contiguous().permute(*range(tensor.dim() - 1, -1, -1))


def channels_last(tensor: Tensor) -> Tensor:
    """Return the same values [N, C, *space] with the channels innermost in memory."""
    return tensor.movedim(1, -1).contiguous().movedim(-1, 1)


LAYOUTS = {"contiguous": Tensor.contiguous, "strided": strided, "reversed": reversed_dims}


def results(
    shape: Sequence[int], dtype: torch.dtype, *, fisher: bool = True, gradient: bool = True
) -> dict[str, Tensor | None]:
    """Return zeros to accumulate into."""
    wide = sum_dtype(dtype)
    return {
        "fisher": torch.zeros(shape, dtype=wide) if fisher else None,
        "gradient": torch.zeros(shape, dtype=wide) if gradient else None,
    }
