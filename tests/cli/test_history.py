"""Checkpoints carry what was forgotten, and the next command reads it there."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.command_line import CODES, FORGET, METADATA, NET, CommandLine
from cli.test_forget import NEW, assert_same_tensors, header
from known_codes import copied_tensors, model_with_codes
from safetensors.torch import load_file, save_file

from fastforget import MnemonicCodes, Receipt, learn_to_unlearn, one_shot

KEY = "fastforget.history"
SECOND = ("--cls", "0", "--output", "newer.safetensors", "--receipt", "second.safetensors")
NEWER = ("--model", "nets:mlp", "--checkpoint", "newer.safetensors")


def edits(path: str) -> list[dict[str, Any]]:
    content = json.loads(header(path)[KEY])
    assert content["version"] == 1
    found: list[dict[str, Any]] = content["edits"]
    return found


def as_noted(receipt: Receipt, forgotten: list[int]) -> dict[str, Any]:
    names = ("rule", "created", "before", "after", "codes", "outcome")
    return {
        **{name: getattr(receipt, name) for name in names},
        "classes": list(receipt.classes),
        "forgotten": forgotten,
        "settings": dict(receipt.settings),
        "versions": dict(receipt.versions),
    }


def rewrite(path: str, metadata: dict[str, str] | None, **changed: torch.Tensor) -> None:
    save_file({**load_file(path), **changed}, path, metadata=metadata)


def test_it_says_what_the_receipts_say(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    first = Receipt.load("forgot.safetensors")
    assert header("new.safetensors").keys() == {*METADATA, KEY}
    assert edits("new.safetensors") == [as_noted(first, [])]
    assert first.codes == MnemonicCodes.load("codes.safetensors").fingerprint()
    fastforget.output("forget", *NEW, *CODES, *SECOND)
    second = Receipt.load("second.safetensors")
    assert edits("newer.safetensors") == [as_noted(first, []), as_noted(second, [2])]
    model = model_with_codes()[0]
    for number, cls in enumerate((2, 0)):
        one_shot(model, MnemonicCodes.load("codes.safetensors"), cls, forgotten=[2][:number])
    assert_same_tensors("newer.safetensors", copied_tensors(model))  # the bits that they are with `forgotten`


def test_naming_the_same_classes_is_no_contradiction(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    fastforget.output("forget", *NEW, *CODES, *SECOND, "--forgotten", "2")
    third = ("--cls", "3", "--in-place", "--receipt", "third.safetensors")
    fastforget.output("forget", *NEWER, *CODES, *third, "--forgotten", "0", "--forgotten", "2")
    assert [edit["forgotten"] for edit in edits("newer.safetensors")] == [[], [2], [2, 0]]


@pytest.mark.parametrize("given", [["0"], ["1", "2"], ["3"]])
def test_a_contradiction(fastforget: CommandLine, model_folder: Path, given: list[str]) -> None:
    fastforget.output(*FORGET)
    named = [word for cls in given for word in ("--forgotten", cls)]
    line = fastforget.error_line("forget", *NEW, *CODES, "--cls", "0", *SECOND[2:], *named)
    assert line == (
        "`--forgotten` must name the classes that are forgotten according to `new.safetensors`, [2], or be left out, "
        f"got [{', '.join(given)}]"
    )


@pytest.mark.parametrize("command", ["forget", "embed-check", "bench"])
def test_a_class_again(fastforget: CommandLine, model_folder: Path, command: str) -> None:
    fastforget.output(*FORGET)
    more = SECOND[2:] if command == "forget" else ()
    line = fastforget.error_line(command, *NEW, *CODES, "--cls", "2", *more)
    created = Receipt.load("forgot.safetensors").created
    assert line == (
        f"class 2 is forgotten already according to `new.safetensors`, by the rule natural ({created}): nothing is "
        "left to do. To forget it in another way, `revert` that edit first"
    )


def test_a_checkpoint_that_says_nothing(fastforget: CommandLine, model_folder: Path) -> None:
    """Written by an older version. What `--forgotten` names is noted for the next request."""
    fastforget.output(*FORGET)
    rewrite("new.safetensors", dict(METADATA))
    line = fastforget.error_line("forget", *NEW, *CODES, "--cls", "2", *SECOND[2:])
    assert line.startswith("`--codes` must be known to the model, but class 2 seems to be forgotten already")
    fastforget.output("forget", *NEW, *CODES, *SECOND, "--forgotten", "2")
    assert [(edit["classes"], edit["forgotten"]) for edit in edits("newer.safetensors")] == [([0], [2])]
    line = fastforget.error_line("forget", *NEWER, *CODES, "--cls", "2", "--in-place", "--receipt", "r")
    assert line.startswith("class 2 is forgotten already according to `newer.safetensors`: nothing is left to do.")


def test_embed_check_asks_for_what_is_left(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    found = json.loads(fastforget.output("embed-check", *NEW, *CODES, "--json"))
    assert (found["known"], [row["class"] for row in found["classes"]]) == (True, [0, 1, 3])
    fastforget.output("bench", *NEW, *CODES, "--cls", "0", "--rounds", "3")


def test_receipts_bring_the_history_along(fastforget: CommandLine, model_folder: Path) -> None:
    """To the bytes of the checkpoint that they come from; and undone, to those that it was made of."""
    rewrite("net.safetensors", None)
    fastforget.output(*FORGET)
    fastforget.output("forget", *NEW, *CODES, *SECOND)
    both = ("--receipt", "forgot.safetensors", "--receipt", "second.safetensors")
    fastforget.output("apply", *NET, *both, "--output", "copy.safetensors")
    assert Path("copy.safetensors").read_bytes() == Path("newer.safetensors").read_bytes()
    fastforget.output("revert", *NEWER, *both[2:], "--output", "one-back.safetensors")
    assert Path("one-back.safetensors").read_bytes() == Path("new.safetensors").read_bytes()
    fastforget.output("revert", *NEWER, *both, "--output", "back.safetensors")
    assert Path("back.safetensors").read_bytes() == Path("net.safetensors").read_bytes()


def test_a_receipt_made_in_python(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    model, codes = model_with_codes()
    Receipt.load("forgot.safetensors").apply(model)
    of_class = codes.labels == 0
    forget, remain = ([(codes.inputs[rows], codes.labels[rows])] for rows in (of_class, ~of_class))
    learn_to_unlearn(model, forget, remain, steps=2).save("unlearnt.safetensors")
    fastforget.output("apply", *NEW, "--receipt", "unlearnt.safetensors", "--output", "newer.safetensors")
    noted = edits("newer.safetensors")[1]
    assert (noted["rule"], noted["classes"], noted["forgotten"]) == ("learn_to_unlearn", [0], [2])
    fastforget.output("forget", *NEWER, *CODES, "--cls", "1", "--in-place", "--receipt", "third.safetensors")
    assert edits("newer.safetensors")[2]["forgotten"] == [2, 0]


def test_weights_that_were_changed_since(fastforget: CommandLine, model_folder: Path) -> None:
    """Whether their classes are still forgotten, nobody knows: who calls must say it."""
    fastforget.output(*FORGET)
    bias = load_file("new.safetensors")["0.bias"]
    rewrite("new.safetensors", header("new.safetensors"), **{"0.bias": bias + 1e-3})
    command = ("forget", *NEW, *CODES, *SECOND)
    line = fastforget.error_line(*command)
    assert line.startswith("`new.safetensors` has a history of edits, but of other weights: the last edit left ")
    assert line.endswith("write the file without `fastforget.history` in its metadata")
    fastforget.output(*command, "--forgotten", "2")
    assert [edit["forgotten"] for edit in edits("newer.safetensors")] == [[], [2]]
    rewrite("new.safetensors", dict(METADATA))
    fastforget.output(*command, "--force")
    assert [edit["forgotten"] for edit in edits("newer.safetensors")] == [[]]
    first = Receipt.load("second.safetensors")
    rewrite("new.safetensors", {KEY: header("newer.safetensors")[KEY]})
    fastforget.output("apply", *NEW, "--receipt", "second.safetensors", "--output", "newer.safetensors", "--force")
    assert edits("newer.safetensors")[1] == as_noted(first, [])  # nothing of the history that does not lead here


def test_unlearn_notes_classes_of_which_nothing_remains(fastforget: CommandLine, model_folder: Path) -> None:
    """Also of one that is forgotten already: its samples take it deeper."""
    fastforget.output(*FORGET)
    held = load_file("samples.safetensors")
    for name, rows in (("theirs", held["targets"] == 2), ("rest", held["targets"] != 2)):
        save_file({key: value[rows] for key, value in held.items()}, f"{name}.safetensors")
    files = ("--forget", "theirs.safetensors", "--remain", "rest.safetensors", "--receipt", "u.safetensors")
    fastforget.output("unlearn", *NEW, *files, "--steps", "2", "--output", "newer.safetensors")
    assert [(edit["classes"], edit["forgotten"]) for edit in edits("newer.safetensors")] == [([2], []), ([2], [2])]
    assert edits("newer.safetensors")[1]["rule"] == "learn_to_unlearn"
    fastforget.output("forget", *NEWER, *CODES, "--cls", "1", "--in-place", "--receipt", "third.safetensors")
    assert edits("newer.safetensors")[2]["forgotten"] == [2]


def test_after_inscribe_nobody_knows(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    command = ("inscribe", *NEW, *CODES, "--data", "samples.safetensors", "--epochs", "9", "--lr", "0.1", "--in-place")
    assert fastforget(*command).status == 0
    assert len(edits("new.safetensors")) == 1
    line = fastforget.error_line("forget", *NEW, *CODES, *SECOND)
    assert line.startswith("`new.safetensors` has a history of edits, but of other weights: the last edit left ")


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("{", "it must be a JSON object with a version"),
        ("[" * 100_000, "it must be a JSON object with a version"),
        ("[]", "it must be a JSON object with a version"),
        ('{"edits": []}', "it must be a JSON object with a version"),
        ('{"version": 2, "edits": []}', "its version is 2 and this fastforget knows 1: update fastforget"),
        ('{"version": 1}', "its `edits` must be a list of objects"),
        ('{"version": 1, "edits": [3]}', "its `edits` must be a list of objects"),
        ('{"version": 1, "edits": [{}]}', "the header's `edit` must have the fields ['after', 'before', 'classes'"),
    ],
)
@pytest.mark.parametrize("command", ["forget", "apply", "embed-check"])
def test_what_is_no_history(fastforget: CommandLine, model_folder: Path, command: str, text: str, fault: str) -> None:
    one_shot(model_with_codes()[0], MnemonicCodes.load("codes.safetensors"), 2).save("r.safetensors")
    rewrite("net.safetensors", {KEY: text})
    output = ("--output", "new.safetensors")
    arguments = {
        "forget": FORGET[1:],
        "apply": (*NET, "--receipt", "r.safetensors", *output),
        "embed-check": (*NET, *CODES),
    }
    line = fastforget.error_line(command, *arguments[command])
    assert line.startswith(f"`net.safetensors` has a history of edits that cannot be read: {fault}")
