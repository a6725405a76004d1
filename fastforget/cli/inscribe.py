"""`fastforget inscribe`."""

from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from fastforget.classifier.predictions import collect_predictions
from fastforget.cli import checkpoints, samples
from fastforget.cli.options import (
    CheckpointOption,
    CodesOption,
    ForceOption,
    InPlaceOption,
    JsonOption,
    ModelOption,
    OutputOption,
    output_path,
)
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.codes.inscription import inscribe as run_inscribe
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.files.durable import whole_files

__all__ = ["inscribe"]

_DEFAULTS = {name: parameter.default for name, parameter in signature(run_inscribe).parameters.items()}
_COSTLY = 0.005  # accuracy lost that is worth a warning


def inscribe(
    model: ModelOption,
    checkpoint: CheckpointOption,
    codes: CodesOption,
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Training samples: `inputs` and `targets` in a safetensors file.")
    ],
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Samples on which to measure what it costs, in the same form.")
    ] = None,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the data.")] = _DEFAULTS["epochs"],
    rate: Annotated[float, typer.Option(help="Share of the samples that codes replace.")] = _DEFAULTS["rate"],
    lr: Annotated[float, typer.Option(help="The highest learning rate.")] = _DEFAULTS["lr"],
    batch_size: Annotated[int, typer.Option(min=1, help="Number of samples of a batch.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = _DEFAULTS["seed"],
    as_json: JsonOption = False,
) -> None:
    """Teach codes to a model that was trained without them, by a short training with its data."""
    target = output_path(checkpoint, output, in_place=in_place)
    check_output_files({"--output": output}, (checkpoint, codes, data, validation), force=force)
    mnemonic_codes = MnemonicCodes.load(codes)
    loaded = checkpoints.load(model, checkpoint)
    history = loaded.history  # no longer that of the weights: the next request must say which classes are forgotten
    batches = list(samples.batches(data, loaded, batch_size).parts)
    held_out = None if validation is None else list(samples.batches(validation, loaded, batch_size).parts)

    def accuracy() -> float | None:
        return None if held_out is None else collect_predictions(loaded.model, held_out, "validation").accuracy

    before = accuracy()
    recognised = run_inscribe(
        loaded.model, mnemonic_codes, batches, epochs=epochs, rate=rate, lr=lr, seed=seed, progress=True
    )
    after = accuracy()
    with whole_files(target) as (draft,):
        loaded.save(draft, history)
    lines = [f"the model recognises {recognised:.1%} of its codes"]
    if before is not None and after is not None:
        lines.append(f"accuracy on {validation}: {before:.2%} before, {after:.2%} after")
        if before - after > _COSTLY:
            lost = 100 * (before - after)
            typer.echo(f"fastforget: this costs {lost:.1f} points of accuracy; try a smaller --lr or --rate", err=True)
    result = {"recognised": recognised, "before": before, "after": after, "output": str(target)}
    print_result(result, "\n".join([*lines, f"wrote {target}"]), as_json=as_json)
