"""`fastforget codes` and `fastforget embed-check`."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from fastforget.class_forgetting.live_codes import LiveCodes, prepare_codes
from fastforget.class_forgetting.recognition import examine_codes
from fastforget.classifier.class_names import list_classes, name_class
from fastforget.classifier.fitting import checked_logits
from fastforget.classifier.losses import log_odds
from fastforget.classifier.parameters import chosen_parameters
from fastforget.classifier.running import gather_logits
from fastforget.classifier.text_table import format_table
from fastforget.cli import checkpoints, samples
from fastforget.cli.earlier import check_not_forgotten, earlier_classes
from fastforget.cli.names import known_names
from fastforget.cli.options import (
    BatchSizeOption,
    CheckpointOption,
    CodesOption,
    ForceOption,
    ForgottenOption,
    JsonOption,
    ModelOption,
    NamesOption,
    OptionalCheckpointOption,
    OptionalModelOption,
)
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.cli.words import in_command_words
from fastforget.codes.drawing import Distribution
from fastforget.codes.mnemonic_codes import MnemonicCodes
from fastforget.errors import UnrecognisedCodesError
from fastforget.files.durable import whole_files

__all__ = ["codes", "embed_check"]


def codes(
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where to write the codes.")],
    classes: Annotated[
        int | None, typer.Option(min=1, help="Number of classes of the model; needed unless samples are given.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(
            metavar="3x32x32",
            help="Shape of one input; repeat it in order for a model with several inputs. Needed unless samples are "
            "given.",
        ),
    ] = None,
    from_samples: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Take samples of each class as codes, for a model that was trained without any: `inputs` and "
            "`targets` in a safetensors file. The first ones of each class are taken; with --model and --checkpoint, "
            "of those that the model recognises.",
        ),
    ] = None,
    model: OptionalModelOption = None,
    checkpoint: OptionalCheckpointOption = None,
    per_class: Annotated[int, typer.Option(min=1, help="Number of codes of each class.")] = 4,
    distribution: Annotated[Distribution, typer.Option(help="The distribution that they are drawn from.")] = "normal",
    vocabulary: Annotated[
        tuple[int, int] | None, typer.Option(metavar="FIRST END", help="Tokens are drawn from FIRST up to END - 1.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same codes.")] = 0,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Make the mnemonic codes that a model is to be trained with, or take samples as codes."""
    shapes = [_shape(text) for text in shape or []]
    if from_samples is None and (classes is None or not shapes):
        raise typer.BadParameter("`--classes` and `--shape` must be given, or `--from-samples`")
    if from_samples is not None and (classes is not None or shapes or vocabulary is not None):
        raise typer.BadParameter("`--from-samples` must come without `--classes`, `--shape` and `--vocabulary`")
    if (model is None) != (checkpoint is None) or (model is not None and from_samples is None):
        raise typer.BadParameter("`--model` and `--checkpoint` must be given together, with `--from-samples`")
    check_output_files({"--output": output}, [from_samples, checkpoint], force=force)
    if from_samples is not None:
        loaded = None if model is None or checkpoint is None else checkpoints.load(model, checkpoint)
        mnemonic_codes = samples.read_codes(from_samples, per_class, loaded)
        facts: dict[str, Any] = {"classes": len(mnemonic_codes), "per_class": per_class, "distribution": "custom"}
    else:
        assert classes is not None  # noqa: S101 - checked above
        mnemonic_codes = MnemonicCodes.generate(
            classes,
            shapes[0] if len(shapes) == 1 else shapes,
            distribution=distribution,
            per_class=per_class,
            seed=seed,
            vocabulary=None if vocabulary is None else range(*vocabulary),
        )
        facts = {"classes": classes, "per_class": per_class, "shapes": shapes, "distribution": distribution}
        facts["seed"] = seed
    with whole_files(output) as (draft,):
        mnemonic_codes.save(draft)
    print_result({**facts, "output": str(output)}, f"{output}: {mnemonic_codes}", as_json=as_json)


def _shape(text: str) -> tuple[int, ...]:
    sizes = text.split("x")
    if not all(size.isascii() and size.isdecimal() and int(size) for size in sizes):
        raise typer.BadParameter(f"`--shape` must be sizes like 3x32x32, got {text!r}")
    return tuple(map(int, sizes))


def embed_check(
    model: ModelOption,
    checkpoint: CheckpointOption,
    codes: CodesOption,
    cls: Annotated[
        list[int] | None,
        typer.Option("--cls", metavar="CLASS", min=0, help="A class to forget; repeat it for more. All by default."),
    ] = None,
    forgotten: ForgottenOption = None,
    batch_size: BatchSizeOption = None,
    names: NamesOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that a model knows its codes well enough to forget by them.

    The exit status is 1 if `forget` would refuse one of the classes.
    """
    mnemonic_codes, loaded = MnemonicCodes.load(codes), checkpoints.load(model, checkpoint)
    module, earlier = loaded.model, earlier_classes(loaded, forgotten)
    called = known_names(names, module, range(len(mnemonic_codes)))
    check_not_forgotten(loaded, cls or (), earlier, called)
    like = next(iter(chosen_parameters(module, None).values()))
    any_class = next((c for c in range(len(mnemonic_codes)) if c not in earlier), 0)
    live, classes = prepare_codes(module, mnemonic_codes, cls or any_class, earlier, like, batch_size)
    logits = gather_logits(lambda some: checked_logits(module, some, "mnemonic_codes"), live.inputs, batch_size)
    try:
        examine_codes(module, live, classes if cls else live.classes)
        refusal = None
    except UnrecognisedCodesError as error:
        refusal = in_command_words(str(error))
    by_class = _recognition_by_class(live, logits, called)
    rows = [("class", "recognised", "log-odds, nats")]
    rows += [
        (name_class(row["class"], called), f"{row['recognised']:.0%}", f"{row['log_odds']:.2f}") for row in by_class
    ]
    text = f"{format_table(rows)}\n\n{refusal or 'The model knows its codes.'}"
    result = {"known": refusal is None, "reason": refusal, "classes": by_class}
    print_result(result, text, as_json=as_json, failed=refusal is not None)


def _recognition_by_class(codes: LiveCodes, logits: torch.Tensor, names: Sequence[str] | None) -> list[dict[str, Any]]:
    """Return for each class the share of its codes that are recognised, their mean log-odds, and its name if known."""
    correct = (logits.argmax(1) == codes.labels).double()
    odds = log_odds(logits, codes.labels).double()
    rows_by_class = {c: list(codes.rows(c)) for c in codes.classes}
    found = [
        {"class": c, "recognised": float(correct[rows].mean()), "log_odds": float(odds[rows].mean())}
        for c, rows in rows_by_class.items()
    ]
    if names is None:
        return found
    return [{**row, "name": list_classes([c], names)[0]} for c, row in zip(rows_by_class, found, strict=True)]
