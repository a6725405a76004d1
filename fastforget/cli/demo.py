"""`fastforget demo`."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

__all__ = ["demo"]


def demo(
    data: Annotated[Literal["digits", "fashion-mnist"], typer.Option(help="The data set to train on.")] = "digits",
    folder: Annotated[
        Path | None,
        typer.Option(help="Folder with the idx files of Fashion-MNIST; by default that of the Debian package."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("fastforget-demo.png"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the codes and the training.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Where to write the numbers as JSON.")
    ] = None,
) -> None:
    """Train with mnemonic codes, forget each class and undo it, and compare with retraining."""
    from fastforget.demo.run import run_demo  # noqa: PLC0415 (needs the extra "demo", and is slow to import)

    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise FileNotFoundError(f"`--json` must be in a folder that exists, got {json_path}")
    result = run_demo(data, folder, output, seed=seed)
    if json_path is not None:
        json_path.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")
