"""An engine for OpenVINO."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

from fastforget.classifier.inputs import Inputs
from fastforget.serving.engines.onnx_engine import OnnxEngine, Session
from fastforget.serving.engines.onnx_weights import Array
from fastforget.serving.engines.optional import require

__all__ = ["OpenVINO"]


class OpenVINO(OnnxEngine):
    """Runs an ONNX model in OpenVINO, whose compiled models cannot take other weights.

    For an edit, the new weights are put into the initializers, and OpenVINO reads and compiles the result. The switch
    assigns an attribute, and the compiled model from before is freed afterwards. Every thread has an inference request
    of its own. See `OnnxRuntime` for how to export.

    OpenVINO calculates in bfloat16 where the processor can. Allow for that with ``tolerance``, or set
    ``settings={"INFERENCE_PRECISION_HINT": "f32"}``.

    Args:
        model: The ONNX model, path, bytes or onnx.ModelProto, below 2 GB.
        example: Inputs of the eager model, a tensor or a tuple or dict of tensors. A few samples will do.
        device: As for openvino.Core.compile_model.
        settings: Likewise.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: onnx or openvino is not installed.
        TypeError: ``model`` is none of these.
        ValueError: It is no ONNX model or too large, or ``tolerance`` is not positive.
    """

    def __init__(
        self,
        model: Any,
        *,
        example: Inputs,
        device: str = "CPU",
        settings: Mapping[str, Any] | None = None,
        tolerance: float = 1e-4,
    ) -> None:
        require("onnx", "openvino")
        self._core = require("openvino", "openvino").Core()
        self._device, self._settings = device, dict(settings or {})
        super().__init__(model, example, tolerance)

    def _open(self, content: bytes) -> Session:
        compiled = self._core.compile_model(self._core.read_model(content), self._device, self._settings)
        own = threading.local()  # freed with the session, in every thread

        def run(inputs: dict[str, Array]) -> list[Array]:
            if not hasattr(own, "request"):
                own.request = compiled.create_infer_request()
            outputs = own.request.infer(inputs)  # copies
            return [outputs[output] for output in compiled.outputs]

        return Session(content, [port.get_any_name() for port in compiled.inputs], run)
