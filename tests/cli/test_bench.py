"""`fastforget bench`."""

import json
import sys
from pathlib import Path

import pytest
import torch
from asserts import assert_same_bits
from cli.command_line import CODES, NET, CommandLine, snapshot
from known_codes import copied_tensors, model_with_codes

from fastforget import Receipt, fingerprint
from fastforget.cli import bench

BENCH = ("bench", *NET, *CODES, "--cls", "1", "--rounds", "3")


def test_the_result_as_json(fastforget: CommandLine, model_folder: Path) -> None:
    before = snapshot(model_folder)
    found = json.loads(fastforget.output(*BENCH, "--json"))
    assert snapshot(model_folder) == before
    times = found.pop("milliseconds")
    assert list(times) == ["forward and backward", "one_shot", "one_shot, Fisher kept"]
    for of in times.values():
        assert 0 < of["lower_quartile"] <= of["median"] <= of["upper_quartile"]
    expected = {"threads": torch.get_num_threads(), "device": "cpu", "torch": torch.__version__}
    expected |= {"parameters": 708, "codes": 8, "rounds": 3}
    assert {name: found[name] for name in expected} == expected
    assert found.keys() - expected.keys() == {"fastforget"}


def test_the_table(fastforget: CommandLine, model_folder: Path) -> None:
    lines = fastforget.output(*BENCH, "--forgotten", "0").splitlines()
    assert lines[2].startswith("forward and backward  ")
    assert lines[2].endswith("  1.00")
    assert lines[-1].startswith("708 parameters, 8 codes, 3 rounds; cpu, ")


def test_every_round_starts_from_the_same_state() -> None:
    model, codes = model_with_codes()
    before, starts = fingerprint(model), []
    candidates = bench.candidates_of(model, codes, 1, ())

    def watched(run):
        def look() -> Receipt | None:
            starts.append(fingerprint(model))
            return run()

        return look

    original = copied_tensors(model)
    seconds = bench.time_in_turn({name: watched(run) for name, run in candidates.items()}, model, 4)
    assert {name: len(times) for name, times in seconds.items()} == dict.fromkeys(candidates, 4)
    assert starts == [before] * len(starts)
    assert len(starts) == 3 * (4 + bench.WARM_UP_ROUNDS)
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, tensor in copied_tensors(model).items():
        assert_same_bits(tensor, original[name])


def test_what_is_timed_forgets() -> None:
    model, codes = model_with_codes()
    run = bench.candidates_of(model, codes, 1, (3,))
    assert run["forward and backward"]() is None
    for name, kept in (("one_shot", False), ("one_shot, Fisher kept", True)):
        receipt = run[name]()
        assert receipt is not None
        assert (receipt.classes, receipt.kept_fisher) == ((1,), kept)
        receipt.revert(model)


def test_too_few_rounds_are_a_usage_error(fastforget: CommandLine, model_folder: Path) -> None:
    assert fastforget(*BENCH[:-1], "2").status == 2


def test_what_forgetting_refuses_is_an_error(fastforget: CommandLine, model_folder: Path) -> None:
    assert fastforget.error_line(*BENCH, "--cls", "7").startswith("`cls` must lie in [0, 4)")


def test_without_tqdm_the_remedy_is_named(
    fastforget: CommandLine, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    assert fastforget.error_line(*BENCH) == "the progress bar needs tqdm: pip install tqdm"
