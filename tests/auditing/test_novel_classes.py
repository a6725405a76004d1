"""Classes that the model never saw stand in for a retrained model."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from auditing.subjects import TEST, InputsAsLogits, predictions_of, retrained
from auditing.test_class_findings import digits_without, kinds, lowered
from known_codes import edits_values_only
from learners import CLASS, CLASSES, FORGET, REMAIN, REST, batches, learner
from torch import Tensor, nn

from fastforget.auditing import Metric, audit
from fastforget.auditing.class_findings import find_in_classes
from fastforget.auditing.features import ModelFeatures
from fastforget.auditing.few_samples import after_first_of_each, first_of_each
from fastforget.auditing.novel_classes import compare_again, compare_probes, divide
from fastforget.auditing.probes import nearest_mean
from fastforget.auditing.relearning import again_curve
from fastforget.auditing.subjects import Subject, Subjects

Samples = tuple[Tensor, Tensor]


def strangers(counts: list[int], apart: float = 3.0) -> Samples:
    """Return samples around a point of their own for each class, unlike those of the learner."""
    generator = torch.Generator().manual_seed(5)
    width = FORGET[0][0].shape[1]
    targets = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    centres = apart * torch.randn(len(counts), width, generator=generator)
    return centres[targets] + torch.randn(len(targets), width, generator=generator), targets


def test_halves_of_each_class_in_order() -> None:
    x = torch.arange(45.0)[:, None]
    y = torch.tensor([7] * 21 + [3] * 24)
    order = torch.randperm(45, generator=torch.Generator().manual_seed(0))
    found = divide((x[order], y[order]))
    assert [[sum(len(t) for _, t in half) for half in (each.known, each.unseen)] for each in found] == [
        [12, 12],
        [10, 11],
    ]
    for each, own in zip(found, (range(21, 45), range(21)), strict=True):
        values = [value for half in (each.known, each.unseen) for inputs, _ in half for value in inputs[:, 0].tolist()]
        assert sorted(values) == list(own)
    placed = found[0].in_place_of(2)
    assert all(bool((targets == 2).all()) for half in (placed.known, placed.unseen) for _, targets in half)


def test_all_but_the_first_of_each_class() -> None:
    x, y = torch.arange(9.0)[:, None], torch.tensor([0, 1, 0, 1, 1, 0, 0, 1, 2])
    ((rest, targets),) = after_first_of_each([(x, y)], 2)
    assert rest[:, 0].tolist() == [4, 5, 6, 7]
    assert targets.tolist() == [1, 0, 0, 1]
    ((first, _),) = first_of_each([(x, y)], 2)
    assert sorted([*first[:, 0].tolist(), *rest[:, 0].tolist()]) == list(range(9))


def test_a_probe_of_novel_classes_by_hand() -> None:
    """Of logits as features: the forgotten class is left out, and a novel one has its place."""
    eye = 4 * torch.eye(3)
    model = nn.Linear(3, 3)
    with torch.no_grad():
        model.weight.copy_(torch.eye(3))
        model.bias.zero_()
    known = [(eye.repeat(10, 1), torch.arange(3).repeat(10))]
    features = ModelFeatures.of(model, known, known)
    near, far = torch.tensor([[0.1, 4.0, 0.0]]).repeat(20, 1), torch.tensor([[-9.0, -9.0, -9.0]]).repeat(20, 1)
    near[::2] = eye[1]  # those to learn from have their mean between both, and half of the others is at class 1
    novel = [each.in_place_of(0) for each in divide((torch.cat([near, far]), torch.arange(2).repeat_interleave(20)))]
    (metric,) = compare_probes(
        [Metric("nearest class mean", 1.0, "retrained", "")], [(nearest_mean, 10)], model, features, [0], novel
    )
    assert metric.novel == (0.5, 1.0)
    assert metric.of_novel == 0.75
    (same,) = compare_probes([metric], [(nearest_mean, 10)], model, None, [0], novel)
    assert same is metric


def test_a_novel_class_is_learnt_by_the_same_output() -> None:
    model, few = learner(), first_of_each([*CLASS, *REST], 10)
    (novel,) = divide(strangers([40]))
    metrics = [Metric(f"again {step}", 0.0, "retrained", "") for step in (1, 20)]
    found = list(compare_again(metrics, (1, 20), model, few, [2], [novel.in_place_of(2)]))
    rest = first_of_each(REST, 10)
    learnt = [(inputs, torch.full_like(targets, 2)) for inputs, targets in first_of_each(novel.known, 10)]
    unseen = [(inputs, torch.full_like(targets, 2)) for inputs, targets in novel.unseen]
    curve = dict(again_curve(model, [*rest, *learnt], unseen, None, (1, 20)))
    assert [metric.novel for metric in found] == [(curve[1],), (curve[20],)]
    assert curve[20] > curve[1]


def test_findings_beside_novel_classes() -> None:
    """The largest of them counts, unless there is a retrained model."""
    seen = predictions_of([[0.1, 0.9]] * 100 + [[0.1, 0.9]], [0] * 100 + [1])
    subject = Subject(nn.Linear(1, 2), seen.of_classes([0]), predictions_of([[0.1, 0.9]], [1]), seen)
    metric = Metric("linear probe", 0.9, "retrained", "", novel=(0.2, 0.6))

    def found(metric: Metric) -> list[str]:
        return [finding.text for finding in find_in_classes({metric.name: metric}, Subjects(subject))]

    assert "of classes that it never saw up to 60.0 %" in found(metric)[0]
    assert found(replace(metric, novel=(0.2, 0.7))) == []  # four standard errors are 0.22
    assert found(replace(metric, retrained=0.9)) == []
    assert "retrained model 10.0 %" in found(replace(metric, retrained=0.1, novel=(0.95,)))[0]
    assert found(replace(metric, novel=None)) == []


def test_the_audit_of_a_lowered_bias() -> None:
    """What the model was trained on is learnt again sooner than what it never saw; the report says both."""
    model, (forget, remain, test) = digits_without(3)
    hidden = lowered(model, 3, 25)
    noise = torch.rand(60, *forget[0][0].shape[1:], generator=torch.Generator().manual_seed(0))
    novel = (forget[0][0][:60].flip(2, 3) + 0.1 * noise, torch.arange(60) % 2)
    with edits_values_only(hidden):
        report = audit(hidden, forget, remain, test, original=model, novel=novel)
    assert "hidden" in kinds(report)
    for name in ("linear probe", "nearest class mean", "again 5", "again 20", "again 5 with a usual bias"):
        found = report.metrics[name].novel
        assert found is not None
        assert len(found) == 2
    assert report.metrics["test accuracy"].novel is None
    assert not any("`novel`" in limit for limit in report.cannot_judge)
    assert any("`retrained`" in limit for limit in report.cannot_judge)
    assert "novel classes" in str(report)
    assert report.describe()["metrics"]["linear probe"]["novel"] == report.metrics["linear probe"].novel
    assert "novel classes" not in str(audit(hidden, forget, remain, test, relearning_steps=0))


def test_a_model_without_an_output_layer_is_learnt_again_alone() -> None:
    x, y = torch.eye(CLASSES).repeat(10, 1), torch.arange(10 * CLASSES) % CLASSES
    data = [batches((x, y), rows) for rows in (y == 1, y != 1, y >= 0)]
    report = audit(InputsAsLogits(), *data, novel=(torch.rand(20, CLASSES), torch.zeros(20, dtype=torch.int64)))
    assert report.metrics["linear probe"].novel is None
    assert report.metrics["again 5"].novel is not None


@pytest.mark.parametrize(
    ("novel", "error", "message"),
    [
        (lambda: strangers([20, 19]), ValueError, "at least 20 samples of each class, got 19 of class 1"),
        (lambda: (strangers([20])[0], torch.zeros(20)), TypeError, "int64"),
        (lambda: (strangers([20])[0][:5], strangers([20])[1]), ValueError, "`targets` must have the batch size"),
        (list, ValueError, "novel"),
        (lambda: (torch.full_like(strangers([20])[0], torch.nan), strangers([20])[1]), ValueError, "`novel`"),
        (lambda: "files", TypeError, "novel"),
    ],
)
def test_bad_novel_samples_are_named(novel: Callable[[], object], error: type[Exception], message: str) -> None:
    model = learner()
    with edits_values_only(model), pytest.raises(error, match=message):
        audit(model, CLASS, REST, TEST, novel=novel())  # type: ignore[arg-type]


def test_novel_classes_judge_no_samples_of_classes_that_remain() -> None:
    with pytest.raises(ValueError, match="`novel` must be left out"):
        audit(learner(), FORGET, REMAIN, TEST, novel=strangers([20]))


def test_a_retrained_model_passes_beside_novel_classes() -> None:
    report = audit(retrained(1, REST), CLASS, REST, TEST, novel=strangers([40, 40]))
    assert "hidden" not in kinds(report)
    assert "still in the features" not in kinds(report)
