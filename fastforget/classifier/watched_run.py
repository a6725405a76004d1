"""One run of a model with an eye on the products of some parameters, and what each says of the logits."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import random_devices
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.running import IsolatedModel, logits_of

__all__ = ["ProductCalls", "WatchedRun"]

# Roundings between a product of features and weights and its logit, generously.
_ROUNDING = 16.0


@dataclass
class _Call:
    """One use of a watched parameter: what it was multiplied with, and the result."""

    parameter: Tensor
    values: Tensor
    result: Tensor
    class_dim: int

    def moved(self, tensor: Tensor) -> Tensor:
        """Return a tensor with the dimension of classes, or of features, as the last one."""
        return tensor.movedim(self.class_dim, -1)

    def fits(self, share: Tensor) -> bool:
        """Return whether each product of values with the parameter is an element of the result."""
        return self.moved(self.values).shape[:-1] == self.moved(share).shape[:-1]

    def weighed(self, share: Tensor) -> Tensor:
        """Return the values [N, D], summed over positions, each times its share in the logit of class 0."""
        values, weights = self.moved(self.values), self.moved(share.detach())[..., :1]
        return (values * weights).flatten(1, -2).sum(1) if values.dim() > 2 else values * weights


# Where the logits of a product lie: in the last dimension, or in that of channels.
_LAST = (torch.nn.functional.linear, torch.matmul, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.mm, torch.addmm)
_SECOND = (torch.conv1d, torch.conv2d, torch.conv3d)


class ProductCalls(TorchFunctionMode):
    """Notes every product of a watched parameter with something else."""

    def __init__(self, watched: list[Tensor]) -> None:
        super().__init__()
        self._watched = {_place(tensor): tensor for tensor in watched}
        self.found: list[_Call] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func in _LAST or func in _SECOND:
            factors = [v for v in (*args, *(kwargs or {}).values()) if isinstance(v, Tensor) and v.dim() > 1]
            for factor in factors:
                parameter = self._watched.get(_place(factor))
                values = [v for v in factors if v is not factor]
                if parameter is not None and parameter.numel() == factor.numel() and values:
                    class_dim = 1 if func in _SECOND else -1
                    self.found.append(_Call(parameter, values[-1], result, class_dim))
        return result


def _place(tensor: Tensor) -> tuple[int, int]:
    """Name the memory of a tensor: views of a parameter share it, and nothing else does."""
    return tensor.untyped_storage()._cdata, int(tensor.storage_offset())  # noqa: SLF001 - nothing public names memory


@dataclass
class WatchedRun:
    """One forward with watched parameters.

    Attributes:
        logits: [N, C], with a graph from the watched parameters on.
        calls: What these were multiplied with.
        leaves: Their values by name.
    """

    logits: Tensor
    calls: list[_Call]
    leaves: dict[str, Tensor] = field(default_factory=dict)
    # By name of a parameter: the gradients at the results of its products, where they were computed.
    _shares: dict[str, Sequence[Tensor]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        isolated: IsolatedModel,
        inputs: Inputs,
        names: list[str],
        parameters: Mapping[str, Tensor] | None = None,
    ) -> WatchedRun:
        """Run the model with a graph of nothing but these parameters, and leave its buffers as they were."""
        everything = {**isolated.parameters, **(parameters or {})}
        with torch.inference_mode(False):
            copied = {id(p): _trackable(p) for p in everything.values()}  # tied parameters stay tied
            leaves = {id(everything[name]): everything[name] for name in names}
            copied.update((key, _trackable(p).detach().requires_grad_()) for key, p in leaves.items())
            everything = {name: copied[id(p)] for name, p in everything.items()}
            inputs = pytree.tree_map_only(Tensor, _trackable, inputs)
        watched = {name: everything[name] for name in names}
        values = {**everything, **isolated.copied_buffers()}
        devices = random_devices(*everything.values()) if torch.cuda.is_initialized() else []
        matrices = [leaf for leaf in watched.values() if leaf.dim() > 1]
        with _recording(), torch.random.fork_rng(devices=devices), ProductCalls(matrices) as calls:
            outputs = isolated.call_with(values, inputs)
        return cls(logits_of(outputs), calls.found, watched)

    def calls_of(self, parameter: Tensor) -> list[_Call]:
        """Return the products of one parameter."""
        return [call for call in self.calls if call.parameter is parameter]

    def features(self, name: str) -> Tensor:
        """Return the features [N, D] that a parameter is multiplied with.

        Where logits come from several positions, these are weighed as the logits weigh them.
        """
        calls = self.calls_of(self.leaves[name])
        gradients = self._shares.get(name)
        if gradients is None:
            gradients = self._gradients([call.result for call in calls])
        return sum(
            (call.weighed(share) for call, share in zip(calls, gradients, strict=True)), self.logits.new_zeros(())
        )

    def judge(self, name: str, bias: str | None) -> Tensor:
        """Judge whether a parameter of C rows is that of the output layer, with or without a bias [C].

        Returns:
            Whether features and rows multiply to the logits; whether the logits use the parameter in no other way;
            nats by which a logit rises with its bias, 1 without.
        """
        leaf, others = self.leaves[name], [] if bias is None else [self.leaves[bias]]
        calls, total = self.calls_of(leaf), float(len(self.logits))
        gradient, *rest = self._gradients([leaf, *others, *(call.result for call in calls)])
        factors, shares = self._factors, rest[len(others) :]
        self._shares[name] = shares
        eps = _ROUNDING * torch.finfo(self.logits.dtype).eps
        rows, logits = leaf.detach().double().flatten(1), self.logits.detach().double()
        # A use belongs to the output layer if each logit moves with its own row alone, by a factor that all share.
        parts = [(call, share) for call, share in zip(calls, shares, strict=True) if call.fits(share)]
        if not parts:
            return logits.new_zeros(3)
        fit = torch.stack([_are_multiples(call.moved(share), factors, eps) for call, share in parts])
        features = torch.stack([call.weighed(share) for call, share in parts]).double()
        h = torch.where(fit[:, None, None], features, 0.0).sum(0)
        fits = fit.any()
        missing, scale = logits - h @ rows.T, logits.new_ones(())
        if bias is not None:
            scale = rest[0][0].double() / total
            fits = fits & (scale != 0) & _are_multiples(rest[0], factors, eps)
            missing = missing - scale * others[0].detach().double()
        size = (h.abs() @ rows.abs().T + logits.abs()).max()
        fits = fits & ((missing - missing.mean(0)).abs().max() <= eps * size)
        expected = factors.double()[:, None] * h.sum(0)
        alone = (gradient.double().flatten(1) - expected).abs().max() <= eps * total * h.abs().max() * factors.max()
        alone = alone & fit.all() & (len(parts) == len(calls))
        return torch.stack([fits.double(), alone.double(), scale])

    @property
    def _factors(self) -> Tensor:
        """What the logit of each class is multiplied by before gradients are taken, [C]: so all are told apart."""
        return 1 + torch.arange(self.logits.shape[1], device=self.logits.device).remainder(3).to(self.logits.dtype)

    def _gradients(self, of: list[Tensor]) -> tuple[Tensor, ...]:
        """Return the gradients of the sum over samples of the logits, each times the factor of its class."""
        with _recording():
            total = (self.logits * self._factors).sum()
            if not total.requires_grad:
                return tuple(torch.zeros_like(tensor) for tensor in of)
            return torch.autograd.grad(total, of, retain_graph=True, allow_unused=True, materialize_grads=True)


def _are_multiples(found: Tensor, factors: Tensor, eps: float) -> Tensor:
    """Return whether the last dimension holds the multiples of its first element by these factors."""
    expected = found[..., :1] * factors
    return ((found - expected).abs() <= eps * expected.abs()).all()


@contextmanager
def _recording() -> Iterator[None]:
    """Record a graph, whatever the caller switched off."""
    with torch.inference_mode(False), torch.enable_grad():
        yield


def _trackable(tensor: Tensor) -> Tensor:
    """Return a tensor without a graph that one can start from: the same memory, unless it was made for inference."""
    if tensor.is_inference():
        return tensor.detach().clone()
    return tensor.detach() if tensor.requires_grad else tensor
