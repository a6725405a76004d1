"""Engines: each runs the weights of a model in a form of its own, and follows its edits."""

from __future__ import annotations

from fastforget.serving.engines.aot_inductor import AOTInductor
from fastforget.serving.engines.cuda_graphs import CUDAGraphs
from fastforget.serving.engines.engine import Engine, PinningEngine
from fastforget.serving.engines.onnx_runtime import OnnxRuntime
from fastforget.serving.engines.openvino import OpenVINO
from fastforget.serving.engines.rebuilt import Rebuilt
from fastforget.serving.engines.torch_compile import compile_frozen

__all__ = [
    "AOTInductor",
    "CUDAGraphs",
    "Engine",
    "OnnxRuntime",
    "OpenVINO",
    "PinningEngine",
    "Rebuilt",
    "compile_frozen",
]
