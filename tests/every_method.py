"""Every method that changes a classifier, for tests with the learner of learners.py."""

import warnings
from collections.abc import Callable
from typing import Any

from learners import CLASS, FORGET, FRESH, REMAIN, REST, batches
from torch import nn

from fastforget import AccuracyLossWarning, MnemonicCodes, inscribe, learn_to_unlearn
from fastforget.baselines import (
    assd,
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cf_k,
    class_svd,
    delete,
    fine_tune,
    fisher_forgetting,
    jit,
    l1_sparse,
    lfssd,
    lotus,
    neg_grad,
    neg_grad_plus,
    random_labels,
    salun,
    scrub,
    ssd,
    unsir,
)
from fastforget.codes.inscription import Inscription


def _inscribe(model: nn.Module) -> Inscription:
    """Teach codes to a network that knows its training data by heart, which costs some of that."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AccuracyLossWarning)
        return inscribe(model, MnemonicCodes.generate(4, (30,), per_class=1), REMAIN, lr=0.01)


METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "learn_to_unlearn": lambda model: learn_to_unlearn(model, FORGET, REMAIN, unseen=batches(FRESH), steps=3),
    "of second order": lambda model: learn_to_unlearn(model, FORGET, REMAIN, steps=2, order=2),
    "fine_tune": lambda model: fine_tune(model, FORGET, REMAIN, epochs=1),
    "cf_k": lambda model: cf_k(model, FORGET, REMAIN, k=1, epochs=1),
    "neg_grad": lambda model: neg_grad(model, FORGET, REMAIN, epochs=2, lr=1e-2),
    "neg_grad_plus": lambda model: neg_grad_plus(model, FORGET, REMAIN, epochs=1),
    "random_labels": lambda model: random_labels(model, FORGET, REMAIN, epochs=1, lr=1e-2),
    "salun": lambda model: salun(model, FORGET, REMAIN, epochs=1),
    "ssd": lambda model: ssd(model, CLASS, REST, alpha=1),
    "lfssd": lambda model: lfssd(model, CLASS, REST, alpha=1),
    "assd": lambda model: assd(model, CLASS, REST),
    "fisher_forgetting": lambda model: fisher_forgetting(model, CLASS, REST),
    "scrub": lambda model: scrub(model, FORGET, REMAIN, epochs=1, max_epochs=1),
    "bad_teacher": lambda model: bad_teacher(model, FORGET, REMAIN, epochs=1, lr=1e-2),
    "unsir": lambda model: unsir(model, CLASS, REST),
    "boundary_shrink": lambda model: boundary_shrink(model, CLASS, REST, epochs=1, lr=1e-2),
    "boundary_expand": lambda model: boundary_expand(model, CLASS, REST, epochs=1, lr=1e-2),
    "l1_sparse": lambda model: l1_sparse(model, FORGET, REMAIN, epochs=1),
    "delete": lambda model: delete(model, CLASS, REST, epochs=1),
    "jit": lambda model: jit(model, CLASS, REST, copies=2),
    "class_svd": lambda model: class_svd(model, CLASS, REST),
    "lotus": lambda model: lotus(model, CLASS, REST, epochs=1),
    "inscribe": _inscribe,
}
