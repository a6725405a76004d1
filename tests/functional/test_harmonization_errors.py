"""Errors of harmonize: their texts, and that nothing has changed after them."""

import re

import pytest
import torch
from asserts import assert_same_bits

from fastforget import harmonize

A, B = torch.ones(2), torch.ones(3)
UNLIKE = "must be like that of `forget_grads`, torch.float32 of shape (2,), got"
ABSENT = "got None; where a parameter took no part give zeros, as torch.autograd.grad(..., materialize_grads=True) does"
BAD = {
    "project": (
        ValueError,
        "`project` must be one of 'forget', 'remain', 'both', 'none', got 'off'",
        ([A], [A]),
        {"project": "off"},
    ),
    "scope": (ValueError, "`scope` must be one of 'global', 'tensor', got 'layer'", ([A], [A]), {"scope": "layer"}),
    "number": (TypeError, "`forget_grads` must be a tensor, list or dict of tensors, got float", (3.0, A), {}),
    "kind": (TypeError, "`remain_grads` must be a list like `forget_grads`, got a dict", ([A], {"a": A}), {}),
    "kind of out": (TypeError, "`out` must be a tensor like `forget_grads`, got a list", (A, A), {"out": [A]}),
    "empty": (ValueError, "`forget_grads` must not be empty", ([], []), {}),
    "count": (
        ValueError,
        "`more_grads[0]` must have a tensor for each of `forget_grads` and no other, got no 1",
        ([A, B], [A, B], [A]),
        {},
    ),
    "missing name": (
        ValueError,
        "`remain_grads` must have a tensor for each of `forget_grads` and no other, got no 'b'",
        ({"a": A, "b": B}, {"a": A}),
        {},
    ),
    "other name": (
        ValueError,
        "`remain_grads` must have a tensor for each of `forget_grads` and no other, got 'c'",
        ({"a": A}, {"a": A, "c": B}),
        {},
    ),
    "none": (
        TypeError,
        f"`remain_grads['b']` must be a tensor, {ABSENT}",
        ({"a": A, "b": B}, {"a": A, "b": None}),
        {},
    ),
    "not a tensor": (TypeError, "`forget_grads[1]` must be a tensor, got int", ([A, 1], [A, B]), {}),
    "shape": (
        ValueError,
        f"`remain_grads[0]` {UNLIKE} torch.float32 of shape (3,)",
        ([A], [B]),
        {},
    ),
    "dtype": (
        ValueError,
        f"`remain_grads` {UNLIKE} torch.float16 of shape (2,)",
        (A, A.half()),
        {},
    ),
    "sparse": (ValueError, "`forget_grads` must be dense, got torch.sparse_coo", (A.to_sparse(), A), {}),
    "one sparse": (
        ValueError,
        f"`remain_grads` {UNLIKE} torch.sparse_coo torch.float32 of shape (2,)",
        (A, A.to_sparse()),
        {},
    ),
    "int": (
        ValueError,
        "`forget_grads` must be float32, float64, bfloat16 or float16, got torch.int64",
        (A.long(), A.long()),
        {},
    ),
    "device": (
        ValueError,
        "`remain_grads` must be on cpu like that of `forget_grads`, got meta",
        (A, A.to("meta")),
        {},
    ),
    "no kernel": (
        NotImplementedError,
        "`forget_grads` is on meta; this build of fastforget has kernels for",
        (A.to("meta"), A.to("meta")),
        {},
    ),
    "shape of out": (
        ValueError,
        f"`out` {UNLIKE} torch.float32 of shape (3,)",
        (A, A),
        {"out": B},
    ),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    kind, text, tasks, options = BAD[fault]
    with pytest.raises(kind, match=re.escape(text)):
        harmonize(*tasks, **options)
    assert A.tolist() == [1, 1]


def test_out_across_gradients() -> None:
    tasks = [[torch.arange(6.0), torch.ones(6)], [-torch.arange(6.0), torch.ones(6)]]
    before = [g.clone() for task in tasks for g in task]
    text = "`out` must share memory only with gradients of the same place, got one that overlaps tensor 0 of task 0"
    with pytest.raises(RuntimeError, match=text):
        harmonize(*tasks, out=tasks[0][::-1])
    for g, old in zip([g for task in tasks for g in task], before, strict=True):
        assert_same_bits(g, old)
