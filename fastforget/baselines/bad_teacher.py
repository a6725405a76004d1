"""Two teachers: a random one for what is to be forgotten, the original for the rest."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sized
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.baselines.training import (
    Batches,
    again,
    descend,
    divergence,
    editing,
    outputs,
    paired,
    trained_parameters,
)
from fastforget.batch import Inputs

__all__ = ["bad_teacher"]


def bad_teacher(
    model: nn.Module,
    forget: Batches,
    remain: Batches,
    *,
    share: float = 0.3,
    epochs: int = 1,
    lr: float = 1e-4,
    temperature: float = 1.0,
    seed: int = 0,
) -> None:
    """Learn from a randomly initialised network on the samples to forget, and from the original on some others.

    ``L = KL(random || student) on D_f, KL(original || student) on a share of D_r``; Adam.

    Source: Chundawat, Tarun, Mandal, Kankanhalli, "Can Bad Teaching Induce Forgetting?", AAAI 2023. A step takes a
    batch of either kind, where theirs mixes both.

    Args:
        model: The classifier, changed in place. The random teacher has its layers, each of which must have
            ``reset_parameters``.
        forget: Batches to forget.
        remain: Batches of the remaining data.
        share: Of the batches of ``remain`` that are used.
        epochs: Passes.
        lr: The learning rate.
        temperature: Of the divergences.
        seed: Of the random teacher, dropout and shuffling.

    Raises:
        ValueError: A layer cannot be initialised again.
    """
    competent = copy.deepcopy(model).eval()
    forget = again(forget)
    with editing(model, seed, share=share, epochs=epochs, lr=lr, temperature=temperature) as edited:
        incompetent = _fresh(edited)
        teachers = {False: incompetent, True: competent}
        optimizer = torch.optim.Adam(trained_parameters(edited), lr)
        for _ in range(epochs):
            for kept, batch in _mixed(forget, remain, share):

                def loss(inputs: Inputs, _: Tensor, kept: bool = kept) -> Tensor:
                    with torch.no_grad():
                        told = outputs(teachers[kept], inputs)
                    return divergence(outputs(edited, inputs), told, temperature)

                descend([batch], loss, optimizer)


def _mixed(forget: Batches, remain: Batches, share: float) -> Iterator[tuple[bool, tuple[Any, Tensor]]]:
    """Yield batches of both kinds in turn with whether they remain, all of either; the fewer ones again."""
    kept = list(remain)
    order: list[int] = torch.randperm(len(kept), device="cpu").tolist()
    few = [kept[place] for place in order[: max(1, round(share * len(kept)))]]
    gone = forget if isinstance(forget, Sized) else list(forget)
    longer = len(few) >= len(gone)
    for one, other in paired(few, gone) if longer else paired(gone, few):
        yield not longer, other
        yield longer, one


def _fresh(model: nn.Module) -> nn.Module:
    """Return the same network, initialised again."""
    found = copy.deepcopy(model)
    for path, module in found.named_modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
        elif next(module.parameters(recurse=False), None) is not None:
            raise ValueError(f"module `{path}` must have reset_parameters, for a random teacher")
    return found.eval()
