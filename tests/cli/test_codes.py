"""`fastforget codes` and `fastforget embed-check`."""

import json
from pathlib import Path

import pytest
import torch
from asserts import assert_same_bits
from cli.command_line import CODES, FORGET, NET, CommandLine
from known_codes import model_with_codes
from safetensors.torch import load_file, save_file

from fastforget import MnemonicCodes, UnrecognisedCodesError, one_shot
from fastforget.classifier.inputs import leaves
from fastforget.classifier.losses import log_odds
from fastforget.cli.words import in_command_words


@pytest.mark.parametrize(
    ("options", "shape", "settings"),
    [
        (("--shape", "3x4x4"), (3, 4, 4), {}),
        (
            ("--shape", "6", "--per-class", "2", "--distribution", "uniform", "--seed", "7"),
            (6,),
            {"per_class": 2, "distribution": "uniform", "seed": 7},
        ),
        (("--shape", "5", "--shape", "3x2"), [(5,), (3, 2)], {}),
        (
            ("--shape", "9", "--distribution", "tokens", "--vocabulary", "2", "50"),
            (9,),
            {"distribution": "tokens", "vocabulary": range(2, 50)},
        ),
    ],
)
def test_codes_are_those_of_the_library(fastforget: CommandLine, options, shape, settings) -> None:
    printed = fastforget.output("codes", "--classes", "5", *options, "--output", "codes.safetensors")
    expected, found = MnemonicCodes.generate(5, shape, **settings), MnemonicCodes.load("codes.safetensors")
    assert printed == f"codes.safetensors: {expected}\n"
    assert (found.distribution, found.seed) == (expected.distribution, expected.seed)
    for mine, other in zip(leaves(found.stacked), leaves(expected.stacked), strict=True):
        assert_same_bits(mine, other)


def test_codes_as_json(fastforget: CommandLine) -> None:
    printed = fastforget.output(
        "codes", "--classes", "5", "--shape", "1x8x8", "--output", "codes.safetensors", "--json"
    )
    expected = {"classes": 5, "per_class": 4, "shapes": [[1, 8, 8]], "distribution": "normal", "seed": 0}
    assert json.loads(printed) == {**expected, "output": "codes.safetensors"}


@pytest.mark.parametrize("shape", ["", "3x", "3x0", "3,4", "-3", "3x4.5", "²"])
def test_a_shape_that_is_none_is_a_usage_error(fastforget: CommandLine, folder: Path, shape: str) -> None:
    outcome = fastforget("codes", "--classes", "5", "--shape", shape, "--output", "codes.safetensors")
    assert outcome.status == 2
    assert "sizes like 3x32x32" in outcome.err
    assert list(folder.iterdir()) == []


def test_what_the_library_refuses_leaves_no_file(fastforget: CommandLine, folder: Path) -> None:
    line = fastforget.error_line("codes", "--classes", "5", "--shape", "9", "--distribution", "tokens", "--output", "c")
    assert line == '"tokens" must come with a range of them, `vocabulary`, got None'
    assert list(folder.iterdir()) == []


def test_codes_that_exist_are_overwritten_only_if_asked(fastforget: CommandLine, model_folder: Path) -> None:
    command = ("codes", "--classes", "5", "--shape", "9", "--output", "codes.safetensors")
    line = fastforget.error_line(*command)
    assert line == "`--output` must be a new file, got codes.safetensors, which exists; `--force` overwrites it"
    fastforget.output(*command, "--force")
    assert len(MnemonicCodes.load("codes.safetensors")) == 5


def test_a_model_that_knows_its_codes(fastforget: CommandLine, model_folder: Path) -> None:
    model, codes = model_with_codes()
    found = json.loads(fastforget.output("embed-check", *NET, *CODES, "--json"))
    with torch.no_grad():
        odds = log_odds(model(codes.inputs), codes.labels).double().view(4, 2).mean(1)
    assert (found["known"], found["reason"]) == (True, None)
    expected = [{"class": c, "recognised": 1.0, "log_odds": pytest.approx(float(odds[c]))} for c in range(4)]
    assert found["classes"] == expected
    # Products of matrices of other sizes may round otherwise.
    found = json.loads(fastforget.output("embed-check", *NET, *CODES, "--batch-size", "3", "--json"))
    assert (found["known"], found["classes"]) == (True, expected)
    text = fastforget.output("embed-check", *NET, *CODES)
    assert text.splitlines()[2].split() == ["0", "100%", f"{odds[0]:.2f}"]
    assert text.splitlines()[-1] == "The model knows its codes."


def test_a_class_that_was_forgotten_is_not_known_unless_named(fastforget: CommandLine, model_folder: Path) -> None:
    """Or unless the checkpoint says it; that of an older version does not."""
    fastforget.output(*FORGET)
    save_file(load_file("new.safetensors"), "silent.safetensors")
    check = ("embed-check", "--model", "nets:mlp", "--checkpoint", "silent.safetensors", *CODES)
    outcome = fastforget(*check, "--json")
    found = json.loads(outcome.out)
    assert (outcome.status, found["known"]) == (1, False)
    assert "class 2 seems to be forgotten already" in found["reason"]
    assert [of["recognised"] for of in found["classes"]] == [1.0, 1.0, 0.0, 1.0]
    named = json.loads(fastforget.output(*check, "--forgotten", "2", "--json"))
    assert [of["class"] for of in named["classes"]] == [0, 1, 3]


@pytest.mark.parametrize("wrong", [[], [2], [0, 1], [0, 1, 3]])
@pytest.mark.parametrize("cls", [0, 2])
def test_it_refuses_what_forgetting_would_refuse(
    fastforget: CommandLine, model_folder: Path, wrong: list[int], cls: int
) -> None:
    model, codes = model_with_codes()
    swapped = codes.tensor.clone()
    swapped[wrong] = -swapped[wrong]
    MnemonicCodes.from_tensors(swapped).save("codes.safetensors")
    try:
        one_shot(model, MnemonicCodes.from_tensors(swapped), cls)
        expected = 0, "The model knows its codes."
    except UnrecognisedCodesError as error:
        expected = 1, in_command_words(str(error))
    outcome = fastforget("embed-check", *NET, *CODES, "--cls", str(cls))
    assert (outcome.status, outcome.out.splitlines()[-1]) == expected


def test_codes_of_another_model_are_an_error(fastforget: CommandLine, model_folder: Path) -> None:
    line = fastforget.error_line("embed-check", *NET, "--codes", "conv-codes.safetensors")
    assert "`--codes` must be what the model's forward takes, got samples of shape (2, 4, 4)" in line
    line = fastforget.error_line("embed-check", *NET, *CODES, "--forgotten", "7")
    assert line == "`--forgotten` must lie in [0, 4), got [7]"
    line = fastforget.error_line("embed-check", *NET, *CODES, *(f"--forgotten={c}" for c in range(4)))
    assert "forgotten earlier" in line
