"""Forget a class under torch.export and AOTInductor: the model is compiled once, and predicts all the while.

    python examples/aot_inductor.py --folder service --forget 3

This needs a C++ compiler. The first start trains and compiles the network, and keeps both in the folder.
engine_trial.py says what is then done and printed.
"""

from __future__ import annotations

from pathlib import Path

import digits_service
import torch
from engine_trial import THREADS, parse, trial
from torch._inductor import aoti_compile_and_package

from fastforget.serving.engines import AOTInductor

EXAMPLE = torch.randn(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def export(folder: Path) -> Path:
    """Compile the network as it was trained, unless the folder holds it."""
    path = folder / "model.pt2"
    if not path.exists():
        model, _ = digits_service.load(folder)
        program = torch.export.export(model, (EXAMPLE,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
        unfinished = folder / "unfinished.pt2"
        # Without this, short vectors become part of the code and cannot be changed.
        settings = {"always_keep_tensor_constants": True}
        aoti_compile_and_package(program, package_path=str(unfinished), inductor_configs=settings)
        unfinished.replace(path)
    return path


def main() -> None:
    given = parse(__doc__)
    digits_service.prepare(given.folder)
    path = export(given.folder)
    trial(given.folder, given.forget, lambda: AOTInductor(path, example=EXAMPLE, runners=THREADS))


if __name__ == "__main__":
    main()
