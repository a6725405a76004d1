"""The layer that turns features into logits, found by what it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from fastforget.classifier.devices import read_values
from fastforget.classifier.inputs import Inputs, split_samples, tensors_of
from fastforget.classifier.running import IsolatedModel, forward, logits_of
from fastforget.classifier.watched_run import ProductCalls, WatchedRun

__all__ = ["Examination", "OutputLayer", "find_output_layer", "look_for_output_layer"]


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
        isolated, samples = IsolatedModel(model), len(tensors_of(inputs)[0])
        runs = [
            WatchedRun.of(isolated, part, [self.weight], parameters)
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
        with torch.enable_grad(), ProductCalls([weight]) as calls:
            logits = logits_of(forward(model, inputs))
            features = WatchedRun(logits, calls.found, {self.weight: weight}).features(self.weight)
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
    return Examination.of(IsolatedModel(model), inputs, parameters).layer


@dataclass(frozen=True, eq=False)
class Examination:
    """What a run of samples says of the layer that produces their logits.

    `layer` and `features` are computed from the graph of the run when they are first asked for: before anything writes
    to the parameters that it ran with.

    Attributes:
        logits: [N, C], without a graph.
        parameters: Those that the model ran with beside its own.
    """

    logits: Tensor
    parameters: Mapping[str, Tensor]
    _isolated: IsolatedModel
    _runs: list[WatchedRun]

    @classmethod
    def of(
        cls,
        isolated: IsolatedModel,
        inputs: Inputs,
        parameters: Mapping[str, Tensor] | None = None,
        *,
        classes: int | None = None,
        batch_size: int | None = None,
    ) -> Examination:
        """Run a model with a graph of nothing but parameters that may be those of the layer.

        Args:
            isolated: The model, which returns logits [N, C].
            inputs: Some samples, leaves [N, ...].
            parameters: Values in place of parameters, as for `run_isolated`.
            classes: C, where it is known: other parameters then have no graph.
            batch_size: How many samples are run at a time; None for all.

        Returns:
            The examination.
        """
        names = [name for name, p in isolated.parameters.items() if _may_be_of_layer(p, classes)]
        samples = len(tensors_of(inputs)[0])
        parts = split_samples(inputs, None, samples, batch_size or samples)
        runs = [WatchedRun.of(isolated, part, names, parameters) for part, _ in parts]
        logits = torch.cat([run.logits.detach() for run in runs]) if len(runs) > 1 else runs[0].logits.detach()
        return cls(logits, parameters or {}, isolated, runs)

    @cached_property
    def layer(self) -> OutputLayer | str:
        """The layer, or why there is none, see `look_for_output_layer`."""
        run, named = self._runs[0], self._isolated.parameters
        if run.logits.dim() != 2:
            return f"the model returns {run.logits.dim()} dimensions, not logits [N, C]"
        names = [name for name in run.leaves if len(named[name]) == run.logits.shape[1]]
        weights = [name for name in names if named[name].dim() > 1 and run.calls_of(run.leaves[name])]
        biases = [name for name in names if named[name].dim() == 1]
        tied = None
        for weight in weights:
            for bias in (*biases, None):
                ((fits, serves_it_alone, scale),) = read_values(run.judge(weight, bias))
                if fits and serves_it_alone and len(self._isolated.names_by_module(weight)) == 1:
                    return OutputLayer(weight, bias, scale)
                tied = tied or (weight if fits else None)
        if tied is not None:
            shared = " and ".join(f"`{name}`" for name in self._isolated.names_by_module(tied))
            return f"the weights that produce the logits, {shared}, serve elsewhere too (tied weights)"
        return "no parameter with a row for each class produces the logits by a product with features"

    @property
    def layer_if_known(self) -> OutputLayer | str | None:
        """The layer, if it was asked for before something wrote to the parameters."""
        found: OutputLayer | str | None = self.__dict__.get("layer")
        return found

    def assume(self, layer: OutputLayer | str) -> None:
        """Take the layer to be what another run of the same model says, unless it was asked for already."""
        self.__dict__.setdefault("layer", layer)

    def settle(self) -> None:
        """Compute the features now, if the layer was asked for: something is about to write to the parameters."""
        if isinstance(self.layer_if_known, OutputLayer):
            _ = self.features

    @cached_property
    def features(self) -> Tensor:
        """The features before the layer in units of the logits, ``d logits[n, c] / d weight[c]``, [N, D].

        Raises:
            RuntimeError: There is no such layer.
        """
        name = None if isinstance(self.layer, str) else self.layer.weight
        if name is None:
            raise RuntimeError(f"there are no features before an output layer, because {self.layer}")
        parts = [run.features(name).detach() for run in self._runs]
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def _may_be_of_layer(parameter: Tensor, classes: int | None) -> bool:
    """Whether a parameter may be the rows or the bias of an output layer for so many classes."""
    if parameter.dim() == 0 or (classes is not None and len(parameter) != classes):
        return False
    return parameter.dim() == 1 or parameter[0].numel() == parameter.shape[1]
