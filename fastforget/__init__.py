"""Make deployed PyTorch classifiers forget: a class or samples, with a receipt and with undo."""

from __future__ import annotations

import logging
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastforget.auditing import AuditReport, audit
from fastforget.class_forgetting.one_shot import one_shot
from fastforget.classifier.fingerprint import fingerprint
from fastforget.codes import MnemonicCodes
from fastforget.codes.inscription import inscribe
from fastforget.edits import Receipt
from fastforget.errors import AccuracyLossWarning, ForgettingError, ShallowForgettingWarning, UnrecognisedCodesError
from fastforget.files.versions import LIBRARY_VERSION
from fastforget.fisher import FisherDiagonal, fisher_diagonal
from fastforget.functional.harmonization import harmonize
from fastforget.functional.topk import topk_mask
from fastforget.sample_forgetting.learn_to_unlearn import learn_to_unlearn

if TYPE_CHECKING:  # imported when they are asked for, see `__getattr__`
    from fastforget import baselines, distributed, integrations, serving
    from fastforget.comparison import compare

__version__ = LIBRARY_VERSION

# What is done to models is logged by loggers below this one. It is seen where the program says so, and only there.
logging.getLogger(__name__).addHandler(logging.NullHandler())

__all__ = [
    "AccuracyLossWarning",
    "AuditReport",
    "FisherDiagonal",
    "ForgettingError",
    "MnemonicCodes",
    "Receipt",
    "ShallowForgettingWarning",
    "UnrecognisedCodesError",
    "__version__",
    "audit",
    "baselines",
    "compare",
    "distributed",
    "fingerprint",
    "fisher_diagonal",
    "harmonize",
    "inscribe",
    "integrations",
    "learn_to_unlearn",
    "one_shot",
    "serving",
    "topk_mask",
]


def __getattr__(name: str) -> Any:
    """Import a part that most programs do without, when it is first asked for (PEP 562)."""
    if name in {"baselines", "distributed", "integrations", "serving"}:
        return import_module(f"fastforget.{name}")
    if name == "compare":
        return import_module("fastforget.comparison").compare
    # With both, Python adds "Did you mean".
    raise AttributeError(f"module 'fastforget' has no attribute {name!r}", name=name, obj=sys.modules[__name__])


def __dir__() -> list[str]:
    """Name the public interface."""
    return sorted(__all__)
