"""`forget`, `apply` and `revert` refuse wrong requests in one line, and then change no file."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from cli.command_line import CODES, FORGET, NET, CommandLine, snapshot
from safetensors.torch import load_file, save_file

from fastforget import MnemonicCodes
from fastforget.cli import checkpoints


@pytest.mark.parametrize("option", [("--floor", "0.5"), ("--validation", "samples.safetensors")])
def test_a_floor_needs_samples_and_samples_a_floor(
    fastforget: CommandLine, model_folder: Path, option: tuple[str, str]
) -> None:
    outcome = fastforget(*FORGET, *option)
    assert outcome.status == 2
    assert "must be given together" in outcome.err


@pytest.mark.parametrize("both", [(), ("--output", "new.safetensors", "--in-place")])
def test_either_an_output_or_in_place(fastforget: CommandLine, model_folder: Path, both: tuple[str, ...]) -> None:
    before = snapshot(model_folder)
    outcome = fastforget("apply", *NET, "--receipt", "forgot.safetensors", *both)
    assert outcome.status == 2
    assert "either `--output` or" in outcome.err
    assert snapshot(model_folder) == before


@pytest.mark.parametrize(
    ("output", "receipt", "line"),
    [
        ("net.safetensors", "r", "`--output` must not be a file that is read, got net.safetensors; `--in-place`"),
        ("./net.safetensors", "r", "`--output` must not be a file that is read, got net.safetensors; `--in-place`"),
        ("n", "codes.safetensors", "`--receipt` must not be a file that is read, got codes.safetensors"),
        ("n", "net.safetensors", "`--receipt` must not be a file that is read, got net.safetensors"),
        ("n", "n", "`--output` must not be that of `--receipt` as well, got n"),
        ("no/n", "r", "`--output` must be in a folder that exists, got no/n"),
        ("n", "no/r", "`--receipt` must be in a folder that exists, got no/r"),
        ("folder", "r", "`--output` must be a file, got the folder folder"),
    ],
)
def test_files_that_must_not_be_written(
    fastforget: CommandLine, model_folder: Path, output: str, receipt: str, line: str
) -> None:
    Path("folder").mkdir()
    command = ("forget", *NET, *CODES, "--cls", "2", "--output", output, "--receipt", receipt)
    assert fastforget.error_line(*command, "--force").startswith(line)


@pytest.mark.parametrize("exists", ["new.safetensors", "forgot.safetensors"])
def test_files_that_exist_are_overwritten_only_if_asked(
    fastforget: CommandLine, model_folder: Path, exists: str
) -> None:
    Path(exists).write_text("precious")
    assert "must be a new file" in fastforget.error_line(*FORGET)
    fastforget.output(*FORGET, "--force")
    assert Path(exists).read_bytes()[:8] != b"precious"


@pytest.mark.parametrize(
    ("model", "line"),
    [
        ("nots:mlp", "`--model` must name a module that can be imported, got 'nots': No module named 'nots'"),
        ("faulty:mlp", "`--model` must name a module that can be imported, got 'faulty': division by zero"),
        ("nets:cnn", "`--model` must name a function of module nets, got 'cnn', which it lacks"),
        ("nets:number", "`--model` must name a function that makes a module, got 'number', a int"),
        ("nets:made", "`--model` must name a function that makes a module, got 'made', a Sequential"),
        ("nets:with_arguments", "`--model` must name a function without arguments, got 'with_arguments': missing a re"),
        ("nets:broken", "`--model` nets:broken failed: KeyError: 'weights'"),
        ("nets:nothing", "`--model` must return a torch.nn.Module, got NoneType from nets:nothing"),
        (
            "nets:convnet",
            "`net.safetensors` must hold the tensors of nets:convnet, but it lacks `1.weight`, `1.bias`, ",
        ),
        (
            "nets:double",
            "`net.safetensors` must hold `0.bias` as torch.float64 of shape (64,), as nets:double makes it",
        ),
        ("nets:on_meta", "`--model` must return a module that holds values, got `0.bias` on the meta device"),
        ("nets:without_parameters", "`net.safetensors` must hold the tensors of nets:without_parameters, but it has "),
    ],
)
def test_factories_that_do_not_fit(fastforget: CommandLine, model_folder: Path, model: str, line: str) -> None:
    Path("faulty.py").write_text("1 / 0")
    command = [model if word == "nets:mlp" else word for word in FORGET]
    assert fastforget.error_line(*command).startswith(line)


@pytest.mark.parametrize("model", ["nets", "nets:", ":mlp", "nets.mlp"])
def test_a_factory_without_both_parts_is_a_usage_error(fastforget: CommandLine, model_folder: Path, model: str) -> None:
    outcome = fastforget(*(model if word == "nets:mlp" else word for word in FORGET))
    assert outcome.status == 2
    assert "package.module:function" in outcome.err


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (lambda t: t.pop("2.bias"), "it lacks `2.bias`"),
        (lambda t: t.update(extra=torch.ones(2)), "it has `extra` besides"),
        (lambda t: t.update(b=t.pop("0.bias")), "it lacks `0.bias` and it has `b` besides"),
        (
            lambda t: t.update({"0.bias": torch.ones(65)}),
            "must hold `0.bias` as torch.float32 of shape (64,), as nets:",
        ),
        (lambda t: t.update({"0.bias": t["0.bias"].bfloat16()}), "got torch.bfloat16 of (64,)"),
    ],
)
def test_checkpoints_that_do_not_fit(fastforget: CommandLine, model_folder: Path, change: Any, line: str) -> None:
    tensors = load_file("net.safetensors")
    change(tensors)
    save_file(tensors, "net.safetensors")
    assert line in fastforget.error_line(*FORGET)


@pytest.mark.parametrize("name", ["net.safetensors", "codes.safetensors"])
@pytest.mark.parametrize("fault", ["missing", "cut short", "a folder"])
def test_files_that_cannot_be_read(fastforget: CommandLine, model_folder: Path, name: str, fault: str) -> None:
    content = Path(name).read_bytes()
    Path(name).unlink()
    if fault == "cut short":
        Path(name).write_bytes(content[: len(content) // 2])
    elif fault == "a folder":
        Path(name).mkdir()
    assert name in fastforget.error_line(*FORGET)


def test_a_receipt_that_is_none(fastforget: CommandLine, model_folder: Path) -> None:
    command = ("apply", *NET, "--output", "new.safetensors", "--receipt")
    assert "No such file" in fastforget.error_line(*command, "forgot.safetensors")
    line = fastforget.error_line(*command, "codes.safetensors")
    assert line.startswith("`codes.safetensors` is not a usable receipt: the header's `format`")


@pytest.mark.parametrize("cls", [("--cls", "4"), ("--cls", "2"), ("--cls", "0", "--cls", "1", "--cls", "3")])
def test_classes_that_cannot_be_forgotten(fastforget: CommandLine, model_folder: Path, cls: tuple[str, ...]) -> None:
    assert fastforget.error_line(*FORGET, *cls).startswith("`cls` must ")


def test_unknown_codes_are_refused(fastforget: CommandLine, model_folder: Path) -> None:
    MnemonicCodes.generate(4, (6,), seed=9).save("codes.safetensors")
    assert fastforget.error_line(*FORGET).startswith("`--codes` must be known to the model")


@pytest.mark.parametrize("in_place", [False, True])
def test_an_interrupt_while_writing_leaves_no_file(
    fastforget: CommandLine, model_folder: Path, monkeypatch: pytest.MonkeyPatch, in_place: bool
) -> None:
    def interrupted(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGINT)

    before = snapshot(model_folder)
    monkeypatch.setattr(checkpoints, "save_file", interrupted)
    command = [word for word in FORGET if not in_place or word not in ("--output", "new.safetensors")]
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background ignores it
    try:
        outcome = fastforget(*command, *(["--in-place"] if in_place else []))
    finally:
        signal.signal(signal.SIGINT, usual)
    assert outcome.status not in (0, 2)
    assert snapshot(model_folder) == before


@pytest.mark.parametrize("command", [FORGET, (*FORGET, "--force")])
def test_a_failure_while_writing_leaves_no_file(
    fastforget: CommandLine, model_folder: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    def full(tensors: Any, path: Path, metadata: Any) -> None:
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    if "--force" in command:
        Path("new.safetensors").write_text("precious")
        Path("forgot.safetensors").write_text("precious")
    monkeypatch.setattr(checkpoints, "save_file", full)
    assert fastforget.error_line(*command) == "[Errno 28] No space left on device"


def test_a_checkpoint_of_torch_save_is_not_read(fastforget: CommandLine, model_folder: Path) -> None:
    torch.save({"weight": torch.zeros(2)}, "net.pt")
    line = fastforget.error_line(
        *("embed-check", "--model", "nets:mlp", "--checkpoint", "net.pt", "--codes", "codes.safetensors")
    )
    assert "it seems to be of torch.save" in line
    assert 'torch.load("net.pt", weights_only=True), "net.safetensors")' in line
