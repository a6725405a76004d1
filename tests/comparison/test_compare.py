"""Comparisons: what their rows say, what is done again and what is not, and what functions of the user are given."""

import json
import math
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pytest
import torch
from comparison.small import TEST, TIMES, TRAIN, UNSEEN, calls, config, network, nothing, of, run, shrink, untimed
from torch import nn

from fastforget import audit, baselines, compare
from fastforget.comparison import Comparison
from fastforget.comparison.measures import MEASURES


def test_the_retrained_reference_has_no_gap_to_itself(found: Comparison) -> None:
    for seed in (0, 1):
        measures = of(found, "retrained", seed)
        assert measures["average gap"] == 0
        assert (measures["ToW"], measures["agreement"]) == (1, 1)
        assert measures["divergence"] < 1e-15  # rounding
        assert measures["forget accuracy"] == 0
        assert of(found, "original", seed)["average gap"] > 0.1


def test_a_method_that_does_nothing_has_the_numbers_of_the_original(found: Comparison) -> None:
    for seed in (0, 1):
        assert of(found, "nothing", seed) == of(found, "original", seed)
        assert of(found, "fine_tune", seed) != of(found, "original", seed)


def test_the_numbers_are_those_of_an_audit(tmp_path: Path) -> None:
    """Of networks that are trained here, by hand."""
    measures = of(run(tmp_path, seeds=[3], audit={"relearning_steps": 2}), "fine_tune", 3)
    x, y = TRAIN
    gone = y == 2
    models = []
    for rows in (torch.ones_like(gone), ~gone):
        torch.manual_seed(3)
        models.append(network())
        baselines.retrain(models[-1], [], (x[rows], y[rows]), epochs=12, lr=0.3, seed=3)
    original, retrained = (model.eval() for model in models)
    torch.manual_seed(3)
    edited = network()
    edited.load_state_dict(original.state_dict())
    forget, remain = (x[gone], y[gone]), (x[~gone], y[~gone])
    baselines.fine_tune(edited.eval(), forget, remain, epochs=2, seed=3)
    report = audit(edited, forget, remain, TEST, original=original, retrained=retrained, relearning_steps=2)
    expected = {name: metric.value for name, metric in report.metrics.items()} | {"average gap": report.gap}
    assert measures == expected


def test_means_and_deviations_are_those_of_numpy(tmp_path: Path) -> None:
    found = run(tmp_path, seeds=[0, 1, 5])
    for method, measures in found.summaries.items():
        for name, summary in measures.items():
            values = [row.measures[name] for row in found.rows if row.method == method]
            assert list(summary.values) == [0, 1, 5]
            assert summary.mean == pytest.approx(np.mean(values), abs=1e-12)
            assert summary.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert len({row.measures["test accuracy"] for row in found.rows}) > 1


def test_a_single_seed_has_no_deviation(tmp_path: Path) -> None:
    found = run(tmp_path, seeds=[0])
    assert {summary.deviation for measures in found.summaries.values() for summary in measures.values()} == {None}
    assert "±" not in str(found)


def test_every_measure_can_be_shown(tmp_path: Path) -> None:
    found = run(tmp_path, oracles=3, seeds=[0])
    names = {name for row in found.rows for name in row.measures}
    assert names <= set(MEASURES)
    assert {"attack: RMIA", "attack: likelihood ratio", "average gap", "time", "linear probe"} <= names
    shares = [n for n, measure in MEASURES.items() if measure.unit == "%" and n in names]
    assert all(0 <= (row.measures.get(name) or 0) <= 1 for row in found.rows for name in shares)


def test_the_same_call_twice_does_no_work(tmp_path: Path) -> None:
    first = run(tmp_path)
    files = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "networks").iterdir()}
    texts = {path.name: path.read_bytes() for path in tmp_path.glob("comparison.*")}
    rows = (tmp_path / "rows.jsonl").read_bytes()
    calls.clear()

    second = compare(config(), output=tmp_path, progress=True)
    assert (first.measured, second.measured, calls) == (8, 0, [])
    assert second.rows == first.rows
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "networks").iterdir()} == files
    assert {path.name: path.read_bytes() for path in tmp_path.glob("comparison.*")} == texts
    assert (tmp_path / "rows.jsonl").read_bytes() == rows
    assert set(texts) == {"comparison.csv", "comparison.html", "comparison.tex"}


def test_only_what_is_new_is_measured(tmp_path: Path) -> None:
    methods: list[dict[str, Any]] = [{"method": nothing}, {"method": "fine_tune", "epochs": 2}]

    def measured(seeds: tuple[int, ...] = (0,), **changes: Any) -> int:
        return run(tmp_path, **{"seeds": list(seeds), "methods": methods, **changes}).measured

    assert measured() == 4
    networks = {path.name for path in (tmp_path / "networks").iterdir()}
    assert len(networks) == 2
    methods[1]["epochs"] = 1
    assert measured() == 1
    assert measured(methods=[*methods, {"method": shrink, "name": "smaller"}]) == 1
    assert measured(methods=[{"method": "fine_tune", "epochs": 2}]) == 0
    renamed = run(tmp_path, seeds=[0], methods=[{"method": "fine_tune", "name": "training on", "epochs": 2}])
    assert (renamed.measured, list(renamed.summaries)) == (0, ["original", "retrained", "training on"])
    assert {path.name for path in (tmp_path / "networks").iterdir()} == networks
    assert measured(seeds=(4, 0)) == 4
    assert measured(training={"epochs": 11, "lr": 0.3}) == 4
    assert measured(forget={"classes": [1]}) == 4
    networks = {path.name for path in (tmp_path / "networks").iterdir()}
    assert measured(data={"train": TRAIN, "test": UNSEEN}) == 4
    assert {path.name for path in (tmp_path / "networks").iterdir()} == networks  # trained on the same samples
    assert measured(audit={"relearning_steps": 1}) == 4
    assert measured() == 0


def test_references_are_trained_without_the_samples(tmp_path: Path) -> None:
    seen: list[tuple[int, list[int]]] = []

    def train(model: nn.Module, data: Any, *, seed: int, epochs: int) -> None:
        assert model.training
        seen.append((seed, sorted(set(data[1].tolist()))))
        baselines.retrain(model, [], data, epochs=epochs, seed=seed)

    found = run(tmp_path, training={"function": train, "epochs": 1}, oracles=2, seeds=[4])
    assert seen == [(4, [0, 1, 2, 3]), (4, [0, 1, 3]), (1004, [0, 1, 3])]
    assert [row.method for row in found.rows] == ["original", "retrained", "retrained 2", "nothing", "fine_tune"]
    assert of(found, "retrained 2", 4)["divergence"] > 0  # another network
    assert of(found, "retrained 2", 4)["average gap"] < 0.5


def test_without_references_there_is_no_gap(tmp_path: Path) -> None:
    found = run(tmp_path, oracles=0, seeds=[0])
    assert [row.method for row in found.rows] == ["original", "nothing", "fine_tune"]
    assert of(found, "nothing", 0)["average gap"] is None
    assert "gap" not in str(found)


@pytest.mark.parametrize("forget", [{"share": 0.1}, {"samples": [5, 9, 30, 31, 32, 33]}])
def test_samples_are_forgotten_too(tmp_path: Path, forget: dict[str, Any]) -> None:
    given: list[int] = []

    def count(model: nn.Module, forget: Any, remain: Any, seed: int) -> None:
        given.append(len(forget[1]))
        assert len(forget[1]) + len(remain[1]) == len(TRAIN[1])
        assert not {tuple(x) for x in forget[0].tolist()} & {tuple(x) for x in remain[0].tolist()}

    found = run(tmp_path, forget=forget, methods=[{"method": count}, {"method": "learn_to_unlearn", "steps": 2}])
    assert not found.failures
    assert given == [16, 16] if "share" in forget else [6, 6]
    assert "linear probe" not in of(found, "count", 0)  # which is of classes that are gone


def test_functions_get_what_they_ask_for(tmp_path: Path) -> None:
    asked: list[Any] = []

    def method(model: nn.Module, forget: Any, remain: Any, *, by: float, seed: int, unseen: Any, codes: Any) -> None:
        asked.append((by, seed, unseen, codes, torch.randn(()).item()))
        assert not model.training

    data = {"train": TRAIN, "test": TEST, "unseen": UNSEEN}
    torch.manual_seed(99)
    state = torch.get_rng_state()
    run(tmp_path, data=data, methods=[{"method": method, "by": 0.5}])
    assert torch.equal(torch.get_rng_state(), state)
    (by, seed, unseen, codes, drawn), (*_, other) = asked
    assert (by, seed, codes) == (0.5, 0, None)
    assert torch.equal(unseen[0], UNSEEN[0])
    assert drawn != other
    torch.manual_seed(0)
    assert drawn == torch.randn(()).item()  # the random state is the seed's


def test_methods_that_fail_are_named_and_tried_again(tmp_path: Path) -> None:
    broken = True

    def sometimes(model: nn.Module, forget: Any, remain: Any) -> None:
        if broken:
            raise KeyError("weights")

    def another(model: nn.Module, forget: Any, remain: Any) -> nn.Module:
        return network()

    def destroys(model: nn.Module, forget: Any, remain: Any) -> None:
        model[0].weight.data.fill_(math.nan)

    methods = [{"method": sometimes}, {"method": another}, {"method": destroys}, {"method": nothing}]
    found = run(tmp_path, methods=methods, seeds=[0])
    texts = {failure.method: failure.text for failure in found.failures}
    assert texts["sometimes"] == "KeyError: 'weights'"
    assert texts["another"].startswith("TypeError: a method must edit the network in place and return a receipt")
    assert "finite" in texts["destroys"]
    assert list(found.summaries) == ["original", "retrained", "nothing"]
    assert "! sometimes, seed 0, failed: KeyError: 'weights'" in str(found)
    assert "KeyError" in found.to_html()

    broken = False
    again = run(tmp_path, methods=methods, seeds=[0])
    assert (again.measured, {failure.method for failure in again.failures}) == (1, {"another", "destroys"})


def test_a_method_that_failed_with_one_seed_keeps_its_place(tmp_path: Path) -> None:
    def fickle(model: nn.Module, forget: Any, remain: Any, *, seed: int) -> None:
        if seed == 0:
            raise ValueError("not with\nthis one")

    found = run(tmp_path, methods=[{"method": fickle}, {"method": nothing}])
    assert list(found.summaries) == ["original", "retrained", "fickle", "nothing"]
    assert list(found.summaries["fickle"]["test accuracy"].values) == [1]
    assert [failure.text for failure in found.failures] == ["ValueError: not with this one"]


def test_a_method_that_changes_its_samples_harms_no_other(tmp_path: Path) -> None:
    def careless(model: nn.Module, forget: Any, remain: Any, *, unseen: Any) -> None:
        for x, y in (forget, remain, unseen):
            x.zero_()
            y.zero_()

    data = {"train": tuple(map(torch.clone, TRAIN)), "test": TEST, "unseen": tuple(map(torch.clone, UNSEEN))}
    found = run(tmp_path, data=data, methods=[{"method": careless}, {"method": nothing}], seeds=[0])
    assert of(found, "careless", 0) == of(found, "nothing", 0) == of(found, "original", 0)
    assert torch.equal(data["train"][0], TRAIN[0])


def test_our_methods_are_called_as_all_others(tmp_path: Path) -> None:
    data = {"train": TRAIN, "test": TEST, "unseen": UNSEEN}
    ours = [{"method": "one_shot", "per_class": 4}, {"method": "learn_to_unlearn", "steps": 8, "membership": True}]
    found = run(tmp_path, data=data, methods=ours, seeds=[0], training={"epochs": 30, "lr": 0.3})
    assert not found.failures
    for name in ("one_shot", "learn_to_unlearn"):
        assert of(found, name, 0)["forget accuracy"] < of(found, "original", 0)["forget accuracy"] - 0.5


def test_a_partial_function_is_told_from_others(tmp_path: Path) -> None:
    methods = [{"method": partial(shrink, by=by), "name": str(by)} for by in (1.0, 0.5)]
    first, second = (of(run(tmp_path, methods=methods, seeds=[0]), name, 0) for name in ("1.0", "0.5"))
    assert first["forget loss"] != second["forget loss"]


def test_rows_are_plain_json(found: Comparison) -> None:
    lines = [json.loads(line) for line in (found.folder / "rows.jsonl").read_text().splitlines()]
    assert [(line["seed"], line["method"]) for line in lines] == [(row.seed, row.method) for row in found.rows]
    losses = [line["measures"]["forget loss"] for line in lines if line["method"] == "fine_tune"]
    assert found.summaries["fine_tune"]["forget loss"].mean == mean(losses)
    assert lines[-1]["settings"] == {"epochs": 2}
    assert set(TIMES) & set(lines[-1]["measures"])
    assert json.loads(json.dumps(found.describe()))["methods"]["retrained"]["average gap"]["mean"] == 0
    assert repr(found).startswith("Comparison(methods=['original', 'retrained', 'nothing', 'fine_tune'], seeds=[0, 1]")
    assert len(untimed(found)) == 8
