"""The weights that predict, and a copy on which the next ones are worked out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from fastforget.classifier.compilation import eager
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.modes import check_eval
from fastforget.edits.edit import current_values, prepare_edits
from fastforget.edits.receipt import Receipt
from fastforget.serving.engines import Engine
from fastforget.serving.engines.cuda_recorder import CAPTURING
from fastforget.serving.engines.engine import Predictor
from fastforget.serving.engines.torch_compile import check_no_cuda_graphs

__all__ = ["Weights"]


class Weights:
    """The weights that predict, and the draft: a copy of the model for the next edit.

    Args:
        model: In eval mode, eager or compiled.
        engine: What predicts, if not the model itself.

    Attributes:
        run: What predicts: the engine or the model.
        draft: The copy, eager and in eval mode; equal to the model except while an edit is worked out.

    Raises:
        TypeError: The model is no module that runs in Python.
        ValueError: A module is in train mode, weights cannot be changed in place, or the engine runs others.
    """

    def __init__(self, model: nn.Module, engine: Engine | None) -> None:
        self._source, self._engine = eager(model), engine
        self.run: Predictor = model if engine is None else engine
        check_eval(self._source)
        _check_in_place(model, self._source)
        self.draft = copy.deepcopy(self._source)
        _check_copy(self._source, self.draft)
        if engine is None:
            _check_outputs(model)
        else:
            engine.check(self._source)

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter."""
        return next((parameter.dtype for parameter in self._source.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Of the first parameter."""
        return next((parameter.device for parameter in self._source.parameters()), torch.device("cpu"))

    def fingerprint(self) -> str:
        """Return the fingerprint of the model, buffers included; nobody may change it meanwhile."""
        return fingerprint(self._source)

    def reset(self) -> None:
        """Copy the model anew, since an edit that failed may have changed modes and buffers of the draft, too."""
        self.draft = copy.deepcopy(self._source)

    def stage(self, touched: Sequence[Receipt]) -> Callable[[], None]:
        """Prepare to make the model what the draft is.

        Args:
            touched: The edits between the two.

        Returns:
            What does it; no prediction may be inside.

        Raises:
            ValueError: The draft is in train mode, or the engine cannot run its weights.
        """
        check_eval(self.draft)
        write = prepare_edits(
            self._source, current_values(self.draft, [receipt.edits for receipt in touched]), old=False
        )
        switch = self._engine.stage(self.draft) if self._engine and touched else None
        devices = {parameter.device for parameter in self._source.parameters() if parameter.is_cuda}

        def commit() -> None:
            with CAPTURING if devices else nullcontext():  # to wait for a device would spoil a capture
                _wait_for(devices)  # predictions may be under way on streams of their own
                if switch:
                    switch()
                write()
                _wait_for(devices)

        return commit


def _wait_for(devices: Iterable[torch.device]) -> None:
    for device in devices:
        torch.cuda.synchronize(device)


def _check_in_place(model: nn.Module, source: nn.Module) -> None:
    import torch._inductor.config as inductor  # noqa: PLC0415 (takes long to load, and only this needs it)

    if model is not source and inductor.freezing:
        raise ValueError(
            "`model` must see its weights where they lie; compiled with torch._inductor.config.freezing it holds them "
            "as constants: compile it without"
        )
    for name, value in source.named_parameters():
        if value.is_inference():
            raise ValueError(
                f"parameter `{name}` must be a normal tensor, got one made under torch.inference_mode, which cannot be "
                "changed in place: make the model outside of it"
            )


def _check_copy(source: nn.Module, draft: nn.Module) -> None:
    for (path, module), twin in zip(source.named_modules(), draft.modules(), strict=True):
        own = vars(module).get("forward")
        if own is not None and vars(twin).get("forward") is own:
            raise ValueError(
                f"module `{path}` must have the forward of its class: with one of its own, as that of "
                "torch.cuda.make_graphed_callables, copies run the weights of the original; use "
                "fastforget.serving.engines.CUDAGraphs"
            )


def _check_outputs(model: nn.Module) -> None:
    """Raise ValueError if predictions of several threads would share the memory of their outputs."""
    for module in model.modules():
        for compiled in (module, vars(module).get("_compiled_call_impl")):  # by torch.compile, or in place
            check_no_cuda_graphs(compiled, module)
