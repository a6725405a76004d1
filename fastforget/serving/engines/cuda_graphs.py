"""An engine that replays CUDA graphs of the model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.batch import Inputs, tensors_of
from fastforget.model import check_eval, eager, fresh_casts
from fastforget.serving.engines.agreement import Agreement, Run, check_no_graphs, cloned, disturb
from fastforget.serving.engines.cuda_recorder import Recorder

__all__ = ["CUDAGraphs"]

_PLAIN = (bool, int, float, complex, str, bytes, torch.device)  # values that are alike if they are equal


class CUDAGraphs:
    """Runs the model's kernels with a single launch, for inputs like the examples; others run as usual.

    The graphs read the weights of the model where they lie: an edit in place is seen, nothing is recorded again, and
    no memory is taken for more weights. All predictions use the same memory on the device, so they take turns there,
    from whatever threads and streams they come, and each returns outputs of its own. That is the difference to
    ``torch.compile(mode="reduce-overhead")`` and ``torch.cuda.make_graphed_callables``, which return memory that the
    next prediction writes.

    The model must do the same each time, without waiting for the device. A graph is for autocast as it was when the
    graph was recorded, in `check`; where it is not, predictions run as usual.

    Args:
        examples: Inputs, each a tensor or a tuple or dict of what the forward takes: those of each shape that is to
            have a graph. Values other than tensors must be the same in a prediction.
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
        self, *examples: Inputs, build: Callable[[nn.Module], Run] | None = None, tolerance: float = 1e-4
    ) -> None:
        if not examples:
            raise ValueError("there must be at least one example of inputs, got none")
        if build is not None and not callable(build):
            raise TypeError(f"`build` must be a function of a module, got {type(build).__name__}")
        self._agreements = [Agreement(example, tolerance) for example in examples]
        self._build = build
        self._run: Run | None = None  # from `check` on
        self._graphs: list[_Graph] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Predict, without gradients where there is a graph; arguments and result as for the model."""
        leaves, form = pytree.tree_flatten((args, kwargs))
        for graph in self._graphs:
            if graph.takes(leaves, form):
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
        run, recorder = self._built(source), Recorder(device)
        graphs = [_Graph(run, agreement.example, recorder) for agreement in self._agreements]
        for graph, agreement in zip(graphs, self._agreements, strict=True):
            agreement.check(graph.on, agreement.outputs(source))
        self._run, self._graphs = run, graphs

    def stage(self, model: nn.Module) -> Callable[[], None]:
        """Prepare for the weights of a model: nothing is to be done, the graphs see them when they have been written.

        Args:
            model: An eager module.

        Returns:
            What does nothing.

        Raises:
            RuntimeError: No model was checked before.
        """
        self._checked()
        check_eval(eager(model))
        return _nothing

    def _checked(self) -> Run:
        if self._run is None:
            raise RuntimeError("`check` must have accepted a model first")
        return self._run

    def _built(self, source: nn.Module) -> Run:
        run = source if self._build is None else self._build(source)
        if not callable(run):
            raise ValueError(f"`build` must return what can be called, got {type(run).__name__}")  # noqa: TRY004
        check_no_graphs(run, source)
        return run

    def _device(self, source: nn.Module) -> torch.device:
        tensors = [*source.parameters(), *source.buffers()]
        for agreement in self._agreements:
            tensors += tensors_of(agreement.example)
        devices = {tensor.device for tensor in tensors}
        if len(devices) != 1:
            raise ValueError(f"`model` and the examples must be on one device, got {sorted(map(str, devices))}")
        return devices.pop()

    def _check_follows(self, twin: nn.Module, recorder: Recorder) -> None:
        agreement = self._agreements[0]
        graph, expected = _Graph(self._built(twin), agreement.example, recorder), agreement.outputs(twin)
        agreement.check(graph.on, expected)
        disturb(twin)
        changed = agreement.outputs(twin)
        agreement.check_apart(changed, expected)
        agreement.check(graph.on, changed, before=expected)


class _Graph:
    """What the model does on inputs like an example."""

    def __init__(self, run: Run, example: Inputs, recorder: Recorder) -> None:
        """Record it."""
        own = cloned(example)
        arguments: tuple[Any, ...] = (
            ((), own) if isinstance(own, dict) else ((own,) if isinstance(own, Tensor) else tuple(own), {})
        )
        self._leaves, self._form = pytree.tree_flatten(arguments)
        args, kwargs = arguments
        self._recorder, self._autocast = recorder, _autocast()
        try:
            with torch.no_grad(), fresh_casts():
                self._replay, outputs = recorder.record(lambda: run(*args, **kwargs))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            raise ValueError(f"`model` must be fit for a CUDA graph: {error}") from error
        self._outputs, self._outputs_form = pytree.tree_flatten(outputs)

    def takes(self, leaves: list[Any], form: pytree.TreeSpec) -> bool:
        """Whether inputs are like the example."""
        return form == self._form and all(map(_alike, leaves, self._leaves)) and _autocast() == self._autocast

    @torch.no_grad()
    def __call__(self, leaves: list[Any]) -> Any:
        """Run it on inputs that it takes."""
        with self._recorder.turn():
            for own, given in zip(self._leaves, leaves, strict=True):
                if isinstance(own, Tensor):
                    own.copy_(given)
            self._replay()
            outputs = [leaf.clone() if isinstance(leaf, Tensor) else leaf for leaf in self._outputs]
        return pytree.tree_unflatten(outputs, self._outputs_form)

    def on(self, *args: Any, **kwargs: Any) -> Any:
        """Run it on the arguments of the model."""
        return self(pytree.tree_leaves((args, kwargs)))


def _alike(given: Any, own: Any) -> bool:
    if isinstance(own, Tensor):
        return (
            isinstance(given, Tensor)
            and given.shape == own.shape
            and given.dtype == own.dtype
            and given.device == own.device
        )
    return given is own or (isinstance(own, _PLAIN) and type(given) is type(own) and given == own)


def _autocast() -> tuple[bool, torch.dtype]:
    return torch.is_autocast_enabled("cuda"), torch.get_autocast_dtype("cuda")


def _nothing() -> None:
    pass
