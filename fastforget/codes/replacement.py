"""Stochastic replacement: a batch in which some samples are their class's mnemonic code."""

from __future__ import annotations

import torch
from torch import Tensor

from fastforget.classifier.inputs import Inputs, leaves, leaves_in_order_of, rebuild
from fastforget.classifier.targets import kind_of

__all__ = ["replace_by_codes"]


def replace_by_codes(
    inputs: Inputs, targets: Tensor, codes: Inputs, rate: float, generator: torch.Generator | None
) -> tuple[Inputs, Tensor]:
    """Replace each sample by a code of its class with probability `rate`.

    Source: Yamashita, Yamada, Shibata, ACML 2024, Sec. 3.1: t ~ U(0, 1); where t < t_mix the code is the input.

    Args:
        inputs: Leaves [N, *shape]; not modified.
        targets: int64 [N].
        codes: Leaves [C, M, *shape], in the structure of `inputs`.
        rate: t_mix in [0, 1].
        generator: Random source; PyTorch's default on the CPU without one.

    Returns:
        The new inputs, in the structure, type and device of `inputs`; and which of them are codes, bool [N].

    Raises:
        TypeError: If a type does not fit.
        ValueError: If a value or a shape does not fit.
    """
    pools = leaves(codes)
    samples = leaves_in_order_of(codes, inputs)
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` must be in [0, 1], got {rate}")
    _check_targets(targets, num_classes=len(pools[0]))
    for sample, pool in zip(samples, pools, strict=True):
        _check_sample(sample, pool, targets)

    # Both draws always have N numbers, so the random stream advances alike whatever the rate and M are.
    device = torch.device("cpu") if generator is None else generator.device
    chosen = torch.rand(len(targets), generator=generator, device=device) < rate
    index = torch.randint(pools[0].shape[1], (len(targets),), generator=generator, device=device)

    replaced = []
    for sample, pool in zip(samples, pools, strict=True):
        # Only the codes that were drawn are moved.
        code = pool[targets.to(pool.device), index.to(pool.device)].to(sample.device, sample.dtype)
        mask = chosen.to(sample.device).view(-1, *[1] * (sample.ndim - 1))
        replaced.append(torch.where(mask, code, sample))
    return rebuild(codes, replaced), chosen


def _check_targets(targets: Tensor, num_classes: int) -> None:
    if not isinstance(targets, Tensor) or targets.dtype != torch.int64:
        raise TypeError(f"`targets` must be torch.int64, got {kind_of(targets)}")
    if targets.ndim != 1:
        raise ValueError(f"`targets` must be 1-D, got shape {tuple(targets.shape)}")
    if targets.numel():
        low, high = (int(bound) for bound in targets.aminmax())
        if low < 0 or high >= num_classes:
            raise ValueError(f"`targets` must be in [0, {num_classes}), got values from {low} to {high}")


def _check_sample(sample: Tensor, pool: Tensor, targets: Tensor) -> None:
    expected = (len(targets), *pool.shape[2:])
    if sample.shape != expected:
        raise ValueError(f"`inputs` must have shape {expected}, for these targets and codes, got {tuple(sample.shape)}")
    # Noise cast to token numbers would be a valid input without any meaning.
    if sample.is_floating_point() != pool.is_floating_point():
        raise TypeError(f"`inputs` must be of the codes' kind ({pool.dtype}), got {sample.dtype}")
