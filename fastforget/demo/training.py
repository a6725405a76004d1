"""Train with mnemonic codes, and test the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fastforget.classifier.progress import progress_bar
from fastforget.codes.mnemonic_codes import MnemonicCodes


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
    """Train a classifier by cross-entropy. Each sample is replaced by a code of its class with probability `rate`.

    The default optimizer is SGD with momentum 0.9 and weight decay 5e-4. The learning rate goes through one cycle. On
    the CPU of one machine, the same arguments and number of threads give the same bits.

    Args:
        model: The classifier, trained in place and then set to eval mode.
        x: Inputs [N, *shape], on the model's device, as are `y` and `codes`.
        y: Classes, int64 [N].
        codes: The codes.
        epochs: Number of passes over the data, each in a new order. A pass leaves out samples that do not fill a batch.
        lr: The highest learning rate of the cycle.
        batch_size: Number of samples per step.
        seed: The seed of the order and of the replacement.
        rate: The probability of replacement, in [0, 1].
        exclude: Classes whose samples and codes are left out, as for a model retrained without them.
        optimizer: A function of the parameters and `lr` that makes another optimizer.
        augment: A function of samples [B, *shape] and a generator; it is called before codes replace some samples.
        progress: Whether to show a bar, in notebooks and if standard error is a terminal.
        title: The text before the bar.

    Raises:
        ValueError: The samples do not fill one batch.
    """
    included = torch.isin(y, torch.tensor(list(exclude), dtype=y.dtype, device=y.device), invert=True)
    x, y = x[included], y[included]
    steps = len(y) // batch_size
    if steps == 0:
        raise ValueError(f"`batch_size` must be at most the number of samples ({len(y)}), got {batch_size}")
    stepper = (optimizer or _sgd)(list(model.parameters()), lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(stepper, lr, total_steps=epochs * steps)
    generator = torch.Generator().manual_seed(seed)
    model.train()
    with progress_bar(shown=progress, total=epochs * steps, desc=title, unit="batch", leave=False) as bar:
        for epoch in range(epochs):
            order = torch.randperm(len(y), generator=generator, device="cpu").to(y.device)
            for batch in order[: steps * batch_size].view(steps, batch_size):
                samples = augment(x[batch], generator) if augment else x[batch]
                inputs = codes.embed(samples, y[batch], rate, generator)
                loss = F.cross_entropy(model(inputs), y[batch])
                stepper.zero_grad()
                loss.backward()
                stepper.step()
                schedule.step()
                bar.update()
            bar.set_postfix(epoch=f"{epoch + 1}/{epochs}", loss=f"{loss.item():.3f}")
    model.eval()


def _sgd(parameters: list[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr, momentum=0.9, weight_decay=5e-4)


@torch.no_grad()
def confusion(model: nn.Module, x: Tensor, y: Tensor, num_classes: int, batch_size: int = 128) -> Tensor:
    """Count how often the model predicts each class for samples of each class.

    Args:
        model: The classifier, in eval mode.
        x: Inputs [N, *shape].
        y: Classes, int64 [N].
        num_classes: The number of classes, C.
        batch_size: Number of samples per forward pass.

    Returns:
        int64 [C, C], on the CPU: row = true class, column = predicted class.
    """
    predicted = torch.cat([model(part).argmax(1) for part in x.split(batch_size)])
    return torch.bincount(y * num_classes + predicted, minlength=num_classes**2).view(num_classes, -1).cpu()
