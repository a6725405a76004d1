"""Training with mnemonic codes, and the accuracy of the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from fastforget.codes import MnemonicCodes


def train(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    codes: MnemonicCodes,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    seed: int,
    rate: float = 0.3,
    exclude: Sequence[int] = (),
    optimizer: Callable[[list[nn.Parameter], float], torch.optim.Optimizer] | None = None,
    augment: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    progress: bool = True,
    title: str = "training",
) -> None:
    """Trains a classifier by cross-entropy, each sample replaced by its class's code with probability `rate`.

    By default SGD with momentum 0.9 and weight decay 5e-4; one cycle of the learning rate. On one machine with one
    number of threads, the same arguments give the same bits on the CPU.

    Args:
        model: Trained in place and left in eval mode; anywhere, with `x`, `y` and `codes` on the same device.
        x: Inputs [N, *shape].
        y: Classes, int64 [N].
        codes: The codes.
        epochs: Passes over the data, each in a new order; what does not fill a last batch is left for the next pass.
        lr: The highest learning rate of the cycle.
        batch_size: Samples per step.
        seed: Of the order and of the replacement.
        rate: The probability of replacement, in [0, 1].
        exclude: Classes of which neither samples nor codes are shown, as for a model retrained without them.
        optimizer: Called with the parameters and `lr`, for another than SGD.
        augment: Called with samples [B, *shape] and the random source of the order, before codes replace some of them.
        progress: Whether to show a bar, where standard error is a terminal.
        title: Of the bar.

    Raises:
        ValueError: If the samples do not fill one batch.
    """
    kept = torch.isin(y, torch.tensor(list(exclude), dtype=y.dtype, device=y.device), invert=True)
    x, y = x[kept], y[kept]
    steps = len(y) // batch_size
    if steps == 0:
        raise ValueError(f"`batch_size` must be at most the number of samples ({len(y)}), got {batch_size}")
    steering = (optimizer or _sgd)(list(model.parameters()), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(steering, lr, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    # `disable=None`: no bar where standard error is not a terminal.
    with tqdm(total=epochs * steps, desc=title, unit="batch", disable=None if progress else True, leave=False) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(y), generator=generator, device="cpu").to(y.device)
            for batch in order[: steps * batch_size].view(steps, batch_size):
                samples = augment(x[batch], generator) if augment else x[batch]
                inputs = codes.embed(samples, y[batch], rate, generator)
                loss = F.cross_entropy(model(inputs), y[batch])
                steering.zero_grad()
                loss.backward()
                steering.step()
                schedule.step()
                bar.update()
            bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", loss=f"{loss.item():.3f}")
    model.eval()


def _sgd(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


@torch.no_grad()
def confusion(model: nn.Module, x: Tensor, y: Tensor, num_classes: int, batch_size: int = 128) -> Tensor:
    """Counts which class the model takes for which.

    Args:
        model: In eval mode.
        x: Inputs [N, *shape].
        y: Classes, int64 [N].
        num_classes: C.
        batch_size: Samples per forward pass.

    Returns:
        int64 [C, C], on the CPU: row = true class, column = predicted class.
    """
    predicted = torch.cat([model(part).argmax(1) for part in x.split(batch_size)])
    return torch.bincount(y * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1).cpu()
