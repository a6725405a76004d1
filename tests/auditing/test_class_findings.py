"""A class that is only hidden is called hidden, and a retrained network of another seed passes."""

import copy

import pytest
import torch
from auditing.subjects import TEST, InputsAsLogits, predictions_of, retrained
from known_codes import digits, edits_values_only
from learners import CLASS, CLASSES, FORGET, REMAIN, REST, batches, learner
from torch import Tensor, nn

from fastforget.auditing import AuditReport, Metric, audit
from fastforget.auditing.class_findings import find_in_classes
from fastforget.auditing.subjects import Subject, Subjects

Batches = list[tuple[Tensor, Tensor]]


def digits_without(cls: int) -> tuple[nn.Module, list[Batches]]:
    """Return the network of the demo, and the samples of a class, the rest and the test set."""
    model, _, data = digits()
    own = data.y_train == cls
    parts = [(data.x_train[rows], data.y_train[rows]) for rows in (own, ~own)]
    return model, [batches(part, size=250) for part in (*parts, (data.x_test, data.y_test))]


def lowered(model: nn.Module, cls: int, nats: float) -> nn.Module:
    lower = copy.deepcopy(model)
    *_, bias = lower.parameters()
    with torch.no_grad():
        bias[cls] -= nats
    return lower


def kinds(report: AuditReport) -> set[str]:
    return {finding.kind for finding in report.findings}


@pytest.mark.parametrize("with_original", [True, False])
def test_a_lowered_bias_is_named_hidden(with_original: bool) -> None:
    model, data = digits_without(3)
    original = model if with_original else None
    report = audit(lowered(model, 3, 20), *data, original=original, relearning_steps=0)
    before = audit(model, *data, relearning_steps=0)
    assert kinds(report) == {"hidden"}
    assert "hidden" not in kinds(before)
    unseen = before.per_class["model"][3]
    assert unseen is not None
    assert report.per_class["model"][3] == 0
    for name in ("best", "usual", *["old"] * with_original):
        word = "a" if name == "usual" else "the"
        assert report.metrics[f"with {word} {name} bias"].value == pytest.approx(unseen, abs=0.03)
    assert report.mass["model"][3] == 0
    assert sum(report.mass["model"]) == pytest.approx(1)
    assert before.mass["model"][3] == unseen
    (text, *_) = [finding.text for finding in report.findings]
    assert "standard error" in text
    assert "threshold" in text


def test_a_retrained_network_of_another_seed_passes() -> None:
    clean = [retrained(seed, REST) for seed in range(4)]
    for model in clean[1:]:
        report = audit(model, CLASS, REST, TEST, original=learner(), retrained=clean[0])
        assert report.findings == []
        assert report.metrics["with a usual bias"].value == pytest.approx(0, abs=0.1)
        again = dict(report.again["model"])
        assert list(again) == [0, 1, 2, 5, 10, 20, 35, 50]
        assert [report.metrics[f"again {step}"].value for step in (1, 5, 20, 50)] == [again[k] for k in (1, 5, 20, 50)]


def test_features_and_learning_again() -> None:
    """The metrics are compared with those of the retrained model, with a threshold of four standard errors."""
    seen = predictions_of([[0.1, 0.9]] * 100 + [[0.1, 0.9]], [0] * 100 + [1])
    remain = predictions_of([[0.1, 0.9]], [1])
    subject = Subject(nn.Linear(1, 2), seen.of_classes([0]), remain, seen)
    subjects = Subjects(subject, None, subject)

    def found(name: str, value: float, goal: float) -> list[str]:
        metric = Metric(name, value, "retrained", "", retrained=goal)
        return [finding.kind for finding in find_in_classes({name: metric}, subjects)]

    # The standard error of the difference of 0.9 and 0.6 of 100 samples is 0.057.
    assert found("linear probe", 0.90, 0.66) == ["still in the features"]
    assert found("linear probe", 0.90, 0.68) == []
    assert found("nearest class mean", 0.2, 0.9) == []
    assert found("again 5", 0.5, 0.0) == ["easier to learn again"]
    assert found("again 20", 0.5, 0.45) == []
    assert found("again 50", 1.0, 0.0) == []
    assert found("with a usual bias", 0.5, 0.0) == ["hidden"]
    assert found("with a usual bias", 0.08, 0.0) == []


def test_what_cannot_be_judged_is_said() -> None:
    everything = {"original": learner(), "retrained": retrained(data=REST), "shadows": [retrained(1, REST)]}
    report = audit(learner(), CLASS, REST, TEST, **everything)  # type: ignore[arg-type]
    assert [limit.split(":")[0] for limit in report.cannot_judge] == ["what attacks find at 0.1 % false positives"]
    alone = audit(learner(), CLASS, REST, TEST)
    assert "that takes `retrained`" in alone.cannot_judge[0]
    assert "easier to learn again" in alone.cannot_judge[0]
    assert any("`original`" in limit for limit in alone.cannot_judge)
    assert any("`shadows`" in limit for limit in alone.cannot_judge)
    for limit in alone.cannot_judge:
        assert f"\n? cannot judge {limit}\n" in str(alone)


def test_a_model_without_an_output_layer() -> None:
    x, y = torch.eye(CLASSES).repeat(10, 1), torch.arange(10 * CLASSES) % CLASSES
    data = [batches((x, y), rows) for rows in (y == 1, y != 1, y >= 0)]
    report = audit(InputsAsLogits(), *data)
    assert report.metrics["linear probe"].value is None
    assert report.metrics["nearest class mean"].value is None
    assert report.metrics["with a usual bias"].value == 1
    assert "the features of model: no layer was found whose outputs are the logits" in report.cannot_judge


def test_samples_of_classes_that_remain_have_none_of_it() -> None:
    report = audit(learner(), FORGET, REMAIN, TEST, original=learner(), retrained=retrained())
    assert report.mass == {}
    assert report.again == {}
    assert not any(name.startswith(("with", "again", "linear", "nearest")) for name in report.metrics)
    assert report.metrics["CKA to original"].value == pytest.approx(1)
    assert report.metrics["ToW"].value == pytest.approx(
        (1 - report.metrics["forget accuracy"].gap)  # type: ignore[operator]
        * (1 - abs(report.metrics["remain accuracy"].value - report.metrics["remain accuracy"].retrained))  # type: ignore[operator]
        * (1 - report.metrics["test accuracy"].gap)  # type: ignore[operator]
    )


def test_nothing_is_changed_and_it_repeats() -> None:
    model, clean = lowered(learner(), 2, 10), retrained(data=REST)
    with edits_values_only(model), edits_values_only(clean):
        reports = [audit(model, CLASS, REST, TEST, original=learner(), retrained=clean) for _ in range(2)]
    assert reports[0].describe()["metrics"] == reports[1].describe()["metrics"]
    assert reports[0].again == reports[1].again
