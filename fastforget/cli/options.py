"""Options that several commands share, with the same name and meaning in each."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "FILES_HEADING",
    "MODEL_HEADING",
    "BatchSizeOption",
    "CheckpointOption",
    "ClassesOption",
    "CodesOption",
    "FloorOption",
    "ForceOption",
    "ForgottenOption",
    "InPlaceOption",
    "JsonOption",
    "ModelOption",
    "NamesOption",
    "OptionalCheckpointOption",
    "OptionalCodesOption",
    "OptionalModelOption",
    "OutputOption",
    "ReceiptOption",
    "UndoOption",
    "ValidationOption",
    "check_floor_options",
    "output_path",
]

MODEL_HEADING, FILES_HEADING = "Model", "Files written"  # headings of --help


def _check_factory_name(value: str | None) -> str | None:
    if value is None:
        return None
    module, colon, function = value.partition(":")
    if not (module and colon and function):
        raise typer.BadParameter(f"must be package.module:function, got {value!r}")
    return value


ModelOption = Annotated[
    str,
    typer.Option(
        "--model",
        metavar="MODULE:FUNCTION",
        callback=_check_factory_name,
        help="A function without arguments that makes the module; it may be in a file of this folder.",
        rich_help_panel=MODEL_HEADING,
    ),
]
CheckpointOption = Annotated[
    Path,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="The model's parameters and buffers, a safetensors file.",
        rich_help_panel=MODEL_HEADING,
    ),
]
OptionalModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        metavar="MODULE:FUNCTION",
        callback=_check_factory_name,
        help="A function without arguments that makes the module, to see which samples it recognises.",
        rich_help_panel=MODEL_HEADING,
    ),
]
OptionalCheckpointOption = Annotated[
    Path | None,
    typer.Option(
        "--checkpoint",
        metavar="FILE",
        help="Its parameters and buffers, a safetensors file.",
        rich_help_panel=MODEL_HEADING,
    ),
]
CodesOption = Annotated[
    Path,
    typer.Option(
        "--codes",
        metavar="FILE",
        help="The mnemonic codes that the model was trained with.",
        rich_help_panel=MODEL_HEADING,
    ),
]
OptionalCodesOption = Annotated[
    Path | None,
    typer.Option(
        "--codes",
        metavar="FILE",
        help="The mnemonic codes that the model was trained with; not needed with --samples.",
        rich_help_panel=MODEL_HEADING,
    ),
]
ClassesOption = Annotated[
    list[int], typer.Option("--cls", metavar="CLASS", min=0, help="A class to forget; repeat it for more.")
]
ForgottenOption = Annotated[
    list[int] | None,
    typer.Option(
        "--forgotten",
        metavar="CLASS",
        min=0,
        help="A class that was forgotten earlier, where the checkpoint does not say it; repeat it for more.",
    ),
]
NamesOption = Annotated[
    Path | None,
    typer.Option(
        "--names",
        metavar="FILE",
        help="Text file with the names of classes 0, 1, ..., one in each line, for what is printed; by default those "
        "in model.config.id2label.",
        rich_help_panel=MODEL_HEADING,
    ),
]
BatchSizeOption = Annotated[
    int | None,
    typer.Option("--batch-size", min=1, help="Number of codes that are run at once, to save memory; all by default."),
]
OutputOption = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="Where to write the new checkpoint.", rich_help_panel=FILES_HEADING),
]
InPlaceOption = Annotated[
    bool,
    typer.Option("--in-place", help="Replace the checkpoint in one step instead.", rich_help_panel=FILES_HEADING),
]
ForceOption = Annotated[
    bool,
    typer.Option(
        "--force",
        help="Overwrite files that exist. Files that are read are never overwritten.",
        rich_help_panel=FILES_HEADING,
    ),
]
ReceiptOption = Annotated[
    Path,
    typer.Option(
        "--receipt",
        metavar="FILE",
        help="Where to write the receipt: what changed, to undo or repeat it.",
        rich_help_panel=FILES_HEADING,
    ),
]
UndoOption = Annotated[
    bool, typer.Option(help="Keep the old values in the receipt, to undo the edit.", rich_help_panel=FILES_HEADING)
]
FloorOption = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Smallest allowed accuracy in --validation; of classes to forget, only the others count.",
        show_default=False,
    ),
]
ValidationOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Samples: `inputs` and `targets` in a safetensors file.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON, and nothing else.")]


def check_floor_options(floor: float | None, validation: Path | None) -> None:
    """Raise typer.BadParameter unless both or none are given."""
    if (floor is None) != (validation is None):
        raise typer.BadParameter("`--floor` and `--validation` must be given together")


def output_path(checkpoint: Path, output: Path | None, *, in_place: bool) -> Path:
    """Return where to write the new checkpoint.

    Args:
        checkpoint: The checkpoint that is read.
        output: The value of `--output`.
        in_place: The value of `--in-place`.

    Raises:
        typer.BadParameter: Neither or both are given.
    """
    if (output is None) != in_place:
        raise typer.BadParameter("either `--output` or `--in-place` must be given")
    return checkpoint if output is None else output
