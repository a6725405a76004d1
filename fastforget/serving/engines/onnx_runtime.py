"""An engine for ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastforget.classifier.inputs import Inputs
from fastforget.serving.engines.onnx_engine import OnnxEngine, Session
from fastforget.serving.engines.optional import require

__all__ = ["OnnxRuntime"]


class OnnxRuntime(OnnxEngine):
    """Runs an ONNX model in ONNX Runtime, whose sessions cannot take other weights.

    For an edit, the new weights are put into the initializers, and another session is made of them. The switch assigns
    an attribute, and the session from before is freed afterwards. Initializers are found by the names of the
    parameters, or by equal values, also transposed. Parameters that an exporter folded into others cannot be found
    again: export with ``torch.onnx.export(..., dynamo=True, optimize=False)``. ONNX Runtime folds by itself, for every
    session.

    Args:
        model: The ONNX model, path, bytes or onnx.ModelProto, below 2 GB.
        example: Inputs of the eager model, a tensor or a tuple or dict of tensors. A few samples will do.
        providers: As for onnxruntime.InferenceSession.
        options: onnxruntime.SessionOptions; used for every session.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: onnx or onnxruntime is not installed.
        TypeError: ``model`` is none of these.
        ValueError: It is no ONNX model or too large, or ``tolerance`` is not positive.
    """

    def __init__(
        self,
        model: Any,
        *,
        example: Inputs,
        providers: Sequence[Any] = ("CPUExecutionProvider",),
        options: Any = None,
        tolerance: float = 1e-4,
    ) -> None:
        self._runtime = require("onnxruntime", "onnx")
        self._providers, self._options = list(providers), options
        super().__init__(model, example, tolerance)

    def _open(self, content: bytes) -> Session:
        session = self._runtime.InferenceSession(content, self._options, providers=self._providers)
        names = [argument.name for argument in session.get_inputs()]
        return Session(content, names, lambda inputs: session.run(None, inputs))
