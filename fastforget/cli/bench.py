"""`fastforget bench`."""

import time
from collections.abc import Callable, Mapping
from importlib.metadata import version
from statistics import quantiles
from typing import Annotated, Any

import torch
import torch.nn.functional as F
import typer
from torch import nn

from fastforget.class_forgetting.kept_fisher import suitable_loss
from fastforget.class_forgetting.live_codes import LiveCodes, prepare_codes
from fastforget.class_forgetting.one_shot import one_shot
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.classifier.class_names import list_classes, name_class
from fastforget.classifier.parameters import chosen_parameters
from fastforget.classifier.running import forward, logits_of
from fastforget.classifier.text_table import format_table
from fastforget.cli import checkpoints
from fastforget.cli.earlier import check_not_forgotten, earlier_classes
from fastforget.cli.names import known_names
from fastforget.cli.options import CheckpointOption, CodesOption, ForgottenOption, JsonOption, ModelOption, NamesOption
from fastforget.cli.outputs import print_result
from fastforget.cli.progress import with_progress
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.edits.receipt import Receipt
from fastforget.fisher.compute import fisher_diagonal

__all__ = ["WARM_UP_ROUNDS", "bench", "candidates_of", "time_in_turn"]

WARM_UP_ROUNDS = 2
_BASELINE = "forward and backward"

Candidates = Mapping[str, Callable[[], Receipt | None]]


def bench(
    model: ModelOption,
    checkpoint: CheckpointOption,
    codes: CodesOption,
    cls: Annotated[int, typer.Option("--cls", metavar="CLASS", min=0, help="The class to forget.")],
    forgotten: ForgottenOption = None,
    rounds: Annotated[int, typer.Option(min=3, help="How often each is timed.")] = 20,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time forgetting on this machine, beside a forward and backward pass of the codes.

    Nothing is written. Each edit is undone after it is timed.
    """
    mnemonic_codes = MnemonicCodes.load(codes)
    loaded = checkpoints.load(model, checkpoint)
    module, earlier = loaded.model, tuple(earlier_classes(loaded, forgotten))
    called = known_names(names, module, [cls])
    check_not_forgotten(loaded, [cls], earlier, called)
    candidates = candidates_of(module, mnemonic_codes, cls, earlier)
    seconds = time_in_turn(candidates, module, rounds)
    milliseconds = {name: _quartiles([1e3 * each for each in times]) for name, times in seconds.items()}
    machine = {
        "threads": torch.get_num_threads(),
        "device": str(next(module.parameters()).device),
        "torch": version("torch"),
        "fastforget": version("fastforget"),
    }
    size = {
        "parameters": sum(parameter.numel() for parameter in module.parameters()),
        "codes": len(mnemonic_codes) * mnemonic_codes.per_class,
        "rounds": rounds,
    }
    named = {} if called is None else {"class": cls, "name": list_classes([cls], called)[0]}
    forgets = "" if called is None else f"class {name_class(cls, called)}; "
    result = {"milliseconds": milliseconds, **named, **size, **machine}
    print_result(result, _text(milliseconds, forgets, size, machine), as_json=as_json)


def _text(
    milliseconds: dict[str, dict[str, float]], forgets: str, size: dict[str, int], machine: dict[str, Any]
) -> str:
    baseline = milliseconds[_BASELINE]["median"]
    rows = [["milliseconds", "lower quartile", "median", "upper quartile", "relative"]]
    for name, quartiles in milliseconds.items():
        rows.append([name, *(f"{value:.2f}" for value in quartiles.values()), f"{quartiles['median'] / baseline:.2f}"])
    return (
        f"{format_table(rows)}\n\n"
        f"{forgets}{size['parameters']:,} parameters, {size['codes']} codes, {size['rounds']} rounds; "
        f"{machine['device']}, threads: {machine['threads']}, PyTorch {machine['torch']}"
    )


def _quartiles(values: list[float]) -> dict[str, float]:
    return dict(zip(("lower_quartile", "median", "upper_quartile"), quantiles(values, method="inclusive"), strict=True))


def candidates_of(model: nn.Module, codes: MnemonicCodes, cls: int, forgotten: tuple[int, ...]) -> Candidates:
    """Return what is timed, by name. A candidate that returns a receipt has changed the model.

    Args:
        model: The eager module, in eval mode.
        codes: Its codes.
        cls: The class to forget.
        forgotten: Classes that were forgotten earlier.
    """
    parameters = chosen_parameters(model, None)
    live, classes = prepare_codes(model, codes, cls, forgotten, next(iter(parameters.values())))
    loss = suitable_loss(examine_codes(model, live, classes))
    kept_fisher = fisher_diagonal(model, live.inputs, live.labels, loss=loss, reduction="sum")
    return {
        _BASELINE: lambda: _forward_and_backward(model, list(parameters.values()), live),
        "one_shot": lambda: one_shot(model, codes, cls, forgotten=forgotten),
        "one_shot, Fisher kept": lambda: one_shot(model, codes, cls, forgotten=forgotten, fisher=kept_fisher),
    }


def _forward_and_backward(model: nn.Module, parameters: list[torch.Tensor], codes: LiveCodes) -> None:
    loss = F.cross_entropy(logits_of(forward(model, codes.inputs)), codes.labels)
    torch.autograd.grad(loss, parameters, allow_unused=True)


def time_in_turn(candidates: Candidates, model: nn.Module, rounds: int) -> dict[str, list[float]]:
    """Time the candidates in turn, so that other work on the machine slows all of them alike.

    Args:
        candidates: What is timed, by name.
        model: The model that they change; each change is undone.
        rounds: How often each is timed, after some rounds that do not count.

    Returns:
        The seconds of each round, by name.
    """
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    for number in with_progress(range(WARM_UP_ROUNDS + rounds), "timing", "round"):
        for name, run in candidates.items():
            _synchronize(model)
            started = time.perf_counter()
            receipt = run()
            _synchronize(model)
            if number >= WARM_UP_ROUNDS:
                seconds[name].append(time.perf_counter() - started)
            if receipt is not None:
                receipt.revert(model)
    return seconds


def _synchronize(model: nn.Module) -> None:
    """Wait until a CUDA device has done what it was given."""
    device = next(model.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
