"""Published methods that users compare with, each a small function with its paper's defaults.

All of them edit a classifier in place: ``method(model, forget, remain, ...)``, where ``forget`` and ``remain`` are
batches (inputs, targets) on the model's device, for instance DataLoaders. After an error the model is what it was
before.
"""

from __future__ import annotations

from fastforget.baselines.bad_teacher import bad_teacher
from fastforget.baselines.boundary import boundary_expand, boundary_shrink
from fastforget.baselines.fine_tuning import cf_k, fine_tune, retrain
from fastforget.baselines.fisher_forgetting import fisher_forgetting
from fastforget.baselines.negative_gradient import neg_grad, neg_grad_plus
from fastforget.baselines.random_labels import random_labels, salun
from fastforget.baselines.scrub import scrub
from fastforget.baselines.selective_synaptic_dampening import lfssd, ssd
from fastforget.baselines.unsir import unsir

__all__ = [
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "cf_k",
    "fine_tune",
    "fisher_forgetting",
    "lfssd",
    "neg_grad",
    "neg_grad_plus",
    "random_labels",
    "retrain",
    "salun",
    "scrub",
    "ssd",
    "unsir",
]
