"""What tables and pages say: the same numbers everywhere, scaled by their units, and names that need escaping."""

import csv
import io
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
from comparison.small import nothing, run

from fastforget.comparison import Comparison
from fastforget.comparison.measures import MEASURES
from fastforget.comparison.plots import Scale, gap_against_time, of_measure
from fastforget.comparison.summary import Summary
from fastforget.comparison.tables import as_latex, as_text, cell

SUMMARIES = {
    "original": {"forget accuracy": Summary(1.0, 0.0, {0: 1.0, 1: 1.0})},
    "a & b_1 <i>": {
        "forget accuracy": Summary(0.25, 0.0707, {0: 0.2, 1: 0.3}),
        "time": Summary(1.5, None, {0: 1.5}),
    },
}


def test_cells_have_the_unit_of_their_column() -> None:
    found = SUMMARIES["a & b_1 <i>"]
    assert cell("forget accuracy", found["forget accuracy"]) == "25.0 ± 7.1"
    assert cell("time", found["time"]) == "1.50"
    assert cell("average gap", Summary(0.0123, 0.001, {})) == "1.23 ± 0.10"
    assert cell("ToW", None) == ""


def test_the_text_is_aligned_and_not_wide(found: Comparison) -> None:
    assert as_text(SUMMARIES, ["forget accuracy", "ToW", "time"]).splitlines() == [
        "method         forget, %  time, s",
        "-----------  -----------  -------",
        "original     100.0 ± 0.0         ",
        "a & b_1 <i>   25.0 ± 7.1     1.50",
    ]
    assert max(map(len, str(found).splitlines())) <= 100


def test_latex_escapes_names() -> None:
    lines = as_latex(SUMMARIES, ["forget accuracy", "time"]).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r"method & forget, \% & time, s \\"
    assert lines[5] == r"a \& b\_1 <i> & $25.0 \pm 7.1$ & $1.50$ \\"
    assert lines[-1] == r"\end{tabular}"
    assert all(len(re.findall(r"(?<!\\)&", line)) == 2 for line in lines[2:6] if line.endswith(r"\\"))


def test_the_csv_has_the_numbers_to_the_last_bit(found: Comparison) -> None:
    lines = list(csv.DictReader(io.StringIO(found.to_csv())))
    assert [line["method"] for line in lines] == list(found.summaries)
    for line in lines:
        measures = found.summaries[line["method"]]
        assert line["seeds"] == "2"
        for name in MEASURES:
            if name in measures:
                assert float(line[name]) == measures[name].mean
                assert float(line[f"{name}: deviation"]) == measures[name].deviation
            else:
                assert line.get(name, "") == ""


class Page(HTMLParser):
    """Keeps the cells of tables, and what a page would fetch."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.fetched: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag in {"td", "th"}
        self.fetched += [value or "" for name, value in attrs if name in {"src", "href", "data"}]
        assert tag not in {"script", "link", "img", "i"}

    def handle_data(self, data: str) -> None:
        if self._inside and data.strip():
            self.cells.append(data)


def test_the_page_is_whole(tmp_path: Path) -> None:
    found = run(tmp_path, methods=[{"method": nothing, "name": "a <i>&"}, {"method": "fine_tune", "epochs": 1}])
    text = found.to_html()
    page = Page(text)
    assert page.fetched == []
    assert "a <i>&" in page.cells
    measures = found.summaries["fine_tune"]
    assert cell("test accuracy", measures["test accuracy"]) in page.cells
    assert '{"epochs": 1}' in page.cells
    drawings = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(drawings) >= len([name for name in found.measures if name in measures])
    for drawing in drawings:
        ET.fromstring(drawing)  # noqa: S314 (our own)
        assert "nan" not in drawing


def test_marks_stand_where_their_values_are() -> None:
    drawing = of_measure("forget accuracy", SUMMARIES_OF_ONE)
    marks = re.findall(r'cx="([\d.]+)" cy="([\d.]+)" r="5"', drawing)
    (first, second) = (float(x) for x, _ in marks)
    ends = [float(x) for x in re.findall(r'<line x1="([\d.]+)" y1="41.0" x2="([\d.]+)"', drawing)[0]]
    assert second > first
    assert (ends[0] + ends[1]) / 2 == pytest.approx(second, abs=0.11)
    unit = (second - first) / 30  # points
    assert (ends[1] - ends[0]) / unit == pytest.approx(20, abs=0.2)
    assert gap_against_time({"a": Summary(0.1, None, {0: 0.1})}, {"a": Summary(1.0, None, {0: 1.0})}) is None


SUMMARIES_OF_ONE = {
    "retrained": Summary(0.2, None, {0: 0.2}),
    "method": Summary(0.5, 0.1, {0: 0.43, 1: 0.57}),
}


@pytest.mark.parametrize(
    ("scale", "ticks"),
    [
        (Scale(0, 100, 0, 1), [0, 50, 100]),
        (Scale(0.18, 0.42, 0, 1), [0.2, 0.3, 0.4]),
        (Scale(0.5, 30, 0, 1, log=True), [0.5, 1, 2, 5, 10, 20]),
        (Scale(0.001, 2000, 0, 1, log=True), [0.001, 0.01, 0.1, 1, 10, 100, 1000]),
    ],
)
def test_ticks_are_round(scale: Scale, ticks: list[float]) -> None:
    assert scale.ticks() == pytest.approx(ticks)
    assert (scale(scale.low), scale(scale.high)) == pytest.approx((0, 1))


@pytest.mark.parametrize("values", [[3.0], [0.0, 0.0], [-1.0, 5.0]])
def test_a_scale_is_never_empty(values: list[float]) -> None:
    scale = Scale.around(values, 10, 20)
    assert scale.low < min(values) <= max(values) < scale.high
    assert 10 < scale(values[0]) < 20
    assert scale.ticks()
