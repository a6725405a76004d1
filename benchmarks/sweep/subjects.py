"""Builds an architecture with its inputs, labels and loss, and the exact diagonal Fisher of the lot."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from architectures import Architecture
from configurations import CLASSES, EOS, PAD
from libraries import import_timm, import_transformers
from torch import Tensor, nn

__all__ = ["Subject", "doubled", "exact_fisher", "losses_of", "prepared", "slope_error"]

IGNORED = -100  # the label of padding
STEPS = (1e-3, 1e-5, 1e-7)  # of finite differences: small for bends, large for models that compute a part in float32


class Subject(NamedTuple):
    """A model in eval mode, with what `fisher_diagonal` takes beside it."""

    model: nn.Module
    inputs: Any
    targets: Tensor
    loss: Callable[[Any, Tensor], Tensor]


def _logits(outputs: Any) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    found = next(
        (
            value
            for name in ("logits", "prediction_outputs", "prediction_logits")
            if (value := getattr(outputs, name, None)) is not None
        ),
        None,
    )
    return outputs[0] if found is None else found


def loss_of_classes(outputs: Any, targets: Tensor) -> Tensor:
    """Return the cross-entropy of each sample, [N]."""
    return F.cross_entropy(_logits(outputs), targets, reduction="none")


def loss_of_tokens(outputs: Any, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the tokens of each sample that are not padding, [N]."""
    losses = F.cross_entropy(_logits(outputs).transpose(1, 2), targets, reduction="none", ignore_index=IGNORED)
    return losses.sum(1) / (targets != IGNORED).sum(1)


def loss_of_pixels(outputs: Any, targets: Tensor) -> Tensor:
    """Return the mean cross-entropy over the pixels of each sample, [N]; logits are enlarged to match the labels."""
    logits = F.interpolate(_logits(outputs), size=targets.shape[1:], mode="bilinear", align_corners=False)
    return F.cross_entropy(logits, targets, reduction="none").flatten(1).mean(1)


_LOSSES = {"classes": loss_of_classes, "tokens": loss_of_tokens, "pixels": loss_of_pixels}


def prepared(architecture: Architecture) -> Subject:
    """Build an architecture with parameters and statistics unlike their initial values: nothing is zero or one."""
    torch.manual_seed(0)
    model = _built(architecture).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.requires_grad_().add_(torch.randn_like(parameter), alpha=0.1)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_().mul_(0.1)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    inputs, targets = _batch(architecture)
    return Subject(model, inputs, targets, _LOSSES[architecture.task])


def _built(architecture: Architecture) -> nn.Module:
    if architecture.library == "timm":
        model: nn.Module = import_timm().create_model(
            architecture.model, pretrained=False, num_classes=CLASSES, **architecture.settings
        )
        return model
    made = getattr(import_transformers(), architecture.model)
    model = made(made.config_class(**copy.deepcopy(architecture.settings)))
    return model.float()


def _batch(architecture: Architecture) -> tuple[Any, Tensor]:
    """Return inputs, with text of different lengths padded at the end, and labels."""
    samples, size, settings = architecture.samples, architecture.size, architecture.settings
    targets = torch.randint(0, CLASSES, (samples,))
    inputs: Any
    if architecture.inputs.startswith("text"):
        inputs, targets = _texts(architecture, targets)
    elif architecture.inputs == "image":
        image = torch.randn(samples, 3, size, size)
        inputs = image if architecture.library == "timm" else {"pixel_values": image}
    elif architecture.inputs == "video":
        inputs = {"pixel_values": torch.randn(samples, settings["num_frames"], 3, size, size)}
    elif architecture.inputs == "waveform":
        inputs = {"input_values": torch.randn(samples, size), "attention_mask": _mask(samples, size)}
    elif architecture.inputs == "spectrogram":
        inputs = {"input_values": torch.randn(samples, size, settings["num_mel_bins"])}
    elif architecture.inputs == "features":
        inputs = {"input_features": torch.randn(samples, settings["num_mel_bins"], size)}
    else:
        inputs = {"past_values": torch.randn(samples, size, settings["num_input_channels"])}
    if architecture.task == "pixels":
        targets = torch.randint(0, CLASSES, (samples, size, size))
    return inputs, targets


def _mask(samples: int, size: int) -> Tensor:
    """Return the attention mask [N, size] of samples of different lengths."""
    lengths = torch.tensor([size - n * size // (samples + 1) for n in range(samples)])
    return (torch.arange(size) < lengths[:, None]).long()


def _texts(architecture: Architecture, classes: Tensor) -> tuple[Any, Tensor]:
    samples, size = architecture.samples, architecture.size
    vocabulary = architecture.settings["vocab_size"]
    mask = torch.ones(samples, size, dtype=torch.long) if architecture.inputs.endswith("full") else _mask(samples, size)
    tokens = torch.randint(EOS + 2, vocabulary, (samples, size))
    tokens[torch.arange(samples), mask.sum(1) - 1] = EOS  # each ends once
    tokens = tokens.masked_fill(mask == 0, PAD)
    inputs = {"input_ids": tokens, "attention_mask": mask}
    kinds = CLASSES if "TokenClassification" in architecture.model else vocabulary
    if architecture.task == "classes":
        return inputs, classes
    targets = torch.randint(0, kinds, (samples, size))
    if architecture.inputs.startswith("text pair"):
        inputs["decoder_input_ids"] = torch.randint(EOS + 2, vocabulary, (samples, size))
        return inputs, targets
    return inputs, targets.masked_fill(mask == 0, IGNORED)


def doubled(subject: Subject) -> Subject:
    """Return the same in float64."""
    model = copy.deepcopy(subject.model).double()
    if hasattr(model, "set_experts_implementation"):
        model.set_experts_implementation("eager")  # that of the default has no float64
    given = subject.inputs
    inputs = {name: _double(value) for name, value in given.items()} if isinstance(given, dict) else _double(given)
    return subject._replace(model=model, inputs=inputs)


def _double(value: Tensor) -> Tensor:
    return value.double() if value.is_floating_point() else value


def losses_of(subject: Subject, samples: Tensor) -> Tensor:
    """Return the losses of some samples."""
    inputs = subject.inputs
    chosen = {k: v[samples] for k, v in inputs.items()} if isinstance(inputs, dict) else inputs[samples]
    outputs = subject.model(**chosen) if isinstance(chosen, dict) else subject.model(chosen)
    subject.model.train().eval()  # some keep what they computed of their parameters until then, with its graph
    return subject.loss(outputs, subject.targets[samples])


def exact_fisher(subject: Subject) -> dict[str, Tensor]:
    """Return the mean of the squares of each sample's gradient, in the model's type.

    Each sample is run twice in a batch of two, and the gradient is halved: PyTorch 2.13's backward of batch norm in
    eval mode is wrong on the CPU for one sample whose gradient is transposed in memory.
    """
    parameters = dict(subject.model.named_parameters())
    sums = {name: torch.zeros_like(p, requires_grad=False) for name, p in parameters.items()}
    samples = len(subject.targets)
    for n in range(samples):
        loss = losses_of(subject, torch.tensor([n, n])).sum() / 2
        grads = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
        for name, grad in zip(parameters, grads, strict=True):
            if grad is not None:
                sums[name] += (grad.to_dense() if grad.is_sparse else grad).square() / samples
    return sums


def slope_error(subject: Subject) -> float:
    """Compare the gradient that the exact Fisher squares with a finite difference, along one random direction.

    Returns:
        The difference for the first sample, relative to the slope.
    """
    parameters = list(subject.model.parameters())
    twice, generator = torch.tensor([0, 0]), torch.Generator().manual_seed(1)
    grads = torch.autograd.grad(
        losses_of(subject, twice).sum() / 2, parameters, allow_unused=True, materialize_grads=True
    )
    gradient = torch.cat([grad.flatten() for grad in grads])
    # Half along the gradient, so that rounding is small beside the slope, and half along everything.
    scale, along = torch.rand(len(gradient), generator=generator), torch.randn(len(gradient), generator=generator)
    direction = gradient * (scale + 0.5) + along * gradient.norm() / len(gradient) ** 0.5
    direction /= direction.norm()
    slope = float(gradient @ direction)
    steps = [
        part.view_as(p) for part, p in zip(direction.split([p.numel() for p in parameters]), parameters, strict=True)
    ]

    @torch.no_grad()
    def loss_at(distance: float) -> float:
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.add_(step, alpha=distance)
        loss = float(losses_of(subject, twice)[0])
        for parameter, step in zip(parameters, steps, strict=True):
            parameter.sub_(step, alpha=distance)
        return loss

    return min(abs((loss_at(h) - loss_at(-h)) / (2 * h) - slope) for h in STEPS) / abs(slope)
