"""Watches a model run: which function uses which parameter, and where the samples are in every activation."""

from __future__ import annotations

from fastforget.capture.checkpoints import KeepActivations, keep_activations
from fastforget.capture.layout import Layout, Unknown
from fastforget.capture.mode import Capture
from fastforget.capture.uses import Sums, Use, autocasts, sum_dtype

__all__ = [
    "Capture",
    "KeepActivations",
    "Layout",
    "Sums",
    "Unknown",
    "Use",
    "autocasts",
    "keep_activations",
    "sum_dtype",
]
