"""`fastforget log`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from fastforget.classifier.class_names import list_classes
from fastforget.cli.keys import PublicKeyOption, public_key
from fastforget.cli.log_keys import change_key
from fastforget.cli.log_proofs import LogArgument, check, log_file, prove, witness
from fastforget.cli.log_repair import repair
from fastforget.cli.log_stamps import check_stamp, stamp
from fastforget.cli.names import names_in
from fastforget.cli.options import ForceOption, JsonOption
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.files.durable import whole_files
from fastforget.serving.history.export import FORMATS, exported
from fastforget.serving.history.log import read_log, verify_log
from fastforget.serving.history.verification import verify_archive, verify_signatures
from fastforget.serving.history.witness import read_head_proof

__all__ = ["log"]

log: typer.Typer = typer.Typer(
    no_args_is_help=True, help="Check, print, prove and watch the record of forgetting requests."
)
NamesFileOption = Annotated[
    Path | None,
    typer.Option(
        "--names",
        metavar="FILE",
        help="Text file with the names of classes 0, 1, ..., one in each line; they are added as class_names.",
    ),
]


@log.command(epilog="Example: fastforget log verify /var/lib/forgetting")
def verify(
    path: LogArgument,
    known: Annotated[
        str | None,
        typer.Option(help="Hash of a record, kept elsewhere; the log must contain that record.", metavar="HASH"),
    ] = None,
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check that no record was changed, dropped, added or moved; of an archive, also that its receipts fit.

    Where the log is signed, it must be the one that was signed. Anybody could sign another one with another key: give
    the public key that you know.
    """
    log, signer = log_file(path), public_key(key)
    count, edits = verify_archive(path, known, key=signer) if path.is_dir() else (verify_log(log, known), None)
    text = f"{log}: {count} record{'s' * (count != 1)}, none changed, dropped, added or moved"
    result: dict[str, object] = {"log": str(log), "records": count}
    if signed := verify_signatures(log, signer):
        text += "; signed" + " by that key" * (signer is not None)
        result["signed"] = signed
    if edits is not None:
        text += f"; the receipts are those of {edits} edit{'s' * (edits != 1)}"
        result["edits"] = edits
    print_result(result, text, as_json=as_json)


@log.command(epilog="Example: fastforget log show /var/lib/forgetting")
def show(path: LogArgument, names: NamesFileOption = None) -> None:
    """Check the records and print them as JSON lines."""
    called = None if names is None else names_in(names)
    for record in read_log(log_file(path))[1:]:
        named = {}
        if called is not None and "classes" in record.fields:
            named = {"class_names": list_classes(record.fields["classes"], called)}
        line = {"number": record.number, "time": record.time, **record.fields, **named, "hash": record.hash}
        typer.echo(json.dumps(line))


@log.command(epilog="Example: fastforget log export /var/lib/forgetting --output record.html --names classes.txt")
def export(
    path: LogArgument,
    output: Annotated[
        Path, typer.Option("--output", metavar="FILE", help="Where to write it; .csv, .json or .html says as what.")
    ],
    names: NamesFileOption = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Check the records and write them as a table for spreadsheets, as JSON or as a page."""
    form = output.suffix.removeprefix(".").lower()
    if form not in FORMATS:
        raise typer.BadParameter(f"`--output` must end in .{', .'.join(FORMATS)}, got {output}")
    log = log_file(path)
    check_output_files({"--output": output}, (log, names), force=force)
    called = None if names is None else names_in(names)
    records = read_log(log)
    text = exported(records, form, called, read_head_proof(log, 0).head)
    with whole_files(output) as (draft,):
        draft.write_text(text, encoding="utf-8", newline="")
    print_result({"output": str(output), "records": len(records) - 1}, f"wrote {output}", as_json=as_json)


for _command, _example in (
    (prove, "prove /var/lib/forgetting --request ticket-17 --output proof.json"),
    (check, "check proof.json --public-key public.pem"),
    (repair, "repair /var/lib/forgetting"),
    (witness, "witness https://models.example --keep head.json --public-key public.pem"),
    (stamp, "stamp /var/lib/forgetting --keep stamp.json --query stamp.tsq"),
    (check_stamp, "check-stamp stamp.json --authority authority.pem --log /var/lib/forgetting"),
    (change_key, "change-key /var/lib/forgetting --sign private.pem --new next.pem"),
):
    log.command(epilog=f"Example: fastforget log {_example}")(_command)
