"""Imports transformers and timm, both without torchvision.

torchvision would bring another PyTorch. Of timm's networks none uses it; but timm imports it for three things that no
network here needs: a frozen batch norm that some checkpoints have (it is only asked for by type), the extraction of
features (timm does without it), and the data loaders in ``timm.data``, of which the networks take constants only.
"""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

from torch import nn

__all__ = ["import_timm", "import_transformers"]


class _FrozenBatchNorm2d(nn.Module):
    """No module is one of these."""

    def __init__(self, *_: object, **__: object) -> None:
        raise NotImplementedError("torchvision's frozen batch norm is not part of this sweep")


def _put(name: str, **members: object) -> ModuleType:
    module = ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__path__ = []
    vars(module).update(members)
    sys.modules[name] = module
    return module


def import_timm() -> ModuleType:
    """Import timm, whose networks are the same with and without torchvision."""
    if "timm" in sys.modules:
        return sys.modules["timm"]
    found = importlib.util.find_spec("timm")
    if found is None or found.origin is None:
        raise ModuleNotFoundError("No module named 'timm': make sweep installs it", name="timm")
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    data = Path(found.origin).parent / "data"
    places = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
    for name in places:
        _put(name)
    vars(sys.modules["torchvision.ops.misc"])["FrozenBatchNorm2d"] = _FrozenBatchNorm2d
    constants: dict[str, object] = {}
    exec((data / "constants.py").read_text(), constants)  # noqa: S102 - a file of numbers, without its package
    stand_in = _put("timm.data", **{name: value for name, value in constants.items() if name.isupper()})
    stand_in.__path__ = [str(data)]  # what is asked for by its own name, and needs no torchvision, is timm's
    try:
        return importlib.import_module("timm")
    finally:
        for name in places:  # whoever asks later is told the truth
            del sys.modules[name]


def import_transformers() -> ModuleType:
    """Import transformers, offline and silent."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    return importlib.import_module("transformers")
