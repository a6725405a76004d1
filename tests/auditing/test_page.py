"""The page of an audit: what it says first, and how it looks in a browser."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from auditing.subjects import TEST, retrained
from browser import assert_accessible, chromium, needed, opened, pictured  # noqa: F401 (fixtures)
from learners import CLASS, CLASSES, FORGET, REMAIN, REST, learner

from fastforget.auditing import AuditReport, audit
from fastforget.auditing.finding import KINDS
from fastforget.auditing.page import page


@cache
def bad() -> AuditReport:
    names = [f"class <{cls}>" for cls in range(CLASSES)]
    return audit(learner(), CLASS, REST, TEST, original=learner(), names=names)


@cache
def good() -> AuditReport:
    return audit(retrained(), FORGET, REMAIN, TEST, retrained=retrained())


def test_the_verdict_comes_first_and_in_words() -> None:
    report = bad()
    text = page(report)
    verdict = text[text.index("<h2>Verdict") : text.index("<h3>Findings")]
    assert f"{len(report.findings)} finding" in verdict
    assert f"{len(report.cannot_judge)} question" in verdict
    kinds = {finding.kind for finding in report.findings}
    assert kinds
    for kind, meaning in KINDS.items():
        assert (meaning in verdict) is (kind in kinds)
    good_verdict = page(good())
    assert "<strong>Nothing was found that speaks against the model.</strong>" in good_verdict
    assert "<h3>Findings</h3>" not in good_verdict
    for found in (text, good_verdict):
        assert found.index("<h2>Verdict") < found.index("<h2>What could not be judged") < found.index("<table>")
        assert "proves nothing" in found


def test_thresholds_are_those_that_are_used(monkeypatch: pytest.MonkeyPatch) -> None:
    text = page(bad())
    assert "Hidden: with another bias, more than 4 standard errors, and 10 points, more of" in text
    assert "its area is more than 4 standard errors away from 0.5, which is chance" in text
    assert "away from that of the retrained model" in page(good())
    assert "Hidden:" not in page(good())
    monkeypatch.setattr("fastforget.auditing.class_findings.HIDDEN", 0.2)
    assert "and 20 points, more of" in page(bad())


def test_the_numbers_of_each_plot_are_a_table() -> None:
    report = bad()
    text = page(report)
    assert text.count("<svg") == text.count("<summary>The numbers</summary>") == text.count('role="img"')
    shares = "".join(
        f'<td class="number">{100 * report.per_class[name][0]:.1f} %</td>'  # type: ignore[operator]
        for name in ("model", "original")
    )
    assert f'<th scope="row">0 (class &lt;0&gt;)</th>{shares}' in text
    assert len(re.findall(r'<th scope="row">(?:1|5|10|25|50) %</th>', text)) >= 5


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("dark", [False, True])
def test_in_a_browser(
    tmp_path: Path,
    opened: Callable[..., Any],  # noqa: F811
    pictured: Callable[[Any, str], None],  # noqa: F811
    width: int,
    dark: bool,
) -> None:
    for kind, report in (("bad", bad()), ("good", good())):
        report.save_html(tmp_path / f"{kind}.html")
        shown = opened((tmp_path / f"{kind}.html").as_uri(), width=width, dark=dark)
        assert_accessible(shown)
        pictured(shown, f"audit-{kind}-{width}-{'dark' if dark else 'light'}")
        shown.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
        assert_accessible(shown)
        shown.emulate_media(media="print", color_scheme="dark" if dark else "light")
        assert shown.evaluate("getComputedStyle(document.documentElement).backgroundColor") == "rgb(255, 255, 255)"
        pictured(shown, f"audit-{kind}-{width}-{'dark' if dark else 'light'}-print")
