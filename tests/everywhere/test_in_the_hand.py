"""What a person sees of objects and of work: in notebooks, on terminals and in logs."""

import io
import logging
import sys
from html.parser import HTMLParser
from types import ModuleType, SimpleNamespace
from typing import Any

import known_codes
import pytest
import torch
from torch import nn
from typing_extensions import Self

import fastforget
from fastforget.classifier import progress


class Checked(HTMLParser):
    """Collects the text of HTML and checks that every tag is closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: Any) -> None:  # noqa: ARG002 (what is overridden has it)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data + " "


def samples() -> list[tuple[torch.Tensor, torch.Tensor]]:
    return [(torch.randn(24, 6, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 4)]


def test_a_receipt_in_a_notebook() -> None:
    model, codes = known_codes.model_with_codes()
    receipt = fastforget.one_shot(model, codes, 3)
    text = Checked(receipt._repr_html_()).text
    assert "Receipt: class 3: disconnected" in text
    assert "its output row is that of a class never seen" in text
    assert "holds what was forgotten" in text
    assert receipt.before[:8] in text
    assert "not kept" in Checked(receipt.without_undo()._repr_html_()).text


def test_codes_in_a_notebook() -> None:
    codes = fastforget.MnemonicCodes.generate(3, {"image": (1, 8, 8)}, per_class=2)
    text = Checked(codes._repr_html_()).text
    assert "2 for each of 3 classes" in text
    assert "image: [1, 8, 8]" in text
    assert codes.fingerprint() in text


def test_a_report_in_a_notebook_and_in_a_line() -> None:
    model = nn.Linear(6, 4)
    report = fastforget.audit(model, samples(), samples(), samples(), relearning_steps=0, names=["<a>", "b", "c", "d"])
    text = Checked(report._repr_html_()).text
    for name in ("forget accuracy", "attack: loss", "original", "cannot judge"):
        assert name in text
    assert len(repr(report)) < 250
    assert repr(report).startswith("AuditReport(findings=[")


def test_a_bar_is_seen_on_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    for is_terminal in (True, False):
        stream = io.StringIO()
        monkeypatch.setattr(stream, "isatty", lambda is_terminal=is_terminal: is_terminal)
        assert list(progress.progress_bar(range(3), desc="working", file=stream)) == [0, 1, 2]
        assert ("working" in stream.getvalue()) == is_terminal
    assert not progress.in_notebook()


def test_a_bar_is_seen_in_notebooks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Standard error of a notebook is no terminal. Without widgets the bar is one of text."""
    ipython = ModuleType("IPython")
    ipython.get_ipython = lambda: SimpleNamespace(config={"IPKernelApp": {}})  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    assert progress.in_notebook()
    stream = io.StringIO()
    assert list(progress.progress_bar(range(3), desc="working", file=stream)) == [0, 1, 2]
    assert "working" in stream.getvalue()
    hidden = io.StringIO()
    assert list(progress.progress_bar(range(3), shown=False, file=hidden)) == [0, 1, 2]
    assert hidden.getvalue() == ""


def test_an_audit_shows_each_of_its_phases(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    bars: list[Any] = []

    class Bar:
        def __init__(self, total: int, **_: Any) -> None:
            self.total, self.done = total, 0
            bars.append(self)

        def __enter__(self) -> Self:
            return self

        def __exit__(self, *_: object) -> None: ...

        def set_description(self, text: str) -> None:
            said.append(text)

        def update(self) -> None:
            self.done += 1

    monkeypatch.setattr("fastforget.auditing.phases.progress_bar", Bar)
    forget, remain = [(samples()[0][0][::4], samples()[0][1][::4])], [(torch.randn(9, 6), torch.arange(9) % 3 + 1)]
    fastforget.audit(nn.Linear(6, 4), forget, remain, samples(), progress=True)
    assert [(bar.total, bar.done) for bar in bars] == [(8, 8)]
    assert {"audit: accuracy", "audit: attacks", "audit: relearning"} < set(said)


def test_what_is_done_to_a_model_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    model, codes = known_codes.model_with_codes()
    with caplog.at_level(logging.INFO, logger="fastforget"):
        receipt = fastforget.one_shot(model, codes, 3)
        receipt.revert(model)
        receipt.apply(model)
        fastforget.audit(model, samples(), samples(), samples(), relearning_steps=0)
    first, reverted, applied, audited = (record.getMessage() for record in caplog.records)
    assert first == f"one_shot edited a model: {receipt!r}"
    assert reverted == f"a receipt reverted a model, which is now {receipt.before}"
    assert applied == f"a receipt was applied to a model, which is now {receipt.after}"
    assert audited.startswith("audit: AuditReport(")
    assert all(record.name.startswith("fastforget.") for record in caplog.records)


def test_nothing_is_logged_to_who_did_not_ask(capfd: pytest.CaptureFixture[str]) -> None:
    model, codes = known_codes.model_with_codes()
    fastforget.one_shot(model, codes, 3)
    assert capfd.readouterr() == ("", "")
    assert any(isinstance(handler, logging.NullHandler) for handler in logging.getLogger("fastforget").handlers)
