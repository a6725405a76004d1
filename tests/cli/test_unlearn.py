"""`fastforget unlearn`, `inscribe` and `codes --from-samples`: the bits of the library, and models without codes."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from cli.command_line import NET, CommandLine
from known_codes import copied_tensors, model_with_codes
from safetensors.torch import load_file, save_file
from torch import Tensor

from fastforget import AccuracyLossWarning, MnemonicCodes, Receipt, inscribe, learn_to_unlearn

FILES = ("--output", "new.safetensors", "--receipt", "receipt.safetensors")


def _samples(count: int, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 6, generator=generator), torch.arange(count) % classes


def _saved(name: str, inputs: Tensor, targets: Tensor) -> list[tuple[Tensor, Tensor]]:
    save_file({"inputs": inputs, "targets": targets}, f"{name}.safetensors")
    return list(zip(inputs.split(64), targets.split(64), strict=True))


def _assert_holds(path: str, expected: dict[str, Tensor]) -> None:
    for name, value in load_file(path).items():
        assert_same_bits(value, expected[name])


def _class_task() -> tuple[list[Any], list[Any]]:
    x, y = _samples(80, 1)
    return _saved("forget", x[y == 2], y[y == 2]), _saved("remain", x[y != 2], y[y != 2])


def test_a_class(fastforget: CommandLine, model_folder: Path) -> None:
    parts, model = _class_task(), model_with_codes()[0]
    command = ("unlearn", *NET, "--forget", "forget.safetensors", "--remain", "remain.safetensors", *FILES)
    found = json.loads(fastforget.output(*command, "--steps", "5", "--lr", "0.01", "--seed", "3", "--json"))
    receipt = learn_to_unlearn(model, *parts, steps=5, lr=0.01, seed=3)
    _assert_holds("new.safetensors", copied_tensors(model))
    saved = Receipt.load("receipt.safetensors")
    assert (saved.before, saved.after, saved.settings) == (receipt.before, receipt.after, receipt.settings)
    assert (found["samples"], found["claims"], found["output"]) == (20, ["disconnected"], "new.safetensors")
    fastforget.output("revert", *NET[:2], "--checkpoint", "new.safetensors", *FILES[2:], "--output", "back.safetensors")
    _assert_holds("back.safetensors", copied_tensors(model_with_codes()[0]))


def test_samples_of_classes_that_remain(fastforget: CommandLine, model_folder: Path) -> None:
    (x, y), unseen = _samples(60, 1), _saved("unseen", *_samples(40, 2))
    forget, remain = _saved("forget", x[:12], y[:12]), _saved("remain", x[12:], y[12:])
    model = model_with_codes()[0]
    command = ("unlearn", *NET, "--forget", "forget.safetensors", "--remain", "remain.safetensors", *FILES)
    printed = fastforget.output(*command, "--unseen", "unseen.safetensors", "--steps", "4", "--work", "work")
    learn_to_unlearn(model, forget, remain, unseen=unseen, steps=4)
    _assert_holds("new.safetensors", copied_tensors(model))
    assert printed.startswith("unlearnt 12 samples, ")
    assert not Path("work").exists()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (("--receipt", "receipt.safetensors", "--output", "receipt.safetensors"), "must not be that of"),
        ((*FILES, "--work", "remain.safetensors"), "^`--work` must be a file of its own, got remain.safetensors"),
        ((*FILES, "--unseen", "none.safetensors"), "none.safetensors"),
        ((*FILES, "--lr", "-1"), "^`lr` must"),
    ],
)
def test_refusals(fastforget: CommandLine, model_folder: Path, options: tuple[str, ...], text: str) -> None:
    _class_task()
    command = ("unlearn", *NET, "--forget", "forget.safetensors", "--remain", "remain.safetensors")
    line = fastforget.error_line(*command, *options)
    assert re.search(text, line), line


def test_inscribe(fastforget: CommandLine, model_folder: Path) -> None:
    data = _saved("data", *_samples(320, 4))
    codes = MnemonicCodes.generate(4, (6,), per_class=2, seed=9)
    codes.save("other-codes.safetensors")
    model = model_with_codes()[0]
    command = ("inscribe", *NET, "--codes", "other-codes.safetensors", "--data", "data.safetensors")
    deep = ("--lr", "1", "--rate", "0.9", "--epochs", "3")
    outcome = fastforget(*command, *FILES[:2], *deep, "--validation", "samples.safetensors", "--json")
    held = load_file("samples.safetensors")
    with pytest.warns(AccuracyLossWarning) as said:
        expected = inscribe(model, codes, data, held_out=(held["inputs"], held["targets"]), lr=1.0, rate=0.9, epochs=3)
    found = json.loads(outcome.out)
    assert (found["recognised"], found["before"]) == (expected.recognised, expected.before)
    assert found["after"] == expected.after < found["before"] - 0.005
    text = str(said[0].message).replace("`held_out`", "`--validation`").replace("`lr` or `rate`", "`--lr` or `--rate`")
    assert f"fastforget: {text}\n" in outcome.err
    _assert_holds("new.safetensors", copied_tensors(model))


def test_samples_as_codes(fastforget: CommandLine, model_folder: Path) -> None:
    x, y = _samples(30, 5)
    _saved("few", x, y)
    command = ("codes", "--from-samples", "few.safetensors", "--per-class", "3", "--output", "taken.safetensors")
    found = json.loads(fastforget.output(*command, "--json"))
    assert found == {"classes": 4, "per_class": 3, "distribution": "custom", "output": "taken.safetensors"}
    taken = MnemonicCodes.load("taken.safetensors")
    for cls in range(4):
        assert_same_bits(taken.inputs[taken.labels == cls], x[y == cls][:3])  # type: ignore[index]


def test_samples_that_the_model_recognises_as_codes(fastforget: CommandLine, model_folder: Path) -> None:
    held = load_file("samples.safetensors")
    x, y = held["inputs"].repeat(3, 1), held["targets"].repeat(3)
    y[0] = 1  # the model takes it for class 0
    _saved("few", x, y)
    command = ("codes", "--from-samples", "few.safetensors", "--output", "taken.safetensors")
    fastforget.output(*command, "--per-class", "2", *NET)
    taken = MnemonicCodes.load("taken.safetensors")
    with torch.no_grad():
        said = model_with_codes()[0](taken.inputs).argmax(1)
    assert torch.equal(said, taken.labels)
    assert not (taken.tensor[1] == x[0]).all(1).any()
    line = fastforget.error_line(*command, "--per-class", "6", "--force", *NET)
    text = "must hold 6 samples of class 0, got 5 that the model recognises, of 5; `--per-class` can ask for fewer"
    assert line.endswith(text)
    outcome = fastforget(*command, *NET[:2])
    assert outcome.status == 2
    assert "must be given together" in " ".join(outcome.err.replace("│", " ").split())


@pytest.mark.parametrize(
    ("options", "status", "text"),
    [
        (("--per-class", "9"), 1, "must hold 9 samples of class 0, got 8; `--per-class` can ask for fewer"),
        (("--classes", "4"), 2, "must come without"),
        (("--shape", "6"), 2, "must come without"),
    ],
)
def test_samples_that_are_no_codes(
    fastforget: CommandLine, model_folder: Path, options: tuple[str, ...], status: int, text: str
) -> None:
    _saved("few", *_samples(30, 5))
    outcome = fastforget("codes", "--from-samples", "few.safetensors", *options, "--output", "taken.safetensors")
    assert outcome.status == status
    assert text in " ".join(outcome.err.replace("│", " ").split())
    assert not Path("taken.safetensors").exists()


def test_neither_a_shape_nor_samples(fastforget: CommandLine, folder: Path) -> None:
    outcome = fastforget("codes", "--output", "codes.safetensors")
    assert outcome.status == 2
    assert "or `--from-samples`" in " ".join(outcome.err.replace("│", " ").split())
