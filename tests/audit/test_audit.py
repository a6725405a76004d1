"""The audit: known answers on hand-made distributions, what it flags, and what it refuses."""

import copy
import dataclasses
import json
import math
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from asserts import assert_close
from known_codes import digits, edits_values_only
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    FRESH,
    MEMBERS,
    OTHERS,
    REMAIN,
    REST,
    SIZE,
    Batches,
    batches,
    learner,
    untrained,
)
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import log_loss, roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastforget import MnemonicCodes, baselines, one_shot
from fastforget.audit import AuditReport, Finding, Metric, audit
from fastforget.audit.attacks import SCORES, Area, likelihood_ratio
from fastforget.audit.distances import activation_distance, agreement, divergence
from fastforget.audit.page import curve, page
from fastforget.audit.relearning import relearning_curve, steps_to
from fastforget.membership import MembershipModel, area_under_curve, train_membership_model
from fastforget.observation import Observation, observe

TEST = batches(FRESH)


def said(p: list[list[float]], y: list[int]) -> Observation:
    return Observation(torch.tensor(p, dtype=torch.float64).log(), torch.tensor(y))


def random(samples: int, seed: int = 0, scale: float = 3.0) -> Observation:
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(samples, CLASSES, generator=generator, dtype=torch.float64)
    return Observation(logits, torch.randint(CLASSES, (samples,), generator=generator))


class Says(nn.Module):
    """Returns its input as logits."""

    def __init__(self) -> None:
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.nothing


def retrained(seed: int = 0, data: Batches = REMAIN) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = untrained()
    baselines.retrain(model, data, epochs=30, seed=seed)
    return model.eval()


# Known answers


def test_what_is_read_off_the_logits() -> None:
    seen = said([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.9, 0.0]], [0, 1, 0])
    assert seen.accuracy == pytest.approx(1 / 3)
    assert seen.losses.tolist() == pytest.approx([-math.log(0.7), -math.log(0.25), -math.log(0.1)])
    assert seen.confidences.tolist() == pytest.approx([0.7, 0.5, 0.9])
    expected = [-sum(p * math.log(p) for p in row if p) for row in ([0.7, 0.2, 0.1], [0.25, 0.25, 0.5], [0.1, 0.9])]
    assert seen.entropies.tolist() == pytest.approx(expected)
    assert seen.odds.tolist() == pytest.approx([math.log(7 / 3), math.log(1 / 3), math.log(1 / 9)])
    first = -0.3 * math.log(0.7) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    assert seen.modified_entropies[0].item() == pytest.approx(first)
    assert seen.modified_entropies[2].item() == pytest.approx(-0.9 * math.log(0.1) - 0.9 * math.log(0.1))
    assert seen.per_class() == [0.5, 0.0, None]
    assert seen.of_classes([1]).targets.tolist() == [1]


def test_modified_entropy_is_finite_where_entropy_is_zero() -> None:
    sure = Observation(torch.tensor([[800.0, 0.0], [800.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    right, wrong = sure.modified_entropies.tolist()
    assert right == pytest.approx(0, abs=1e-200)
    assert 1000 < wrong < math.inf


def test_against_other_libraries() -> None:
    one, other = random(500, 0), random(500, 1)
    other = Observation(other.logits, one.targets)
    assert one.losses.mean().item() == pytest.approx(log_loss(one.targets, one.p, labels=range(CLASSES)))
    pairs = zip(one.p.numpy(), other.p.numpy(), strict=True)
    expected = sum(jensenshannon(p, q, base=2) ** 2 for p, q in pairs) / 500
    assert divergence(one, other) == pytest.approx(expected)
    labels = [1] * 300 + [0] * 200
    same = torch.zeros_like(one.targets)  # of one class
    parts = Observation(one.logits[:300], same[:300]), Observation(one.logits[300:], same[300:])
    for score in SCORES.values():
        values = torch.cat([score(part) for part in parts])
        assert Area.of(score, *parts).value == pytest.approx(roc_auc_score(labels, values))


def test_distances_of_equal_and_of_opposite_predictions() -> None:
    one, other = said([[1.0, 0.0], [1.0, 0.0]], [0, 0]), said([[0.0, 1.0], [1.0, 0.0]], [0, 0])
    assert (divergence(one, one), activation_distance(one, one), agreement(one, one)) == (0, 0, 1)
    assert divergence(one, other) == pytest.approx(0.5)
    assert activation_distance(one, other) == pytest.approx(math.sqrt(2) / 2)
    assert agreement(one, other) == 0.5


def test_the_error_of_an_area_is_that_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(40) % 2

    def noise() -> Observation:
        return Observation(torch.randn(40, 2, generator=generator, dtype=torch.float64), labels)

    areas = [Area.of(lambda seen: seen.logits[:, 0], noise(), noise()) for _ in range(2000)]
    found = torch.tensor([area.value for area in areas])
    assert found.std().item() == pytest.approx(areas[0].error, rel=0.06)
    assert found.mean().item() == pytest.approx(0.5, abs=0.005)


@pytest.mark.parametrize("shadows", [2, 8])
def test_likelihood_ratio(shadows: int) -> None:
    """Shadows of known mean and deviation, another for each sample."""
    generator = torch.Generator().manual_seed(0)
    centre = torch.randn(300, generator=generator, dtype=torch.float64)

    def at(odds: Tensor) -> Observation:
        return Observation(torch.stack([odds, torch.zeros_like(odds)], 1), torch.zeros(300, dtype=torch.int64))

    around = torch.randn(shadows, 300, generator=generator, dtype=torch.float64)
    around = (around - around.mean(0)) / (around.std(0) if shadows >= 8 else 1)
    found = likelihood_ratio(at(centre + 2), [at(centre + 0.5 * row) for row in around])
    deviation = 0.5 if shadows >= 8 else 0.5 * (around.square().sum() / (300 * (shadows - 1))).sqrt().item()
    assert_close(found, torch.full((300,), 2 / deviation, dtype=torch.float64), 1e-9)


def test_relearning() -> None:
    assert steps_to([0.1, 0.5, 0.9, 0.8], 0.9) == 2
    assert steps_to([0.1, 0.5], 0.9) == 2
    assert steps_to([0.9], 0.9) == 0
    model = learner()
    with edits_values_only(model):
        curve = relearning_curve(model, CLASS, steps=5)
    assert len(curve) == 6
    assert curve[0] == observe(model, CLASS, "forget").accuracy


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_learn_again(dtype: torch.dtype) -> None:
    model = retrained().to(dtype)
    half = [(x.to(dtype), (y + 1) % CLASSES) for x, y in CLASS]  # what it does not know
    found = relearning_curve(model, half, steps=60)
    assert found == relearning_curve(copy.deepcopy(model).float(), [(x.float(), y) for x, y in half], steps=60)
    assert found[0] < 0.5 < found[-1]


# What it says of models


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
    """Wrong labels for all samples: zero accuracy on them, which no model shows that never saw them."""
    model = learner()
    baselines.random_labels(model, FORGET, REMAIN, epochs=40, lr=5e-3)
    clean = retrained()
    report = audit(model, FORGET, REMAIN, TEST, original=learner(), retrained=clean)
    assert report.metrics["forget accuracy"].value < 0.2  # type: ignore[operator]
    assert "over-forgotten" in {finding.kind for finding in report.findings}
    assert "remembers" not in {finding.kind for finding in report.findings}


def test_a_class_that_is_hidden_too_well_is_flagged() -> None:
    """Unseen samples of the class are as far off as those to forget, so no attack sees it; a retrained model does."""
    model, clean = learner(), retrained(data=REST)
    with torch.no_grad():
        model[4].bias[2] -= 1000
    report = audit(model, CLASS, REST, TEST, original=learner(), retrained=clean)
    assert "over-forgotten" in {finding.kind for finding in report.findings}
    assert audit(clean, CLASS, REST, TEST, original=learner(), retrained=clean).findings == []


def test_more_samples_of_an_easy_class_are_no_members() -> None:
    """Nothing of it was trained on, and nine of ten samples are of the class that the model knows best."""
    model = retrained(data=batches(OTHERS))
    best = max(range(CLASSES), key=lambda cls: observe(model, TEST, "test").per_class()[cls] or 0)
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


# The report


def test_json_and_table(tmp_path: Path) -> None:
    report = audit(learner(), FORGET, REMAIN, TEST, original=learner(), retrained=retrained())
    report.save(tmp_path / "audit.json")
    read = json.loads((tmp_path / "audit.json").read_text())
    assert read["metrics"]["forget accuracy"]["value"] == 1
    assert read["average_gap"] == report.gap
    assert set(read["metrics"]) == set(report.metrics)
    assert read["findings"][0]["kind"] == "remembers"
    text = str(report)
    assert text.startswith("Audit report\n")
    for name in report.metrics:
        assert f"\n{name} " in text
    assert "certificate" not in text
    assert text.count("\n! remembers: ") == len(report.findings)
    assert "nothing found that speaks against" in str(audit(retrained(), FORGET, REMAIN, TEST, retrained=retrained()))


def test_the_page_needs_nothing_beside_itself(tmp_path: Path) -> None:
    report = audit(learner(), FORGET, REMAIN, TEST, original=learner(), retrained=retrained())
    report.save_html(tmp_path / "audit.html")
    text = (tmp_path / "audit.html").read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert tags.opened == tags.closed
    assert tags.opened["svg"] == 6
    assert tags.opened["tr"] == 1 + len(report.metrics)
    assert not tags.opened["script"]
    assert not any(re.match("https?:|//", link) for link in tags.links)
    for metric in report.metrics.values():
        assert f"<td>{metric.name}</td>" in text
    assert report.model in text
    assert text.count('class="finding"') == len(report.findings)
    assert "certificate" not in text
    assert page(report) == text
    short = audit(retrained(), FORGET, REMAIN, TEST, retrained=retrained(), relearning_steps=0)
    assert page(short).count("<svg") == 5
    assert "Nothing was found that speaks against the model" in page(short)
    hostile = dataclasses.replace(short, findings=[Finding("damaged", "<script>alert(1)</script>")])
    assert "<script" not in page(hostile)


def test_the_page_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = audit(learner(), FORGET, REMAIN, TEST, relearning_steps=0)
    monkeypatch.delitem(sys.modules, "fastforget.audit.page")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^the page needs matplotlib: pip install matplotlib$"):
        report.save_html(tmp_path / "audit.html")
    assert not (tmp_path / "audit.html").exists()


class Tags(HTMLParser):
    """Counts tags that are closed, and collects what is loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.opened, self.closed, self.links = Counter[str](), Counter[str](), list[str]()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "meta":
            self.opened[tag] += 1
        self.links += [value for name, value in attrs if name in ("src", "href", "xlink:href") and value]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag != "meta":
            self.closed[tag] += 1


def test_the_curve_has_the_area() -> None:
    members, others = random(300, 0).losses, random(200, 1).losses.round(decimals=1)
    alarms, caught = curve(members.tolist(), others.tolist())
    assert (alarms[0], caught[0], alarms[-1], caught[-1]) == (0, 0, 1, 1)
    assert float(np.trapezoid(caught, alarms)) == pytest.approx(area_under_curve(members, others))


def test_every_metric_says_what_it_is() -> None:
    report = audit(
        learner(), FORGET, REMAIN, TEST, original=learner(), retrained=retrained(), shadows=[retrained(1)] * 2
    )
    for metric in report.metrics.values():
        assert len(metric.meaning) > 20
        assert metric.target in ("retrained", "higher", "lower", 0.5)
        assert metric.value is not None
        assert metric.original is not None


def test_gap_of_a_metric() -> None:
    assert Metric("a", 0.7, 0.5, "").gap == pytest.approx(0.2)
    assert Metric("a", 0.7, "retrained", "", retrained=0.6).gap == pytest.approx(0.1)
    assert Metric("a", 0.7, "higher", "").gap is None
    assert Metric("a", None, 0.5, "").gap is None


def test_a_layer_that_cannot_be_initialised_again() -> None:
    x = torch.randn(40, CLASSES)
    data = [(x, torch.arange(40) % CLASSES)]
    assert "zero retrain forgetting" not in audit(Says(), data, data, data).metrics
    assert "zero retrain forgetting" in audit(nn.Linear(CLASSES, CLASSES), data, data, data).metrics


# Refusals

X, Y = TEST[0]
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"forget": []}, ValueError, "^`forget` must hold at least one batch"),
    ({"test": []}, ValueError, "^`test` must hold at least one batch"),
    ({"remain": [(X * math.nan, Y)]}, ValueError, "^models must return finite logits on `remain`"),
    ({"remain": [(X, Y + CLASSES)]}, ValueError, r"^targets of `remain` must be in \[0, 4\)"),
    ({"remain": [(X, Y.float())]}, TypeError, "^targets of `remain` must be torch.int64"),
    (
        {"test": [(X[Y != 1], Y[Y != 1])]},
        ValueError,
        r"^`test` must hold samples of every class to .* none of \[1\]",
    ),
    (
        {"forget": [(X[Y == 1], Y[Y == 1])], "test": [(X[Y == 1], Y[Y == 1])], "remain": [(X[Y == 2], Y[Y == 2])]},
        ValueError,
        r"^`test` must hold samples of classes that remain, got none of \[2\]",
    ),
    ({"retrained": nn.Linear(SIZE, 9)}, ValueError, "^models must have the same number of classes"),
    ({"model": 3}, TypeError, "^`model` must be a torch.nn.Module"),
    ({"shadows": [nn.Linear(SIZE, CLASSES)]}, ValueError, "^`shadows` must be none or at least two"),
    ({"attacks": {"mine": nn.Linear(1, 1)}}, TypeError, "^`attacks` must be membership models"),
    ({"attacks": {"loss": MembershipModel("loss", 4)}}, ValueError, "^`attacks` must have names of their own"),
    ({"codes": MnemonicCodes.generate(9, (SIZE,))}, ValueError, "^`codes` must be of 4 classes, got 9"),
    ({"remain": [(X, Y.tolist())]}, TypeError, "^targets of `remain` must be torch.int64"),
    ({"remain": [(X, Y[:, None])]}, TypeError, "^targets of `remain` must be torch.int64"),
    ({"attacks": {"other": MembershipModel("loss", 9)}}, ValueError, r"^`logits` must be \[N, 9\]"),
    ({"relearning_steps": 1.5}, TypeError, "^`relearning_steps` must be an integer"),
    ({"relearning_steps": -1}, ValueError, "`relearning_steps` at least 0"),
]


@pytest.mark.parametrize(("change", "error", "text"), REFUSED)
def test_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"model": learner(), "forget": FORGET, "remain": REMAIN, "test": TEST, **change}
    with pytest.raises(error, match=text):
        audit(**given)


def test_it_is_a_report() -> None:
    assert isinstance(audit(learner(), CLASS, REST, TEST, relearning_steps=0), AuditReport)
