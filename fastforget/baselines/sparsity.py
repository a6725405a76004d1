"""Training on what remains, with a penalty that makes weights small."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fastforget.baselines.editing import editing
from fastforget.baselines.training import descend, label_loss, trained_parameters
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.labelled_batches import RepeatableBatches
from fastforget.edits.receipt import Receipt

__all__ = ["l1_sparse"]


def l1_sparse(
    model: nn.Module,
    forget: LabelledData,  # noqa: ARG001 (all methods are called alike)
    remain: LabelledData,
    *,
    gamma: float = 5e-4,
    epochs: int = 10,
    lr: float = 0.01,
    seed: int = 0,
) -> Receipt:
    """Continue the training with what remains, with a penalty on the weights that fades (L1-sparse).

    ``L = CE(D_r) + gamma_t |theta|_1,  gamma_t = (1 - t / T) gamma`` in epoch t = 0, ..., T - 1; SGD with momentum 0.9
    and weight decay 5e-4.

    Source: Jia et al., "Model Sparsity Can Simplify Machine Unlearning", NeurIPS 2023, sparsity-aware unlearning with
    the linearly decreasing penalty. Epochs and learning rate are those of `fine_tune`. Their gamma is tuned for each
    data set; ours is fixed.

    Args:
        model: The classifier, changed in place.
        forget: Batches to forget; not used.
        remain: Batches of the remaining data.
        gamma: Weight of the penalty at the start; with 0 this is `fine_tune`.
        epochs: Passes, T.
        lr: The learning rate.
        seed: Of dropout and shuffling.

    Returns:
        The receipt.
    """
    remain = RepeatableBatches(remain, "remain")
    with editing("l1_sparse", model, seed, gamma=gamma, epochs=epochs, lr=lr) as edit:
        moving = trained_parameters(edit.model)
        optimizer = torch.optim.SGD(moving, lr, momentum=0.9, weight_decay=5e-4)
        right = label_loss(edit.model)
        for epoch in range(epochs):
            weight = (1 - epoch / epochs) * gamma

            def loss(inputs: Inputs, targets: Tensor, weight: float = weight) -> Tensor:
                penalty = torch.stack([parameter.abs().sum() for parameter in moving]).sum()
                return right(inputs, targets) + weight * penalty

            descend(remain, loss, optimizer)
    return edit.receipt
