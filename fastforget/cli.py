"""The command line: `fastforget demo`, `fastforget log`, `fastforget --version`."""

import json
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Literal

try:
    import typer
except ModuleNotFoundError as error:
    raise SystemExit("fastforget: the command line needs typer: pip install 'fastforget[cli]'") from error

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Forget a class from a deployed PyTorch model in milliseconds, with proof and with undo.",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fastforget {version('fastforget')}")
        raise typer.Exit


@app.callback()
def _options(
    version_wanted: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


@app.command()
def demo(
    data: Annotated[Literal["digits", "fashion-mnist"], typer.Option(help="What to train on.")] = "digits",
    folder: Annotated[
        Path | None, typer.Option(help="Folder with the idx files of Fashion-MNIST [default: the Debian package's].")
    ] = None,
    output: Annotated[Path, typer.Option(help="Where to write the picture.")] = Path("fastforget-demo.png"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the split, the codes and training.")] = 0,
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="PATH", help="Where to write the numbers as JSON.")
    ] = None,
) -> None:
    """Train with mnemonic codes, forget every class in turn, undo it, and compare with retraining."""
    from fastforget.demo.run import run_demo  # noqa: PLC0415 (needs the extra "demo", and is slow to import)

    if json_path is not None and not json_path.absolute().parent.is_dir():
        raise FileNotFoundError(f"`--json` must be in a folder that exists, got {json_path}")
    result = run_demo(data, folder, output, seed=seed)
    if json_path is not None:
        json_path.write_text(json.dumps(result.as_json(), indent=1) + "\n", encoding="utf-8")


log = typer.Typer(no_args_is_help=True, help="The record of forgetting requests.")
app.add_typer(log, name="log")


@log.command()
def verify(
    path: Annotated[Path, typer.Argument(help="The log.")],
    known: Annotated[
        str | None, typer.Option(help="Hash of a record that must be in it, kept elsewhere.", metavar="HASH")
    ] = None,
) -> None:
    """Check that no record was changed, dropped, added or moved."""
    from fastforget.serving.log import verify_log  # noqa: PLC0415 (loads PyTorch)

    count = verify_log(path, known)
    typer.echo(f"{path}: {count} record{'s' * (count != 1)}, none changed, dropped, added or moved")


@log.command()
def show(path: Annotated[Path, typer.Argument(help="The log.")]) -> None:
    """Print the records as JSON lines, checked."""
    from fastforget.serving.log import read_log  # noqa: PLC0415 (loads PyTorch)

    for record in read_log(path)[1:]:
        typer.echo(json.dumps({"number": record.number, "time": record.time, **record.fields, "hash": record.hash}))


def main() -> None:
    """Runs the command line; an expected failure is one line on standard error and exit status 1."""
    try:
        app()
    except (ImportError, OSError, RuntimeError, ValueError) as error:
        sys.exit(f"fastforget: {error}")
