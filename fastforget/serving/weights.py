"""The weights that predict, and a copy on which the next ones are worked out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from fastforget.classifier.compilation import eager
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.kept_values import prepare_to_drop
from fastforget.classifier.modes import check_eval
from fastforget.edits.edit import current_values, prepare_edits
from fastforget.edits.receipt import Receipt
from fastforget.serving.engines import Engine
from fastforget.serving.engines.cuda_recorder import CAPTURING
from fastforget.serving.engines.engine import PinningEngine, Predictor
from fastforget.serving.engines.torch_compile import check_no_cuda_graphs
from fastforget.serving.stand_in import can_stand_in

__all__ = ["Weights"]


class Weights:
    """The weights that predict, and the draft: a copy of the model for the next edit.

    Args:
        model: In eval mode, eager or compiled.
        engine: What predicts, if not the model itself.

    Attributes:
        run: What predicts: the model, the engine, or what the engine runs now.
        draft: The copy, eager and in eval mode; equal to what predicts except while an edit is worked out.
        lends_draft: Whether the draft can predict in place of the model, while that is written.
        pins: Whether old and new weights can predict side by side in the engine, see `PinningEngine`.
        reuses: Whether to stage others, no prediction may be inside what ran before.

    Raises:
        TypeError: The model is no module that runs in Python.
        ValueError: A module is in train mode, weights cannot be changed in place, or the engine runs others.
    """

    def __init__(self, model: nn.Module, engine: Engine | None) -> None:
        self._source, self._engine = eager(model), engine
        check_eval(self._source)
        _check_in_place(model, self._source)
        self.draft: nn.Module = copy.deepcopy(self._source)
        _check_copy(self._source, self.draft)
        self.lends_draft: bool = model is self._source and engine is None and can_stand_in(model, self.draft)
        self._lent: list[Predictor] = []  # what predicted before, and may still be read by a prediction or a device
        if engine is None:
            _check_outputs(model)
        else:
            engine.check(self._source)
        self.run: Predictor = model if engine is None else engine
        self.pins: bool = isinstance(engine, PinningEngine)
        self.reuses: bool = False
        if isinstance(engine, PinningEngine):
            self.run, self.reuses = engine.pinned(), engine.reuses

    @property
    def dtype(self) -> torch.dtype:
        """Of the first parameter."""
        return next((parameter.dtype for parameter in self._source.parameters()), torch.float32)

    @property
    def device(self) -> torch.device:
        """Of the first parameter."""
        return next((parameter.device for parameter in self._source.parameters()), torch.device("cpu"))

    def fingerprint(self, predictor: Predictor | None = None) -> str:
        """Return the fingerprint of the model, or of a draft that predicts; nobody may change it meanwhile."""
        return fingerprint(self._module_of(predictor))

    def reset(self, predictor: Predictor) -> None:
        """Copy what predicts anew, since an edit that failed may have changed modes and buffers of the draft, too."""
        if self.draft is predictor:
            self._lent.append(self.draft)
        self.draft = copy.deepcopy(self._module_of(predictor))

    def take_back(self, predictor: Predictor, is_used: Callable[[Predictor], bool]) -> None:
        """Free what predicted before, and have a draft in which no prediction is: the one that there is, or a new one.

        Args:
            predictor: What predicts.
            is_used: Whether predictions are, or come, inside what predicted before.
        """
        if not self.lends_draft and not self.pins:
            return
        lent = [former for former in self._lent if is_used(former)]
        used = self.lends_draft and is_used(self.draft)
        with self._devices_idle():  # what predictions that have left began there may still read the others
            self._lent = [*lent, self.draft] if used else lent
        if used:
            self.draft = copy.deepcopy(self._module_of(predictor))

    def stage(self, touched: Sequence[Receipt]) -> Callable[[], None]:
        """Prepare to make the model what the draft is.

        Args:
            touched: The edits between the two.

        Returns:
            What does it; no prediction may be inside the model. Where the engine pins, none is, and `run` is then what
            runs the new weights.

        Raises:
            ValueError: The draft is in train mode, or the engine cannot run its weights.
        """
        check_eval(self.draft)
        values = current_values(self.draft, [receipt.edits for receipt in touched])
        write = prepare_edits(self._source, values, old=False)
        switch = self._engine.stage(self.draft) if self._engine and touched else None

        def commit() -> None:
            with self._devices_idle():  # predictions may be under way on streams of their own
                write()
                if switch:
                    switch()
                self._pin()

        def commit_later() -> None:
            drop = prepare_to_drop(self._source, values)  # of what predictions have kept since
            commit()
            drop()

        return commit_later if self.lends_draft else commit

    def restage(self) -> None:
        """Have the engine run the weights of the model, if an interrupt came after these and before the engine."""
        if isinstance(self._engine, PinningEngine) and self._engine.pinned() == self.run:
            self._engine.stage(self._source)()
        self._pin()

    def lend(self, predictor: Predictor) -> bool:
        """Keep what predicted before, until `take_back`, if a device may still read it; say whether it may."""
        lent = any(parameter.is_cuda for parameter in self._source.parameters())
        if lent:
            self._lent.append(predictor)
        return lent

    def _pin(self) -> None:
        if isinstance(self._engine, PinningEngine):
            self.run = self._engine.pinned()

    def _module_of(self, predictor: Predictor | None) -> nn.Module:
        return predictor if self.lends_draft and isinstance(predictor, nn.Module) else self._source

    @contextmanager
    def _devices_idle(self) -> Iterator[None]:
        """Wait for the devices before and after."""
        devices = {parameter.device for parameter in self._source.parameters() if parameter.is_cuda}
        with CAPTURING if devices else nullcontext():  # to wait for a device would spoil a capture
            _wait_for(devices)
            yield
            _wait_for(devices)


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
