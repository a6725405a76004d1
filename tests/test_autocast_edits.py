"""Weights that move inside torch.autocast, which would go on with the casts it made of them before."""

import copy
import threading
from collections.abc import Callable
from typing import Any

import known_codes
import pytest
import torch
from asserts import assert_same_bits
from learners import CLASS, FORGET, FRESH, REMAIN, REST, batches, learner
from torch import nn

from fastforget import MnemonicCodes, fingerprint, inscribe, learn_to_unlearn, one_shot
from fastforget.baselines import (
    bad_teacher,
    boundary_expand,
    boundary_shrink,
    cf_k,
    fine_tune,
    fisher_forgetting,
    lfssd,
    neg_grad,
    neg_grad_plus,
    random_labels,
    salun,
    scrub,
    ssd,
    unsir,
)
from fastforget.membership import train_membership_model
from fastforget.serving import LiveModel

X = REMAIN[0][0]
METHODS: dict[str, Callable[[nn.Module], Any]] = {
    "learn_to_unlearn": lambda model: learn_to_unlearn(model, FORGET, REMAIN, unseen=batches(FRESH), steps=3),
    "of second order": lambda model: learn_to_unlearn(model, FORGET, REMAIN, steps=2, order=2),
    "fine_tune": lambda model: fine_tune(model, REMAIN, epochs=1),
    "cf_k": lambda model: cf_k(model, REMAIN, k=1, epochs=1),
    "neg_grad": lambda model: neg_grad(model, FORGET, epochs=2, lr=1e-2),
    "neg_grad_plus": lambda model: neg_grad_plus(model, FORGET, REMAIN, epochs=1),
    "random_labels": lambda model: random_labels(model, FORGET, REMAIN, epochs=1, lr=1e-2),
    "salun": lambda model: salun(model, FORGET, REMAIN, epochs=1),
    "ssd": lambda model: ssd(model, CLASS, CLASS + REST, alpha=1),
    "lfssd": lambda model: lfssd(model, CLASS, CLASS + REST, alpha=1),
    "fisher_forgetting": lambda model: fisher_forgetting(model, CLASS, REST),
    "scrub": lambda model: scrub(model, FORGET, REMAIN, epochs=1, max_epochs=1),
    "bad_teacher": lambda model: bad_teacher(model, FORGET, REMAIN, epochs=1, lr=1e-2),
    "unsir": lambda model: unsir(model, CLASS, REST),
    "boundary_shrink": lambda model: boundary_shrink(model, CLASS, epochs=1, lr=1e-2),
    "boundary_expand": lambda model: boundary_expand(model, CLASS, epochs=1, lr=1e-2),
    "inscribe": lambda model: inscribe(model, MnemonicCodes.generate(4, (30,), per_class=1), REMAIN, lr=0.01),
}


def autocast(*, cache: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


@pytest.mark.parametrize("method", METHODS)
def test_methods_see_the_weights_of_now(method: str) -> None:
    found = {}
    for cache in (True, False):
        model = learner()
        before = fingerprint(model)
        torch.manual_seed(0)
        with autocast(cache=cache):
            model(X)
            METHODS[method](model)
            after = model(X)
            assert torch.is_autocast_cache_enabled() == cache
        with autocast():
            assert_same_bits(after, model(X))
        found[cache] = fingerprint(model)
        assert found[cache] != before
    assert found[True] == found[False]


def test_one_shot_and_its_receipt() -> None:
    model, codes = known_codes.knowing(known_codes.mlp)
    with autocast(), torch.no_grad():
        before = model(codes.inputs)
        receipt = one_shot(model, codes, 2)
        edited = model(codes.inputs)
        receipt.revert(model)
        back = model(codes.inputs)
        receipt.apply(model)
        again = model(codes.inputs)
    assert not (edited.argmax(1) == codes.labels)[codes.labels == 2].any()
    assert_same_bits(back, before)
    assert_same_bits(again, edited)


def test_predictions_that_stay_inside_see_an_edit_from_outside() -> None:
    model, codes, _ = known_codes.digits()
    subject = LiveModel(copy.deepcopy(model), codes)
    first, edited = threading.Event(), threading.Event()
    answers = []

    def client() -> None:
        with autocast():
            answers.append(subject.predict(codes.inputs))
            first.set()
            assert edited.wait(60)
            answers.append(subject.predict(codes.inputs))

    thread = threading.Thread(target=client)
    thread.start()
    assert first.wait(60)
    subject.forget(3)
    edited.set()
    thread.join(60)
    assert [answer.version for answer in answers] == [0, 1]
    receipt = subject.receipts(1)[0]
    assert receipt.before == fingerprint(model)
    known = copy.deepcopy(model)
    for answer in answers:
        with autocast(), torch.no_grad():
            assert_same_bits(answer.outputs, known(codes.inputs))
        if not answer.version:
            receipt.apply(known)


def test_membership_models() -> None:
    model, found = learner(), []
    for cache in (True, False):
        with autocast(cache=cache):
            found.append(fingerprint(train_membership_model(model, FORGET, batches(FRESH), epochs=3)))
    assert found[0] == found[1]
