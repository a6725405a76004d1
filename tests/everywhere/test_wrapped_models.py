"""Wrapped models: an edit reaches the weights that serve, to the bits of the bare model, or is refused by name."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
import torch.distributed as dist
from asserts import assert_same_bits
from every_method import METHODS
from known_codes import assert_holds, copied_tensors, mlp, model_with_codes
from learners import CLASS, FORGET, MEMBERS, OTHERS, REMAIN, REST, learner
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from fastforget import audit, fisher_diagonal, learn_to_unlearn, one_shot
from fastforget.baselines import neg_grad, random_labels, salun
from fastforget.classifier.fingerprint import fingerprint
from fastforget.serving import LiveModel


@pytest.fixture(scope="module", autouse=True)
def _group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    rendezvous = tmp_path_factory.mktemp("group") / "rendezvous"
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


def compiled(model: nn.Module) -> nn.Module:
    return torch.compile(model, backend="eager")  # type: ignore[return-value]


WRAPPERS: dict[str, Callable[[nn.Module], nn.Module]] = {
    "DataParallel": nn.DataParallel,
    "DistributedDataParallel": DistributedDataParallel,
    "DataParallel of a compiled one": lambda model: nn.DataParallel(compiled(model)),
    "compiled DataParallel": lambda model: compiled(nn.DataParallel(model)),
}
wrapped = pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("wrap", [nn.DataParallel, DistributedDataParallel])
def test_every_method(wrap: Callable[[nn.Module], nn.Module], name: str) -> None:
    bare, inner = learner(), learner()
    served = wrap(inner).eval()
    for model in (bare, served):
        torch.manual_seed(0)
        METHODS[name](model)
    assert_holds(inner, copied_tensors(bare))
    with torch.no_grad():
        assert torch.equal(served(MEMBERS[0]), bare(MEMBERS[0]))
    assert all(parameter.grad is None for parameter in inner.parameters())


@wrapped
def test_one_shot_and_receipts(wrap: Callable[[nn.Module], nn.Module]) -> None:
    bare, codes = model_with_codes(mlp)
    served, other = wrap(copy.deepcopy(bare)).eval(), copy.deepcopy(bare)
    before = fingerprint(bare)
    assert fingerprint(served) == before
    receipt, expected = one_shot(served, codes, 1), one_shot(bare, codes, 1)
    assert receipt.after == expected.after != before
    with torch.no_grad():
        assert torch.equal(served(codes.inputs), bare(codes.inputs))
    receipt.apply(other)
    assert fingerprint(other) == expected.after
    expected.revert(served)
    assert fingerprint(served) == before


@wrapped
def test_a_kept_fisher(wrap: Callable[[nn.Module], nn.Module]) -> None:
    bare, codes = model_with_codes(mlp)
    served = wrap(copy.deepcopy(bare)).eval()
    fisher, expected = (fisher_diagonal(model, codes.inputs, codes.labels, reduction="sum") for model in (served, bare))
    assert fisher.keys() == expected.keys()
    for name, value in expected.items():
        assert_same_bits(fisher[name], value)
    assert one_shot(served, codes, 1, fisher=fisher).after == one_shot(bare, codes, 1, fisher=expected).after


@wrapped
def test_audit_and_live_model(wrap: Callable[[nn.Module], nn.Module]) -> None:
    found, expected = (
        audit(model, CLASS, REST, OTHERS, relearning_steps=2) for model in (wrap(learner()).eval(), learner())
    )
    assert found.model == expected.model
    assert {name: metric.value for name, metric in found.metrics.items()} == {
        name: metric.value for name, metric in expected.metrics.items()
    }
    bare, codes = model_with_codes(mlp)
    served = wrap(copy.deepcopy(bare)).eval()
    LiveModel(served, codes).forget(1)
    assert fingerprint(served) == one_shot(bare, codes, 1).after


class Adapted(nn.Module):
    """A linear layer with adapters of low rank, as PEFT wraps it; merged adapters are a part of its weight."""

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer, self.merged = base_layer, False
        self.down = nn.Parameter(0.1 * torch.randn(2, base_layer.in_features))
        self.up = nn.Parameter(0.1 * torch.randn(base_layer.out_features, 2))

    def merge(self) -> None:
        with torch.no_grad():
            self.base_layer.weight += self.up @ self.down
        self.merged = True

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.base_layer(x)
        return plain if self.merged else plain + x @ self.down.T @ self.up.T


ADAPTERS = ["0.down", "0.up"]


def adapted(*, merged: bool = False) -> nn.Module:
    model = learner().requires_grad_(requires_grad=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model[0] = Adapted(model[0])  # type: ignore[index, operator]
    if merged:
        model[0].merge()  # type: ignore[index, operator]
    return model.eval()


def test_adapters_move_alone_and_are_served() -> None:
    for edit in (
        lambda model: neg_grad(model, FORGET, REMAIN, lr=1e-2),
        lambda model: learn_to_unlearn(model, FORGET, REMAIN, steps=2, parameters=ADAPTERS),
    ):
        model = adapted()
        before, seen = copy.deepcopy(model.state_dict()), model(MEMBERS[0])
        edit(model)
        changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
        assert changed == set(ADAPTERS)
        assert not torch.equal(model(MEMBERS[0]), seen)


@pytest.mark.parametrize(
    "edit",
    [
        lambda model: neg_grad(model, FORGET, REMAIN),
        lambda model: random_labels(model, FORGET, REMAIN),
        lambda model: salun(model, FORGET, REMAIN),
        lambda model: learn_to_unlearn(model, FORGET, REMAIN, parameters=ADAPTERS),
        lambda model: learn_to_unlearn(model.requires_grad_(), FORGET, REMAIN, parameters=ADAPTERS),
        METHODS["inscribe"],
    ],
)
def test_merged_adapters_do_not_serve(edit: Callable[[nn.Module], object]) -> None:
    """A step would change them and nothing else."""
    model = adapted(merged=True)
    before = fingerprint(model)
    with pytest.raises(ValueError, match=r"^the loss must depend on parameters that may move, but the model does not "):
        edit(model)
    assert fingerprint(model) == before


def test_frozen_weights_are_named() -> None:
    bare, codes = model_with_codes(mlp)
    with pytest.raises(ValueError, match=r"^parameter `0\.weight` is frozen \(requires_grad=False\); name the"):
        one_shot(bare.requires_grad_(requires_grad=False), codes, 1)
    frozen = learner().requires_grad_(requires_grad=False)
    for edit in (lambda model: neg_grad(model, FORGET, REMAIN), METHODS["inscribe"]):
        with pytest.raises(ValueError, match=r"^`model` must have parameters that need a gradient, got none: unfreeze"):
            edit(frozen)
