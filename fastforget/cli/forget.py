"""`fastforget forget`, `fastforget apply` and `fastforget revert`."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Literal

import typer
from torch import nn

from fastforget.class_forgetting.one_shot import one_shot
from fastforget.classifier.fingerprint import fingerprint
from fastforget.cli import checkpoints, samples
from fastforget.cli.earlier import check_not_forgotten, earlier_classes
from fastforget.cli.keys import PublicKeyOption, SignOption, public_key, signing_key
from fastforget.cli.names import known_names
from fastforget.cli.options import (
    MODEL_HEADING,
    BatchSizeOption,
    CheckpointOption,
    ClassesOption,
    FloorOption,
    ForceOption,
    ForgottenOption,
    InPlaceOption,
    JsonOption,
    ModelOption,
    NamesOption,
    OptionalCodesOption,
    OutputOption,
    ReceiptOption,
    UndoOption,
    ValidationOption,
    check_floor_options,
    output_path,
)
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.cli.receipts import receipt_description
from fastforget.cli.words import in_command_words
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.edits.receipt import Receipt
from fastforget.files.durable import whole_files

__all__ = ["apply", "forget", "revert"]

_DEFAULTS = {name: parameter.default for name, parameter in signature(one_shot).parameters.items()}
_OUTPUT_HEADING = "The output row"
_STEP_HEADING, _PAPER_HEADING = "The step", "The step by the paper's rule"


def forget(
    model: ModelOption,
    checkpoint: CheckpointOption,
    cls: ClassesOption,
    receipt_path: ReceiptOption,
    codes: OptionalCodesOption = None,
    samples_path: Annotated[
        Path | None,
        typer.Option(
            "--samples",
            metavar="FILE",
            help="A few real samples: `inputs`, and `targets` if they are known, in a safetensors file.",
            rich_help_panel=MODEL_HEADING,
        ),
    ] = None,
    forgotten: ForgottenOption = None,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    undo: UndoOption = True,
    floor: FloorOption = None,
    validation: ValidationOption = None,
    level: Annotated[
        Literal["output", "body", "features"] | None,
        typer.Option(
            help="How deep to forget: the output row alone, the step as well, or the features as well; by default as "
            "deep as codes and samples allow.",
            show_default=False,
        ),
    ] = None,
    rule: Annotated[Literal["natural", "paper"], typer.Option(help="Our rule, or the paper's.")] = "natural",
    output_row: Annotated[
        bool | None,
        typer.Option(
            help="Give the class the output row of one that was never seen; by default if the model has such rows.",
            rich_help_panel=_OUTPUT_HEADING,
        ),
    ] = None,
    output_depth: Annotated[
        float | None,
        typer.Option(
            help="How far beyond the decision boundary that row puts the class, nats; by default as far as other "
            "classes are from samples that are not theirs.",
            rich_help_panel=_OUTPUT_HEADING,
        ),
    ] = _DEFAULTS["output_depth"],
    rho: Annotated[
        float, typer.Option(help="Share of the parameters that move.", rich_help_panel=_STEP_HEADING)
    ] = _DEFAULTS["rho"],
    widen: Annotated[
        float,
        typer.Option(help="Factor on that share if these parameters do not suffice.", rich_help_panel=_STEP_HEADING),
    ] = _DEFAULTS["widen"],
    depth: Annotated[
        float,
        typer.Option(
            help="How far beyond the decision boundary the forgotten codes end, nats.", rich_help_panel=_STEP_HEADING
        ),
    ] = _DEFAULTS["depth"],
    spill: Annotated[
        float,
        typer.Option(help="Most log-odds that a remaining code may lose, nats.", rich_help_panel=_STEP_HEADING),
    ] = _DEFAULTS["spill"],
    reach: Annotated[
        float,
        typer.Option(
            help="Longest step, as a multiple of the step that suffices to first order.", rich_help_panel=_STEP_HEADING
        ),
    ] = _DEFAULTS["reach"],
    lambda1: Annotated[
        float, typer.Option(help="Bound on the scale of a tensor's change.", rich_help_panel=_PAPER_HEADING)
    ] = _DEFAULTS["lambda1"],
    lambda2: Annotated[
        float, typer.Option(help="Bound on the largest change in a tensor.", rich_help_panel=_PAPER_HEADING)
    ] = _DEFAULTS["lambda2"],
    batch_size: BatchSizeOption = None,
    sign: SignOption = None,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Forget one or several classes, from the mnemonic codes or from a few samples."""
    target = output_path(checkpoint, output, in_place=in_place)
    check_floor_options(floor, validation)
    if codes is None and samples_path is None:
        raise typer.BadParameter("`--codes` or `--samples` must be given")
    read = (checkpoint, codes, samples_path, validation, names, sign)
    check_output_files({"--receipt": receipt_path, "--output": output}, read, force=force)
    key = signing_key(sign)
    mnemonic_codes = None if codes is None else MnemonicCodes.load(codes)
    loaded = checkpoints.load(model, checkpoint)
    history, earlier = loaded.history, earlier_classes(loaded, forgotten)
    called = known_names(names, loaded.model, cls)
    check_not_forgotten(loaded, cls, earlier, called)
    validation_floor = None if validation is None or floor is None else (*samples.read(validation, loaded), floor)
    receipt = one_shot(
        loaded.model,
        mnemonic_codes,
        cls,
        level=level,
        samples=None if samples_path is None else samples.read_with_or_without_targets(samples_path, loaded),
        rule=rule,
        rho=rho,
        widen=widen,
        depth=depth,
        spill=spill,
        reach=reach,
        output_row=output_row,
        output_depth=output_depth,
        lambda1=lambda1,
        lambda2=lambda2,
        forgotten=earlier,
        floor=validation_floor,
        batch_size=batch_size,
        undo=undo,
        progress=True,
    )
    # The receipt comes first: without it, a checkpoint that was replaced could not be restored.
    with whole_files(receipt_path, target) as (receipt_draft, checkpoint_draft):
        receipt.save(receipt_draft, key=key)
        loaded.save(checkpoint_draft, history.followed_by(receipt))
    text = f"forgot {receipt.summary(called)}, {1e3 * receipt.seconds['total']:.0f} ms"
    advice = "" if codes is not None else in_command_words(receipt.advice)
    lines = [text, *([f"to go further: {advice}"] if advice else []), f"wrote {target} and {receipt_path}"]
    result = {**receipt_description(receipt, receipt_path, called), "output": str(target)}
    print_result(result, "\n".join(lines), as_json=as_json)


ReceiptsOption = Annotated[
    list[Path],
    typer.Option(
        "--receipt", metavar="FILE", help="A receipt of `forget`; repeat it for more, in the order of the requests."
    ),
]


def apply(
    model: ModelOption,
    checkpoint: CheckpointOption,
    receipt: ReceiptsOption,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    names: NamesOption = None,
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Repeat the edits of receipts on another copy of the checkpoint."""
    _replay(
        *(model, checkpoint, receipt, output, names, key),
        in_place=in_place,
        force=force,
        as_json=as_json,
        undo=False,
    )


def revert(
    model: ModelOption,
    checkpoint: CheckpointOption,
    receipt: ReceiptsOption,
    output: OutputOption = None,
    in_place: InPlaceOption = False,
    force: ForceOption = False,
    names: NamesOption = None,
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Undo the edits of receipts to the bit, the last one first."""
    _replay(
        *(model, checkpoint, receipt, output, names, key),
        in_place=in_place,
        force=force,
        as_json=as_json,
        undo=True,
    )


def _replay(
    model: str,
    checkpoint: Path,
    paths: Sequence[Path],
    output: Path | None,
    names: Path | None,
    key: Path | None,
    *,
    in_place: bool,
    force: bool,
    as_json: bool,
    undo: bool,
) -> None:
    target = output_path(checkpoint, output, in_place=in_place)
    check_output_files({"--output": output}, [checkpoint, names, key, *paths], force=force)
    signer = public_key(key)
    receipts = [(path, Receipt.load(path, signed_by=signer)) for path in (reversed(paths) if undo else paths)]
    loaded = checkpoints.load(model, checkpoint)
    history = loaded.history
    called = known_names(names, loaded.model, [cls for _, receipt in receipts for cls in receipt.classes])
    for path, receipt in receipts:
        _replay_one(receipt, path, loaded.model, undo=undo)
        history = history.without(receipt) if undo else history.followed_by(receipt)
    with whole_files(target) as (draft,):
        loaded.save(draft, history)
    verb = "reverted" if undo else "applied"
    lines = [f"{verb} {path}: {receipt.summary(called)}" for path, receipt in receipts]
    result = {
        "model": fingerprint(loaded.model),
        verb: [receipt_description(receipt, path, called) for path, receipt in receipts],
        "output": str(target),
    }
    print_result(result, "\n".join([*lines, f"wrote {target}"]), as_json=as_json)


def _replay_one(receipt: Receipt, path: Path, model: nn.Module, *, undo: bool) -> None:
    try:
        (receipt.revert if undo else receipt.apply)(model)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from error
