"""Edits inside torch.autocast take effect at once: autocast does not reuse its casts of the old weights."""

import copy
import threading

import known_codes
import pytest
import torch
from asserts import assert_same_bits
from every_method import METHODS
from learners import FORGET, FRESH, REMAIN, batches, learner

from fastforget import fingerprint, one_shot
from fastforget.membership.training import train_membership_model
from fastforget.serving import LiveModel

X = REMAIN[0][0]


def autocast(*, cache: bool = True) -> torch.autocast:
    return torch.autocast("cpu", torch.bfloat16, cache_enabled=cache)


@pytest.mark.parametrize("method", METHODS)
def test_methods_see_the_current_weights(method: str) -> None:
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
    model, codes = known_codes.model_with_codes(known_codes.mlp)
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
