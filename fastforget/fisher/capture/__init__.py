"""Watches a model run: which function uses which parameter, and where the samples are in every activation.

`Watch` holds what is known of a run, and `CaptureMode` is the mode under which the model runs. The mode asks a file of
`recognisers` about functions that use parameters, and a file of `layout_rules` about all others.
"""

from __future__ import annotations

from fastforget.fisher.capture.activation_checkpoints import KeepActivations, keep_activations
from fastforget.fisher.capture.layout import Layout, Unknown
from fastforget.fisher.capture.mode import CaptureMode
from fastforget.fisher.capture.module_trial import trying_modules
from fastforget.fisher.capture.use import Sums, Use
from fastforget.fisher.capture.watch import Computed, LayoutsNeededError, Watch

__all__ = [
    "CaptureMode",
    "Computed",
    "KeepActivations",
    "Layout",
    "LayoutsNeededError",
    "Sums",
    "Unknown",
    "Use",
    "Watch",
    "keep_activations",
    "trying_modules",
]
