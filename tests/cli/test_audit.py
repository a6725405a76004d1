"""`fastforget audit`."""

import contextlib
import json
import os
import struct
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from cli.command_line import CODES, FORGET, CommandLine
from learners import CLASSES, FRESH, MEMBERS, OTHERS, SIZE, batches, learner
from safetensors.torch import load_file, save_file, save_model

from fastforget import MnemonicCodes, audit

NETS = f"""
from torch import nn


def learner():
    return nn.Sequential(
        nn.Linear({SIZE}, 96), nn.BatchNorm1d(96), nn.ReLU(), nn.Dropout(0.1), nn.Linear(96, {CLASSES})
    )
"""
ROOT = Path(__file__).parents[2]
MODEL = ("audit", "--model", "nets:learner", "--checkpoint", "net.safetensors")
DATA = ("--forget", "forget.safetensors", "--remain", "remain.safetensors", "--test", "test.safetensors")


@pytest.fixture
def audit_folder(folder: Path) -> Path:
    """A network that remembers its training data, and the samples of an audit."""
    (folder / "nets.py").write_text(NETS)
    save_model(learner(), str(folder / "net.safetensors"))
    torch.manual_seed(0)
    save_model(learner().apply(_reset), str(folder / "other.safetensors"))
    for name, (inputs, targets) in {"forget": MEMBERS, "remain": MEMBERS, "test": OTHERS, "fresh": FRESH}.items():
        save_file({"inputs": inputs, "targets": targets}, folder / f"{name}.safetensors")
    return folder


def _reset(module: torch.nn.Module) -> None:
    if isinstance(module, torch.nn.Linear):
        module.reset_parameters()


def test_classes_by_name(fastforget: CommandLine, audit_folder: Path) -> None:
    (audit_folder / "names.txt").write_text("ape\nbee\ncow\ndeer\n")
    outcome = fastforget(*MODEL, *DATA, "--relearning-steps", "0", "--names", "names.txt", "--json")
    assert json.loads(outcome.out)["class_names"] == ["ape", "bee", "cow", "deer"]
    (audit_folder / "names.txt").write_text("ape\nbee\n")
    line = fastforget.error_line(*MODEL, *DATA, "--names", "names.txt")
    assert line.endswith("names` must be of 4 classes, got 2")


def test_the_report_is_the_librarys_and_findings_are_status_1(fastforget: CommandLine, audit_folder: Path) -> None:
    outcome = fastforget(*MODEL, *DATA, "--original", "net.safetensors", "--retrained", "other.safetensors", "--json")
    assert (outcome.status, outcome.err) == (1, "")
    found = json.loads(outcome.out)
    torch.manual_seed(0)
    other = learner().apply(_reset)
    parts = (batches(data, size=256) for data in (MEMBERS, MEMBERS, OTHERS))
    report = audit(learner(), *parts, original=learner(), retrained=other)
    expected = json.loads(json.dumps(report.describe()))
    assert "remembers" in {finding["kind"] for finding in found["findings"]}
    assert {key: found[key] for key in found if key not in ("created", "seconds")} == {
        key: expected[key] for key in expected if key not in ("created", "seconds")
    }


def test_findings_are_printed_with_the_table(fastforget: CommandLine, audit_folder: Path) -> None:
    outcome = fastforget(*MODEL, *DATA, "--relearning-steps", "0", "--batch-size", "64")
    assert (outcome.status, outcome.err) == (1, "")
    assert outcome.out.startswith("Audit report\n")
    assert "! remembers: the attack by loss has an area of " in outcome.out
    assert "relearning steps" not in outcome.out


def test_samples_that_were_never_seen_give_no_finding(fastforget: CommandLine, audit_folder: Path) -> None:
    printed = fastforget.output(*MODEL, *(word.replace("forget.s", "fresh.s") for word in DATA), "--html", "audit.html")
    assert printed.endswith("nothing found that speaks against the model\n")
    page = Path("audit.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    line = fastforget.error_line(*MODEL, *DATA, "--html", "audit.html")
    assert line.startswith("`--html` must be a new file, got audit.html")
    line = fastforget.error_line(*MODEL, *DATA, "--html", "net.safetensors", "--force")
    assert line == "`--html` must not be a file that is read, got net.safetensors"


def test_classes_that_the_model_never_saw(fastforget: CommandLine, audit_folder: Path) -> None:
    """The samples to forget are all there are of class 1 here; the novel ones are numbered anew."""
    known, fresh = load_file("forget.safetensors"), load_file("fresh.safetensors")
    x, y = known["inputs"], known["targets"]
    save_file({"inputs": x[y == 1], "targets": y[y == 1]}, "ones.safetensors")
    save_file({"inputs": x[y != 1], "targets": y[y != 1]}, "others.safetensors")
    save_file({"inputs": 3 - fresh["inputs"][:40], "targets": torch.arange(40) % 2}, "novel.safetensors")
    data = ["--forget", "ones.safetensors", "--remain", "others.safetensors", "--test", "fresh.safetensors"]
    found = json.loads(fastforget(*MODEL, *data, "--novel", "novel.safetensors", "--json").out)
    assert len(found["metrics"]["linear probe"]["novel"]) == 2
    save_file({"inputs": fresh["inputs"][:5], "targets": torch.zeros(5, dtype=torch.int64)}, "few.safetensors")
    line = fastforget.error_line(*MODEL, *data, "--novel", "few.safetensors")
    assert line.endswith("must hold at least 20 samples of each class, got 5 of class 0")


def test_a_terminal_shows_how_far_it_is(audit_folder: Path) -> None:
    fcntl, termios = (pytest.importorskip(name) for name in ("fcntl", "termios"))
    reader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    printed = bytearray()

    def listen() -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(reader, 4096):
                printed.extend(part)

    listening = threading.Thread(target=listen)
    listening.start()
    command = [sys.executable, "-m", "fastforget", *MODEL, *DATA, "--batch-size", "16", "--json"]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{audit_folder}"}
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=terminal, check=False, env=environment)  # noqa: S603
    os.close(terminal)
    listening.join(60)
    os.close(reader)
    assert json.loads(done.stdout)["findings"]
    for name in ("forget", "remain", "test"):
        assert f"{name}.safetensors:" in printed.decode()
        assert "/25 [" in printed.decode()


def test_without_matplotlib_it_is_noticed_before_the_work(
    fastforget: CommandLine, audit_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fastforget.cli.audit.find_spec", lambda _: None)
    line = fastforget.error_line(*MODEL, *DATA, "--html", "audit.html")
    assert line == "`--html` needs matplotlib: pip install matplotlib"


def test_codes_are_tried_as_triggers(fastforget: CommandLine, model_folder: Path) -> None:
    fastforget.output(*FORGET)
    codes = MnemonicCodes.load("codes.safetensors")
    of_2 = codes.labels == 2
    parts = {"forget": of_2, "remain": ~of_2, "test": torch.ones_like(of_2)}
    for name, rows in parts.items():
        save_file({"inputs": codes.inputs[rows].clone(), "targets": codes.labels[rows]}, f"{name}.safetensors")
    command = ("audit", "--model", "nets:mlp", "--checkpoint", "new.safetensors", *DATA)
    without, with_codes = (json.loads(fastforget(*command, *more, "--json").out) for more in ((), CODES))
    assert with_codes["metrics"].keys() - without["metrics"].keys() == {"trigger"}


@pytest.mark.parametrize(
    ("tensors", "line"),
    [
        ({"inputs": torch.ones(3, SIZE)}, "must hold `targets`, torch.int64 of shape (N,), got none"),
        (
            {"inputs": torch.ones(3, SIZE), "targets": torch.ones(3)},
            "must hold `targets`, torch.int64 of shape (N,), got torch.float32 of shape (3,)",
        ),
        ({"targets": torch.zeros(3).long()}, "must hold `inputs`, or the arguments of the model by name, got []"),
        (
            {"inputs": torch.ones(3, SIZE), "x": torch.ones(3), "targets": torch.zeros(3).long()},
            "must hold `inputs`, or the arguments of the model by name, got ['inputs', 'x']",
        ),
        (
            {"inputs": torch.ones(4, SIZE), "targets": torch.zeros(3).long()},
            f"must hold as many `inputs` as targets, 3, got shape (4, {SIZE})",
        ),
        (
            {"inputs": torch.ones(3, 2), "targets": torch.zeros(3).long()},
            "must be what the model's forward takes, got samples of shape (2,): ",
        ),
        (
            {"y": torch.ones(3, SIZE), "targets": torch.zeros(3).long()},
            f"must be what the model's forward takes, got samples of shape ({SIZE},): ",
        ),
    ],
)
def test_files_that_hold_no_samples(
    fastforget: CommandLine, audit_folder: Path, tensors: dict[str, torch.Tensor], line: str
) -> None:
    save_file(tensors, "forget.safetensors")
    assert fastforget.error_line(*MODEL, *DATA).startswith(f"`forget.safetensors` {line}")


def test_inputs_by_name(fastforget: CommandLine, audit_folder: Path) -> None:
    # the argument of `nn.Sequential.forward`
    expected = fastforget(*MODEL, *DATA, "--json")
    for name in ("forget", "remain", "test"):
        inputs, targets = OTHERS if name == "test" else MEMBERS
        save_file({"input": inputs.double(), "targets": targets}, f"{name}.safetensors")
    found = fastforget(*MODEL, *DATA, "--json")
    assert json.loads(found.out)["metrics"] == json.loads(expected.out)["metrics"]
