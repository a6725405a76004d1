"""`fastforget unlearn`."""

from inspect import signature
from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli import checkpoints, samples
from fastforget.cli.keys import SignOption, signing_key
from fastforget.cli.names import known_names
from fastforget.cli.options import (
    FILES_HEADING,
    CheckpointOption,
    FloorOption,
    ForceOption,
    InPlaceOption,
    JsonOption,
    ModelOption,
    NamesOption,
    OutputOption,
    ReceiptOption,
    UndoOption,
    ValidationOption,
    check_floor_options,
    output_path,
)
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.cli.receipts import receipt_description
from fastforget.files.durable import whole_files
from fastforget.sample_forgetting.learn_to_unlearn import learn_to_unlearn

__all__ = ["unlearn"]

_DEFAULTS = {name: parameter.default for name, parameter in signature(learn_to_unlearn).parameters.items()}
_SAMPLES_HEADING = "Samples: `inputs` and `targets` in safetensors files"


def unlearn(
    model: ModelOption,
    checkpoint: CheckpointOption,
    forget: Annotated[
        Path, typer.Option(metavar="FILE", help="Training samples to forget.", rich_help_panel=_SAMPLES_HEADING)
    ],
    remain: Annotated[
        Path,
        typer.Option(
            metavar="FILE", help="Training samples that remain, or a part of them.", rich_help_panel=_SAMPLES_HEADING
        ),
    ],
    receipt_path: ReceiptOption,
    unseen: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Samples that the model was not trained on, of all classes to forget that remain.",
            rich_help_panel=_SAMPLES_HEADING,
        ),
    ] = None,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    undo: UndoOption = True,
    floor: FloorOption = None,
    validation: ValidationOption = None,
    steps: Annotated[int, typer.Option(min=1, help="Number of updates.")] = _DEFAULTS["steps"],
    lr: Annotated[
        float, typer.Option(help="Length of the first step, as a share of the norm of the parameters.")
    ] = _DEFAULTS["lr"],
    batch_size: Annotated[int, typer.Option(min=1, help="Number of samples of a batch.")] = 64,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same result.")] = _DEFAULTS["seed"],
    work: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Where to keep unfinished work, to continue from after an interruption.",
            rich_help_panel=FILES_HEADING,
        ),
    ] = None,
    sign: SignOption = None,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget samples, by learning to treat them as unseen ones; a class if no sample of it remains."""
    target = output_path(checkpoint, output, in_place=in_place)
    check_floor_options(floor, validation)
    read = (checkpoint, forget, remain, unseen, validation, names, sign)
    check_output_files({"--receipt": receipt_path, "--output": output}, read, force=force)
    key = signing_key(sign)
    if work is not None and work.resolve() in {path.resolve() for path in (*read, receipt_path, output) if path}:
        raise ValueError(f"`--work` must be a file of its own, got {work}")
    loaded = checkpoints.load(model, checkpoint)
    history = loaded.history
    parts = [list(samples.batches(path, loaded, batch_size).parts) for path in (forget, remain)]
    called = known_names(names, loaded.model, sorted({cls for _, targets in parts[0] for cls in targets.tolist()}))
    receipt = learn_to_unlearn(
        loaded.model,
        *parts,
        unseen=None if unseen is None else list(samples.batches(unseen, loaded, batch_size).parts),
        steps=steps,
        lr=lr,
        floor=None if validation is None or floor is None else (*samples.read(validation, loaded), floor),
        checkpoint=work,
        seed=seed,
        progress=True,
        undo=undo,
    )
    # The receipt comes first: without it, a checkpoint that was replaced could not be restored.
    with whole_files(receipt_path, target) as (receipt_draft, checkpoint_draft):
        receipt.save(receipt_draft, key=key)
        loaded.save(checkpoint_draft, history.followed_by(receipt))
    count = sum(len(targets) for _, targets in parts[0])
    text = f"unlearnt {count:,} {receipt.summary(called)}, {receipt.seconds['total']:.1f} s"
    result = {**receipt_description(receipt, receipt_path, called), "samples": count, "output": str(target)}
    print_result(result, f"{text}\nwrote {target} and {receipt_path}", as_json=as_json)
