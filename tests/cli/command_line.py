"""Run commands in this process, in a folder with models and codes."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from known_codes import convnet, mlp, model_with_codes
from safetensors.torch import save_file, save_model

from fastforget import MnemonicCodes, cli

NETS = """
import torch
from torch import nn


def mlp():
    print("this must not get between the command and those who read its output")
    return nn.Sequential(nn.Linear(6, 64), nn.Tanh(), nn.Linear(64, 4))


def convnet():
    return nn.Sequential(
        nn.Conv2d(2, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 16, 4)
    )


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.head(self.second(self.first(x).tanh()))


def double():
    return mlp().double()


def on_meta():
    with torch.device("meta"):
        return mlp()


def without_parameters():
    return nn.Identity()


def with_arguments(width):
    return nn.Linear(width, 4)


def broken():
    raise KeyError("weights")


def nothing():
    return None


made = mlp()
number = 3
"""
METADATA = {"trained": "yesterday", "epoch": "12"}
NET = ("--model", "nets:mlp", "--checkpoint", "net.safetensors")
CODES = ("--codes", "codes.safetensors")
FORGET = ("forget", *NET, *CODES, "--cls", "2", "--output", "new.safetensors", "--receipt", "forgot.safetensors")


@dataclass(frozen=True)
class Outcome:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str


class CommandLine:
    """Runs commands as `python -m fastforget` does."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch, self._capsys = monkeypatch, capsys

    def __call__(self, *arguments: str) -> Outcome:
        self._capsys.readouterr()
        self._monkeypatch.setattr(sys, "argv", ["fastforget", *arguments])
        # `python -m pytest` sets it, and the usage line would show it
        self._monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        status: Any = ended.value.code or 0
        printed = self._capsys.readouterr()
        if isinstance(status, str):  # Python prints such a status to standard error, and exits with status 1
            return Outcome(1, printed.out, f"{printed.err}{status}\n")
        return Outcome(status, printed.out, printed.err)

    def output(self, *arguments: str) -> str:
        """Run a command that must succeed, and return what it printed."""
        outcome = self(*arguments)
        assert (outcome.status, outcome.err.replace(_FACTORY_OUTPUT, "")) == (0, "")
        return outcome.out

    def error_line(self, *arguments: str) -> str:
        """Run a command that must fail with one line and change no file, and return that line."""
        before = snapshot(Path())
        outcome = self(*arguments)
        assert (outcome.status, outcome.out) == (1, "")
        assert snapshot(Path()) == before
        line = outcome.err.replace(_FACTORY_OUTPUT, "")
        assert line.startswith("fastforget: ")
        assert line.count("\n") == 1
        return line.removeprefix("fastforget: ").rstrip("\n")


_FACTORY_OUTPUT = "this must not get between the command and those who read its output\n"


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return the content of the files in a folder, without its subfolders."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def write_models(folder: Path) -> MnemonicCodes:
    """Write factories, the checkpoints of two networks, and the codes that they were trained with."""
    (folder / "nets.py").write_text(NETS)
    for name, build in (("net", mlp), ("conv", convnet)):
        model, codes = model_with_codes(build)
        save_model(model, str(folder / f"{name}.safetensors"), metadata=dict(METADATA))
        codes.save(folder / ("codes.safetensors" if name == "net" else "conv-codes.safetensors"))
    codes = model_with_codes()[1]
    save_file({"inputs": codes.inputs.clone(), "targets": codes.labels}, folder / "samples.safetensors")
    return codes
