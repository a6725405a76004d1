"""Plots of a comparison, as SVG that is written by hand: no library is needed to draw them, or to show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from fastforget.comparison.measures import GAP, MEASURES
from fastforget.comparison.summary import Summary

__all__ = ["gap_against_time", "of_measure"]

_ROW, _FOOT, _RIGHT, _HEAD = 22, 38, 16, 8  # pixels
_WIDTH, _HEIGHT = 520, 340
_LETTER, _LINE = 6.4, 13  # width of a letter and height of a line, about
_COLORS = ("#1f6feb", "#8c959f", "#2da44e")  # methods, original, retrained


@dataclass(frozen=True)
class Scale:
    """How values become places on an axis.

    Attributes:
        low: The least value.
        high: The largest value, above the least.
        start: Its place of the least.
        end: The place of the largest.
        log: Whether equal ratios are equally far apart.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    @classmethod
    def around(
        cls, values: Sequence[float], start: float, end: float, *, log: bool = False, least: float = 0.0
    ) -> Scale:
        """Return a scale that has some values on it, with a margin, and is at least ``least`` long."""
        low, high = min(values), max(values)
        if high - low < least:
            middle = (low + high) / 2
            low, high = middle - least / 2, middle + least / 2
        if log:
            return cls(low / 1.6, high * 1.6, start, end, log=True)
        margin = 0.06 * (high - low) or 0.5 * abs(high) or 0.5
        return cls(low - margin, high + margin, start, end)

    def __call__(self, value: float) -> float:
        """Return the place of a value."""
        low, high = (math.log(end) if self.log else end for end in (self.low, self.high))
        share = ((math.log(value) if self.log else value) - low) / (high - low)
        return self.start + share * (self.end - self.start)

    def ticks(self) -> list[float]:
        """Return round values on the axis, a few."""
        if self.log:
            powers = range(math.floor(math.log10(self.low)), math.ceil(math.log10(self.high)) + 1)
            steps = (1, 2, 5) if self.high < 300 * self.low else (1,)
            values = [step * 10.0**power for power in powers for step in steps]
        else:
            rough = (self.high - self.low) / 4
            power = 10.0 ** math.floor(math.log10(rough))
            step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
            values = [n * step for n in range(math.ceil(self.low / step), math.floor(self.high / step) + 1)]
        return [value for value in values if self.low <= value <= self.high]


def color_of(method: str) -> str:
    """Return the colour of a method's marks."""
    if method == "original":
        return _COLORS[1]
    return _COLORS[2] if method.startswith("retrained") else _COLORS[0]


def of_measure(name: str, summaries: Mapping[str, Summary]) -> str:
    """Draw a measure: a line for each method, with its mean, its deviation, and a small mark for each seed.

    Args:
        name: The measure.
        summaries: What it is, by method.

    Returns:
        SVG. A dashed line is at the mean of the retrained references.
    """
    measure = MEASURES[name]
    left = 14 + _LETTER * max(map(len, summaries))
    scaled = {method: _scaled(summary, measure.factor) for method, summary in summaries.items()}
    ends = [
        value + sign * (found.deviation or 0.0)
        for found in scaled.values()
        for value in (found.mean, *found.values.values())
        for sign in (-1, 1)
    ]
    bottom = _HEAD + _ROW * len(scaled)
    # or differences of a hundredth of a point would look large
    x = Scale.around(ends, left, _WIDTH - _RIGHT, least=2.0 if measure.factor == 100 else 0.0)
    marks = [_axis(x, bottom, measure.head)]
    if "retrained" in scaled:
        at = x(scaled["retrained"].mean)
        marks.append(_line(at, _HEAD, at, bottom, f'stroke="{_COLORS[2]}" stroke-dasharray="4 3"'))
    for place, (method, found) in enumerate(scaled.items()):
        y, color = _HEAD + _ROW * (place + 0.5), color_of(method)
        marks.append(_text(left - 8, y + 4, method, "end"))
        if found.deviation is not None:
            ends_of_bar = x(found.mean - found.deviation), x(found.mean + found.deviation)
            marks.append(_line(ends_of_bar[0], y, ends_of_bar[1], y, f'stroke="{color}" stroke-width="2"'))
        marks += [
            _dot(x(value), y, 2.5, color, f"{method}, seed {seed}: {value:g}") for seed, value in found.values.items()
        ]
        marks.append(_dot(x(found.mean), y, 5, color, f"{method}: {found.mean:g}"))
    return _svg(bottom + _FOOT, f"{measure.head} of each method", marks)


def gap_against_time(gaps: Mapping[str, Summary], times: Mapping[str, Summary]) -> str | None:
    """Draw how far methods are from the retrained reference against how long they took, on a logarithmic axis.

    Args:
        gaps: The average gap by method.
        times: Seconds by method.

    Returns:
        SVG, or None where fewer than two methods have both.
    """
    methods = [method for method in gaps if method in times and times[method].mean > 0]
    if len(methods) < 2:
        return None
    bottom = _HEIGHT - _FOOT
    x = Scale.around([times[method].mean for method in methods], 50, _WIDTH - _RIGHT, log=True)
    y = Scale.around([0.0, *(100 * gaps[method].mean for method in methods)], bottom - 4, 2 * _ROW)
    marks = [_axis(x, bottom, "seconds")]
    for value in y.ticks():
        marks += [_text(44, y(value) + 4, f"{value:g}", "end"), _line(50, y(value), _WIDTH - _RIGHT, y(value), _GRID)]
    marks.append(_text(50, _HEAD + 4, MEASURES[GAP].head, "start"))
    taken: list[tuple[float, float, float]] = []
    for method in sorted(methods, key=lambda method: -gaps[method].mean):
        at = x(times[method].mean), y(100 * gaps[method].mean)
        marks.append(_dot(*at, 5, color_of(method), f"{method}: gap {100 * gaps[method].mean:.2f} points"))
        length = _LETTER * len(method)
        left = at[0] - 8 - length if at[0] > 0.7 * _WIDTH else at[0] + 8
        down = _free(left, left + length, at[1] - 4, taken)
        taken.append((left, left + length, down))
        marks.append(_text(left, down, method, "start"))
    return _svg(_HEIGHT, "average gap against seconds", marks)


def _free(left: float, right: float, down: float, taken: Sequence[tuple[float, float, float]]) -> float:
    """Return where a text can stand at or above a place so that it covers none that is there."""
    while any(left < end and right > start and abs(down - line) < _LINE for start, end, line in taken):
        down -= 1
    return down


_GRID = 'stroke="currentColor" stroke-opacity=".12"'


def _scaled(summary: Summary, factor: float) -> Summary:
    deviation = None if summary.deviation is None else factor * summary.deviation
    return Summary(factor * summary.mean, deviation, {seed: factor * value for seed, value in summary.values.items()})


def _axis(x: Scale, bottom: float, title: str) -> str:
    marks = [_line(x.start, bottom, x.end, bottom, 'stroke="currentColor" stroke-opacity=".5"')]
    for value in x.ticks():
        marks += [_line(x(value), _HEAD, x(value), bottom, _GRID), _text(x(value), bottom + 15, f"{value:g}", "middle")]
    marks.append(_text((x.start + x.end) / 2, bottom + 32, title, "middle"))
    return "".join(marks)


def _line(x1: float, y1: float, x2: float, y2: float, style: str) -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {style}/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(x: float, y: float, radius: float, color: str, title: str) -> str:
    mark = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius}" fill="{color}" fill-opacity=".75">'
    return f"{mark}<title>{escape(title)}</title></circle>"


def _svg(height: float, title: str, marks: Sequence[str]) -> str:
    size = f'viewBox="0 0 {_WIDTH} {height:.0f}" role="img" aria-label="{escape(title)}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{"".join(marks)}</svg>'
