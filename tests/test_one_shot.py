"""`one_shot`: it forgets the class and keeps the rest, follows the equations, and touches nothing else."""

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close, assert_same_bits, threads
from known_codes import CLASSES, TwoInputs, assert_holds, contents, convnet, digits, edits_values_only, knowing, mlp
from torch import Tensor, nn

import fastforget
from fastforget import ForgettingError, MnemonicCodes, Receipt, one_shot
from fastforget.batch import forward
from fastforget.demo.data import Dataset
from fastforget.demo.results import split_accuracy
from fastforget.demo.training import confusion
from fastforget.losses import log_odds

FREE = 1e9  # nats: the remaining codes do not shorten the step
RHO = 0.1  # the small models have few parameters to spare


@pytest.fixture(scope="session")
def trained() -> tuple[nn.Module, MnemonicCodes, Dataset]:
    return digits()


def accuracies(model: nn.Module, data: Dataset, classes: Sequence[int]) -> tuple[float, float]:
    """On the test images of some classes, and of the others."""
    matrix = confusion(model, data.x_test, data.y_test, 10).to(data.y_test.device)
    inside = torch.isin(torch.arange(10), torch.tensor(classes))
    right, all_of = matrix.diagonal(), matrix.sum(1)
    return float(right[inside].sum() / all_of[inside].sum()), float(right[~inside].sum() / all_of[~inside].sum())


# What the method is for


@pytest.mark.parametrize("cls", range(10))
def test_forgets_the_class_keeps_the_rest_and_comes_back(
    cls: int, trained: tuple[nn.Module, MnemonicCodes, Dataset]
) -> None:
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    before = contents(model)
    forget, remain = accuracies(model, data, [cls])
    with edits_values_only(model):
        receipt = one_shot(model, codes, cls)
    forget_after, remain_after = accuracies(model, data, [cls])
    assert forget > 0.9
    assert forget_after == 0
    assert remain_after >= remain - 0.005
    assert receipt.classes == (cls,)
    widths = [round(times * 0.003 * 77754) for times in (1, 3)]
    assert any(0 <= receipt.changed - width <= 10 for width in widths)  # with the whole output bias
    receipt.revert(model)
    assert_holds(model, before)
    assert (forget, remain) == accuracies(model, data, [cls])


def test_a_share_may_be_an_integer() -> None:
    model, codes = knowing()
    found = [one_shot(copy.deepcopy(model), codes, 1, rho=rho, spill=FREE) for rho in (1, 1.0)]
    assert found[0].after == found[1].after
    assert found[0].share > 0.9


def test_two_classes_at_once(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    _, remain = accuracies(model, data, [2, 7])
    one_shot(model, codes, [2, 7], rho=0.1)
    forget_after, remain_after = accuracies(model, data, [2, 7])
    assert forget_after <= 0.05
    assert remain_after >= remain - 0.03


def test_a_model_very_sure_of_its_codes_is_not_damaged(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    """Log-odds of 50: in float32 no gradient would reach the own logit, and every square would vanish."""
    model, codes, data = copy.deepcopy(trained[0]), *trained[1:]
    head = model.get_submodule("8")
    with torch.no_grad():
        head.weight.mul_(6)
        head.bias.mul_(6)
    forget, remain = accuracies(model, data, [3])
    receipt = one_shot(model, codes, 3, depth=6 * 6)
    forget_after, remain_after = accuracies(model, data, [3])
    assert receipt.evidence["forget_log_odds_before"] > 40
    assert forget_after < forget - 0.5
    assert remain_after >= remain - 0.015


def test_the_codes_say_so(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, codes = copy.deepcopy(trained[0]), trained[1]
    evidence = one_shot(model, codes, 1).evidence
    assert evidence["forget_log_odds_before"] > 3
    assert evidence["forget_log_odds_after"] == pytest.approx(-6, abs=0.11)
    assert evidence["remain_log_odds_before"] > 3
    assert evidence["remain_log_odds_after"] > 3
    with torch.no_grad():
        odds = log_odds(model(codes.inputs), codes.labels)
    assert odds[codes.labels != 1].mean().item() == pytest.approx(evidence["remain_log_odds_after"], abs=1e-3)
    assert evidence["remain_log_odds_lost"] <= 2


# Arguments


@pytest.mark.parametrize(
    "cls",
    [2, [2], (2,), np.int64(2), np.array(2), np.array([2]), torch.tensor(2), torch.tensor([2]), range(2, 3)],
    ids=repr,
)
def test_any_way_to_name_one_class(cls: Any) -> None:
    model, codes = knowing()
    receipt = one_shot(model, codes, cls, rho=RHO)
    assert receipt.classes == (2,)
    reference = knowing()[0]
    one_shot(reference, codes, 2, rho=RHO)
    assert_holds(model, contents(reference))


def test_several_classes_in_any_order() -> None:
    runs = []
    for cls in ([0, 3], (3, 0), np.array([3, 0])):
        model, codes = knowing(convnet)
        receipt = one_shot(model, codes, cls, rho=0.5)  # type: ignore[arg-type]
        assert receipt.classes == (0, 3)
        runs.append(contents(model))
        odds = log_odds(model(codes.inputs), codes.labels)
        assert all(odds[codes.labels == c].mean() < -5.8 for c in (0, 3))
    for run in runs[1:]:
        for name, value in runs[0].items():
            assert_same_bits(run[name], value)


@pytest.mark.parametrize("build", [mlp, convnet])
@pytest.mark.parametrize("per_class", [1, 2])
def test_tensors_of_codes(build: Any, per_class: int) -> None:
    model, codes = knowing(build, per_class=per_class)
    one_shot(model, codes, 1, rho=RHO)
    for tensor in [codes.tensor, codes.tensor.double(), *([codes.tensor[:, 0]] if per_class == 1 else [])]:
        other = knowing(build, per_class=per_class)[0]
        before = tensor.clone()
        one_shot(other, tensor, 1, rho=RHO)
        assert_holds(other, contents(model))
        assert torch.equal(tensor, before)


@pytest.mark.parametrize("named", [False, True])
def test_inputs_that_are_a_tuple_or_a_dict(named: bool) -> None:
    model, codes = knowing(TwoInputs, named=named)
    before = contents(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 3, rho=RHO, silence=False, spill=FREE)
    odds = log_odds(forward(model, codes.inputs), codes.labels)
    assert odds[codes.labels == 3].mean().item() == pytest.approx(-6, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)


class TokenNet(nn.Module):
    """Takes integers, and returns an object with logits."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = nn.Embedding(20, 16), nn.Linear(16, 3, bias=False)

    def forward(self, tokens: Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.head(self.table(tokens).mean(1)))


def test_integer_codes_and_outputs_with_logits() -> None:
    torch.manual_seed(0)
    model, tokens = TokenNet().eval(), torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8], [9, 1, 11, 12]])
    with torch.no_grad():
        model.head.weight.copy_(5 * (F.normalize(model.table(tokens).mean(1)) + 0))
    for codes in (tokens, tokens[:, None], MnemonicCodes.from_tensors(tokens[:, None])):
        edited = copy.deepcopy(model)
        one_shot(edited, codes, 0, rho=0.5)
        assert edited(tokens).logits.argmax(1)[0] != 0


def test_only_named_parameters_move() -> None:
    model, codes = knowing()
    before = contents(model)
    model.get_parameter("0.weight").requires_grad_(False)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 1, rho=0.5, parameters=["2.weight", "0.weight"])
    assert set(receipt.edits) == {"2.weight", "0.weight"}
    assert receipt.total == 708
    for name in ("0.bias", "2.bias"):
        assert_same_bits(contents(model)[name], before[name])


def test_without_undo() -> None:
    model, codes = knowing()
    other = knowing()[0]
    receipt = one_shot(model, codes, 1, rho=RHO, undo=False)
    assert not receipt.reversible
    assert all(edit.old is None for edit in receipt.edits.values())
    one_shot(other, codes, 1, rho=RHO)
    assert_holds(model, contents(other))


def test_a_compiled_model() -> None:
    model, codes = knowing()
    expected = knowing()[0]
    compiled = torch.compile(model, backend="eager")
    assert_close(compiled(codes.inputs), model(codes.inputs))
    one_shot(compiled, codes, 1, rho=RHO)  # type: ignore[arg-type]
    one_shot(expected, codes, 1, rho=RHO)
    assert_holds(model, contents(expected))
    assert torch.equal(compiled(codes.inputs), model(codes.inputs))


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_channels_last_parameters(rule: Any) -> None:
    plain, codes = knowing(convnet)
    model = knowing(convnet)[0].to(memory_format=torch.channels_last)
    before = contents(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 1, rule=rule, rho=RHO)
    one_shot(plain, codes, 1, rule=rule, rho=RHO)
    for name, value in contents(plain).items():
        assert_close(contents(model)[name], value, 1e-4, name)
    assert not model.get_parameter("0.weight").is_contiguous()
    receipt.revert(model)
    assert_holds(model, before)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_other_types(dtype: torch.dtype, rule: Any) -> None:
    model, codes = knowing()
    model.to(dtype)
    before = contents(model)
    with edits_values_only(model):
        receipt = one_shot(model, codes, 1, rule=rule, rho=RHO, silence=False, spill=FREE)
    if rule == "natural":
        odds = log_odds(model(codes.to(dtype).inputs), codes.labels)
        assert odds[codes.labels == 1].mean().item() == pytest.approx(-6, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)


def test_tied_parameters_move_together() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4, bias=False)
            self.second = nn.Linear(4, 4, bias=False)
            self.second.weight = self.first.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.second(torch.tanh(self.first(x)))

    model = Tied().eval()
    with torch.no_grad():
        model.first.weight.copy_(3 * torch.eye(4))
    codes = torch.eye(4)
    before = contents(model)
    receipt = one_shot(model, codes, 2, rho=0.5, depth=1.0)
    assert model.second.weight is model.first.weight
    assert list(receipt.edits) == ["first.weight"]
    assert log_odds(model(codes), torch.arange(4))[2].item() == pytest.approx(-1, abs=0.11)
    receipt.revert(model)
    assert_holds(model, before)


# Nothing but values changes


def test_leaves_the_state_of_the_model_alone() -> None:
    model, codes = knowing(convnet)
    model.get_parameter("4.bias").grad = torch.ones(CLASSES)
    model.get_parameter("0.weight").requires_grad_(False)
    with edits_values_only(model):
        one_shot(model, codes, 1, rho=RHO, parameters=[name for name, _ in model.named_parameters()])


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_autograd_notices_the_edit(rule: Any) -> None:
    model, codes = knowing()
    loss = model(codes.inputs).square().sum()
    versions = {name: parameter._version for name, parameter in model.named_parameters()}
    receipt = one_shot(model, codes, 1, rule=rule, rho=0.5)
    for name, parameter in model.named_parameters():
        assert (parameter._version > versions[name]) == (name in receipt.edits)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


class Restless(nn.Module):
    """Counts its calls, also in eval mode."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.get_buffer("calls").add_(1)
        return self.inside(x)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_buffers_of_a_model_that_writes_to_them(rule: Any) -> None:
    inside, codes = knowing()
    model = Restless(inside).eval()
    floor = (codes.inputs, codes.labels, 0.5)
    with edits_values_only(model):
        one_shot(model, codes, 1, rule=rule, rho=RHO, floor=None if rule == "paper" else floor)


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_same_bits_twice_and_for_any_number_of_threads(
    rule: Any, trained: tuple[nn.Module, MnemonicCodes, Dataset]
) -> None:
    runs: list[tuple[nn.Module, Receipt]] = []
    for count in (1, 1, 2):
        model = copy.deepcopy(trained[0])
        with threads(count):
            runs.append((model, one_shot(model, trained[1], 4, rule=rule)))
    for model, receipt in runs[1:]:
        assert_holds(model, contents(runs[0][0]))
        assert receipt.alpha == runs[0][1].alpha
        assert (receipt.before, receipt.after) == (runs[0][1].before, runs[0][1].after)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode], ids=lambda c: c.__name__)
def test_within_contexts_that_switch_gradients_off(context: Any) -> None:
    model, codes = knowing()
    expected = knowing()[0]
    one_shot(expected, codes, 1, rho=RHO)
    with context():
        receipt = one_shot(model, codes.tensor.clone(), 1, rho=RHO)  # under inference_mode an inference tensor
        assert_holds(model, contents(expected))
        receipt.revert(model)
        receipt.apply(model)
    assert_holds(model, contents(expected))


# The floor


def floor_data(codes: MnemonicCodes) -> tuple[Tensor, Tensor]:
    """Samples around the codes."""
    noise = torch.randn(40, *codes.tensor.shape[2:], generator=torch.Generator().manual_seed(1))
    return codes.tensor.flatten(0, 1).repeat(5, 1, 1, 1) + noise, codes.labels.repeat(5)


def remaining_accuracy(model: nn.Module, inputs: Tensor, targets: Tensor, cls: int) -> float:
    right = model(inputs).argmax(1) == targets
    return float(right[targets != cls].double().mean())


def test_a_floor_that_holds_changes_nothing() -> None:
    model, codes = knowing()
    expected = knowing()[0]
    without = one_shot(expected, codes, 1, rho=RHO)
    receipt = one_shot(model, codes, 1, rho=RHO, floor=(codes.inputs, codes.labels, 0.5))
    assert receipt.alpha == without.alpha
    assert_holds(model, contents(expected))


def test_backs_off_until_the_floor_holds() -> None:
    model, codes = knowing(convnet)
    expected = knowing(convnet)[0]
    inputs, targets = floor_data(codes)
    full = one_shot(expected, codes, 0, rho=0.5, depth=30.0, silence=False, spill=FREE)
    reached = remaining_accuracy(expected, inputs, targets, 0)
    accuracy = reached + 0.02
    receipt = one_shot(
        model, codes, 0, rho=0.5, depth=30.0, silence=False, spill=FREE, floor=(inputs, targets, accuracy)
    )
    assert remaining_accuracy(model, inputs, targets, 0) >= accuracy
    assert receipt.alpha < full.alpha
    steps = math.log(receipt.alpha / full.alpha) / math.log(0.8)
    assert steps == pytest.approx(round(steps))
    # one step less does not hold it
    for edit in receipt.edits.values():
        assert edit.old is not None
        edit.new.copy_(edit.old + (edit.new - edit.old) / 0.8)
    longer = knowing(convnet)[0]
    receipt.apply(longer)
    assert remaining_accuracy(longer, inputs, targets, 0) < accuracy
    assert bool((log_odds(model(codes.inputs), codes.labels)[codes.labels == 0] < 0).all())


@pytest.mark.parametrize("rule", ["natural", "paper"])
def test_a_floor_out_of_reach(rule: Any) -> None:
    model, codes = knowing()
    before = contents(model)
    wrong = (codes.labels + 1) % CLASSES
    with (
        edits_values_only(model),
        pytest.raises(
            ForgettingError,
            match=r"no step that forgets the codes keeps an accuracy of 0\.900 on the remaining classes of `floor`; "
            r"the best was 0\.\d{3}, and the model is unchanged",
        ),
    ):
        one_shot(model, codes, 1, rule=rule, rho=RHO, floor=(codes.inputs, wrong, 0.9))
    assert_holds(model, before)


# The equations, once more


def plain(model: nn.Module) -> nn.Module:
    return copy.deepcopy(model).double()


def plain_sums(model: nn.Module, codes: MnemonicCodes, classes: Sequence[int], scale: float = 1.0) -> Any:
    """Mean squared gradients of the two groups, and the mean gradient of the first, by a loop over the codes."""
    inputs, labels = codes.tensor.flatten(0, 1).double(), codes.labels
    names = [name for name, _ in model.named_parameters()]
    forget, remain, gradient = ({name: torch.zeros(()).double() for name in names} for _ in range(3))
    count = sum(int(label) in classes for label in labels)
    for code, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(model(code[None]), label[None]) * scale
        grads = dict(zip(names, torch.autograd.grad(loss, list(model.parameters())), strict=True))
        for name, grad in grads.items():
            if int(label) in classes:
                forget[name] = forget[name] + grad**2 / count
                gradient[name] = gradient[name] + grad / count
            else:
                remain[name] = remain[name] + grad**2 / (len(labels) - count)
    return forget, remain, gradient


@torch.no_grad()
def paper_rule(
    model: nn.Module, codes: MnemonicCodes, classes: Sequence[int], lambda1: float, lambda2: float
) -> tuple[nn.Module, int]:
    """Eq. 5-7 and the choice of the sign, in float64."""
    with torch.enable_grad():
        forget, remain, _ = plain_sums(plain(model), codes, classes)
    best: tuple[float, nn.Module, int] | None = None
    for sign in (-1, 1):
        moved = plain(model)
        for name, weight in moved.named_parameters():
            eta = torch.exp(torch.log(forget[name] + 1e-16) - torch.log(remain[name] + 1e-16))
            weight.add_(sign * min(lambda1, lambda2 / float(eta.max())) * eta)
        right = moved(codes.tensor.flatten(0, 1).double()).argmax(1) == codes.labels
        inside = torch.isin(codes.labels, torch.tensor(classes))
        merit = float(right[~inside].double().mean() + (~right[inside]).double().mean())
        if best is None or merit > best[0]:
            best = merit, moved, sign
    assert best is not None
    return best[1:]


SIGNS: dict[tuple[Any, ...], int] = {}
PAPER = [
    (build, classes, lambda1, lambda2)
    for build in (mlp, convnet)
    for classes in ([0], [1], [2], [3], [0, 2])
    for lambda1, lambda2 in ((1e-9, 1e-9), (1e-3, 1.0), (1.0, 0.3), (1.0, 3.0))
]


@pytest.mark.parametrize(("build", "classes", "lambda1", "lambda2"), PAPER)
def test_paper_rule_equals_equations_5_to_7(build: Any, classes: list[int], lambda1: float, lambda2: float) -> None:
    model, codes = knowing(build)
    before = contents(model)
    expected, sign = paper_rule(model, codes, classes, lambda1, lambda2)
    with edits_values_only(model):
        receipt = one_shot(model, codes, classes, rule="paper", lambda1=lambda1, lambda2=lambda2)
    assert receipt.alpha == sign
    if lambda1 < 1e-8:  # neither sign changes what is recognised
        assert sign == -1
    assert receipt.changed == receipt.total
    assert receipt.settings == {"lambda1": lambda1, "lambda2": lambda2}
    for name, value in expected.named_parameters():
        moved = value.double() - before[name].double()
        # float32 rounds the parameters, and the ratios' Fisher values to about 1e-5
        error = (contents(model)[name].double() - value).norm()
        assert error <= 1e-4 * moved.norm() + 1e-7 * value.norm(), name
    SIGNS[build, tuple(classes), lambda1, lambda2] = sign


def test_paper_rule_both_signs_were_seen() -> None:
    """Guards the test above: a rule that never tried the plus sign must not pass it."""
    if len(SIGNS) < len(PAPER):
        pytest.skip("needs the whole of the test above")
    assert set(SIGNS.values()) == {-1, 1}


def test_paper_rule_in_float64_is_exact() -> None:
    model, codes = knowing()
    model.double()
    expected, _ = paper_rule(model, codes, [1], 1e-3, 1.0)
    one_shot(model, codes, 1, rule="paper", lambda1=1e-3, lambda2=1.0)
    for name, value in expected.named_parameters():
        assert_close(contents(model)[name], value.detach(), 1e-10, name)


def natural_rule(model: nn.Module, codes: MnemonicCodes, cls: int, rho: float, scale: float) -> Any:
    """Mask and direction, in float64; the direction is per unit of ``scale``."""
    forget, remain, gradient = plain_sums(plain(model), codes, [cls], scale)
    names = list(forget)
    eta = torch.cat([(torch.log(forget[n] + 1e-16) - torch.log(remain[n] + 1e-16)).flatten() for n in names])
    flat = torch.cat([remain[name].flatten() for name in names])
    chosen = torch.sort(eta, descending=True, stable=True).indices[: round(rho * len(eta))]
    mask = torch.zeros(len(eta), dtype=torch.bool)
    mask[chosen] = True
    direction = mask * torch.cat([gradient[name].flatten() for name in names]) / (flat + 0.1 * flat.mean())
    return mask, direction * scale


def moved_by(model: nn.Module, flat: Tensor) -> nn.Module:
    moved, offset = plain(model), 0
    with torch.no_grad():
        for weight in moved.parameters():
            weight.add_(flat[offset : offset + weight.numel()].view_as(weight))
            offset += weight.numel()
    return moved


def flattened(values: dict[str, Tensor], model: nn.Module) -> Tensor:
    return torch.cat([values[name].flatten() for name, _ in model.named_parameters()])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("build", "cls"), [(mlp, 1), (mlp, 2), (convnet, 0), (convnet, 3)])
def test_natural_rule_equals_its_definition(build: Any, cls: int, dtype: torch.dtype) -> None:
    model, codes = knowing(build)
    model.to(dtype)
    before = flattened(contents(model), model)
    with torch.no_grad():
        odds = log_odds(plain(model)(codes.tensor.flatten(0, 1).double()), codes.labels)
    mask, direction = natural_rule(model, codes, cls, RHO, float(1 / torch.sigmoid(-odds).mean()))
    original = copy.deepcopy(model)
    receipt = one_shot(model, codes, cls, rho=RHO, silence=False, spill=FREE)
    after = flattened(contents(model), model)

    found = torch.zeros(len(after), dtype=torch.bool)
    offset = 0
    for name, weight in model.named_parameters():
        if name in receipt.edits:
            indices = receipt.edits[name].indices
            assert indices is not None
            found[offset + indices.long()] = True
        offset += weight.numel()
    assert torch.equal(found, mask)
    assert_same_bits(after[~mask], before[~mask])
    moved = after.double() - before.double()
    assert_close(moved, receipt.alpha * direction, 1e-9 if dtype == torch.float64 else 1e-3, "step")

    def mean_odds(alpha: float) -> float:
        with torch.no_grad():
            outputs = moved_by(original, alpha * direction)(codes.tensor.flatten(0, 1).double())
        return log_odds(outputs, codes.labels)[codes.labels == cls].mean().item()

    assert mean_odds(receipt.alpha) == pytest.approx(-6, abs=0.11)
    crossing = next(k for k in range(1, 400) if mean_odds(k / 100 * receipt.alpha) <= -6 + 0.11)
    assert 0.95 <= crossing / 100 <= 1.01  # and it is the first


def test_depth_is_where_the_codes_end() -> None:
    model, codes = knowing()
    expected = {"rho": RHO, "widen": 3.0, "depth": 6.0, "spill": 2.0, "reach": 16.0}
    assert one_shot(model, codes, 1, rho=RHO).settings == expected
    model, codes = knowing()
    receipt = one_shot(model, codes, 1, rho=RHO, depth=3, spill=FREE)
    assert receipt.evidence["forget_log_odds_after"] == pytest.approx(-3, abs=0.11)


# The receipt it returns


def test_receipt_says_what_was_done() -> None:
    model, codes = knowing()
    before = fastforget.fingerprint(model)
    receipt = one_shot(model, codes, 1, rho=RHO, silence=False, spill=FREE)
    assert (receipt.rule, receipt.classes, receipt.total) == ("natural", (1,), 708)
    assert receipt.changed == 71
    assert receipt.share == pytest.approx(71 / 708)
    assert (receipt.before, receipt.after) == (before, fastforget.fingerprint(model))
    assert set(receipt.seconds) == {"check", "fingerprint", "fisher", "step", "floor", "write", "total"}
    phases = sum(value for key, value in receipt.seconds.items() if key != "total")
    assert 0 < phases <= receipt.seconds["total"]
    assert receipt.created.endswith("+00:00")
    assert receipt.alpha > 0
    assert "changed=71 of 708" in repr(receipt)


def test_split_accuracy_agrees(trained: tuple[nn.Module, MnemonicCodes, Dataset]) -> None:
    model, _, data = trained
    matrix = confusion(model, data.x_test, data.y_test, 10).to(data.y_test.device)
    assert split_accuracy(matrix, 3) == pytest.approx(accuracies(model, data, [3]))
