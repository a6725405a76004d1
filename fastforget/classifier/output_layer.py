"""The layer that turns features into logits, found by what it does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

from fastforget.classifier.devices import random_devices, read_values
from fastforget.classifier.inputs import Inputs, split_samples, tensors_of
from fastforget.classifier.running import call_with, forward, logits_of

__all__ = ["OutputLayer", "find_output_layer", "look_for_output_layer"]

# Roundings between a product of features and weights and its logit, generously.
_ROUNDING = 16.0


@dataclass(frozen=True)
class OutputLayer:
    """A linear layer whose outputs are the logits, up to a common factor, a mean over positions, or a choice of one.

    ``logits[n, c] = weight[c] @ features[n] + scale * bias[c]``, and a constant of the class. The layer may be a linear
    one, a 1x1 convolution or a product with a parameter, and stand before a pooling, a temperature, or the choice of
    one token.

    Attributes:
        weight: Name of the parameter of C rows, [C, D] or [C, D, 1, ...].
        bias: Name of the parameter [C], or None.
        scale: Nats by which a logit rises when its bias rises by one; 1 without a bias.
    """

    weight: str
    bias: str | None
    scale: float

    def features(
        self,
        model: nn.Module,
        inputs: Inputs,
        parameters: Mapping[str, Tensor] | None = None,
        batch_size: int | None = None,
    ) -> Tensor:
        """Return the features of samples, [N, D], as `examine` does."""
        return self.examine(model, inputs, parameters, batch_size)[0]

    def examine(
        self,
        model: nn.Module,
        inputs: Inputs,
        parameters: Mapping[str, Tensor] | None = None,
        batch_size: int | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the features and the logits of samples, without a graph.

        Args:
            model: The eager module.
            inputs: The samples, leaves [N, ...].
            parameters: Values in place of parameters, as for `run_isolated`.
            batch_size: How many samples are run at a time; None for all.

        Returns:
            The features in units of the logits, ``d logits[n, c] / d weight[c]``, [N, D]; the logits, [N, C].
        """
        samples = len(tensors_of(inputs)[0])
        runs = [
            _Run.of(model, part, [self.weight], parameters)
            for part, _ in split_samples(inputs, None, samples, batch_size or samples)
        ]
        # A hook of the model may have started a graph, as that of transformers for gradient checkpointing does.
        features = torch.cat([run.features(self.weight).detach() for run in runs])
        return features, torch.cat([run.logits.detach() for run in runs])

    def run(self, model: nn.Module, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Return the features [N, D] and the logits [N, C] of samples, as functions of the model's own parameters.

        The model is called as it is: gradients flow where they are enabled.
        """
        weight = dict(model.named_parameters(remove_duplicate=False))[self.weight]
        with torch.enable_grad(), _Calls([weight]) as calls:
            logits = logits_of(forward(model, inputs))
            features = _Run(logits, calls.found, {self.weight: weight}).features(self.weight)
        return features, logits


def find_output_layer(
    model: nn.Module,
    inputs: Inputs,
    parameters: Mapping[str, Tensor] | None = None,
) -> OutputLayer | None:
    """Find the layer that produces the logits, see `look_for_output_layer`; None where there is none."""
    found = look_for_output_layer(model, inputs, parameters)
    return found if isinstance(found, OutputLayer) else None


def look_for_output_layer(
    model: nn.Module,
    inputs: Inputs,
    parameters: Mapping[str, Tensor] | None = None,
) -> OutputLayer | str:
    """Look for the layer that produces the logits, by one forward of some samples and a backward of nothing but it.

    A parameter of C rows passes if the logit of a class depends on its own row alone, and on that linearly, so that
    features and rows multiply to the logits of all classes. A layer whose weights serve elsewhere too (tied weights)
    does not pass: to change a row would change more than a logit.

    Args:
        model: The eager module, which returns logits [N, C].
        inputs: Some samples, leaves [N, ...].
        parameters: Values in place of parameters, as for `run_isolated`.

    Returns:
        The layer, or why there is none, as words that follow a "because".
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    names = [n for n, p in named.items() if p.dim() == 1 or (p.dim() > 1 and p[0].numel() == p.shape[1])]
    run = _Run.of(model, inputs, names, parameters)
    if run.logits.dim() != 2:
        return f"the model returns {run.logits.dim()} dimensions, not logits [N, C]"
    names = [name for name in names if len(named[name]) == run.logits.shape[1]]
    weights = [name for name in names if named[name].dim() > 1 and run.calls_of(run.leaves[name])]
    biases = [name for name in names if named[name].dim() == 1]
    verdicts = {(weight, bias): run.judge(weight, bias) for weight in weights for bias in (*biases, None)}
    if verdicts:
        read = iter(read_values(*verdicts.values()))
        tied = None
        for (weight, bias), (fits, serves_it_alone, scale) in zip(verdicts, read, strict=True):
            if fits and serves_it_alone and len(_names_of(model, named, weight)) == 1:
                return OutputLayer(weight, bias, scale)
            tied = tied or (weight if fits else None)
        if tied is not None:
            shared = " and ".join(f"`{name}`" for name in _names_of(model, named, tied))
            return f"the weights that produce the logits, {shared}, serve elsewhere too (tied weights)"
    return "no parameter with a row for each class produces the logits by a product with features"


def _names_of(model: nn.Module, named: Mapping[str, Tensor], name: str) -> list[str]:
    """Return the first name of a parameter in each module that has it: one module may have several names itself."""
    owners: dict[int, str] = {}
    for other, parameter in named.items():
        if parameter is named[name]:
            owners.setdefault(id(model.get_submodule(other.rpartition(".")[0])), other)
    return list(owners.values())


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


class _Calls(TorchFunctionMode):
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
    return StorageWeakRef(tensor.untyped_storage()).cdata, int(tensor.storage_offset())


@dataclass
class _Run:
    """One forward with watched parameters.

    Attributes:
        logits: [N, C], with a graph from the watched parameters on.
        calls: What these were multiplied with.
        leaves: Their values by name.
    """

    logits: Tensor
    calls: list[_Call]
    leaves: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls, model: nn.Module, inputs: Inputs, names: list[str], parameters: Mapping[str, Tensor] | None = None
    ) -> _Run:
        """Run the model with a graph of nothing but these parameters, and leave its buffers as they were."""
        everything = {**dict(model.named_parameters(remove_duplicate=False)), **(parameters or {})}
        with torch.inference_mode(False):
            copied = {id(p): _trackable(p) for p in everything.values()}  # tied parameters stay tied
            everything = {name: copied[id(p)] for name, p in everything.items()}
            leaves = {name: everything[name].requires_grad_() for name in names}
            inputs = pytree.tree_map_only(Tensor, _trackable, inputs)
        buffers = dict(model.named_buffers(remove_duplicate=False))
        copies = {id(buffer): buffer.clone() for buffer in buffers.values()}
        values = {**everything, **{name: copies[id(buffer)] for name, buffer in buffers.items()}}
        watched = [leaf for leaf in leaves.values() if leaf.dim() > 1]
        devices = random_devices(*model.parameters()) if torch.cuda.is_initialized() else []
        with _recording(), torch.random.fork_rng(devices=devices), _Calls(watched) as calls:
            outputs = call_with(model, values, inputs)
        return cls(logits_of(outputs), calls.found, leaves)

    def calls_of(self, parameter: Tensor) -> list[_Call]:
        """Return the products of one parameter."""
        return [call for call in self.calls if call.parameter is parameter]

    def features(self, name: str) -> Tensor:
        """Return the features [N, D] that a parameter is multiplied with.

        Where logits come from several positions, these are weighed as the logits weigh them.
        """
        calls = self.calls_of(self.leaves[name])
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
    return tensor.detach().clone() if tensor.is_inference() else tensor.detach()
