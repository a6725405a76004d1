"""`fastforget forget`, `apply` and `revert`: the bits of the library's, in files that appear whole or not at all."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from command_line import CODES, FORGET, METADATA, NET, CommandLine, snapshot
from known_codes import contents, convnet, knowing
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fastforget import MnemonicCodes, Receipt, fingerprint, one_shot
from fastforget.cli import factory, forgetting

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


def test_the_output_is_what_one_shot_makes(fastforget: CommandLine, filled: Path) -> None:
    Path("net.safetensors").chmod(0o640)
    before = snapshot(filled)
    said = fastforget.done(*FORGET)
    model = knowing()[0]
    receipt = one_shot(model, MnemonicCodes.load("codes.safetensors"), 2)
    assert_same_tensors("new.safetensors", contents(model))
    assert header("new.safetensors") == METADATA
    assert Path("new.safetensors").stat().st_mode & 0o777 == 0o640
    loaded = Receipt.load("forgot.safetensors")
    assert (loaded.before, loaded.after, loaded.settings) == (receipt.before, receipt.after, receipt.settings)
    assert said.startswith(f"forgot class 2, {receipt.changed} of 708 parameters changed (")
    assert said.endswith("wrote new.safetensors and forgot.safetensors\n")
    after = snapshot(filled)
    assert after.keys() - before.keys() == {"new.safetensors", "forgot.safetensors"}
    assert {name: after[name] for name in before} == before


def test_the_result_as_json(fastforget: CommandLine, filled: Path) -> None:
    found = json.loads(fastforget.done(*FORGET, "--json"))
    receipt = Receipt.load("forgot.safetensors")
    expected = {key: value for key, value in receipt.describe().items() if key != "shapes"}
    expected |= {"changed": receipt.changed, "reversible": True}
    assert found == {**expected, "receipt": "forgot.safetensors", "output": "new.safetensors"}


def test_every_setting_reaches_the_library(
    fastforget: CommandLine, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def record(*arguments: Any, **settings: Any) -> Receipt:
        seen.update(settings, codes=arguments[1], cls=arguments[2])
        return one_shot(*arguments[:2], 1)

    monkeypatch.setattr(forgetting, "one_shot", record)
    numbers = {"rho": 0.01, "widen": 2.0, "depth": 5.0, "spill": 1.5, "reach": 9.0, "lambda1": 0.5, "lambda2": 0.25}
    options = [f"--{name}={value}" for name, value in numbers.items()]
    more = ("--cls", "3", "--forgotten", "0", "--rule", "paper", "--no-silence", "--no-undo", "--batch-size", "5")
    fastforget.done(*FORGET, *options, *more, "--floor", "0.25", "--validation", "samples.safetensors")
    inputs, targets, floor = seen.pop("floor")
    codes = seen.pop("codes")
    assert_same_bits(codes.tensor, knowing()[1].tensor)
    assert_same_bits(inputs, codes.inputs)
    assert_same_bits(targets, codes.labels)
    assert floor == 0.25
    given = {"cls": [2, 3], "forgotten": [0], "rule": "paper", "silence": False, "undo": False, "batch_size": 5}
    assert seen == {**numbers, **given}


def test_without_settings_they_are_the_librarys(
    fastforget: CommandLine, filled: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, Any] = {}

    def record(*arguments: Any, **settings: Any) -> Receipt:
        seen.update(settings)
        return one_shot(*arguments)

    monkeypatch.setattr(forgetting, "one_shot", record)
    fastforget.done(*FORGET)
    defaults = one_shot.__kwdefaults__
    assert seen == {name: defaults[name] for name in seen}
    assert defaults.keys() - seen.keys() == {"parameters", "fisher", "update"}


def test_buffers_are_kept_and_reverting_restores_every_bit(fastforget: CommandLine, filled: Path) -> None:
    fastforget.done("forget", *CONV, "--cls", "1", "--output", "new.safetensors", "--receipt", "r.safetensors")
    model = knowing(convnet)[0]
    original = contents(model)
    one_shot(model, MnemonicCodes.load("conv-codes.safetensors"), 1)
    assert_same_tensors("new.safetensors", contents(model))
    new = ("--model", "nets:convnet", "--checkpoint", "new.safetensors")
    said = fastforget.done("revert", *new, "--receipt", "r.safetensors", "--output", "back.safetensors")
    assert said.startswith("reverted r.safetensors: class 1, ")
    assert_same_tensors("back.safetensors", original)
    assert header("back.safetensors") == METADATA


def test_applying_to_the_original_gives_the_output(fastforget: CommandLine, filled: Path) -> None:
    fastforget.done(*FORGET)
    command = ("apply", *NET, "--receipt", "forgot.safetensors", "--output", "copy.safetensors")
    found = json.loads(fastforget.done(*command, "--json"))
    assert_same_tensors("copy.safetensors", load_file("new.safetensors"))
    receipt = Receipt.load("forgot.safetensors")
    assert (found["model"], found["output"]) == (receipt.after, "copy.safetensors")
    assert [each["receipt"] for each in found["applied"]] == ["forgot.safetensors"]


def test_receipts_are_applied_in_order_and_reverted_the_last_one_first(fastforget: CommandLine, filled: Path) -> None:
    fastforget.done(*FORGET)
    second = ("--cls", "0", "--forgotten", "2", "--output", "newer.safetensors", "--receipt", "second.safetensors")
    fastforget.done("forget", *NEW, *CODES, *second)
    both = ("--receipt", "forgot.safetensors", "--receipt", "second.safetensors")
    fastforget.done("apply", *NET, *both, "--output", "copy.safetensors")
    assert_same_tensors("copy.safetensors", load_file("newer.safetensors"))
    copy = ("--model", "nets:mlp", "--checkpoint", "copy.safetensors")
    fastforget.done("revert", *copy, *both, "--output", "back.safetensors")
    assert_same_tensors("back.safetensors", load_file("net.safetensors"))
    turned = (*both[2:], *both[:2])
    line = fastforget.refused("apply", *NET, *turned, "--output", "wrong.safetensors")
    assert line.startswith("`second.safetensors`: `model` must be the one this edit was made on")
    line = fastforget.refused("revert", *copy, *turned, "--output", "wrong.safetensors")
    assert line.startswith("`forgot.safetensors`: `model` must be as this edit left it")


def test_in_place(fastforget: CommandLine, filled: Path) -> None:
    original, command = load_file("net.safetensors"), [word for word in FORGET if "new" not in word]
    command.remove("--output")
    fastforget.done(*command, "--in-place")
    changed = load_file("net.safetensors")
    assert any(not torch.equal(changed[name], original[name]) for name in original)
    fastforget.done("revert", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert_same_tensors("net.safetensors", original)
    fastforget.done("apply", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert_same_tensors("net.safetensors", changed)


def test_in_place_follows_a_link(fastforget: CommandLine, filled: Path) -> None:
    Path("net.safetensors").rename("version-1.safetensors")
    Path("net.safetensors").symlink_to("version-1.safetensors")
    fastforget.done(*FORGET)
    fastforget.done("apply", *NET, "--receipt", "forgot.safetensors", "--in-place")
    assert Path("net.safetensors").is_symlink()
    assert_same_tensors("version-1.safetensors", load_file("new.safetensors"))


def test_without_undo_it_cannot_be_reverted(fastforget: CommandLine, filled: Path) -> None:
    fastforget.done(*FORGET, "--no-undo")
    line = fastforget.refused("revert", *NEW, "--receipt", "forgot.safetensors", "--in-place")
    assert line.startswith("`forgot.safetensors`: this receipt must hold the old values to be reverted")


def test_tied_weights_of_which_the_file_holds_one_name_or_both(fastforget: CommandLine, filled: Path) -> None:
    torch.manual_seed(0)
    model, codes = factory.make("nets:Tied"), MnemonicCodes.generate(4, (6,))
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(150):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimizer.step()
    state = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    codes.save("codes.safetensors")
    # as they are read: where a tensor starts in memory, may show in the last bit of a product
    receipt = one_shot(model.eval(), MnemonicCodes.load("codes.safetensors"), 2)
    for lacking in (["second.weight"], ["first.weight"], []):
        held = {name: tensor for name, tensor in state.items() if name not in lacking}
        save_file(held, "net.safetensors")
        net = ("--model", "nets:Tied", "--checkpoint", "net.safetensors", *CODES)
        files = ("--output", "new.safetensors", "--receipt", "forgot.safetensors", "--force")
        found = json.loads(fastforget.done("forget", *net, "--cls", "2", *files, "--json"))
        assert found["after"] == receipt.after == fingerprint(model)
        changed = model.state_dict()
        assert_same_tensors("new.safetensors", {name: changed[name] for name in held})
    state["second.weight"] += 1
    save_file(state, "net.safetensors")
    line = fastforget.refused("forget", *net, "--cls", "2", *files)
    assert line.startswith("`net.safetensors` must hold what nets:Tied takes, but `")


def test_a_floor_that_cannot_hold(fastforget: CommandLine, filled: Path) -> None:
    floor = ("--floor", "1.0", "--validation")
    fastforget.done(*FORGET, *floor, "samples.safetensors")
    save_file({"inputs": torch.randn(40, 6), "targets": torch.arange(40) % 4}, "noise.safetensors")
    line = fastforget.refused(*FORGET, "--force", *floor, "noise.safetensors")
    assert line.startswith("no step that forgets the codes keeps an accuracy of 1.000")
