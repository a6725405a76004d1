"""`fastforget inscribe`."""

from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

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


def inscribe(
    model: ModelOption,
    checkpoint: CheckpointOption,
    codes: CodesOption,
    data: Annotated[
        Path, typer.Option(metavar="FILE", help="Training samples: `inputs` and `targets` in a safetensors file.")
    ],
    validation: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Samples on which to measure what it costs, in the same form; by default those of --data.",
        ),
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
    held_out = None if validation is None else samples.batches(validation, loaded, batch_size).parts
    found = run_inscribe(
        loaded.model,
        mnemonic_codes,
        batches,
        held_out=held_out,
        epochs=epochs,
        rate=rate,
        lr=lr,
        seed=seed,
        progress=True,
    )
    with whole_files(target) as (draft,):
        loaded.save(draft, history)
    lines = [
        f"the model recognises {found.recognised:.1%} of its codes",
        f"accuracy on {validation or data}: {found.before:.2%} before, {found.after:.2%} after",
        f"wrote {target}",
    ]
    result = {"recognised": found.recognised, "before": found.before, "after": found.after, "output": str(target)}
    print_result(result, "\n".join(lines), as_json=as_json)
