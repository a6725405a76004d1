"""What makes proofs from a log, for people outside."""

from __future__ import annotations

from pathlib import Path

from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.key_changes import KeyChange
from fastforget.serving.history.log import read_log
from fastforget.serving.history.log_tree import LogTree
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.records import Record
from fastforget.serving.history.seal import read_signed
from fastforget.serving.history.tree_head import TreeHead

__all__ = ["prove_head", "prove_record", "prove_request", "record_of"]


def prove_record(log: Path, tree: LogTree, record: Record) -> RecordProof:
    """Prove that a log holds a record: by the signed head, if there is one that covers it.

    Args:
        log: The log.
        tree: Of its records.
        record: One of them.

    Returns:
        The proof.

    Raises:
        OSError: A file cannot be read.
        ArchiveError: The log was changed.
    """
    head, changes = _newest(log, tree, record.number + 1)
    path = tuple(tree.read().inclusion(record.number, head.size))
    return RecordProof(record, path, head, changes[-1].public_key if changes else "", changes)


def prove_request(log: Path, tree: LogTree, name: str) -> RecordProof | None:
    """Prove that a log holds the request of a name; None where it does not. As `prove_record`."""
    tree.read()
    record = tree.asked(name)
    return None if record is None else prove_record(log, tree, record)


def prove_head(log: Path, tree: LogTree, since: int) -> HeadProof:
    """Prove that a log begins with what it held before.

    Args:
        log: The log.
        tree: Of its records.
        since: How many records it held. Where it holds fewer now, nothing is proved.

    Returns:
        The head now, with the proof.

    Raises:
        OSError: A file cannot be read.
        ArchiveError: The log was changed, or holds nothing.
        ValueError: The number is negative.
    """
    if since < 0:
        raise ValueError(f"`since` must not be negative, got {since}")
    head, changes = _newest(log, tree, 1)
    path = tree.read().consistency(since, head.size) if since <= head.size else []
    return HeadProof(head, since, tuple(path), changes[-1].public_key if changes else "", changes)


def record_of(log: Path, *, number: int | None, request: str | None) -> Record:
    """Return the record of a number, or the one by which a request was filed or else carried out.

    Args:
        log: The log.
        number: Of the record.
        request: Name of the request, where there is no number.

    Returns:
        The record.

    Raises:
        OSError: There is no such log.
        ValueError: There is no such record, or the log was changed.
    """
    records = read_log(log, settled=True)
    if number is not None:
        if not 0 <= number < len(records):
            raise ValueError(f"`record` must be that of a record, 0 to {len(records) - 1}, got {number}")
        return records[number]
    found = [record for record in records if record.fields.get("request") == request]
    if not found:
        raise ValueError(f"`request` must be the name of a request on record, got {request!r}")
    return found[0]


def _newest(log: Path, tree: LogTree, least: int) -> tuple[TreeHead, tuple[KeyChange, ...]]:
    """Return the signed head and the keys up to its own, or else the head of all records; it covers some at least."""
    signed = read_signed(log)
    size = len(tree.read())
    if size < least:
        raise ArchiveError(f"`{log}` must hold {least} records, got {size}")
    if signed is None or not tree.changes or signed.size < least:
        return tree.head(size), ()
    if signed.size > size or tree.head(signed.size).text != signed.text:
        raise ArchiveError(f"`{log}` must be the log that was signed, but it was changed since")
    return signed, tree.changes_of(signed.size)
