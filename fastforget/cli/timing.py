"""`fastforget bench`."""

import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import quantiles
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import nn

from fastforget.batch import forward, logits_of
from fastforget.cli import checkpoints
from fastforget.cli.options import Checkpoint, Codes, Forgotten, Json, Model
from fastforget.cli.outputs import show, table
from fastforget.cli.progress import shown
from fastforget.codes import MnemonicCodes
from fastforget.fisher import fisher_diagonal
from fastforget.forgetting.code_batch import LiveCodes, examine, prepare
from fastforget.losses import ScaledCrossEntropy
from fastforget.model import watched_parameters
from fastforget.one_shot import one_shot
from fastforget.receipt import Receipt

__all__ = ["bench"]

_WARM_UP = 2
_YARDSTICK = "forward and backward"


def bench(
    model: Model,
    checkpoint: Checkpoint,
    codes: Codes,
    cls: Annotated[int, typer.Option("--cls", metavar="CLASS", min=0, help="The class to forget.")],
    forgotten: Forgotten = None,
    rounds: Annotated[int, typer.Option(min=3, help="How often each is timed.")] = 20,
    as_json: Json = False,
) -> None:
    """Time forgetting on this machine, beside a forward and backward pass of the codes.

    Nothing is written: after each round the edit is undone.
    """
    known, gone = MnemonicCodes.load(codes), tuple(forgotten or ())
    loaded = checkpoints.load(model, checkpoint).model
    seconds = _alternate(_candidates(loaded, known, cls, gone), loaded, rounds)
    found = {name: _quartiles([1e3 * each for each in times]) for name, times in seconds.items()}
    machine = {
        "threads": torch.get_num_threads(),
        "device": str(next(loaded.parameters()).device),
        "torch": version("torch"),
        "fastforget": version("fastforget"),
    }
    size = {
        "parameters": sum(parameter.numel() for parameter in loaded.parameters()),
        "codes": len(known) * known.per_class,
        "rounds": rounds,
    }
    show({"milliseconds": found, **size, **machine}, _text(found, size, machine), as_json=as_json)


def _text(found: dict[str, dict[str, float]], size: dict[str, int], machine: dict[str, Any]) -> str:
    yardstick = found[_YARDSTICK]["median"]
    rows = [["milliseconds", "lower quartile", "median", "upper quartile", "relative"]]
    rows += [
        [name, *(f"{x:.2f}" for x in of.values()), f"{of['median'] / yardstick:.2f}"] for name, of in found.items()
    ]
    return (
        f"{table(rows)}\n\n{size['parameters']:,} parameters, {size['codes']} codes, {size['rounds']} rounds; "
        f"{machine['device']}, threads: {machine['threads']}, PyTorch {machine['torch']}"
    )


def _quartiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("lower_quartile", "median", "upper_quartile"), quantiles(values, method="inclusive"), strict=True))


def _candidates(
    model: nn.Module, codes: MnemonicCodes, cls: int, gone: tuple[int, ...]
) -> dict[str, Callable[[], Receipt | None]]:
    """Return what is timed; what gives a receipt changed the model."""
    parameters = watched_parameters(model, None)
    live, classes = prepare(model, codes, cls, gone, next(iter(parameters.values())))
    loss = ScaledCrossEntropy(examine(model, live, classes).scale)
    kept = fisher_diagonal(model, live.inputs, live.labels, loss=loss, reduction="sum")
    return {
        _YARDSTICK: lambda: _pass(model, list(parameters.values()), live),
        "one_shot": lambda: one_shot(model, codes, cls, forgotten=gone),
        "one_shot, Fisher kept": lambda: one_shot(model, codes, cls, forgotten=gone, fisher=kept),
    }


def _pass(model: nn.Module, parameters: list[torch.Tensor], codes: LiveCodes) -> None:
    loss = F.cross_entropy(logits_of(forward(model, codes.inputs)), codes.labels)
    torch.autograd.grad(loss, parameters, allow_unused=True)


def _alternate(
    candidates: dict[str, Callable[[], Receipt | None]], model: nn.Module, rounds: int
) -> dict[str, list[float]]:
    """Time the candidates in turn, so that whatever else the machine does falls on all of them."""
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in shown(range(_WARM_UP + rounds), "timing", "round"):
        for name, run in candidates.items():
            _wait(model)
            started = time.perf_counter()
            receipt = run()
            _wait(model)
            if number >= _WARM_UP:
                seconds[name].append(time.perf_counter() - started)
            if receipt is not None:
                receipt.revert(model)
    return seconds


def _wait(model: nn.Module) -> None:
    """Wait for a CUDA device, which works on by itself."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
