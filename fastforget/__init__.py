"""Make deployed PyTorch classifiers forget: a class or samples, with a receipt and with undo."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from fastforget.audit import AuditReport, audit
from fastforget.codes import MnemonicCodes
from fastforget.errors import ForgettingError, UnrecognisedCodesError
from fastforget.fingerprint import fingerprint
from fastforget.fisher import FisherDiagonal, fisher_diagonal
from fastforget.harmonization import harmonize
from fastforget.inscription import inscribe
from fastforget.learn_to_unlearn import learn_to_unlearn
from fastforget.one_shot import one_shot
from fastforget.receipt import Receipt
from fastforget.selection import topk_mask

try:
    __version__ = version("fastforget")
except PackageNotFoundError:  # a source tree that was built but not installed
    __version__ = "0+unknown"

__all__ = [
    "AuditReport",
    "FisherDiagonal",
    "ForgettingError",
    "MnemonicCodes",
    "Receipt",
    "UnrecognisedCodesError",
    "__version__",
    "audit",
    "fingerprint",
    "fisher_diagonal",
    "harmonize",
    "inscribe",
    "learn_to_unlearn",
    "one_shot",
    "topk_mask",
]
