"""Published methods to compare with, each a small function with its paper's defaults.

All of them edit a classifier in place and return a receipt, which undoes it or repeats it on a copy:
``receipt = method(model, forget, remain, ...)``. ``forget`` and ``remain`` are batches (inputs, targets) on the model's
device, for instance DataLoaders, or other forms of samples, see `fastforget.classifier.data_forms.batches_of`. Of a
pair (inputs, targets) and of a data set each pass is drawn anew. After an error the model is what it was before.

`fastforget.edits.recorded` makes a method of your own one of these.

In the docstrings, D_f are the samples to forget, D_r the remaining ones, CE is the cross-entropy with the targets and
KL the Kullback-Leibler divergence.
"""

from __future__ import annotations

from fastforget.baselines.boundary import boundary_expand, boundary_shrink
from fastforget.baselines.distillation import scrub
from fastforget.baselines.fine_tuning import cf_k, fine_tune, retrain
from fastforget.baselines.fisher_noise import fisher_forgetting
from fastforget.baselines.impair_repair import unsir
from fastforget.baselines.lipschitz import jit
from fastforget.baselines.masked_distillation import delete
from fastforget.baselines.negative_gradient import neg_grad, neg_grad_plus
from fastforget.baselines.relabelling import random_labels, salun
from fastforget.baselines.selective_synaptic_dampening import assd, lfssd, ssd
from fastforget.baselines.sparsity import l1_sparse
from fastforget.baselines.subspaces import class_svd
from fastforget.baselines.teachers import bad_teacher
from fastforget.baselines.tempered_teacher import lotus

__all__ = [
    "assd",
    "bad_teacher",
    "boundary_expand",
    "boundary_shrink",
    "cf_k",
    "class_svd",
    "delete",
    "fine_tune",
    "fisher_forgetting",
    "jit",
    "l1_sparse",
    "lfssd",
    "lotus",
    "neg_grad",
    "neg_grad_plus",
    "random_labels",
    "retrain",
    "salun",
    "scrub",
    "ssd",
    "unsir",
]
