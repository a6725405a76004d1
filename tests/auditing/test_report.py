"""An audit report as JSON, as a table and as a page."""

import dataclasses
import json
import re
import sys
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from auditing.subjects import TEST, InputsAsLogits, random_predictions, retrained
from learners import (
    CLASS,
    CLASSES,
    FORGET,
    REMAIN,
    REST,
    learner,
)
from torch import nn

from fastforget.auditing import Finding, Metric, audit
from fastforget.auditing.page import page
from fastforget.auditing.plots import roc_curve
from fastforget.membership.area import area_under_curve


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
    assert tags.opened["main"] == tags.opened["h1"] == 1
    assert tags.opened["table"] == 7  # the metrics, and the numbers of each plot
    assert text.count("<th ") == text.count("<th scope=")
    assert text.count('role="img" aria-label="') == 6
    assert not tags.opened["script"]
    assert not any(re.match("https?:|//", link) for link in tags.links)
    for metric in report.metrics.values():
        assert f'<th scope="row">{metric.name}</th>' in text
    assert report.model in text
    assert text.count('class="finding"') == len(report.findings)
    assert "certificate" not in text
    assert page(report) == text
    short = audit(retrained(), FORGET, REMAIN, TEST, retrained=retrained(), relearning_steps=0)
    assert page(short).count("<svg") == 5
    assert "Nothing was found that speaks against the model" in page(short)
    gone = audit(learner(), CLASS, REST, TEST, original=learner())
    assert page(gone).count("<svg") == 8
    assert page(gone).count('<li class="limit">') == len(gone.cannot_judge)
    hostile = dataclasses.replace(short, findings=[Finding("damaged", "<script>alert(1)</script>")])
    assert "<script" not in page(hostile)


def test_classes_by_name() -> None:
    model, names = learner(), [f"<{cls}>" for cls in range(CLASSES)]
    plain = audit(model, CLASS, REST, TEST, relearning_steps=0)
    report = audit(model, CLASS, REST, TEST, relearning_steps=0, names=names)
    assert plain.describe()["class_names"] is None
    assert report.describe()["class_names"] == names
    assert "Classes: " not in page(plain)
    assert "Classes: 0 (&lt;0&gt;), 1 (&lt;1&gt;), " in page(report)
    assert re.search(r"taken for \(model\): \d+ % class (\d) \(<\1>\)", str(report))
    model.config = SimpleNamespace(id2label=dict(enumerate(names)))  # type: ignore[assignment]
    assert audit(model, CLASS, REST, TEST, relearning_steps=0).names == names
    with pytest.raises(ValueError, match=rf"^`names` must be of {CLASSES} classes, got 1$"):
        audit(model, CLASS, REST, TEST, names=["cat"])


def test_the_page_says_what_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    report = audit(learner(), FORGET, REMAIN, TEST, relearning_steps=0)
    monkeypatch.delitem(sys.modules, "fastforget.auditing.page")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ModuleNotFoundError, match=r"^the page needs matplotlib: pip install matplotlib$"):
        report.save_html(tmp_path / "audit.html")
    assert not (tmp_path / "audit.html").exists()


class Tags(HTMLParser):
    """Counts the tags that are opened and closed, and collects the files that a page loads."""

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
    members, others = random_predictions(300, 0).losses, random_predictions(200, 1).losses.round(decimals=1)
    alarms, caught = roc_curve(members.tolist(), others.tolist())
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
    assert "zero retrain forgetting" not in audit(InputsAsLogits(), data, data, data).metrics
    assert "zero retrain forgetting" in audit(nn.Linear(CLASSES, CLASSES), data, data, data).metrics
