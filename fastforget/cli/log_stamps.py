"""`fastforget log stamp` and `check-stamp`: time stamps of a third party."""

from pathlib import Path
from typing import Annotated

import typer

from fastforget.cli.keys import PublicKeyOption, public_key
from fastforget.cli.log_proofs import LogArgument, log_file
from fastforget.cli.options import ForceOption, JsonOption
from fastforget.cli.outputs import check_output_files, print_result
from fastforget.files.durable import whole_files
from fastforget.serving.history.stamps import Stamp, read_authority
from fastforget.serving.history.witness import read_head_proof

__all__ = ["check_stamp", "stamp"]

_AUTHORITY = "Certificates of the time-stamping authority in PEM, with its root."


def stamp(
    path: LogArgument,
    keep: Annotated[Path, typer.Option(metavar="FILE", help="Where the stamp is kept, JSON.")],
    query: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write what is to be sent to the authority, DER (.tsq).")
    ] = None,
    reply: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Or check and keep what it answered, DER (.tsr).")
    ] = None,
    authority: Annotated[Path | None, typer.Option(metavar="FILE", help=_AUTHORITY)] = None,
    force: ForceOption = False,
    as_json: JsonOption = False,
) -> None:
    """Have a third party sign that the head of a log is there now (RFC 3161), in two steps.

    First --query writes the request. Send it by any way to a time-stamping authority, for instance by curl. Then
    --reply checks the answer with --authority, and keeps it.
    """
    if query is not None and reply is None:
        _ask(path, keep, query, force=force, as_json=as_json)
    elif query is None and reply is not None and authority is not None:
        _answer(path, keep, reply, authority, as_json=as_json)
    else:
        _refuse()


def check_stamp(
    file: Annotated[Path, typer.Argument(help="The stamp, from `log stamp`.")],
    authority: Annotated[Path, typer.Option(metavar="FILE", help=_AUTHORITY)],
    log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The log or archive, which must still begin with the records.")
    ] = None,
    key: PublicKeyOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the time stamp of a log, and say when its records were there."""
    found = Stamp.load(file)
    time = found.check(read_authority(authority), public_key(key)).isoformat()
    if log is not None:
        read_head_proof(log_file(log), found.head.size).check(found.head)
    still = "" if log is None else f"; {log_file(log)} continues them"
    text = f"{file}: {found.head.size} records of {found.head.origin} were there at {time}{still}"
    print_result({**_described(found), "time": time}, text, as_json=as_json)


def _answer(path: Path, keep: Path, reply: Path, authority: Path, *, as_json: bool) -> None:
    trusted = read_authority(authority)
    made = Stamp.load(keep).answered(reply.read_bytes(), trusted)
    read_head_proof(log_file(path), made.head.size).check(made.head)
    made.save(keep)
    time = made.check(trusted).isoformat()
    text = f"{keep}: the authority saw {made.head.size} records of {made.head.origin} at {time}"
    print_result({**_described(made), "time": time, "keep": str(keep)}, text, as_json=as_json)


def _ask(path: Path, keep: Path, query: Path, *, force: bool, as_json: bool) -> None:
    log = log_file(path)
    check_output_files({"--keep": keep, "--query": query}, (log,), force=force)
    made, content = Stamp.asked(read_head_proof(log, 0))
    with whole_files(query) as (draft,):
        draft.write_bytes(content)
    made.save(keep)
    text = f"{log}: asks for the time of {made.head.size} records\nwrote {query} and {keep}"
    print_result({**_described(made), "query": str(query), "keep": str(keep)}, text, as_json=as_json)


def _described(made: Stamp) -> dict[str, object]:
    return {"origin": made.head.origin, "size": made.head.size}


def _refuse() -> None:
    raise typer.BadParameter("either `--query` must be given, or `--reply` and `--authority`")
