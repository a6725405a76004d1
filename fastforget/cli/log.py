"""`fastforget log`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastforget.classifier.class_names import list_classes
from fastforget.cli.names import names_in
from fastforget.cli.options import JsonOption
from fastforget.cli.outputs import print_result
from fastforget.serving.history.archive import LOG
from fastforget.serving.history.log import read_log, verify_log
from fastforget.serving.history.verification import verify_archive

__all__ = ["log"]

log = typer.Typer(no_args_is_help=True, help="Check and print the record of forgetting requests.")
LogArgument = Annotated[Path, typer.Argument(help="The log, or the archive that holds it.")]


@log.command(epilog="Example: fastforget log verify /var/lib/forgetting")
def verify(
    path: LogArgument,
    known: Annotated[
        str | None,
        typer.Option(help="Hash of a record, kept elsewhere; the log must contain that record.", metavar="HASH"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Check that no record was changed, dropped, added or moved; of an archive, also that its receipts fit."""
    log = _log_file(path)
    count, edits = verify_archive(path, known) if path.is_dir() else (verify_log(log, known), None)
    text = f"{log}: {count} record{'s' * (count != 1)}, none changed, dropped, added or moved"
    result: dict[str, object] = {"log": str(log), "records": count}
    if edits is not None:
        text += f"; the receipts are those of {edits} edit{'s' * (edits != 1)}"
        result["edits"] = edits
    print_result(result, text, as_json=as_json)


@log.command(epilog="Example: fastforget log show /var/lib/forgetting")
def show(
    path: LogArgument,
    names: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Text file with the names of classes 0, 1, ..., one in each line; they are added as class_names.",
        ),
    ] = None,
) -> None:
    """Check the records and print them as JSON lines."""
    called = None if names is None else names_in(names)
    for record in read_log(_log_file(path))[1:]:
        named = {}
        if called is not None and "classes" in record.fields:
            named = {"class_names": list_classes(record.fields["classes"], called)}
        line = {"number": record.number, "time": record.time, **record.fields, **named, "hash": record.hash}
        typer.echo(json.dumps(line))


def _log_file(path: Path) -> Path:
    return path / LOG if path.is_dir() else path
