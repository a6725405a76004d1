"""What one writes without a library: hooks on layers, per-sample gradients by bmm in chunks, squared and summed.

Knows linear layers, two-dimensional convolutions, batch norm in eval mode, layer norm and embeddings; a weight that
is used twice, or a parameter outside these layers, is beyond it.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from peers import Fisher, Loss, Method

CHUNK = 8


def weight_gradients(layer: nn.Module, x: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the gradients of weight and bias for each sample, [N, *shape]."""
    n = len(x)
    if isinstance(layer, nn.Linear):
        x, grad = x.reshape(n, -1, x.shape[-1]), grad.reshape(n, -1, grad.shape[-1])
        return torch.bmm(grad.mT, x), grad.sum(1)
    if isinstance(layer, nn.Conv2d):
        patches = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        patches = patches.reshape(n * layer.groups, -1, patches.shape[-1])
        weights = torch.bmm(grad.reshape(n * layer.groups, -1, patches.shape[-1]), patches.mT)
        return weights.reshape(n, *layer.weight.shape), grad.sum((2, 3))
    if isinstance(layer, nn.BatchNorm2d):
        x = F.batch_norm(x, layer.running_mean, layer.running_var, eps=layer.eps)
        return (grad * x).sum((2, 3)), grad.sum((2, 3))
    if isinstance(layer, nn.LayerNorm):
        between = tuple(range(1, x.dim() - len(layer.normalized_shape)))
        x = F.layer_norm(x, layer.normalized_shape, eps=layer.eps)
        return ((grad * x).sum(between), grad.sum(between)) if between else (grad * x, grad)
    table = grad.new_zeros(n, *layer.weight.shape)
    return table.scatter_add_(1, x.flatten(1)[..., None].expand_as(grad.flatten(1, -2)), grad.flatten(1, -2)), table


def prepare(model: nn.Module, loss: Loss) -> Method:
    model, sums = copy.deepcopy(model), dict[str, Tensor]()
    known = (nn.Linear, nn.Conv2d, nn.BatchNorm2d, nn.LayerNorm, nn.Embedding)

    def watch(path: str, layer: nn.Module) -> None:
        layer.requires_grad_(isinstance(layer, nn.Embedding))  # tokens have no gradient that would reach the layers

        def backward(x: Tensor, grad: Tensor) -> None:
            for part, part_grad in zip(x.split(CHUNK), grad.split(CHUNK), strict=True):
                grads = weight_gradients(layer, part, part_grad)
                for (name, parameter), value in zip(layer.named_parameters(prefix=path), grads, strict=False):
                    total = value.square().sum(0).reshape(parameter.shape)
                    sums[name] = sums[name] + total if name in sums else total

        def forward(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            x = inputs[0].detach()
            output.register_hook(lambda grad: backward(x.expand(len(grad), *x.shape[1:]), grad))

        layer.register_forward_hook(forward)

    for path, layer in model.named_modules():
        if isinstance(layer, known) and not (isinstance(layer, nn.Conv2d) and layer.padding_mode != "zeros"):
            watch(path, layer)

    def method(inputs: Any, targets: Tensor) -> Fisher:
        sums.clear()
        inputs = inputs.detach().requires_grad_() if inputs.is_floating_point() else inputs
        wanted = [tensor for tensor in (inputs, *model.parameters()) if tensor.requires_grad]
        torch.autograd.grad(loss(model(inputs), targets).sum(), wanted, allow_unused=True)
        return {name: value / len(targets) for name, value in sums.items()}

    return method
