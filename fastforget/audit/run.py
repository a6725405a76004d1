"""The audit itself."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone
from typing import Any

import torch
from torch import Tensor, nn

from fastforget.audit.attacks import SCORES, Area, likelihood_ratio
from fastforget.audit.cost import Cost
from fastforget.audit.distances import activation_distance, agreement, divergence
from fastforget.audit.relearning import relearning_curve, steps_to
from fastforget.audit.report import AuditReport, Finding, Metric
from fastforget.batch import forward, logits_of
from fastforget.codes import MnemonicCodes
from fastforget.fingerprint import fingerprint
from fastforget.membership import MembershipModel
from fastforget.model import eager, evaluating, reproducible
from fastforget.observation import Observation, observe

__all__ = ["audit"]

_ERRORS = 4.0  # standard errors that make a finding
_RELEARNT = 0.95  # of the accuracy before
Batches = Iterable[tuple[Any, Tensor]]


def audit(
    model: nn.Module,
    forget: Batches,
    remain: Batches,
    test: Batches,
    *,
    original: nn.Module | None = None,
    retrained: nn.Module | None = None,
    shadows: Sequence[nn.Module] = (),
    attacks: Mapping[str, MembershipModel] | None = None,
    codes: MnemonicCodes | None = None,
    relearning_steps: int = 20,
    cost: Cost | None = None,
) -> AuditReport:
    """Measure what a model still knows of samples it was made to forget, and what that cost the rest.

    The samples to forget are compared with unseen ones: the test samples of the same classes. What is best is nearly
    always what a model shows that was trained again without them (``retrained``), not zero: a model that is surer than
    that that it has never seen them, gives them away as well, and is said to be over-forgotten.

    ============================ ======================================================================================
    forget, remain, test         accuracy on each, in [0, 1], of ``test`` on classes that remain; ``forget loss``: mean
                                 cross-entropy, nats
    attack: ...                  area under the curve of telling the samples to forget from unseen ones, by loss,
                                 confidence, entropy, modified entropy, correctness; by ``attacks``; and, with
                                 ``shadows``, by likelihood ratio (`fastforget.audit.attacks`)
    relearning steps             Adam steps on the samples to forget until 95 % of the original's accuracy is back
    divergence, distance,        from the retrained model's predictions on the samples to forget: Jensen-Shannon
    agreement                    divergence, bits; Euclidean distance; share of equal classes
    zero retrain forgetting      1 minus the divergence from a random network (Chundawat et al., 2023)
    trigger                      share of test samples of other classes that a code of a forgotten class, half mixed in,
                                 turns into that class; of classes none of whose samples remain
    time, peak memory            of the method, with ``cost``, see `measure_cost`
    ============================ ======================================================================================

    Source: metrics and attacks name theirs where they are defined.

    Args:
        model: The classifier, not changed; logits [N, C] from its forward. Compared in eval mode.
        forget: Batches (inputs, targets) that it was to forget, on its device; gone through several times.
        remain: Batches of remaining training data.
        test: Batches of test data, none of it trained on.
        original: The model before, for what forgetting cost.
        retrained: The model trained again without the samples.
        shadows: At least two models trained like the original without the samples, for the likelihood-ratio attack.
        attacks: Membership models of the original, by name; none whose feedback the model was made with.
        codes: Mnemonic codes of the model, for the trigger; for inputs that are one floating-point tensor.
        relearning_steps: How many steps of learning again are watched; 0 for none.
        cost: What the method took.

    Returns:
        The report.

    Raises:
        TypeError: A model or targets have the wrong type.
        ValueError: There are no samples, or none among ``test`` of the classes to forget; targets are no classes of the
            model; logits are not finite; models are of different numbers of classes; there is one shadow only.

    Example:
        >>> batches = [[(torch.randn(30, 4), torch.arange(30) % 3)] for _ in range(3)]
        >>> report = audit(nn.Linear(4, 3), *batches)
        >>> sorted(report.metrics)[:3]
        ['attack: confidence', 'attack: correctness', 'attack: entropy']
    """
    if isinstance(relearning_steps, bool) or not isinstance(relearning_steps, int):
        raise TypeError(f"`relearning_steps` must be an integer, got {type(relearning_steps).__name__}")
    if len(shadows) == 1 or relearning_steps < 0:
        raise ValueError("`shadows` must be none or at least two models, and `relearning_steps` at least 0")
    if cost is not None and not isinstance(cost, Cost):
        raise TypeError(f"`cost` must be of `measure_cost`, got {type(cost).__name__}")
    _check_attacks(attacks or {})
    with reproducible(eager(model), 0):
        report = _audit(
            model, (forget, remain, test), original, retrained, shadows, attacks or {}, codes, relearning_steps
        )
    return report if cost is None else _with_cost(report, cost)


def _with_cost(report: AuditReport, cost: Cost) -> AuditReport:
    spent = {
        "time": Metric("time", cost.seconds, "lower", "wall time of the method, seconds"),
        "CPU time": Metric("CPU time", cost.cpu_seconds, "lower", "CPU time of the method on all threads, seconds"),
    }
    if cost.peak_bytes is not None:
        size, meaning = cost.peak_bytes / 2**20, "memory that the method took at its peak, MiB"
        spent["peak memory"] = Metric("peak memory", size, "lower", meaning)
    phases = {f"method: {name}": value for name, value in (cost.phases or {"all": cost.seconds}).items()}
    return replace(report, metrics={**report.metrics, **spent}, seconds={**phases, **report.seconds})


def _audit(
    model: nn.Module,
    data: tuple[Batches, Batches, Batches],
    original: nn.Module | None,
    retrained: nn.Module | None,
    shadows: Sequence[nn.Module],
    attacks: Mapping[str, MembershipModel],
    codes: MnemonicCodes | None,
    relearning_steps: int,
) -> AuditReport:
    clock = _Clock()
    models = {"model": model, "original": original, "retrained": retrained}
    parts = dict(zip(("forget", "remain", "test"), data, strict=True))
    parts = {name: part if isinstance(part, Sequence) else list(part) for name, part in parts.items()}
    with clock.phase("accuracy"):
        seen = {name: _see(eager(found), parts) for name, found in models.items() if found is not None}
        _check_classes(seen, codes)
    classes = seen["model"]["forget"].targets.unique().tolist()
    with clock.phase("attacks"):
        metrics = [*_accuracies(seen), *_attacks(seen, attacks)]
        if shadows:
            metrics.append(_shadow_attack(seen, [_see(eager(shadow), parts) for shadow in shadows]))
    with clock.phase("distances"):
        metrics += _distances(seen, eager(model), parts["forget"])
    curves: dict[str, list[float]] = {}
    with clock.phase("relearning"):
        for name, found in models.items():
            if found is not None and relearning_steps:
                curves[name] = relearning_curve(eager(found), parts["forget"], steps=relearning_steps)
        metrics += _relearning(curves, seen)
    with clock.phase("trigger"):
        gone = sorted(set(classes) - set(seen["model"]["remain"].targets.tolist()))
        if codes is not None and gone:
            metrics.append(_trigger(models, codes, parts["test"], gone))
    by_name = {metric.name: metric for metric in metrics}
    shown = {**seen["model"], "unseen": seen["model"]["test"].of_classes(classes)}
    shown = {name: shown[name] for name in ("forget", "remain", "unseen")}
    return AuditReport(
        model=fingerprint(eager(model)),
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        metrics=by_name,
        findings=_findings(by_name, seen),
        per_class={name: of["test"].per_class() for name, of in seen.items()},
        losses={name: of.losses.tolist() for name, of in shown.items()},
        confidences={name: of.confidences.tolist() for name, of in shown.items()},
        curves=curves,
        scores={name: SCORES["loss"](shown[name]).tolist() for name in ("forget", "unseen")},
        seconds=clock.seconds,
    )


Seen = dict[str, dict[str, Observation]]


def _see(model: nn.Module, parts: Mapping[str, Batches]) -> dict[str, Observation]:
    return {name: observe(model, part, name) for name, part in parts.items()}


def _check_attacks(attacks: Mapping[str, MembershipModel]) -> None:
    for name, attack in attacks.items():
        if not isinstance(attack, MembershipModel):
            raise TypeError(f"`attacks` must be membership models, got {type(attack).__name__}")
        if name in SCORES or name == "likelihood ratio":
            raise ValueError(f"`attacks` must have names of their own, got {name!r}")


def _check_classes(seen: Seen, codes: MnemonicCodes | None) -> None:
    counts = {name: of["forget"].logits.shape[1] for name, of in seen.items()}
    if len(set(counts.values())) > 1:
        raise ValueError(f"models must have the same number of classes, got {counts}")
    of = seen["model"]
    if codes is not None and len(codes) != counts["model"]:
        raise ValueError(f"`codes` must be of {counts['model']} classes, got {len(codes)}")
    missing = set(of["forget"].targets.tolist()) - set(of["test"].targets.tolist())
    if missing:
        raise ValueError(f"`test` must hold samples of every class to forget, got none of {sorted(missing)}")
    remaining = set(of["remain"].targets.tolist())
    if remaining.isdisjoint(of["test"].targets.tolist()):
        raise ValueError(f"`test` must hold samples of classes that remain, got none of {sorted(remaining)}")


def _compared(seen: Seen, figure: Any) -> dict[str, Any]:
    """Return a figure of the model, the original and the retrained one."""
    found = {name: figure(of) for name, of in seen.items()}
    return {"value": found["model"], "original": found.get("original"), "retrained": found.get("retrained")}


def _accuracies(seen: Seen) -> Iterator[Metric]:
    targets: dict[str, Any] = {"forget": "retrained", "remain": "higher", "test": "retrained"}
    for part, target in targets.items():
        meaning = f"share of samples of `{part}` that are classified right"
        values = _compared(seen, lambda of, part=part: _judged(of, part).accuracy)
        yield Metric(f"{part} accuracy", target=target, meaning=meaning, **values)
    meaning = "mean cross-entropy on the samples to forget, nats"
    losses = _compared(seen, lambda of: float(of["forget"].losses.mean()))
    yield Metric("forget loss", target="retrained", meaning=meaning, **losses)


def _judged(of: dict[str, Observation], part: str) -> Observation:
    """Return the samples whose accuracy is meant; of a class that does not remain, none should be right."""
    return of["test"].of_classes(of["remain"].targets.unique().tolist()) if part == "test" else of[part]


def _attacks(seen: Seen, models: Mapping[str, MembershipModel]) -> Iterator[Metric]:
    scores = dict(SCORES)
    scores |= {name: _judged_by(attack) for name, attack in models.items()}
    for name, score in scores.items():

        def area(of: dict[str, Observation], score: Any = score) -> Area:
            return Area.of(score, of["forget"], of["test"])

        yield _area_metric(name, _compared(seen, area))


def _judged_by(attack: MembershipModel) -> Any:
    here = copy.deepcopy(attack).cpu().double()

    def score(seen: Observation) -> Tensor:
        with torch.no_grad():
            odds: Tensor = here(seen.logits, seen.targets)
        return odds

    return score


def _area_metric(name: str, areas: Mapping[str, Area | None]) -> Metric:
    model, original, retrained = (areas[key] for key in ("value", "original", "retrained"))
    return Metric(
        f"attack: {name}",
        model.value if model else None,
        "retrained" if retrained else 0.5,
        f"area under the curve of telling samples to forget from unseen ones by {name}; 0.5 is chance",
        original.value if original else None,
        retrained.value if retrained else None,
        model.error if model else None,
    )


def _shadow_attack(seen: Seen, shadows: Sequence[dict[str, Observation]]) -> Metric:
    def area(of: dict[str, Observation]) -> Area:
        judged = {}
        for part in ("forget", "test"):
            scores = likelihood_ratio(of[part], [shadow[part] for shadow in shadows])
            judged[part] = Observation(torch.stack([scores, -scores], 1), of[part].targets)  # carries them by sample
        return Area.of(lambda found: found.logits[:, 0], judged["forget"], judged["test"])

    return _area_metric("likelihood ratio", _compared(seen, area))


def _distances(seen: Seen, model: nn.Module, forget: Batches) -> Iterator[Metric]:
    if "retrained" in seen:
        goal = seen["retrained"]["forget"]
        measures = {
            "divergence": (divergence, "lower", "Jensen-Shannon divergence of the predictions, bits"),
            "distance": (activation_distance, "lower", "mean Euclidean distance of the predicted probabilities"),
            "agreement": (agreement, "higher", "share of samples that both give the same class"),
        }
        for name, (measure, target, meaning) in measures.items():
            values = {key: measure(of["forget"], goal) for key, of in seen.items()}
            text = f"to the retrained model on the samples to forget: {meaning}"
            yield Metric(name, values["model"], target, text, values.get("original"))  # type: ignore[arg-type]
    random = _random(model)
    if random is not None:
        chance = observe(random, forget, "forget")
        yield Metric(
            "zero retrain forgetting",
            target="retrained",
            meaning="1 minus the divergence from a random network on the samples to forget, in [0, 1]",
            **_compared(seen, lambda of: 1 - divergence(of["forget"], chance)),
        )


def _random(model: nn.Module) -> nn.Module | None:
    """Return the network initialised again, or None where a layer does not know how."""
    found = copy.deepcopy(model)
    with reproducible(model, 0):
        for module in found.modules():
            reset = getattr(module, "reset_parameters", None)
            if callable(reset):
                reset()
            elif next(module.parameters(recurse=False), None) is not None:
                return None
    return found


def _relearning(curves: Mapping[str, list[float]], seen: Seen) -> Iterator[Metric]:
    if not curves:
        return
    before = seen["original"]["forget"].accuracy if "original" in seen else 1.0
    steps = {name: float(steps_to(curve, _RELEARNT * before)) for name, curve in curves.items()}
    beside = steps.get("original"), steps.get("retrained")
    meaning = "steps of learning the samples again until 95 % of the accuracy is back; one more than tried if it is not"
    yield Metric("relearning steps", steps["model"], "retrained", meaning, *beside)


def _trigger(
    models: Mapping[str, nn.Module | None], codes: MnemonicCodes, test: Batches, classes: Sequence[int]
) -> Metric:
    there = {name: eager(found) for name, found in models.items() if found is not None}
    values = {name: _triggered(found, codes, test, classes) for name, found in there.items()}
    meaning = "share of other test samples that a code of the class, half mixed in, turns into it; of the worst class"
    return Metric("trigger", values["model"], "lower", meaning, values.get("original"), values.get("retrained"))


@torch.no_grad()
def _triggered(model: nn.Module, codes: MnemonicCodes, test: Batches, classes: Sequence[int]) -> float:
    shares = []
    for cls in classes:
        code = codes.tensor[cls, 0]
        hits = total = 0
        with evaluating(model):
            for inputs, targets in test:
                if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
                    raise TypeError("with `codes`, inputs must be one floating-point tensor")
                others = inputs[targets != cls]
                if len(others):
                    others = others[logits_of(forward(model, others)).argmax(1) != cls]
                if len(others):
                    logits = logits_of(forward(model, 0.5 * others + 0.5 * code.to(others)))
                    hits, total = hits + int((logits.argmax(1) == cls).sum()), total + len(others)
        shares.append(hits / total if total else 0.0)
    return max(shares)


def _findings(metrics: Mapping[str, Metric], seen: Seen) -> list[Finding]:
    found: list[Finding] = []
    for name, metric in metrics.items():
        if not name.startswith("attack: ") or metric.value is None or not metric.error:
            continue
        goal = 0.5 if metric.retrained is None else metric.retrained
        away = (metric.value - goal) / metric.error
        beside = f"{name.removeprefix('attack: ')} has an area of {metric.value:.3f}, where {goal:.3f} is expected"
        if away > _ERRORS:
            found.append(Finding("remembers", f"the attack by {beside}: the samples still look trained on"))
        elif away < -_ERRORS:
            text = f"the attack by {beside}: the samples look less known than unseen ones, which gives them away"
            found.append(Finding("over-forgotten", text))
    found += _accuracy_findings(metrics, seen)
    trigger = metrics.get("trigger")
    if trigger is not None and trigger.value is not None and trigger.value > 0.05 + (trigger.retrained or 0.0):
        found.append(Finding("trigger", f"a code turns {100 * trigger.value:.1f} % of other samples into its class"))
    return found


def _accuracy_findings(metrics: Mapping[str, Metric], seen: Seen) -> Iterator[Finding]:
    forget = metrics["forget accuracy"]
    if forget.retrained is not None and forget.value is not None:
        away = (forget.value - forget.retrained) / _error(forget.retrained, len(seen["model"]["forget"].targets))
        text = f"{100 * forget.value:.1f} % of the samples to forget are right, of the retrained model "
        text += f"{100 * forget.retrained:.1f} %"
        if abs(away) > _ERRORS and abs(forget.value - forget.retrained) > 0.01:
            yield Finding("remembers" if away > 0 else "over-forgotten", text)
        yield from _odds_finding(seen)
    for part in ("remain", "test"):
        metric = metrics[f"{part} accuracy"]
        goal = metric.original if part == "remain" or metric.retrained is None else metric.retrained
        if goal is None or metric.value is None:
            continue
        lost = goal - metric.value
        if lost > max(0.01, _ERRORS * _error(goal, len(_judged(seen["model"], part).targets))):
            yield Finding("damaged", f"{100 * lost:.1f} points of accuracy on `{part}` are lost")


def _odds_finding(seen: Seen) -> Iterator[Finding]:
    """Compare with the retrained model sample by sample: unseen ones may be as far off as those to forget."""
    apart = seen["model"]["forget"].odds - seen["retrained"]["forget"].odds
    mean, error = float(apart.mean()), float(apart.std(correction=0)) / math.sqrt(len(apart))
    if abs(mean) > max(1.0, _ERRORS * error):
        text = f"the samples to forget have log-odds that are {abs(mean):.1f} nats "
        text += "above those of the retrained model on average" if mean > 0 else "below those of the retrained model"
        yield Finding("remembers" if mean > 0 else "over-forgotten", text)


def _error(share: float, samples: int) -> float:
    """Standard error of a share, of at least one sample."""
    return max(math.sqrt(share * (1 - share) / samples), 1 / samples)


class _Clock:
    """Wall time by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
