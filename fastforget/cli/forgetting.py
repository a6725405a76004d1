"""`fastforget forget`, `fastforget apply` and `fastforget revert`."""

from collections.abc import Sequence
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from torch import nn

from fastforget.cli import checkpoints, samples
from fastforget.cli.options import (
    FILES,
    BatchSize,
    Checkpoint,
    Classes,
    Codes,
    Force,
    Forgotten,
    InPlace,
    Json,
    Model,
    Output,
    destination,
)
from fastforget.cli.outputs import check_outputs, show, written_whole
from fastforget.codes import MnemonicCodes
from fastforget.fingerprint import fingerprint
from fastforget.one_shot import one_shot
from fastforget.receipt import Receipt

__all__ = ["apply", "forget", "revert"]

_DEFAULTS = {name: parameter.default for name, parameter in signature(one_shot).parameters.items()}
_SETTINGS, _PAPER = "The step", "The step by the paper's rule"


def forget(
    model: Model,
    checkpoint: Checkpoint,
    codes: Codes,
    cls: Classes,
    receipt: Annotated[
        Path,
        typer.Option(metavar="FILE", help="Where to write what changed, to undo or repeat it.", rich_help_panel=FILES),
    ],
    forgotten: Forgotten = None,
    output: Output = None,
    in_place: InPlace = False,
    force: Force = False,
    undo: Annotated[
        bool, typer.Option(help="Keep what was forgotten in the receipt, to undo it.", rich_help_panel=FILES)
    ] = True,
    floor: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Accuracy of the rest on --validation that must hold.", show_default=False),
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Samples: `inputs` and `targets` in a safetensors file.")
    ] = None,
    rule: Annotated[Literal["natural", "paper"], typer.Option(help="Ours, or the paper's.")] = "natural",
    silence: Annotated[
        bool | None,
        typer.Option(help="Move the output biases, too; by default if there are any.", rich_help_panel=_SETTINGS),
    ] = None,
    rho: Annotated[
        float, typer.Option(help="Share of the parameters that moves.", rich_help_panel=_SETTINGS)
    ] = _DEFAULTS["rho"],
    widen: Annotated[
        float, typer.Option(help="How many times as many, where these do not suffice.", rich_help_panel=_SETTINGS)
    ] = _DEFAULTS["widen"],
    depth: Annotated[
        float,
        typer.Option(help="How far beyond the decision boundary codes end, nats.", rich_help_panel=_SETTINGS),
    ] = _DEFAULTS["depth"],
    spill: Annotated[
        float, typer.Option(help="What a remaining code may lose, nats.", rich_help_panel=_SETTINGS)
    ] = _DEFAULTS["spill"],
    reach: Annotated[
        float,
        typer.Option(help="The longest step, in steps that would do to first order.", rich_help_panel=_SETTINGS),
    ] = _DEFAULTS["reach"],
    lambda1: Annotated[
        float, typer.Option(help="Bound on the scale of a tensor's change.", rich_help_panel=_PAPER)
    ] = _DEFAULTS["lambda1"],
    lambda2: Annotated[
        float, typer.Option(help="Bound on the largest change in a tensor.", rich_help_panel=_PAPER)
    ] = _DEFAULTS["lambda2"],
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Forget a class, or several, from the mnemonic codes alone."""
    target = destination(checkpoint, output, in_place=in_place)
    if (floor is None) != (validation is None):
        raise typer.BadParameter("`--floor` and `--validation` must be given together")
    check_outputs({"--receipt": receipt, "--output": output}, (checkpoint, codes, validation), force=force)
    known = MnemonicCodes.load(codes)
    loaded = checkpoints.load(model, checkpoint)
    held = None if validation is None or floor is None else (*samples.read(validation, loaded), floor)
    made = one_shot(
        loaded.model,
        known,
        cls,
        rule=rule,
        rho=rho,
        widen=widen,
        depth=depth,
        spill=spill,
        reach=reach,
        silence=silence,
        lambda1=lambda1,
        lambda2=lambda2,
        forgotten=forgotten or (),
        floor=held,
        batch_size=batch_size,
        undo=undo,
    )
    # The receipt first: a changed checkpoint in place of the old one must not be there without it.
    with written_whole(receipt, target) as (draft, changed):
        made.save(draft)
        loaded.save(changed)
    text = f"forgot {_summary(made)}, {1e3 * made.seconds['total']:.0f} ms\nwrote {target} and {receipt}"
    show({**_described(made, receipt), "output": str(target)}, text, as_json=as_json)


Receipts = Annotated[
    list[Path],
    typer.Option("--receipt", metavar="FILE", help="Of `forget`; again for more, in the order of the requests."),
]


def apply(
    model: Model,
    checkpoint: Checkpoint,
    receipt: Receipts,
    output: Output = None,
    in_place: InPlace = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the edits of receipts on another copy of the checkpoint."""
    _follow(model, checkpoint, receipt, output, in_place=in_place, force=force, as_json=as_json, back=False)


def revert(
    model: Model,
    checkpoint: Checkpoint,
    receipt: Receipts,
    output: Output = None,
    in_place: InPlace = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Undo the edits of receipts, the last one first: every bit is back."""
    _follow(model, checkpoint, receipt, output, in_place=in_place, force=force, as_json=as_json, back=True)


def _follow(
    model: str,
    checkpoint: Path,
    paths: Sequence[Path],
    output: Path | None,
    *,
    in_place: bool,
    force: bool,
    as_json: bool,
    back: bool,
) -> None:
    target = destination(checkpoint, output, in_place=in_place)
    check_outputs({"--output": output}, [checkpoint, *paths], force=force)
    receipts = [(path, Receipt.load(path)) for path in (reversed(paths) if back else paths)]
    loaded = checkpoints.load(model, checkpoint)
    for path, receipt in receipts:
        _write(receipt, path, loaded.model, back=back)
    with written_whole(target) as (draft,):
        loaded.save(draft)
    done = "reverted" if back else "applied"
    lines = [f"{done} {path}: {_summary(receipt)}" for path, receipt in receipts]
    result = {
        "model": fingerprint(loaded.model),
        done: [_described(receipt, path) for path, receipt in receipts],
        "output": str(target),
    }
    show(result, "\n".join([*lines, f"wrote {target}"]), as_json=as_json)


def _write(receipt: Receipt, path: Path, model: nn.Module, *, back: bool) -> None:
    try:
        (receipt.revert if back else receipt.apply)(model)
    except ValueError as error:
        raise ValueError(f"`{path}`: {error}") from error


def _summary(receipt: Receipt) -> str:
    names = ", ".join(map(str, receipt.classes))
    what = "samples" if not names else f"class {names}" if len(receipt.classes) == 1 else f"classes {names}"
    return f"{what}, {receipt.changed:,} of {receipt.total:,} parameters changed ({receipt.share:.2%})"


def _described(receipt: Receipt, path: Path) -> dict[str, Any]:
    found = {key: value for key, value in receipt.describe().items() if key != "shapes"}
    return {**found, "changed": receipt.changed, "reversible": receipt.reversible, "receipt": str(path)}
