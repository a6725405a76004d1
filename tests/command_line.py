"""The command line in this process, and a folder such as its users have."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from known_codes import convnet, knowing, mlp
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
    """What a command said, and its exit status."""

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
        # of `python -m pytest`, which would get into the usage line
        self._monkeypatch.setattr(sys.modules["__main__"], "__package__", None, raising=False)
        with pytest.raises(SystemExit) as ended:
            cli.main()
        status: Any = ended.value.code or 0
        said = self._capsys.readouterr()
        if isinstance(status, str):  # Python prints it to standard error, and exits with status 1
            return Outcome(1, said.out, f"{said.err}{status}\n")
        return Outcome(status, said.out, said.err)

    def done(self, *arguments: str) -> str:
        """Return what a command printed that did what it was asked for."""
        outcome = self(*arguments)
        assert (outcome.status, outcome.err.replace(_PRINTED, "")) == (0, "")
        return outcome.out

    def refused(self, *arguments: str) -> str:
        """Return the one line of a command that failed, after which every file is what it was before."""
        before = snapshot(Path())
        outcome = self(*arguments)
        assert (outcome.status, outcome.out) == (1, "")
        assert snapshot(Path()) == before
        line = outcome.err.replace(_PRINTED, "")
        assert line.startswith("fastforget: ")
        assert line.count("\n") == 1
        return line.removeprefix("fastforget: ").rstrip("\n")


_PRINTED = "this must not get between the command and those who read its output\n"


def snapshot(folder: Path) -> dict[str, bytes]:
    """The files in a folder; not what Python keeps there of modules."""
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}


def fill(folder: Path) -> MnemonicCodes:
    """Write factories, the checkpoints of two networks that know their codes, and the codes."""
    (folder / "nets.py").write_text(NETS)
    for name, build in (("net", mlp), ("conv", convnet)):
        model, codes = knowing(build)
        save_model(model, str(folder / f"{name}.safetensors"), metadata=dict(METADATA))
        codes.save(folder / ("codes.safetensors" if name == "net" else "conv-codes.safetensors"))
    codes = knowing()[1]
    save_file({"inputs": codes.inputs.clone(), "targets": codes.labels}, folder / "samples.safetensors")
    return codes
