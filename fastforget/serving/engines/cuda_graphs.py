"""An engine that replays CUDA graphs of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from fastforget.classifier.compilation import eager
from fastforget.classifier.inputs import Inputs, tensors_of
from fastforget.classifier.modes import check_eval
from fastforget.serving.engines.comparison import OutputComparison, nudge_parameters
from fastforget.serving.engines.cuda_recorder import Recorder
from fastforget.serving.engines.engine import Predictor
from fastforget.serving.engines.recorded_graph import RecordedGraph
from fastforget.serving.engines.torch_compile import check_no_cuda_graphs

__all__ = ["CUDAGraphs"]


class CUDAGraphs:
    """Runs the model's kernels with a single launch, for inputs like the examples; others run as usual.

    The graphs read the weights of the model where they lie: they see an edit in place, nothing is recorded again, and
    no memory is taken for more weights. All predictions use the same memory on the device, so they take turns there,
    from whatever threads and streams they come, and each returns outputs of its own. That is the difference to
    ``torch.compile(mode="reduce-overhead")`` and ``torch.cuda.make_graphed_callables``, which return memory that the
    next prediction writes.

    The model must do the same each time, without waiting for the device. A graph is for autocast as it was in `check`,
    when it was recorded; under any other, predictions run as usual.

    Args:
        examples: Inputs, each a tensor or a tuple or dict of what the forward takes: one for each shape that is to have
            a graph. Values other than tensors must be the same in a prediction.
        build: Takes the module and returns what is to be recorded, such as ``torch.compile``; it must read the weights
            where they lie. The module itself by default.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        TypeError: ``build`` is no function.
        ValueError: There is no example, or ``tolerance`` is not positive.

    Example:
        >>> device = "cuda" if torch.cuda.is_available() else "cpu"
        >>> images = torch.rand(8, 3, 32, 32, device=device)
        >>> engine = CUDAGraphs(images[:1], images)  # for LiveModel(model.cuda(), engine=engine)
    """

    def __init__(
        self, *examples: Inputs, build: Callable[[nn.Module], Predictor] | None = None, tolerance: float = 1e-4
    ) -> None:
        if not examples:
            raise ValueError("there must be at least one example of inputs, got none")
        if build is not None and not callable(build):
            raise TypeError(f"`build` must be a function of a module, got {type(build).__name__}")
        self._comparisons = [OutputComparison(example, tolerance) for example in examples]
        self._build = build
        self._predictor: Predictor | None = None  # from `check` on
        self._graphs: list[RecordedGraph] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, without gradients where there is a graph; arguments and result as for the model."""
        leaves, structure = pytree.tree_flatten((args, kwargs))
        for graph in self._graphs:
            if graph.accepts(leaves, structure):
                return graph(leaves)
        return self._checked()(*args, **kwargs)

    def check(self, model: nn.Module) -> None:
        """Record the model, and make sure that the graphs say what it says and would follow edits.

        The latter is shown on a copy, whose weights are changed a little after it was recorded.

        Args:
            model: The eager module, in eval mode, on a CUDA device.

        Raises:
            ValueError: It is elsewhere, cannot be recorded, or what was recorded says something else.
        """
        source = eager(model)
        check_eval(source)
        device = self._device(source)
        self._check_follows(copy.deepcopy(source), Recorder(device))
        predictor, recorder = self._built(source), Recorder(device)
        graphs = [RecordedGraph(predictor, comparison.example, recorder) for comparison in self._comparisons]
        for graph, comparison in zip(graphs, self._comparisons, strict=True):
            comparison.check(graph.predict, comparison.outputs(source))
        self._predictor, self._graphs = predictor, graphs

    def stage(self, model: nn.Module) -> Callable[[], None]:
        """Prepare for the weights of a model: nothing is to be done, since the graphs see weights where they lie.

        Args:
            model: An eager module.

        Returns:
            What does nothing.

        Raises:
            RuntimeError: No model was checked before.
        """
        self._checked()
        check_eval(eager(model))
        return _change_nothing

    def _checked(self) -> Predictor:
        if self._predictor is None:
            raise RuntimeError("`check` must have accepted a model first")
        return self._predictor

    def _built(self, source: nn.Module) -> Predictor:
        predictor = source if self._build is None else self._build(source)
        if not callable(predictor):
            raise ValueError(f"`build` must return what can be called, got {type(predictor).__name__}")  # noqa: TRY004
        check_no_cuda_graphs(predictor, source)
        return predictor

    def _device(self, source: nn.Module) -> torch.device:
        tensors = [*source.parameters(), *source.buffers()]
        for comparison in self._comparisons:
            tensors += tensors_of(comparison.example)
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1:
            raise ValueError(f"`model` and the examples must be on one device, got {sorted(map(str, devices))}")
        return devices.pop()

    def _check_follows(self, twin: nn.Module, recorder: Recorder) -> None:
        comparison = self._comparisons[0]
        graph, expected = RecordedGraph(self._built(twin), comparison.example, recorder), comparison.outputs(twin)
        comparison.check(graph.predict, expected)
        nudge_parameters(twin)
        changed = comparison.outputs(twin)
        comparison.check_distinct(changed, expected)
        comparison.check(graph.predict, changed, before=expected)


def _change_nothing() -> None:
    pass
