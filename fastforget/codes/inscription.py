"""Teach mnemonic codes to a model that was trained without them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.arguments import SHARE, check_integer, check_number
from fastforget.classifier.data_forms import LabelledData, batches_of
from fastforget.classifier.losses import check_depends
from fastforget.classifier.modes import evaluating, fresh_casts
from fastforget.classifier.running import forward, logits_of
from fastforget.codes.mnemonic_codes import MnemonicCodes

__all__ = ["inscribe"]


def inscribe(
    model: nn.Module,
    codes: MnemonicCodes,
    data: LabelledData,
    *,
    epochs: int = 1,
    rate: float = 0.3,
    lr: float = 0.01,
    seed: int = 0,
    progress: bool = False,
) -> float:
    """Fine-tune a trained classifier until it knows its codes, so that `one_shot` can be used on it.

    Each sample is replaced by a code of its class with probability ``rate``, see `MnemonicCodes.embed`. The training is
    short: cross-entropy, SGD with momentum 0.9, one cycle of the learning rate. The model is in train mode meanwhile,
    so that batch norms learn the statistics of codes, too. Afterwards every module is in its mode again.

    Source: ours, after the training of Yamashita, Yamada, Shibata, ACML 2024, Sec. 3.1. What it costs is said in
    docs/explain/one-shot.md.

    Args:
        model: The classifier, changed in place; logits [N, C] from its forward.
        codes: The codes; C classes.
        data: Batches (inputs, targets) of training data, on the model's device, for instance a DataLoader, or another
            form of samples, see `fastforget.classifier.data_forms.batches_of`. They are gone through ``epochs`` times;
            the samples of a pair or a data set in a new order each time.
        epochs: Passes over the data.
        rate: Share of the samples that are replaced, (0, 1].
        lr: The highest learning rate.
        seed: Of the replacement, and of the order of a pair's or a data set's samples.
        progress: Whether to show a bar, where standard error is a terminal; needs tqdm.

    Returns:
        The share of the codes that the model recognises now, in [0, 1].

    Raises:
        TypeError: The codes or a setting have the wrong type.
        ValueError: A setting has a wrong value, there is no data, or the loss is not finite or depends on no parameter
            that needs a gradient.

    After any error the model is what it was before.

    Example:
        >>> _ = torch.manual_seed(0)
        >>> model, codes = nn.Linear(8, 3).eval(), MnemonicCodes.generate(3, (8,), per_class=1)
        >>> data = [(torch.randn(16, 8), torch.arange(16) % 3) for _ in range(50)]
        >>> inscribe(model, codes, data, lr=0.1)
        1.0
    """
    _check(codes, epochs=epochs, rate=rate, lr=lr)
    generator, like = torch.Generator().manual_seed(seed), next(model.parameters(), None)
    batches = batches_of(data, "data", generator)
    batches = batches if isinstance(batches, Sized) else list(batches)
    steps = epochs * len(batches)
    if not steps:
        raise ValueError("`data` must hold at least one batch, got none")
    modes = {module: module.training for module in model.modules()}
    before = {name: value.detach().clone() for name, value in model.state_dict().items()}
    placed = codes if like is None else codes.to(like.device)
    mixed: Iterable[tuple[Any, Tensor]] = (
        (placed.embed(inputs, targets, rate, generator), targets) for _ in range(epochs) for inputs, targets in batches
    )
    if progress:
        from tqdm import tqdm  # noqa: PLC0415 (not every installation has it)

        mixed = tqdm(mixed, desc="inscribing", total=steps, disable=None)
    try:
        model.train()
        with fresh_casts():
            _train(model, mixed, steps, lr)
    except BaseException:
        model.load_state_dict(before)
        raise
    finally:
        model.zero_grad()
        for module, mode in modes.items():
            module.training = mode
    return _share_recognised(model, codes)


def _train(model: nn.Module, batches: Iterable[tuple[Any, Tensor]], steps: int, lr: float) -> None:
    moving = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not moving:
        raise ValueError("`model` must have parameters that need a gradient, got none: unfreeze those that may move")
    optimizer = torch.optim.SGD(moving, lr, momentum=0.9)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=steps)
    for inputs, targets in batches:
        loss = F.cross_entropy(logits_of(forward(model, inputs)), targets)
        if not math.isfinite(loss.item()):
            raise ValueError(f"the loss must stay finite, got {loss.item()}: use a smaller `lr`")
        check_depends(depends=loss.requires_grad)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    if not all(bool(parameter.isfinite().all()) for parameter in moving):
        raise ValueError("the parameters must stay finite: use a smaller `lr`")


def _share_recognised(model: nn.Module, codes: MnemonicCodes) -> float:
    like = next(model.parameters())
    placed = codes.to(like.dtype).to(like.device)
    with evaluating(model), torch.no_grad():
        right = logits_of(forward(model, placed.inputs)).argmax(1) == placed.labels
    return float(right.float().mean())


def _check(codes: Any, *, epochs: Any, rate: Any, lr: Any) -> None:
    if not isinstance(codes, MnemonicCodes):
        raise TypeError(f"`codes` must be MnemonicCodes, got {type(codes).__name__}")
    check_integer("epochs", epochs)
    check_number("rate", rate, SHARE)
    check_number("lr", lr)
