"""`fastforget codes` and `fastforget embed-check`."""

from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fastforget.cli import checkpoints
from fastforget.cli.options import BatchSize, Checkpoint, Codes, Force, Forgotten, Json, Model
from fastforget.cli.outputs import check_outputs, show, table, written_whole
from fastforget.codes import MnemonicCodes
from fastforget.errors import UnrecognisedCodesError
from fastforget.forgetting.code_batch import LiveCodes, examine, fitting_logits, prepare
from fastforget.forgetting.micro_batches import gather_logits
from fastforget.losses import log_odds
from fastforget.model import watched_parameters
from fastforget.noise import Distribution

__all__ = ["codes", "embed_check"]


def codes(
    classes: Annotated[int, typer.Option(min=1, help="How many the model tells apart.")],
    shape: Annotated[
        list[str], typer.Option(metavar="3x32x32", help="Of one input; again for a model with several, in their order.")
    ],
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to write them.")],
    per_class: Annotated[int, typer.Option(min=1, help="Codes of each class.")] = 4,
    distribution: Annotated[Distribution, typer.Option(help="What they are drawn from.")] = "normal",
    vocabulary: Annotated[
        tuple[int, int] | None, typer.Option(metavar="FIRST END", help="Tokens are drawn from FIRST up to END - 1.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same one gives the same codes.")] = 0,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Make the mnemonic codes that a model is to be trained with."""
    shapes = [_shape(text) for text in shape]
    check_outputs({"--output": output}, [], force=force)
    made = MnemonicCodes.generate(
        classes,
        shapes[0] if len(shapes) == 1 else shapes,
        distribution=distribution,
        per_class=per_class,
        seed=seed,
        vocabulary=None if vocabulary is None else range(*vocabulary),
    )
    with written_whole(output) as (draft,):
        made.save(draft)
    result = {"classes": classes, "per_class": per_class, "shapes": shapes, "distribution": distribution, "seed": seed}
    show({**result, "output": str(output)}, f"{output}: {made}", as_json=as_json)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if not all(size.isascii() and size.isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(f"`--shape` must be sizes like 3x32x32, got {text!r}")
    return tuple(map(int, sizes))


def embed_check(
    model: Model,
    checkpoint: Checkpoint,
    codes: Codes,
    cls: Annotated[
        list[int] | None,
        typer.Option("--cls", metavar="CLASS", min=0, help="A class to forget; again for more. All without it."),
    ] = None,
    forgotten: Forgotten = None,
    batch_size: BatchSize = None,
    as_json: Json = False,
) -> None:
    """Check that a model knows its codes well enough to forget by them.

    Exit status 1 where `forget` would refuse one of the classes.
    """
    known, gone = MnemonicCodes.load(codes), forgotten or []
    loaded = checkpoints.load(model, checkpoint).model
    like = next(iter(watched_parameters(loaded, None).values()))
    first = next((c for c in range(len(known)) if c not in gone), 0)
    live, classes = prepare(loaded, known, cls or first, gone, like, batch_size)
    logits = gather_logits(lambda some: fitting_logits(loaded, some, "mnemonic_codes"), live.inputs, batch_size)
    try:
        examine(loaded, live, classes if cls else live.classes)
        refusal = None
    except UnrecognisedCodesError as error:
        refusal = str(error)
    found = _by_class(live, logits)
    rows = [("class", "recognised", "log-odds, nats")]
    rows += [(str(of["class"]), f"{of['recognised']:.0%}", f"{of['log_odds']:.2f}") for of in found]
    text = f"{table(rows)}\n\n{refusal or 'The model knows its codes.'}"
    result = {"known": refusal is None, "reason": refusal, "classes": found}
    show(result, text, as_json=as_json, failed=refusal is not None)


def _by_class(codes: LiveCodes, logits: torch.Tensor) -> list[dict[str, Any]]:
    """Return the share of codes that are recognised and their mean log-odds, by class."""
    right = (logits.argmax(1) == codes.labels).double()
    odds = log_odds(logits, codes.labels).double()
    return [
        {"class": c, "recognised": float(right[rows].mean()), "log_odds": float(odds[rows].mean())}
        for c, rows in ((c, list(codes.rows(c))) for c in codes.classes)
    ]
