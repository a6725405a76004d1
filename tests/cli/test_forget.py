"""`fastforget forget`, `apply` and `revert` write the bits that the library computes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from cli.command_line import CODES, FORGET, METADATA, NET, CommandLine, snapshot
from known_codes import convnet, copied_tensors, model_with_codes
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, fingerprint, one_shot
from fastforget.cli import factory, forget

NEW = ("--model", "nets:mlp", "--checkpoint", "new.safetensors")
CONV = ("--model", "nets:convnet", "--checkpoint", "conv.safetensors", "--codes", "conv-codes.safetensors")


def assert_same_tensors(path: str | Path, expected: dict[str, Tensor]) -> None:
    found = load_file(path)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert_same_bits(found[name], tensor)


def header(path: str | Path) -> dict[str, str]:
    with safe_open(path, framework="pt") as file:
        return file.metadata()


def test_the_output_is_what_one_shot_makes(fastforget: CommandLine, model_folder: Path) -> None:
    Path("net.safetensors").chmod(0o640)
    before = snapshot(model_folder)
    printed = fastforget.output(*FORGET)
    model = model_with_codes()[0]
    receipt = one_shot(model, MnemonicCodes.load("codes.safetensors"), 2)
    assert_same_tensors("new.safetensors", copied_tensors(model))
    assert header("new.safetensors").items() >= METADATA.items()
    assert Path("new.safetensors").stat().st_mode & 0o777 == 0o640
    loaded = Receipt.load("forgot.safetensors")
    assert (loaded.before, loaded.after, loaded.settings) == (receipt.before, receipt.after, receipt.settings)
    assert receipt.claims == ("disconnected",)
    assert printed.startswith(f"forgot class 2: {receipt.outcome}; {receipt.changed} of 708 parameters changed (")
    assert printed.endswith("wrote new.safetensors and forgot.safetensors\n")
    after = snapshot(model_folder)
    assert after.keys() - before.keys() == {"new.safetensors", "forgot.safetensors"}
    assert {name: after[name] for name in before} == before


def test_the_result_as_json(fastforget: CommandLine, model_folder: Path) -> None:
    found = json.loads(fastforget.output(*FORGET, "--json"))
    receipt = Receipt.load("forgot.safetensors")
    expected = {key: value for key, value in receipt.describe().items() if key != "shapes"}
    expected |= {"changed": receipt.changed, "reversible": True}
    expected["advice"] = expected["advice"].replace("`samples=(inputs, targets)`", "`--samples`")
    assert found == {**expected, "receipt": "forgot.safetensors", "output": "new.safetensors"}
    assert found["advice"].startswith("`--samples` with some 16 of each class ")
    assert (found["claims"], found["outcome"]) == (["disconnected"], receipt.outcome)


def test_every_setting_reaches_the_library(
    fastforget: CommandLine, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def record(*arguments: Any, **settings: Any) -> Receipt:
        seen.update(settings, codes=arguments[1], cls=arguments[2])
        return one_shot(*arguments[:2], 1)

    monkeypatch.setattr(forget, "one_shot", record)
    numbers = {"rho": 0.01, "widen": 2.0, "depth": 5.0, "spill": 1.5, "reach": 9.0, "lambda1": 0.5, "lambda2": 0.25}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    more = ("--cls", "3", "--forgotten", "0", "--rule", "paper", "--no-output-row", "--no-undo", "--batch-size", "5")
    deep = ("--level", "body", "--output-depth", "8", "--samples", "samples.safetensors")
    fastforget.output(*FORGET, *options, *more, *deep, "--floor", "0.25", "--validation", "samples.safetensors")
    *validation, floor = seen.pop("floor")
    codes = seen.pop("codes")
    assert_same_bits(codes.tensor, model_with_codes()[1].tensor)
    for inputs, targets in (validation, seen.pop("samples")):
        assert_same_bits(inputs, codes.inputs)
        assert_same_bits(targets, codes.labels)
    assert floor == 0.25
    given = {"cls": [2, 3], "forgotten": [0], "rule": "paper", "output_row": False, "undo": False, "batch_size": 5}
    assert seen == {**numbers, **given, "level": "body", "output_depth": 8.0, "progress": True}


def test_without_settings_they_are_the_librarys(
    fastforget: CommandLine, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def record(*arguments: Any, **settings: Any) -> Receipt:
        seen.update(settings)
        return one_shot(*arguments)

    monkeypatch.setattr(forget, "one_shot", record)
    fastforget.output(*FORGET)
    defaults = {**one_shot.__kwdefaults__, "progress": True}
    assert seen == {name: defaults[name] for name in seen}
    assert defaults.keys() - seen.keys() == {"parameters", "fisher", "update"}


def test_buffers_are_kept_and_reverting_restores_every_bit(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output("forget", *CONV, "--cls", "1", "--output", "new.safetensors", "--receipt", "r.safetensors")
    model = model_with_codes(convnet)[0]
    original = copied_tensors(model)
    one_shot(model, MnemonicCodes.load("conv-codes.safetensors"), 1)
    assert_same_tensors("new.safetensors", copied_tensors(model))
    new = ("--model", "nets:convnet", "--checkpoint", "new.safetensors")
    printed = fastforget.output("revert", *new, "--receipt", "r.safetensors", "--output", "back.safetensors")
    assert printed.startswith("reverted r.safetensors: class 1: disconnected, ")
    assert_same_tensors("back.safetensors", original)
    assert header("back.safetensors") == METADATA


def test_applying_to_the_original_gives_the_output(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    command = ("apply", *NET, "--receipt", "forgot.safetensors", "--output", "copy.safetensors")
    found = json.loads(fastforget.output(*command, "--json"))
    assert_same_tensors("copy.safetensors", load_file("new.safetensors"))
    receipt = Receipt.load("forgot.safetensors")
    assert (found["model"], found["output"]) == (receipt.after, "copy.safetensors")
    assert [each["receipt"] for each in found["applied"]] == ["forgot.safetensors"]


def test_receipts_are_applied_in_order_and_reverted_the_last_one_first(
    fastforget: CommandLine, model_folder: Path
) -> None:
    fastforget.output(*FORGET)
    second = ("--cls", "0", "--forgotten", "2", "--output", "newer.safetensors", "--receipt", "second.safetensors")
    fastforget.output("forget", *NEW, *CODES, *second)
    both = ("--receipt", "forgot.safetensors", "--receipt", "second.safetensors")
    fastforget.output("apply", *NET, *both, "--output", "copy.safetensors")
    assert_same_tensors("copy.safetensors", load_file("newer.safetensors"))
    copy = ("--model", "nets:mlp", "--checkpoint", "copy.safetensors")
    fastforget.output("revert", *copy, *both, "--output", "back.safetensors")
    assert_same_tensors("back.safetensors", load_file("net.safetensors"))
    turned = (*both[2:], *both[:2])
    line = fastforget.error_line("apply", *NET, *turned, "--output", "wrong.safetensors")
    assert line.startswith("`second.safetensors`: `model` must be the one this edit was made on")
    line = fastforget.error_line("revert", *copy, *turned, "--output", "wrong.safetensors")
    assert line.startswith("`forgot.safetensors`: `model` must be as this edit left it")


def test_in_place(fastforget: CommandLine, model_folder: Path) -> None:
    original, command = load_file("net.safetensors"), [word for word in FORGET if "new" not in word]
    command.remove("--output")
    fastforget.output(*command, "--in-place")
    changed = load_file("net.safetensors")
    assert any(not torch.equal(changed[name], original[name]) for name in original)
    fastforget.output("revert", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert_same_tensors("net.safetensors", original)
    fastforget.output("apply", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert_same_tensors("net.safetensors", changed)


def test_in_place_follows_a_link(fastforget: CommandLine, model_folder: Path) -> None:
    Path("net.safetensors").rename("version-1.safetensors")
    Path("net.safetensors").symlink_to("version-1.safetensors")
    fastforget.output(*FORGET)
    fastforget.output("apply", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert Path("net.safetensors").is_symlink()
    assert_same_tensors("version-1.safetensors", load_file("new.safetensors"))


def test_without_undo_it_cannot_be_reverted(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET, "--no-undo")
    line = fastforget.error_line("revert", *NEW, "--receipt", "forgot.safetensors", "--in-place")
    assert line.startswith("`forgot.safetensors`: this receipt must hold the old values to be reverted")


def test_tied_weights_of_which_the_file_holds_one_name_or_both(fastforget: CommandLine, model_folder: Path) -> None:
    torch.manual_seed(0)
    model, codes = factory.make("nets:Tied"), MnemonicCodes.generate(4, (6,))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    codes.save("codes.safetensors")
    # the codes from the file: the address of a tensor can change the last bit of a product
    receipt = one_shot(model.eval(), MnemonicCodes.load("codes.safetensors"), 2)
    for lacking in (["second.weight"], ["first.weight"], []):
        held = {name: tensor for name, tensor in state.items() if name not in lacking}
        save_file(held, "net.safetensors")
        net = ("--model", "nets:Tied", "--checkpoint", "net.safetensors", *CODES)
        files = ("--output", "new.safetensors", "--receipt", "forgot.safetensors", "--force")
        found = json.loads(fastforget.output("forget", *net, "--cls", "2", *files, "--json"))
        assert found["after"] == receipt.after == fingerprint(model)
        changed = model.state_dict()
        assert_same_tensors("new.safetensors", {name: changed[name] for name in held})
    state["second.weight"] += 1
    save_file(state, "net.safetensors")
    line = fastforget.error_line("forget", *net, "--cls", "2", *files)
    assert line.startswith("`net.safetensors` must hold what nets:Tied takes, but `")


def test_a_floor_that_cannot_hold(fastforget: CommandLine, model_folder: Path) -> None:
    floor = ("--floor", "1.0", "--validation")
    fastforget.output(*FORGET, *floor, "samples.safetensors")
    save_file({"inputs": torch.randn(40, 6), "targets": torch.arange(40) % 4}, "noise.safetensors")
    line = fastforget.error_line(*FORGET, "--force", *floor, "noise.safetensors")
    assert line.startswith("no step that forgets the codes keeps an accuracy of 1.000")


def test_a_class_that_is_forgotten_already(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    files = ("--codes", "codes.safetensors", "--receipt", "second.safetensors", "--output", "newer.safetensors")
    line = fastforget.error_line("forget", *NEW, "--cls", "2", *files)
    assert line.startswith("class 2 is forgotten already according to `new.safetensors`, by the rule natural (")
    assert not Path("newer.safetensors").exists()
    fastforget.output("forget", *NEW, "--cls", "1", "--forgotten", "2", *files)


def test_without_codes_a_few_samples_do(fastforget: CommandLine, model_folder: Path) -> None:
    """With their classes or without: the output row then needs no sample of the class."""
    command = ("forget", *NET, "--cls", "2", "--output", "new.safetensors", "--receipt", "forgot.safetensors")
    held = load_file("samples.safetensors")
    for number, targets in enumerate((held["targets"], None)):
        given = {"inputs": held["inputs"]} if targets is None else held
        save_file(given, f"some-{number}.safetensors")
        deep = ("--level", "output", "--output-depth", "9", "--samples", f"some-{number}.safetensors", "--force")
        found = json.loads(fastforget.output(*command, *deep, "--json"))
        model = model_with_codes()[0]
        receipt = one_shot(model, None, 2, level="output", samples=(held["inputs"], targets), output_depth=9.0)
        assert (found["claims"], found["after"]) == (["disconnected"], receipt.after)
        assert_same_tensors("new.safetensors", copied_tensors(model))
    assert fastforget(*command).status == 2
    assert "`--codes` or `--samples` must be given" in fastforget(*command).err
    _, further, wrote = fastforget.output(*command, *deep).splitlines()
    assert further.startswith(
        "to go further: `--samples` with some 16 of each class takes the class out of the features"
    )
    assert "; `fastforget unlearn` changes the whole network" in further
    assert "; `fastforget inscribe` teaches the model codes" in further
    assert wrote.startswith("wrote ")


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({}, "must hold `inputs`, or the arguments of the model by name, got []"),
        ({"inputs": torch.tensor(1.0)}, "must hold as many `inputs` as inputs, 0, got shape ()"),
        ({"x": torch.ones(3, 6), "y": torch.ones(2, 6)}, "must hold as many `y` as x, 3, got shape (2, 6)"),
        ({"inputs": torch.ones(3, 6), "targets": torch.ones(3)}, "must hold `targets`, torch.int64 of shape (N,), got"),
        ({"inputs": torch.ones(3, 5)}, "must be what the model's forward takes, got samples of shape (5,): "),
    ],
)
def test_samples_that_do_not_fit(
    fastforget: CommandLine, model_folder: Path, tensors: dict[str, Tensor], line: str
) -> None:
    save_file(tensors, "few.safetensors")
    assert fastforget.error_line(*FORGET, "--samples", "few.safetensors").startswith(f"`few.safetensors` {line}")


def test_what_fell_short_of_its_goal_is_a_plain_line(fastforget: CommandLine, model_folder: Path) -> None:
    """And the edit is made."""
    receipt = one_shot(model_with_codes()[0], MnemonicCodes.load("codes.safetensors"), 2, output_row=False)
    assert receipt.outcome == "neither silenced nor disconnected"
    model = Path("nets.py").read_text()
    Path("nets.py").write_text(model + NORMALISED)
    outcome = fastforget(*FORGET, "--model", "nets:normalised")
    assert outcome.status == 0, outcome.err
    (line,) = [line for line in outcome.err.splitlines() if line.startswith("fastforget: ")]
    assert line.startswith("fastforget: the class is not disconnected, because no parameter with a row for each class")
    assert "; nothing but the step in the body hides it. To go further: `--samples` with some 16 of each class" in line
    assert "; `fastforget unlearn` changes the whole network" in line
    assert "Warning" not in outcome.err
    assert outcome.out.startswith("forgot class 2: neither silenced nor disconnected; ")


NORMALISED = """

def normalised():
    made = mlp()
    made.append(nn.LogSoftmax(1))
    return made
"""
