"""`Receipt.between`: the receipt of any edit, from the model before and after it."""

import copy
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from known_codes import assert_holds, convnet, copied_tensors, mlp, model_with_codes, refused
from torch import Tensor, nn

from fastforget import Receipt, fingerprint, one_shot

DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16]


def some_edit(model: nn.Module) -> None:
    """A few elements of one parameter, all of another, one bit of a third; signs of zeros among them."""
    with torch.no_grad():
        weight = model.get_parameter("0.weight")
        weight.view(-1)[[3, 70, 111]] += 1
        weight.view(-1)[5] = -0.0
        model.get_parameter("2.weight").mul_(0.5)


def copies(dtype: torch.dtype = torch.float32) -> tuple[nn.Module, nn.Module]:
    before = model_with_codes()[0].to(dtype)
    with torch.no_grad():
        before.get_parameter("0.weight").view(-1)[5] = 0.0
        before.get_parameter("0.weight").view(-1)[6] = float("nan")  # as it was, it may stay
    after = copy.deepcopy(before)
    some_edit(after)
    return before, after


def saved_state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


GIVEN: list[Callable[[nn.Module, nn.Module], tuple[Any, Any]]] = [
    lambda before, after: (before, after),
    lambda before, after: (saved_state(before), after),
    lambda before, after: (before, saved_state(after)),
    lambda before, after: (copy.deepcopy(before).train(), torch.compile(after, backend="eager")),
]


@pytest.mark.parametrize("given", GIVEN)
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_bit_there_and_back(dtype: torch.dtype, given: Any, tmp_path: Path) -> None:
    before, after = copies(dtype)
    settings: dict[str, float | str] = {"lr": 0.1, "by": "hand"}
    receipt = Receipt.between(*given(before, after), classes=[3, 1], rule="mine", settings=settings)
    assert (receipt.classes, receipt.rule, receipt.settings, receipt.alpha) == ((1, 3), "mine", settings, 1.0)
    assert (receipt.before, receipt.after) == (fingerprint(before), fingerprint(after))
    assert (receipt.total, receipt.changed) == (708, 4 + 256)
    assert receipt.edits.keys() == {"0.weight", "2.weight"}
    indices = receipt.edits["0.weight"].indices
    assert indices is not None
    assert indices.tolist() == [3, 5, 70, 111]
    assert receipt.edits["2.weight"].indices is None
    receipt.save(tmp_path / "receipt")
    for each in (receipt, Receipt.load(tmp_path / "receipt")):
        model = copy.deepcopy(before)
        each.apply(model)
        assert_holds(model, copied_tensors(after))
        each.revert(model)
        assert_holds(model, copied_tensors(before))


def test_the_receipt_of_one_shot_comes_again() -> None:
    model, codes = model_with_codes(convnet)
    before = copy.deepcopy(model)
    expected = one_shot(model, codes, 1)
    found = Receipt.between(before, model, classes=1, rule="natural", settings=expected.settings)
    assert (found.classes, found.before, found.after, found.total) == (
        (1,),
        expected.before,
        expected.after,
        expected.total,
    )
    assert found.edits.keys() <= expected.edits.keys()
    found.revert(model)
    assert_holds(model, copied_tensors(before))
    found.apply(model)
    assert fingerprint(model) == expected.after


@pytest.mark.parametrize(("changed", "sparse"), [(1, True), (42, True), (43, False), (64, False)])
def test_positions_are_kept_where_they_take_less_memory(changed: int, sparse: bool) -> None:
    """Twelve bytes for each element that changed, or eight for every one of 64."""
    before = nn.Linear(8, 8, bias=False)
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.weight.view(-1)[:changed] += 1
    receipt = Receipt.between(before, after)
    (edit,) = receipt.edits.values()
    assert (edit.indices is not None) == sparse
    assert receipt.changed == (changed if sparse else 64)
    receipt.revert(after)
    assert_holds(after, copied_tensors(before))


class Mixed(nn.Module):
    """Parameters of several dtypes, one that is no number with a point, and one that is no block of memory."""

    def __init__(self) -> None:
        super().__init__()
        self.single, self.double_byte = nn.Linear(40, 4), nn.Linear(40, 4).to(torch.bfloat16)
        self.whole = nn.Parameter(torch.arange(60), requires_grad=False)
        self.waves = nn.Parameter(torch.ones(30, dtype=torch.complex64))
        self.short = nn.Parameter(torch.ones(30).to(torch.float8_e4m3fn), requires_grad=False)
        self.long_waves = nn.Parameter(torch.ones(3, dtype=torch.complex128))
        self.turned = nn.Parameter(torch.ones(8, 9).t())


def test_models_of_several_dtypes(tmp_path: Path) -> None:
    before = Mixed()
    after = copy.deepcopy(before)
    names = {"single.weight", "double_byte.weight", "whole", "waves", "short", "turned"}
    with torch.no_grad():
        for name in names:
            after.get_parameter(name)[0] = 3
    receipt = Receipt.between(before, after)
    assert {name for name, edit in receipt.edits.items() if edit.indices is not None} == names - {"short"}
    receipt.save(tmp_path / "receipt")
    model, loaded = copy.deepcopy(before), Receipt.load(tmp_path / "receipt")
    loaded.apply(model)
    assert_holds(model, copied_tensors(after))
    loaded.revert(model)
    assert_holds(model, copied_tensors(before))
    with torch.no_grad():
        after.long_waves[0] += 1
    with pytest.raises(ValueError, match=r"^`long_waves` changed, and a receipt cannot hold torch"):
        Receipt.between(before, after)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
        self.second.weight = self.first.weight
        self.register_buffer("scratch", torch.zeros(2), persistent=False)


def test_state_dicts_of_tied_weights() -> None:
    """Under one name or both; a buffer that no state dict holds is that of the model."""
    before = Tied()
    after = copy.deepcopy(before)
    with torch.no_grad():
        after.first.weight[0, 0] += 1
    for lacking in ("first.weight", "second.weight", None):
        state = saved_state(before)
        state.pop(str(lacking), None)
        receipt = Receipt.between(state, after)
        assert (receipt.before, list(receipt.edits)) == (fingerprint(before), ["first.weight"])
    state = saved_state(before)
    state["second.weight"] += 1
    with pytest.raises(ValueError, match=r"must hold the same under `first\.weight` and `second\.weight`, which are"):
        Receipt.between(state, after)


def test_nothing_changed() -> None:
    before, _ = copies()
    receipt = Receipt.between(before, copy.deepcopy(before))
    assert (receipt.changed, receipt.edits, receipt.before) == (0, {}, receipt.after)
    receipt.apply(before)
    receipt.revert(before)


def test_the_receipt_keeps_nothing_of_either_model() -> None:
    before, after = copies()
    receipt = Receipt.between(before, after)
    old, new = copied_tensors(before), copied_tensors(after)
    with torch.no_grad():
        for value in (*before.parameters(), *after.parameters()):
            value.zero_()
    for name, edit in receipt.edits.items():
        assert edit.old is not None
        places = slice(None) if edit.indices is None else edit.indices.long()
        assert_same_bits(edit.old, old[name].flatten()[places])
        assert_same_bits(edit.new, new[name].flatten()[places])


def with_nan(value: float) -> nn.Module:
    after = copies()[1]
    with torch.no_grad():
        after.get_parameter("2.bias")[1] = value
    return after


def learnt() -> nn.Module:
    model = model_with_codes(convnet)[0].train()
    model(torch.ones(3, 2, 4, 4))
    return model.eval()


def state(**changes: Any) -> Mapping[str, Any]:
    found = {**saved_state(copies()[0]), **{name.replace("__", "."): value for name, value in changes.items()}}
    return {name: value for name, value in found.items() if value is not None}


REFUSED: list[tuple[Any, type[Exception], str]] = [
    (with_nan(float("nan")), ValueError, r"^`after` must be finite, got NaN or infinity in `2\.bias` where"),
    (with_nan(float("-inf")), ValueError, r"^`after` must be finite, got NaN or infinity in `2\.bias`"),
    (nn.Sequential(nn.Linear(6, 64)), ValueError, r"^`after` must have the parameters of .*, but lacks `2\.weight`$"),
    (mlp().append(nn.Linear(4, 1)), ValueError, r"the parameters of `before`, but has `3\.weight` besides$"),
    (
        mlp().append(nn.BatchNorm1d(4, affine=False)),
        ValueError,
        r"the buffers of .*, but has `3\.running_mean` besides",
    ),
    (
        nn.Sequential(nn.Linear(5, 64), nn.Tanh(), nn.Linear(64, 4)),
        ValueError,
        r"shape \(64, 6\), as .*, got .* \(64, 5\)",
    ),
    (mlp().double(), ValueError, r"must have `0\.weight` as torch\.float32 of .*, got torch\.float64 of \(64, 6\)$"),
    (state(more=torch.ones(1)), ValueError, r"^`after` must be a state dict of the other model, which has no `more`$"),
    (state(**{"0__bias": None}), ValueError, r"^`after` must be a state dict of the other model, but lacks `0\.bias`$"),
    (state(**{"0__bias": 3}), TypeError, r"^`after` must hold tensors, got `0\.bias` of type int$"),
    ([], TypeError, "^`after` must be a module or a state dict, got list$"),
    (None, TypeError, "^`after` must be a module or a state dict, got NoneType$"),
]


@pytest.mark.parametrize(("after", "error", "text"), REFUSED, ids=range(len(REFUSED)))
def test_what_is_no_edit_of_this_model(after: Any, error: type[Exception], text: str) -> None:
    before = copies()[0]
    with refused(before, error, text):
        Receipt.between(before, after)


def test_buffers_are_part_of_it(tmp_path: Path) -> None:
    before, after = model_with_codes(convnet)[0], learnt()
    receipt = Receipt.between(before, after)
    statistics = {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert statistics == receipt.edits.keys()
    sizes = [value.numel() for value in (*before.parameters(), *before.buffers())]
    assert receipt.total == sum(sizes)
    receipt.save(tmp_path / "receipt")
    for each in (receipt, Receipt.load(tmp_path / "receipt")):
        model = copy.deepcopy(before)
        each.apply(model)
        assert_holds(model, copied_tensors(after))
        each.revert(model)
        assert_holds(model, copied_tensors(before))
    for name, buffer in after.named_buffers():
        buffer.copy_(before.get_buffer(name))
    same = Receipt.between(before, after)
    assert same.edits == {}
    assert same.total == sum(value.numel() for value in before.parameters())


def test_what_was_not_copied() -> None:
    model = mlp()
    for before in (model, model.state_dict(), dict(model.named_parameters())):
        with pytest.raises(ValueError, match=r"^`before` must be a copy that was made before the edit"):
            Receipt.between(before, model)
    shared = copy.deepcopy(model)
    shared.get_submodule("0").weight = model.get_parameter("0.weight")  # a part may be shared
    with torch.no_grad():
        shared.get_parameter("2.bias").add_(1)
    assert Receipt.between(model, shared).changed == 4


@pytest.mark.parametrize(
    ("given", "error", "text"),
    [
        ({"rule": 3}, TypeError, "^`rule` must be a text, got int$"),
        ({"classes": "x"}, TypeError, "^`classes` must be an int or a sequence of ints, got 'x'$"),
        ({"classes": [1, 1]}, ValueError, "^`classes` must name each class once"),
        ({"classes": [-1]}, ValueError, r"^`classes` must be at least 0, got \[-1\]$"),
        ({"settings": {"lr": [1]}}, TypeError, r"^`settings` must hold numbers and texts by name, got \[1\] for 'lr'$"),
        ({"settings": {"on": True}}, TypeError, "^`settings` must hold numbers and texts by name, got True for 'on'$"),
        ({"settings": {3: 1}}, TypeError, "^`settings` must hold numbers and texts by name, got 1 for 3$"),
    ],
)
def test_refused_arguments(given: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        Receipt.between(*copies(), **given)


def test_two_state_dicts() -> None:
    before, after = copies()
    with pytest.raises(TypeError, match=r"^`before` or `after` must be a module: two state dicts do not say"):
        Receipt.between(saved_state(before), saved_state(after))
