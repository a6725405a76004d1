"""Results have the same bits when torch.set_default_device names another device than the model's."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import known_codes
import pytest
import torch
from asserts import assert_same_bits
from every_method import METHODS
from learners import CLASS, FORGET, FRESH, REMAIN, REST, batches, learner
from torch import Tensor, nn
from torch.utils import _pytree as pytree
from torch.utils.data import TensorDataset

from fastforget import MnemonicCodes, fingerprint, fisher_diagonal, harmonize, learn_to_unlearn, one_shot
from fastforget.auditing import audit
from fastforget.baselines import retrain
from fastforget.membership.training import train_membership_model
from fastforget.serving import LiveModel
from fastforget.serving.engines import Rebuilt

OTHER = batches(FRESH)
KNOWING, CODES = known_codes.model_with_codes(known_codes.mlp)
X, Y = REMAIN[0]


def edited(edit: Callable[[nn.Module], Any], model: nn.Module | None = None) -> str:
    made = learner() if model is None else copy.deepcopy(model)
    edit(made)
    return fingerprint(made)


def trained(features: Any = "logits") -> nn.Module:
    return train_membership_model(learner(), FORGET, OTHER, epochs=2, features=features)


def live() -> list[Any]:
    subject = LiveModel(copy.deepcopy(KNOWING), CODES)
    found = [subject.predict(CODES.inputs), subject.forget(1).fingerprint, subject.predict(CODES.inputs)]
    return [*found, subject.revert(0).fingerprint, subject.health()["intact"]]


def swapped() -> Tensor:
    engine = Rebuilt(copy.deepcopy, example=X)
    engine.check(learner())
    found: Tensor = engine(X)
    return found


def audited() -> dict[str, Any]:
    report = audit(learner(), FORGET, REMAIN, OTHER, original=learner(), shadows=[learner()] * 2, relearning_steps=2)
    return {name: metric.value for name, metric in report.metrics.items()}


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


CASES: dict[str, Callable[[], Any]] = {
    **{name: lambda method=method: edited(method) for name, method in METHODS.items()},
    "retrain": lambda: edited(lambda model: retrain(model, [], REMAIN, epochs=1)),
    "a pair": lambda: edited(lambda model: retrain(model, [], FRESH, epochs=1)),
    "a data set": lambda: edited(lambda model: retrain(model, [], TensorDataset(*FRESH), epochs=1)),
    "fisher": lambda: dict(fisher_diagonal(learner(), X, Y)),
    "expectation": lambda: dict(fisher_diagonal(learner(), X, labels="expectation")),
    "sampled": lambda: dict(fisher_diagonal(learner(), X, labels="sampled", generator=generator())),
    "one_shot": lambda: edited(lambda model: one_shot(model, CODES, [1, 2]), KNOWING),
    "one_shot by micro-batches": lambda: edited(lambda model: one_shot(model, CODES, 2, batch_size=3), KNOWING),
    "one_shot, paper": lambda: edited(lambda model: one_shot(model, CODES, 2, rule="paper"), KNOWING),
    "codes": lambda: MnemonicCodes.generate(4, (3, 4, 4)).inputs,
    "tokens": lambda: MnemonicCodes.generate(4, (5,), distribution="tokens", vocabulary=range(3, 20)).inputs,
    "embedding": lambda: CODES.embed(torch.zeros(4, 6, device="cpu"), Y[:4], 0.5, generator()),
    "membership": lambda: dict(trained().state_dict()),
    "membership by confidence": lambda: dict(trained("confidences").state_dict()),
    "with attacks": lambda: edited(
        lambda model: learn_to_unlearn(model, FORGET, REMAIN, attacks=[trained(), trained()], steps=2)
    ),
    "a class": lambda: edited(lambda model: learn_to_unlearn(model, CLASS, REMAIN[:2], support="random", steps=2)),
    "an excluded class": lambda: edited(lambda model: learn_to_unlearn(model, CLASS, REST[:2], steps=2)),
    "audit": audited,
    "harmonize": lambda: harmonize(X[:3].unbind(), X[3:6].unbind(), generator=generator()),
    "live": live,
    "engine": swapped,
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_results_do_not_depend_on_it(case: str) -> None:
    found = []
    for device in ("cpu", "meta"):  # tensors on meta have no values, so that any use of one is an error
        torch.manual_seed(0)
        with torch.device(device):
            found.append(CASES[case]())
    known, others = (pytree.tree_flatten(one) for one in found)
    assert known[1] == others[1]
    for one, other in zip(known[0], others[0], strict=True):
        if isinstance(one, Tensor):
            assert other.device == one.device
            assert_same_bits(one, other)
        else:
            assert repr(one) == repr(other)


def test_checkpoints(tmp_path: Path) -> None:
    whole = edited(lambda model: learn_to_unlearn(model, FORGET, REMAIN, unseen=OTHER, steps=4))
    file = tmp_path / "checkpoint.safetensors"
    with torch.device("meta"):
        settings = {"unseen": OTHER, "steps": 4, "checkpoint": file, "every": 1}
        with pytest.raises(KeyboardInterrupt):
            edited(lambda model: learn_to_unlearn(model, FORGET, REMAIN, callback=_interrupt, **settings))
        assert file.exists()
        assert edited(lambda model: learn_to_unlearn(model, FORGET, REMAIN, **settings)) == whole


def _interrupt(step: int, _: Any) -> None:
    if step == 2:
        raise KeyboardInterrupt
