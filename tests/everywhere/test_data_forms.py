"""Functions that take samples do the same with every form of them, to the bit."""

import copy
from collections import UserDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from every_method import METHODS
from known_codes import TwoInputs, model_with_codes
from learners import CLASS, FORGET, FRESH, MEMBERS, OTHERS, REMAIN, REST, batches, learner
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

from fastforget import MnemonicCodes, audit, baselines, fisher_diagonal, inscribe, learn_to_unlearn, one_shot
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.predictions import collect_predictions
from fastforget.membership.training import train_membership_model

Whole = tuple[Tensor, Tensor]


def whole(data: list[Whole]) -> Whole:
    x, y = (torch.cat(part) for part in zip(*data, strict=True))
    return x, y


class Drawn:
    """Batches of a whole data set in a new order for each pass, the way a person would write it."""

    def __init__(self, data: Whole, order: Callable[[int], Tensor] = torch.randperm) -> None:
        self.data, self.order = data, order
        self.count = -(-len(data[1]) // 64)

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Whole]:
        x, y = self.data
        return iter([(x[rows], y[rows]) for rows in self.order(len(y)).tensor_split(self.count)])


def mappings(data: list[Whole]) -> list[UserDict[str, Tensor]]:
    return [UserDict(input=x, labels=y) for x, y in data]


CALLS: dict[str, Callable[[nn.Module, Any, Any], Any]] = {
    "learn_to_unlearn": lambda model, forget, remain: learn_to_unlearn(model, forget, remain, steps=3),
    "fine_tune": lambda model, forget, remain: baselines.fine_tune(model, forget, remain, epochs=2),
    "retrain": lambda model, forget, remain: baselines.retrain(model, forget, remain, epochs=2),
    "cf_k": lambda model, forget, remain: baselines.cf_k(model, forget, remain, k=1, epochs=1),
    "neg_grad": lambda model, forget, remain: baselines.neg_grad(model, forget, remain, epochs=2),
    "neg_grad_plus": lambda model, forget, remain: baselines.neg_grad_plus(model, forget, remain, epochs=1),
    "random_labels": lambda model, forget, remain: baselines.random_labels(model, forget, remain, epochs=1),
    "salun": lambda model, forget, remain: baselines.salun(model, forget, remain, epochs=1),
    "ssd": lambda model, forget, remain: baselines.ssd(model, forget, remain, alpha=1),
    "lfssd": lambda model, forget, remain: baselines.lfssd(model, forget, remain, alpha=1),
    "assd": baselines.assd,
    "l1_sparse": lambda model, forget, remain: baselines.l1_sparse(model, forget, remain, epochs=1),
    "delete": lambda model, forget, remain: baselines.delete(model, forget, remain, epochs=1),
    "jit": lambda model, forget, remain: baselines.jit(model, forget, remain, copies=2),
    "class_svd": baselines.class_svd,
    "lotus": lambda model, forget, remain: baselines.lotus(model, forget, remain, unseen=batches(FRESH), epochs=1),
    "fisher_forgetting": baselines.fisher_forgetting,
    "scrub": lambda model, forget, remain: baselines.scrub(model, forget, remain, epochs=1, max_epochs=1),
    "bad_teacher": lambda model, forget, remain: baselines.bad_teacher(model, forget, remain, epochs=1),
    "unsir": lambda model, forget, remain: baselines.unsir(model, forget, remain, noise_steps=2),
    "boundary_shrink": lambda model, forget, remain: baselines.boundary_shrink(model, forget, remain, epochs=1),
    "boundary_expand": lambda model, forget, remain: baselines.boundary_expand(model, forget, remain, epochs=1),
}
ONE_TENSOR = {"unsir", "boundary_shrink", "jit"}  # these add noise to the inputs
CLASSES_ONLY = {"unsir", "fisher_forgetting"}  # of `forget` these look at the classes alone, in the order it has


def edited(name: str, forget: Any, remain: Any, state: int) -> str:
    model = learner()
    torch.manual_seed(state)
    CALLS[name](model, forget, remain)
    return fingerprint(model)


def test_no_method_is_left_out() -> None:
    apart = {"inscribe", "of second order"}  # the first is tested below, the second is learn_to_unlearn
    assert set(METHODS) - apart | {"retrain"} == set(CALLS)


@pytest.mark.parametrize("name", CALLS)
def test_a_pair_and_a_data_set_are_drawn_as_a_loader_would(name: str) -> None:
    forget, remain = whole(FORGET), whole(REMAIN)
    order = torch.arange if name in CLASSES_ONLY else torch.randperm
    expected = edited(name, Drawn(forget, order), Drawn(remain), 1)
    assert edited(name, forget, remain, 2) == expected
    assert edited(name, TensorDataset(*forget), TensorDataset(*remain), 3) == expected
    assert expected != fingerprint(learner())


@pytest.mark.parametrize("name", [name for name in CALLS if name not in ONE_TENSOR])
def test_mappings_are_batches(name: str) -> None:
    assert edited(name, mappings(FORGET), mappings(REMAIN), 1) == edited(name, FORGET, REMAIN, 1)


def test_unseen_samples_of_learning_to_unlearn() -> None:
    found = []
    for unseen in (batches(FRESH), FRESH, TensorDataset(*FRESH), mappings(batches(FRESH))):
        model = learner()
        learn_to_unlearn(model, FORGET, REMAIN, unseen=unseen, steps=2)
        found.append(fingerprint(model))
    assert len(set(found)) == 1


def test_samples_to_forget_that_also_remain_are_found() -> None:
    x, y = MEMBERS
    dataset = TensorDataset(x, y)
    loader = DataLoader(dataset, 50)
    cases = [((x, y), [x, y], 400), (Subset(dataset, range(9)), dataset, 9), (Subset(dataset, range(9)), loader, 9)]
    for forget, remain, common in cases:
        with pytest.raises(ValueError, match=f"^`forget` and `remain` must have no samples in common, got {common}, "):
            learn_to_unlearn(learner(), forget, remain)  # type: ignore[arg-type]
    learn_to_unlearn(learner(), Subset(dataset, range(9)), Subset(dataset, range(9, 400)), steps=1)


def test_interrupted_work_with_pairs_goes_on_with_the_same_samples(tmp_path: Path) -> None:
    """More than one pass over both, each in an order of its own."""
    parts = whole(FORGET), whole(REMAIN[:2])
    file = tmp_path / "checkpoint.safetensors"

    def interrupt(step: int, _: Any) -> None:
        if step == 3:
            raise KeyboardInterrupt

    expected, resumed = learner(), learner()
    learn_to_unlearn(expected, *parts, steps=6)
    with pytest.raises(KeyboardInterrupt):
        learn_to_unlearn(resumed, *parts, steps=6, callback=interrupt, checkpoint=file, every=1)
    torch.manual_seed(7)
    learn_to_unlearn(resumed, *parts, steps=6, checkpoint=file, every=1)
    assert fingerprint(resumed) == fingerprint(expected)


def test_audit() -> None:
    """Also of a whole class, whose samples are chosen from the batches."""
    parts = [whole(CLASS), whole(REST), OTHERS]
    reference = [[(x, y)] for x, y in parts]
    reports = [
        audit(learner(), *data, relearning_steps=0)
        for data in (reference, parts, [TensorDataset(*part) for part in parts], list(map(mappings, reference)))
    ]
    for report in reports[1:]:
        assert report.metrics.keys() == reports[0].metrics.keys()
        for name, metric in report.metrics.items():
            assert metric.value == pytest.approx(reports[0].metrics[name].value, abs=1e-6), name
        assert report.scores["forget"] == pytest.approx(reports[0].scores["forget"], abs=1e-5)


def test_predictions_and_membership_models() -> None:
    forms = batches(MEMBERS), MEMBERS, TensorDataset(*MEMBERS), mappings(batches(MEMBERS))
    seen = [collect_predictions(learner(), form, "remain") for form in forms]
    attacks = [train_membership_model(learner(), form, OTHERS, epochs=2) for form in forms]
    for found, attack in zip(seen, attacks, strict=True):
        assert torch.allclose(found.logits, seen[0].logits, atol=1e-5)
        assert torch.equal(found.targets, MEMBERS[1])
        assert attack.area == pytest.approx(attacks[0].area, abs=1e-3)


def test_mappings_are_inputs() -> None:
    """Where a dict of tensors is: BatchEncoding of transformers is no dict."""
    model, codes = model_with_codes(TwoInputs, named=True)
    expected = fisher_diagonal(model, codes.inputs, codes.labels)
    named = UserDict(codes.inputs)  # type: ignore[arg-type]
    found = fisher_diagonal(model, named, codes.labels)  # type: ignore[arg-type]
    assert all(torch.equal(found[name], value) for name, value in expected.items())

    given = MnemonicCodes.from_tensors(UserDict(codes.stacked))  # type: ignore[arg-type]
    receipts = []
    for inputs, known in ((codes.inputs, codes), (named, given)):
        floor, samples = (inputs, codes.labels, 0.5), (inputs, codes.labels)
        edited = copy.deepcopy(model)
        receipts.append(one_shot(edited, known, 1, floor=floor, samples=samples, level="output"))
    assert receipts[0].after == receipts[1].after

    mixed = [
        codes.embed(inputs, codes.labels, 0.5, torch.Generator().manual_seed(0))  # type: ignore[arg-type]
        for inputs in (codes.inputs, named)
    ]
    assert all(torch.equal(mixed[0][name], mixed[1][name]) for name in codes.inputs)  # type: ignore[call-overload, union-attr]


def test_data_sets_of_hugging_face() -> None:
    """Of which a row is a dict of plain values, and a column may be anything."""
    datasets, arrow = pytest.importorskip("datasets"), pytest.importorskip("pyarrow")
    model, codes = model_with_codes(TwoInputs, per_class=4, named=True)
    inputs = codes.inputs
    assert isinstance(inputs, dict)
    columns = {**{name: leaf.tolist() for name, leaf in inputs.items()}, "label": codes.labels.tolist()}
    found, expected = copy.deepcopy(model), copy.deepcopy(model)
    # With a fingerprint of ours: to make one, some versions pickle the table, which not every pyarrow stands.
    data = datasets.Dataset(datasets.table.InMemoryTable(arrow.table(columns)), fingerprint="ours")
    receipt = one_shot(found, None, 1, samples=data)
    assert receipt.after == one_shot(expected, None, 1, samples=(inputs, codes.labels)).after
    assert collect_predictions(model, data, "data").accuracy == 1
    with pytest.raises(ValueError, match=r"^mappings in `samples` must have either `labels` or `label`, got"):
        one_shot(model, None, 1, samples=data.remove_columns("label"))


@pytest.mark.filterwarnings("ignore::fastforget.AccuracyLossWarning")
def test_inscription() -> None:
    codes = MnemonicCodes.generate(4, (30,), per_class=1)
    named = MnemonicCodes.from_tensors({"input": codes.tensor})
    found = []
    for given, data in ((codes, REMAIN), (named, mappings(REMAIN)), (codes, whole(REST)), (codes, whole(REST))):
        model = learner()
        model[3].p = 0.0  # type: ignore[operator, union-attr, assignment] # else dropout draws from the outer state
        share = inscribe(model, given, data, epochs=8, lr=0.05).recognised
        found.append(fingerprint(model))
        assert share >= 0.75
    assert found[0] == found[1]
    assert found[2] == found[3]
