"""A model with everything that could be disturbed, and a snapshot of all of it."""

from typing import Any

import torch
from asserts import prepared
from fisher.small_modules import Prototypes
from torch import Tensor, nn
from torch.utils import _pytree as pytree


class Noisy(nn.Module):
    """A model with everything that could be disturbed, that fails on demand."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(3, 6), nn.BatchNorm1d(6), Prototypes(6, 6), nn.Dropout(0.5), nn.Linear(6, 4)
        )
        self.register_buffer("calls", torch.zeros(()))
        self.fail = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1  # a buffer changed in forward
        x = self.body(x)
        if self.fail:
            raise KeyError("on demand")
        return x


def snapshot(model: nn.Module) -> dict[str, Any]:
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    return {
        "values": {name: tensor.detach().clone() for name, tensor in tensors.items()},
        "identity": {name: (id(tensor), tensor.data_ptr(), tensor._version) for name, tensor in tensors.items()},
        "grads": {
            name: None if p.grad is None else (id(p.grad), p.grad.clone()) for name, p in model.named_parameters()
        },
        "flags": {name: p.requires_grad for name, p in model.named_parameters()},
        "modes": [module.training for module in model.modules()],
        "hooks": [
            [len(value) for key, value in sorted(vars(module).items()) if key.endswith("_hooks")]
            for module in model.modules()
        ],
        "attributes": [sorted(vars(module)) for module in model.modules()],
        "tensor hooks": {name: p._backward_hooks for name, p in model.named_parameters()},
        "random": torch.get_rng_state(),
        "modes of torch": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        "function modes": torch._C._len_torch_function_stack(),
    }


def assert_same(a: Any, b: Any) -> None:
    left, right = pytree.tree_leaves(a), pytree.tree_leaves(b)
    assert len(left) == len(right)
    for x, y in zip(left, right, strict=True):
        assert torch.equal(x, y) if isinstance(x, Tensor) else x == y


def noisy() -> nn.Module:
    model = prepared(Noisy)
    model.body[0].weight.grad = torch.ones(6, 3)
    model.body[3].train()
    model.body[3].p = 0.0
    model.body[0].register_forward_hook(lambda *_: None)
    model.body[4].register_full_backward_hook(lambda *_: None)
    return model
