"""The audit flags models that remember, that are over-forgotten or damaged, and no others."""

import copy

import pytest
import torch
from auditing.subjects import TEST, retrained
from known_codes import digits, edits_values_only
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    MEMBERS,
    OTHERS,
    REMAIN,
    REST,
    batches,
    learner,
)
from torch.utils.data import DataLoader, TensorDataset

from fastforget import baselines, one_shot
from fastforget.auditing import audit
from fastforget.classifier.predictions import collect_predictions
from fastforget.membership.training import train_membership_model


def test_the_original_remembers_and_the_retrained_does_not() -> None:
    original, clean = learner(), retrained()
    shadows = [retrained(seed) for seed in (1, 2, 3)]
    report = audit(original, FORGET, REMAIN, TEST, original=original, retrained=clean, shadows=shadows)
    assert {finding.kind for finding in report.findings} == {"remembers"}
    assert len(report.findings) >= 5
    assert report.metrics["attack: likelihood ratio"].value > 0.75  # type: ignore[operator]
    assert report.metrics["relearning steps"].value == 0
    clean_report = audit(clean, FORGET, REMAIN, TEST, original=original, retrained=clean, shadows=shadows)
    assert clean_report.findings == []
    assert clean_report.gap == 0
    assert report.gap is not None
    assert report.gap > 0.1
    assert clean_report.metrics["divergence"].value == pytest.approx(0, abs=1e-12)
    assert clean_report.metrics["agreement"].value == 1
    assert clean_report.metrics["relearning steps"].value > 0  # type: ignore[operator]


def test_without_a_retrained_model_chance_is_the_target() -> None:
    report = audit(learner(), FORGET, REMAIN, TEST)
    loss = report.metrics["attack: loss"]
    assert loss.target == 0.5
    assert loss.gap == pytest.approx(abs(loss.value - 0.5))  # type: ignore[operator]
    assert "divergence" not in report.metrics
    assert report.gap is None
    assert {finding.kind for finding in report.findings} == {"remembers"}


def test_an_over_forgotten_model_is_flagged_not_praised() -> None:
    """The model gives all samples wrong labels. A retrained model would get some right."""
    model = learner()
    baselines.random_labels(model, FORGET, REMAIN, epochs=40, lr=5e-3)
    clean = retrained()
    report = audit(model, FORGET, REMAIN, TEST, original=learner(), retrained=clean)
    assert report.metrics["forget accuracy"].value < 0.2  # type: ignore[operator]
    assert "over-forgotten" in {finding.kind for finding in report.findings}
    assert "remembers" not in {finding.kind for finding in report.findings}


def test_a_class_that_is_hidden_too_well_is_flagged() -> None:
    """Unseen samples of the class are as wrong as forgotten ones, so only the retrained model reveals it."""
    model, clean = learner(), retrained(data=REST)
    with torch.no_grad():
        model[4].bias[2] -= 1000
    report = audit(model, CLASS, REST, TEST, original=learner(), retrained=clean)
    assert "over-forgotten" in {finding.kind for finding in report.findings}
    assert audit(clean, CLASS, REST, TEST, original=learner(), retrained=clean).findings == []


def test_more_samples_of_an_easy_class_are_no_members() -> None:
    """None of the samples were trained on, and nine of ten are of the class that the model knows best."""
    model = retrained(data=batches(OTHERS))
    best = max(range(CLASSES), key=lambda cls: collect_predictions(model, TEST, "test").per_class()[cls] or 0)
    easy, hard = MEMBERS[1] == best, MEMBERS[1] != best
    rows = torch.cat([easy.nonzero().squeeze(1), hard.nonzero().squeeze(1)[:10]])
    report = audit(model, batches(MEMBERS, rows), batches(OTHERS), TEST)
    assert report.findings == []


def test_codes_of_classes_that_remain_are_no_trigger() -> None:
    model, codes, data = digits()
    loaders = [batches((data.x_train, data.y_train), slice(*ends), 128) for ends in ((0, 100), (100, 800))]
    test = batches((data.x_test, data.y_test), size=128)
    assert "trigger" not in audit(model, *loaders, test, codes=codes, relearning_steps=0).metrics


def test_under_no_grad_and_with_loaders_that_shuffle() -> None:
    loader = DataLoader(TensorDataset(*MEMBERS), batch_size=50, shuffle=True)
    state = torch.get_rng_state()
    with torch.no_grad():
        audit(learner(), FORGET, loader, TEST)
    assert torch.equal(state, torch.get_rng_state())


def test_damage_is_flagged() -> None:
    model = learner()
    with torch.no_grad():
        model[4].weight.mul_(torch.randn(CLASSES, 96, generator=torch.Generator().manual_seed(0)))
    report = audit(model, FORGET, REMAIN, TEST, original=learner())
    assert "damaged" in {finding.kind for finding in report.findings}


def test_a_class_of_digits_with_its_codes() -> None:
    model, codes, data = digits()
    loaders = []
    for x, y, wanted in (
        (data.x_train, data.y_train, True),
        (data.x_train, data.y_train, False),
        (data.x_test, data.y_test, None),
    ):
        rows = slice(None) if wanted is None else (y == 3) == wanted
        loaders.append(batches((x, y), rows, 128))
    edited = copy.deepcopy(model)
    one_shot(edited, codes, 3)
    report = audit(edited, *loaders, original=model, codes=codes, relearning_steps=2)
    trigger = report.metrics["trigger"]
    assert trigger.value == 0
    assert trigger.original > 0.05  # type: ignore[operator]
    assert report.metrics["forget accuracy"].value == 0
    assert [finding.kind for finding in report.findings if finding.kind in ("trigger", "damaged")] == []
    assert report.per_class["model"][3] == 0
    worse = audit(model, *loaders, codes=codes, relearning_steps=0)
    assert "trigger" in {finding.kind for finding in worse.findings}
    assert "relearning steps" not in worse.metrics


def test_attacks_that_are_given() -> None:
    given = {
        name: train_membership_model(learner(), batches(MEMBERS), batches(OTHERS), features=name)
        for name in ("loss", "logits")
    }
    given = {f"model of {name}": attack for name, attack in given.items()}
    report = audit(learner(), FORGET, REMAIN, TEST, attacks=given)
    assert report.metrics["attack: model of logits"].value > 0.6  # type: ignore[operator]


def test_nothing_is_changed_and_it_repeats() -> None:
    model, clean = learner(), retrained()
    with edits_values_only(model), edits_values_only(clean):
        reports = [audit(model, FORGET, REMAIN, TEST, original=model, retrained=clean) for _ in range(2)]
    assert reports[0].describe()["metrics"] == reports[1].describe()["metrics"]
