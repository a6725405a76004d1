"""The pages agree with the committed rows, and the compared methods are what they claim to be."""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch
from asserts import assert_close
from known_codes import digits

from fastforget import one_shot

ROOT = Path(__file__).parents[2]


@pytest.fixture
def quality(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = ROOT / "benchmarks" / "quality"
    if not folder.is_dir():
        pytest.skip("the benchmarks are not part of this distribution")
    monkeypatch.syspath_prepend(folder)
    before = set(sys.modules)
    yield folder
    for name in set(sys.modules) - before:
        if (folder / f"{name}.py").exists():
            del sys.modules[name]


def load(name: str) -> ModuleType:
    return __import__(name)


@pytest.mark.usefixtures("quality")
def test_the_page_is_what_the_rows_say() -> None:
    pages = load("pages")
    texts = [page.read_text() for page in pages.PAGES]
    named = {name for text in texts for name in re.findall("<!-- table: (.*) -->", text)}
    assert named == set(pages.TABLES)
    assert [pages.render(text) for text in texts] == texts


@pytest.mark.usefixtures("quality")
def test_the_table_counts_what_is_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    pages = load("pages")
    row = {"problem": "digits/cnn", "per_class": 4, "method": "natural", "seed": 0, "base": 99.0}
    results = [(0.0, 0.0), (0.5, -0.5), (0.6, 0.0), (0.0, -0.6)]
    rows = [{**row, "cls": cls, "forget": f, "change": c} for cls, (f, c) in enumerate(results)]
    monkeypatch.setattr(pages, "load", lambda _: rows)
    assert "| 0.28, 0.60 | \N{MINUS SIGN}0.28, \N{MINUS SIGN}0.60 | 2 of 4 |" in pages.one_class()
    assert "| digits/cnn | 4 | 0 | 3 | 99.00 | \N{MINUS SIGN}0.60 |" in pages.worst_classes()


@pytest.mark.usefixtures("quality")
def test_the_gap_is_the_distance_to_the_network_trained_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest gap among methods that are fast enough is in bold."""
    tables = load("study_tables")
    shared = {"problem": "fashion/resnet", "scenario": "class", "remaining": 10, "seed": 0}
    area = {"loss": 50.0, "entropy": 50.0}
    rows = [
        {**shared, "method": "retrain", "forget": 0, "remain": 100, "test": 90, "membership": area, "seconds": 100},
        {**shared, "method": "a", "forget": 8, "remain": 96, "test": 92, "membership": area, "seconds": 10},
        {**shared, "method": "b", "forget": 0, "remain": 100, "test": 90, "membership": area, "seconds": 11},
        {**shared, "method": "c", "forget": 0, "remain": 100, "test": 90, "seconds": 1}
        | {"membership": {"loss": 54.0, "entropy": 30.0}},
    ]
    rows.append({**rows[1], "method": "d", "remain": 94})
    monkeypatch.setattr(tables, "load", lambda _: rows)
    table = tables.tables("study")
    assert "| a | 8.0 | 96.0 | 92.0 | 50.0 | 3.50 | 3.50 | 3.50 | 10.0 | 10 |" in table
    assert "| b | 0.0 | 100.0 | 90.0 | 50.0 | 0.00 | 0.00 | 0.00 | 11.0 | 9 |" in table
    assert "| c | 0.0 | 100.0 | 90.0 | 54.0 | **1.00** | 1.00 | 5.00 | 1.0 | 100 |" in table
    assert tables.leaders().endswith("| fashion/resnet | a class | 10 % | c 1.00 | a 3.50 | d 4.00 |")


@pytest.mark.usefixtures("quality")
def test_the_searched_paper_rule_is_the_papers_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    methods = load("methods")
    model, codes, data = digits()
    monkeypatch.setattr(methods, "LAMBDA1", [1e-3])
    monkeypatch.setattr(methods, "LAMBDA2", [10.0])
    subject = methods.Subject(model, codes, data)
    found = methods.paper(subject, [3]).state_dict()
    edited = methods.copy.deepcopy(model)
    one_shot(edited, codes, 3, rule="paper", lambda1=1e-3, lambda2=10.0)
    for name, value in edited.state_dict().items():
        assert_close(found[name].double(), value.double(), 1e-5, name)


@pytest.mark.usefixtures("quality")
def test_ssd_per_sample_dampens_what_matters_to_the_class() -> None:
    methods = load("methods")
    model, codes, data = digits()
    subject = methods.Subject(model, codes, data)
    everything = {name: value.mean(0) for name, value in subject.fisher.items()}
    for name, value in methods.ssd_sample(subject, [3]).named_parameters():
        old, forget = model.get_parameter(name), subject.fisher[name][3]
        chosen = forget > 5 * everything[name]
        assert torch.equal(value[~chosen], old[~chosen])
        assert_close(value[chosen], old[chosen] * (everything[name] / forget)[chosen], 1e-6, name)


@pytest.mark.usefixtures("quality")
def test_images_are_mirrored_and_shifted() -> None:
    problems = load("problems")
    x = torch.arange(64.0).view(1, 1, 8, 8).repeat(500, 1, 1, 1) + 1
    found = problems.mirror_and_shift(x, torch.Generator().manual_seed(0), most=1)
    kinds = {tuple(image.flatten().tolist()) for image in found}
    expected = set()
    for flipped in (x[:1], x[:1].flip(3)):
        padded = torch.nn.functional.pad(flipped, (1,) * 4)
        expected |= {tuple(padded[..., i : i + 8, j : j + 8].flatten().tolist()) for i in range(3) for j in range(3)}
    assert kinds == expected
