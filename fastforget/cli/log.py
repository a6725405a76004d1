"""`fastforget log`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli.options import Json
from fastforget.cli.outputs import show as show_result
from fastforget.serving.archive import LOG
from fastforget.serving.log import read_log, verify_log

__all__ = ["log"]

log = typer.Typer(no_args_is_help=True, help="The record of forgetting requests.")
Log = Annotated[Path, typer.Argument(help="The log, or the archive that it is in.")]


@log.command(epilog="Example: fastforget log verify /var/lib/forgetting")
def verify(
    path: Log,
    known: Annotated[
        str | None, typer.Option(help="Hash of a record that must be in it, kept elsewhere.", metavar="HASH")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check that no record was changed, dropped, added or moved."""
    path = _file(path)
    count = verify_log(path, known)
    text = f"{path}: {count} record{'s' * (count != 1)}, none changed, dropped, added or moved"
    show_result({"log": str(path), "records": count}, text, as_json=as_json)


@log.command(epilog="Example: fastforget log show /var/lib/forgetting")
def show(path: Log) -> None:
    """Print the records as JSON lines, checked."""
    for record in read_log(_file(path))[1:]:
        typer.echo(json.dumps({"number": record.number, "time": record.time, **record.fields, "hash": record.hash}))


def _file(path: Path) -> Path:
    return path / LOG if path.is_dir() else path
