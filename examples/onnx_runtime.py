"""Forget a class in ONNX Runtime: the model is exported once, and predicts all the while.

    pip install onnxscript   # beside the extras demo and onnx
    python examples/onnx_runtime.py --folder service --forget 3

The first start trains and exports the network, and keeps both in the folder.
engine_trial.py says what is then done and printed.
"""

from __future__ import annotations

from pathlib import Path
from typing import cast

import digits_service
import onnxruntime
import torch
from engine_trial import parse, trial

from fastforget.serving.engines import OnnxRuntime

EXAMPLE = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def export(folder: Path) -> Path:
    """Export the network as it was trained, unless the folder holds it."""
    path = folder / "model.onnx"
    if not path.exists():
        model, _ = digits_service.load(folder)
        # Not optimised: else the exporter folds BatchNorm into the convolutions, and their weights cannot be found.
        batch = ({0: torch.export.Dim.DYNAMIC},)
        program = torch.onnx.export(model, (EXAMPLE,), dynamo=True, optimize=False, dynamic_shapes=batch, verbose=False)
        unfinished = path.with_suffix(".unfinished")
        cast("torch.onnx.ONNXProgram", program).save(unfinished)  # None is what the older exporter returns
        unfinished.replace(path)
    return path


def engine(path: Path) -> OnnxRuntime:
    """Return an engine that runs the exported file."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # the threads that predict are enough
    return OnnxRuntime(path, example=EXAMPLE, options=options)


def main() -> None:
    given = parse(__doc__)
    digits_service.prepare(given.folder)
    path = export(given.folder)
    trial(given.folder, given.forget, lambda: engine(path))


if __name__ == "__main__":
    main()
