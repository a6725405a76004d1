"""On a device that is not the CPU: every tensor is there, the bits are the same, and the host seldom waits for it."""

import copy
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from cases import randn
from far import Far, device, far, near
from known_codes import CLASSES, TwoInputs, assert_holds, contents, convnet, knowing, mlp
from torch import Tensor, nn

from fastforget import (
    FisherDiagonal,
    ForgettingError,
    MnemonicCodes,
    UnrecognisedCodesError,
    fingerprint,
    fisher_diagonal,
    fisher_run,
    harmonize,
    one_shot,
    ops,
    topk_mask,
)
from fastforget.losses import ScaledCrossEntropy
from fastforget.waiting import Checks, constant, random_devices, read


def counted(waits: list[str]) -> dict[str, int]:
    """How often each file waited."""
    return dict(Counter(wait.split()[1].split(":")[0] for wait in waits))


def compare(found: FisherDiagonal, expected: FisherDiagonal) -> None:
    assert found.fallback == expected.fallback
    for mine, others in ((found, expected), (found.gradient or {}, expected.gradient or {})):
        assert list(mine) == list(others)
        for name, value in mine.items():
            assert isinstance(value, Far)
            assert_same_bits(near(value), others[name])
    for mine, other in ((found.losses, expected.losses), (found.weight, expected.weight)):
        assert isinstance(mine, Far)
        assert_same_bits(near(mine), other)


class Twice(nn.Module):
    """A layer used twice, and one that no kernel covers."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.odd = nn.Linear(6, 6), nn.Parameter(randn(6, 4, seed=1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer(self.layer(x).tanh())
        return x @ (self.odd / self.odd.norm())


GROUPS = torch.tensor([[1.0, 1, 0, 0, 0, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1, 1]])
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "with gradient": {"with_gradient": True},
    "groups": {"weights": GROUPS, "with_gradient": True},
    "weights on the CPU": {"weights": GROUPS[1]},
    "sum": {"reduction": "sum"},
    "expectation": {"labels": "expectation"},
    "batches": {"square": "batch", "batch_size": 3, "with_gradient": True},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("build", [mlp, convnet, TwoInputs, Twice])
def test_fisher_is_computed_there_and_waits_once(
    build: Callable[[], nn.Module], way: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = WAYS[way]
    if build is Twice:
        torch.manual_seed(0)
        model, inputs, labels = Twice().eval(), randn(8, 6), torch.arange(8) % CLASSES
    else:
        model, codes = knowing(build)
        inputs, labels = codes.inputs, codes.labels
    targets = None if "labels" in settings else labels
    expected = fisher_diagonal(model, inputs, targets, **settings)
    with device(monkeypatch) as waits:
        found = fisher_diagonal(far(model), far(inputs), far(targets), **settings)
        here = counted(waits)
    compare(found, expected)
    weights = 1 if way == "weights on the CPU" else 2 if way == "groups" else 0
    # ... beside the fingerprint that a sum notes, and weights that have to be sent there
    assert here.pop("fisher.py", 0) == (1 if weights else 0)
    assert here == {"waiting.py": 1, **({"fingerprint.py": 1} if way == "sum" else {})}


def test_the_fisher_of_one_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    expected = fisher_diagonal(model, codes.inputs[:1], codes.labels[:1], with_gradient=True)
    with device(monkeypatch) as waits:
        found = fisher_diagonal(far(model), far(codes.inputs[:1]), far(codes.labels[:1]), with_gradient=True)
        assert counted(waits) == {"waiting.py": 1}
    compare(found, expected)


def test_a_generator_on_another_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    text = "`generator` must be on meta, the model's device, got one on cpu"
    with device(monkeypatch):
        inputs, generator = far(codes.inputs), torch.Generator().manual_seed(0)
        model = far(model)
        with pytest.raises(ValueError, match=text):
            fisher_diagonal(model, inputs, labels="sampled", generator=generator)


@pytest.mark.parametrize("draws", [False, True])
def test_a_model_that_draws_on_its_device_is_refused(draws: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    state = torch.zeros(16, dtype=torch.uint8)
    restored: list[Any] = []

    class Drawing(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            state[0] += draws
            return model(x)

    monkeypatch.setattr(fisher_run, "random_devices", lambda *_: [torch.device("cuda:0")])
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda _: state.clone())
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda *values: restored.append(values))
    drawing = Drawing().eval()
    drawing.inside = model
    with pytest.raises(ValueError, match="must not draw random numbers") if draws else nullcontext():
        fisher_diagonal(drawing, codes.inputs, codes.labels)
    assert len(restored) == 1


def test_generators_that_matter() -> None:
    kinds = ("cpu", "cuda:1", "cuda:0", "cuda:1", "meta")
    found = random_devices(*(SimpleNamespace(device=torch.device(kind)) for kind in kinds))
    assert found == [torch.device("cuda:0"), torch.device("cuda:1")]


def spoilt(tensor: Tensor, value: float) -> Tensor:
    changed = tensor.clone()
    changed.view(-1)[1] = value
    return changed


BAD: dict[str, Callable[[Tensor, Tensor], dict[str, Any]]] = {
    "`inputs` must be finite": lambda x, y: {"inputs": spoilt(x, torch.nan), "targets": y},
    "`weights` must be finite and not negative": lambda x, y: {
        "inputs": x,
        "targets": y,
        "weights": spoilt(torch.ones(8), -1.0),
    },
    "`weights` must have a positive sum": lambda x, y: {"inputs": x, "targets": y, "weights": torch.zeros(8)},
    "the loss of sample 5 is inf": lambda x, y: {
        "inputs": x,
        "targets": y,
        "loss": lambda o, _: o.sum(1) / (torch.arange(8, device=o.device) != 5),
    },
    "`loss` must be the negative log-likelihood of a class": lambda x, _: {
        "inputs": x,
        "labels": "expectation",
        "loss": lambda o, t: o.sum(1).abs() + t,
    },
}


@pytest.mark.parametrize("text", BAD)
def test_bad_values_are_refused_there_too(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    arguments = BAD[text](codes.inputs, codes.labels)
    with pytest.raises(ValueError, match=text) as expected:
        fisher_diagonal(model, **arguments)
    with device(monkeypatch), pytest.raises(ValueError, match=text) as found:
        fisher_diagonal(far(model), **far(arguments))
    assert str(found.value) == str(expected.value)


def test_a_bad_batch_is_not_added(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    model = far(model)
    with device(monkeypatch):
        x, y = far(codes.inputs), far(codes.labels)
        total = fisher_diagonal(model, x, y, reduction="sum")
        before = {name: near(value).clone() for name, value in total.items()}
        with pytest.raises(ValueError, match="`inputs` must be finite"):
            fisher_diagonal(model, far(spoilt(codes.inputs, torch.inf)), y, into=total)
    for name, value in before.items():
        assert_same_bits(near(total[name]), value)


@pytest.mark.parametrize(
    ("build", "cls"), [(mlp, 1), (mlp, [1, 3]), (convnet, 1), (convnet, [0, 2]), (TwoInputs, 1), (TwoInputs, [0, 2])]
)
@pytest.mark.parametrize(("rule", "widen"), [("natural", 1.0), ("natural", 3.0), ("paper", 1.0)])
def test_one_shot(
    rule: Any, widen: float, cls: int | list[int], build: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same edit, bit for bit, from codes that stay on the CPU; and reverted there."""
    model, codes = knowing(build)
    distant, before = far(copy.deepcopy(model)), contents(model)
    expected = one_shot(model, codes, cls, rho=0.2, rule=rule, widen=widen)
    with device(monkeypatch) as waits:
        found = one_shot(distant, codes, cls, rho=0.2, rule=rule, widen=widen)
        here = counted(waits)
        assert found.after == expected.after
        assert dict(found.evidence) == dict(expected.evidence)
        assert found.alpha == expected.alpha
        assert found.without_undo().edits.keys() == expected.edits.keys()
        assert_holds(near_model(distant), contents(model))
        del waits[:]
        found.revert(distant)
        assert counted(waits) == {"fingerprint.py": 1}
        assert_holds(near_model(distant), before)
    leaves = len(SHAPES_OF[build])
    if rule == "natural" and isinstance(cls, list):
        # The codes, and twice for what differs in the end, of all parameters together; the rest for each class.
        assert (here["fingerprint.py"], here["codes.py"]) == (2, leaves)
        assert here["forgetting/class_by_class.py"] == 1
        assert here["waiting.py"] == 12
        return
    # Sending the codes; what the codes tell, the Fisher's checks, evidence, for a step its size and slope, and three
    # for the output biases. Size and slope again where more parameters are tried.
    known = {"codes.py": leaves, "fingerprint.py": 2}
    tries, others = here.pop("forgetting/rules.py"), here.pop("waiting.py")
    assert here == known
    assert others in (4,) if rule == "paper" else others in ((8,) if widen == 1 else (8, 10))
    assert tries == 2 if rule == "paper" else 2 <= tries < (12 if widen == 1 else 40)


SHAPES_OF: dict[Any, list[int]] = {mlp: [0], convnet: [0], TwoInputs: [0, 1]}


def near_model(model: nn.Module) -> nn.Module:
    """A copy on the CPU."""
    moved = copy.copy(model)
    state = {name: near(value.detach()) for name, value in contents(model).items()}
    built = next(build for build in (mlp, convnet, TwoInputs) if _like(build(), moved))().eval()
    built.load_state_dict(state)
    return built


def _like(one: nn.Module, other: nn.Module) -> bool:
    return [(n, p.shape) for n, p in one.named_parameters()] == [(n, p.shape) for n, p in other.named_parameters()]


def test_one_shot_with_a_kept_fisher(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing(convnet)
    loss = ScaledCrossEntropy(1e3)
    distant = far(copy.deepcopy(model))
    kept = fisher_diagonal(model, codes.inputs, codes.labels, loss=loss, reduction="sum")
    with device(monkeypatch) as waits:
        there = fisher_diagonal(distant, far(codes.inputs), far(codes.labels), loss=loss, reduction="sum")
        del waits[:]
        found = one_shot(distant, codes, 1, rho=0.1, fisher=there)
        here = counted(waits)
    assert found.after == one_shot(model, codes, 1, rho=0.1, fisher=kept).after
    assert here.pop("forgetting/rules.py") < 12
    # Two more: whether it is the sum over all codes, and over these.
    assert here == {"codes.py": 1, "fingerprint.py": 2, "waiting.py": 7, "forgetting/kept_fisher.py": 2}


def test_the_floor_is_moved_there(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    floor = (codes.inputs, codes.labels, 0.9)
    distant = far(copy.deepcopy(model))
    expected = one_shot(model, codes, 1, rho=0.3, floor=floor)
    with device(monkeypatch):
        found = one_shot(distant, codes, 1, rho=0.3, floor=floor)
    assert (found.after, found.alpha) == (expected.after, expected.alpha)


def test_a_loaded_sum_goes_on_where_the_model_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    part = fisher_diagonal(model, codes.inputs, codes.labels, weights=GROUPS, with_gradient=True, reduction="sum")
    part.save(tmp_path / "kept")
    loaded = FisherDiagonal.load(tmp_path / "kept")
    model = far(model)
    with device(monkeypatch):
        there = loaded.to("meta")
        compare(there, part)
        assert loaded.weight.is_cpu
        x, y, weights = far((codes.inputs, codes.labels, GROUPS))
        found = fisher_diagonal(model, x, y, weights=weights, with_gradient=True, into=there)
        assert found is there
        compare(there, part + part)


def test_one_shot_refuses_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    model, codes = knowing()
    torch.manual_seed(0)
    strange = far(mlp().eval())
    with device(monkeypatch):
        before = fingerprint(strange)
        with pytest.raises(UnrecognisedCodesError, match=r"recognises .*, not all of class"):
            one_shot(strange, codes, 1)
        assert fingerprint(strange) == before
        known = far(model)
        before = fingerprint(known)
        with pytest.raises(ForgettingError):
            one_shot(known, codes, 1, parameters=["0.weight"], silence=True)
        assert fingerprint(known) == before


def test_codes_are_sent_without_a_look_at_them(monkeypatch: pytest.MonkeyPatch) -> None:
    codes = MnemonicCodes.generate(3, (4,)).to(torch.float64)
    with device(monkeypatch) as waits:
        there = codes.to("meta")
        assert len(waits) == 1  # the copy
        assert there.to(torch.float64).to("meta").labels.unique().tolist() == [0, 1, 2]
        assert (there.distribution, there.seed, there.per_class) == ("normal", 0, 4)
        assert_same_bits(near(there.tensor), codes.tensor)


@pytest.mark.parametrize("project", ["forget", "both", "none"])
@pytest.mark.parametrize("scope", ["global", "tensor"])
def test_harmonize_never_waits(project: Any, scope: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tasks = [[randn(3, 4, seed=k), randn(5, seed=k + 9)] for k in range(3)]

    def run(tasks: list[list[Tensor]]) -> list[Tensor]:
        generator = torch.Generator().manual_seed(4)
        return harmonize(*tasks, project=project, scope=scope, generator=generator)

    with device(monkeypatch) as waits:
        found = run(far(tasks))
        assert waits == []
    for one, other in zip(found, run(tasks), strict=True):
        assert_same_bits(near(one), other)


def test_topk_mask_waits_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For the threshold, which is NaN where a score is."""
    scores = [randn(3, 4), randn(5, seed=1)]
    with device(monkeypatch) as waits:
        found = topk_mask(far(scores), 6)
        assert len(waits) == 1
    for one, other in zip(found, topk_mask(scores, 6), strict=True):
        assert_same_bits(near(one), other)


def test_a_fingerprint_is_the_same_on_any_device(monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = knowing(convnet)
    expected = fingerprint(model)
    with device(monkeypatch) as waits:
        assert fingerprint(far(copy.deepcopy(model))) == expected
        assert len(waits) == 1
        model[0] = far(model[0])  # parts on two devices
        assert fingerprint(model) == expected


# The means


def test_operators_with_tensors_of_two_devices_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    grad, x = far((randn(2, 1, 3), randn(2, 1, 3)))
    with device(monkeypatch), pytest.raises(AssertionError, match=r"fisher_linear.* got tensors of two devices"):
        ops.fisher_linear(grad, x, torch.ones(1, 2), far(torch.zeros(1, 3, 3)))
    with device(monkeypatch), pytest.raises(AssertionError, match=r"add.* got tensors of two devices"):
        _ = x + torch.ones(2, 1, 3)


def test_waits_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    x = far(randn(4))
    waiting: dict[str, Callable[[], Any]] = {
        "_local_scalar_dense": lambda: float(x[0]),
        "index": lambda: x[x > 0],
        "masked_select": lambda: x.masked_select(x > 0),
        "nonzero": x.nonzero,
        "equal": lambda: torch.equal(x, x),
        "_unique2": x.unique,
        "_to_copy": lambda: torch.ones(3).to("meta"),
    }
    with device(monkeypatch) as waits:
        for name, wait in waiting.items():
            del waits[:]
            wait()
            assert [found.split()[0] for found in waits] == [name]
        del waits[:]
        constant([1, 2], x.device)
        _ = x + 1, x.sum(), x[1:], torch.ones(3, device="meta")
        assert waits == []


def test_read_and_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = (torch.tensor([3, 2**52 + 1]), torch.tensor(True), torch.tensor([[0.1]]), torch.tensor([]))
    assert read(*values) == [[3, 2**52 + 1], [True], [torch.tensor(0.1).item()], []]
    with device(monkeypatch) as waits:
        assert read(*far(values)) == read(*values)
        assert len(waits) == 1
        checks, called = Checks(), list[int]()
        for n, value in enumerate(far((torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0)))):
            checks.add(value, bool, lambda n=n: called.append(n))
        assert (called, len(waits)) == ([], 1)
        checks.settle()
        checks.settle()
        assert (called, len(waits)) == ([1, 2], 2)
    checks.add(torch.tensor(0.0), bool, lambda: called.append(9))
    assert called[-1] == 9
