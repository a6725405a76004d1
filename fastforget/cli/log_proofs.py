"""`fastforget log prove`, `check` and `witness`: proofs for people outside."""

import os
from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli.keys import PublicKeyOption, public_key
from fastforget.cli.options import ForceOption, JsonOption
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.serving.history.archive import LOG
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.proofs import RecordProof
from fastforget.serving.history.proving import prove_record, record_of
from fastforget.serving.history.witness import Kept, ask_service, read_head_proof
from fastforget.serving.history.witness import witness as keep_head

__all__ = ["LogArgument", "check", "log_file", "prove", "witness"]

LogArgument = Annotated[Path, typer.Argument(help="The log, or the archive that holds it.")]
_TOKENS = ("FASTFORGET_TOKEN_SEE", "FASTFORGET_TOKEN")


def log_file(path: Path) -> Path:
    """Return the log, or that of an archive."""
    return path / LOG if path.is_dir() else path


def prove(
    path: LogArgument,
    output: Annotated[Path, typer.Option("--output", metavar="FILE", help="Where to write the proof, JSON.")],
    request: Annotated[
        str | None, typer.Option(metavar="NAME", help="The request whose first record is proved.")
    ] = None,
    record: Annotated[int | None, typer.Option(metavar="NUMBER", min=0, help="Or the number of a record.")] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a proof, for people outside, that a record is in the log; `log check` checks it."""
    if (request is None) == (record is None):
        raise typer.BadParameter("either `--request` or `--record` must be given")
    log = log_file(path)
    check_output_files({"--output": output}, (log,), force=force)
    found = record_of(log, number=record, request=request)
    proof = prove_record(log, LogTree(log), found)
    proof.save(output)
    text = f"record {found.number} is in {log}, {_told(proof)}\nwrote {output}"
    print_result({**_described(proof), "output": str(output)}, text, as_json=as_json)


def check(
    proof: Annotated[Path, typer.Argument(help="The proof, from `log prove` or from a service.")],
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The log or archive, which must still hold the record.")
    ] = None,
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check a proof that a record was in a log."""
    found = RecordProof.load(proof)
    signer = public_key(key)
    found.check(signer)
    if log is not None:
        head = read_head_proof(log_file(log), found.head.size)
        head.check(found.head)
    said = "signed by that key" if signer else _told(found)
    still = "" if log is None else f"; {log_file(log)} continues it"
    text = f"{proof}: record {found.record.number} was in {found.head.origin}, {said}{still}"
    print_result({**_described(found), "signature_checked": signer is not None}, text, as_json=as_json)


def witness(
    source: Annotated[str, typer.Argument(help="The log, the archive that holds it, or the address of a service.")],
    keep: Annotated[
        Path, typer.Option(metavar="FILE", help="Where the last head is kept: on another machine, best of all.")
    ],
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep the head of a log elsewhere; refuse a log that does not continue the kept one.

    For a service, set FASTFORGET_TOKEN_SEE or FASTFORGET_TOKEN to a token that lets its callers see requests.
    """
    check_output_files({"--keep": keep}, (), force=True)
    kept = Kept.load(keep)
    since = kept.head.size if kept else 0
    if source.startswith(("http://", "https://")):
        found = ask_service(source, since, next((os.environ[name] for name in _TOKENS if os.environ.get(name)), None))
    else:
        found = read_head_proof(log_file(Path(source)), since)
    made = keep_head(keep, kept, found, public_key(key))
    signed = f", signed by {made.public_key}" if made.public_key else ", not signed"
    continued = "the first head that is kept" if kept is None else f"continues the {since} that were kept"
    text = f"{source}: {made.head.size} records{signed}; {continued}"
    result = {"origin": made.head.origin, "size": made.head.size, "since": since, "public_key": made.public_key}
    print_result(result, text, as_json=as_json)


def _told(proof: RecordProof) -> str:
    return f"signed by {proof.public_key}" if proof.public_key else "not signed"


def _described(proof: RecordProof) -> dict[str, object]:
    return {
        "origin": proof.head.origin,
        "record": proof.record.number,
        "hash": proof.record.hash,
        "size": proof.head.size,
        "public_key": proof.public_key,
    }
