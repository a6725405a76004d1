"""The measures of a comparison: those of `fastforget.audit`, the average gap among them, and how tables show them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastforget.auditing.attack_measures import BY_SHADOWS, FALSE_POSITIVES
from fastforget.auditing.attacks import SCORES
from fastforget.auditing.relearning import AGAIN
from fastforget.auditing.report import AuditReport
from fastforget.comparison.nearest import did_you_mean

__all__ = ["GAP", "MEASURES", "SHOWN", "Measure", "check_measures", "values_of"]

GAP = "average gap"


@dataclass(frozen=True)
class Measure:
    """How a measure is shown.

    Attributes:
        title: Above its column.
        unit: "%", "points", "s" or another one; nothing for a plain number.
        factor: By which its value is multiplied.
        digits: After the point.
    """

    title: str
    unit: str = ""
    factor: float = 1.0
    digits: int = 3

    def text(self, value: float) -> str:
        """Return a value as tables show it, without its unit."""
        return f"{self.factor * value:.{self.digits}f}"

    @property
    def head(self) -> str:
        """The title with the unit."""
        return f"{self.title}, {self.unit}" if self.unit else self.title


def _percent(title: str) -> Measure:
    return Measure(title, "%", 100.0, 1)


def _measures() -> dict[str, Measure]:
    attacks = (*SCORES, *BY_SHADOWS)
    return {
        **{f"{part} accuracy": _percent(part) for part in ("forget", "remain", "test")},
        "forget loss": Measure("forget loss", "nats"),
        GAP: Measure("gap", "points", 100.0, 2),
        "ToW": Measure("ToW"),
        "attack: loss": _percent("attack"),
        **{f"attack: {name}": _percent(f"attack: {name}") for name in attacks if name != "loss"},
        **{
            f"TPR at {100 * rate:g} % FPR: {name}": _percent(f"TPR at {100 * rate:g} % FPR: {name}")
            for name in attacks
            for rate in FALSE_POSITIVES
        },
        "divergence": Measure("divergence", "bits"),
        "distance": Measure("distance"),
        "agreement": _percent("agreement"),
        "zero retrain forgetting": Measure("zero retrain forgetting"),
        "CKA to original": Measure("CKA to original"),
        "CKA to retrained": Measure("CKA to retrained"),
        "with the best bias": _percent("best bias"),
        "with a usual bias": _percent("usual bias"),
        "with the old bias": _percent("old bias"),
        "linear probe": _percent("linear probe"),
        "nearest class mean": _percent("nearest mean"),
        "relearning steps": Measure("relearning steps", digits=1),
        **{f"again {steps}": _percent(f"again {steps}") for steps in AGAIN},
        "again 5 with a usual bias": _percent("again 5, usual bias"),
        "trigger": _percent("trigger"),
        "time": Measure("time", "s", digits=2),
        "CPU time": Measure("CPU time", "s", digits=2),
        "peak memory": Measure("peak memory", "MiB", digits=1),
    }


MEASURES: Mapping[str, Measure] = _measures()
SHOWN = (  # by default, where they were measured
    *("forget accuracy", "remain accuracy", "test accuracy", "attack: loss", GAP, "ToW", "time"),
    *("with the best bias", "linear probe", "nearest class mean", "again 5", "again 20"),
)


def check_measures(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the measures that tables show.

    Args:
        names: Those that are asked for; None for the usual ones.

    Returns:
        Their names, in order.

    Raises:
        ValueError: There is no such measure.
    """
    if names is None:
        return SHOWN
    for name in names:
        if name not in MEASURES:
            raise ValueError(
                f"`measures` must be some of {', '.join(MEASURES)}, got {name!r}" + did_you_mean(name, MEASURES)
            )
    return tuple(names)


def values_of(report: AuditReport) -> dict[str, float | None]:
    """Return the measures of an audit by name; None for those that cannot be measured."""
    found = {name: metric.value for name, metric in report.metrics.items()}
    found[GAP] = report.gap
    return {name: None if value is None or math.isnan(value) else float(value) for name, value in found.items()}
