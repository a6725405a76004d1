"""What is wrong with a log: how much of it can be read, and whether anything that was acknowledged is lost."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.head import read_head
from fastforget.serving.history.log_tree import leaf_of
from fastforget.serving.history.merkle import MerkleTree
from fastforget.serving.history.records import Record, parse_records
from fastforget.serving.history.seal import read_signed

__all__ = ["Damage"]


@dataclass(frozen=True)
class Damage:
    """What is wrong with a log.

    Attributes:
        records: Those that fit, from the first one on.
        size: Bytes of them.
        tail: What comes after them; no record that was acknowledged, unless it is beyond repair.
        head: What is wrong with the head, if it can be written anew; empty where nothing is.
        beyond_repair: What cannot be put right here.
    """

    records: tuple[Record, ...]
    size: int
    tail: bytes
    head: str
    beyond_repair: tuple[str, ...]

    @classmethod
    def of(cls, log: Path) -> Damage:
        """Look at a log.

        Args:
            log: The file.

        Returns:
            What is wrong.

        Raises:
            OSError: It cannot be read.
        """
        data = log.read_bytes()
        records = _readable(data, log)
        size = sum(len(record.line()) for record in records)
        tail, named = data[size:], _named(log)
        if not records:
            return cls((), 0, tail, "", (f"no record of `{log}` can be read: bring it back from a backup",))
        last = records[-1].number
        lost = [*_lost(log, records, named, torn=b"\n" not in tail), *_unlike_signed(log, records)]
        wrong = ""
        if named is None:
            wrong = (
                "it is missing or cannot be read, so that it does not show whether records were dropped from the end"
            )
        elif named[0] < last:
            wrong = f"it is of record {named[0]}"
        if named is None and last == 0 and read_head(log) is None:
            wrong = ""  # a log that just began has none
        return cls(tuple(records), size, tail, wrong, tuple(lost))


def _readable(data: bytes, log: Path) -> list[Record]:
    records = []
    try:
        for record in parse_records(data[: data.rfind(b"\n") + 1], log):
            records.append(record)  # noqa: PERF402 (those before an error count)
    except ValueError:
        pass
    return records


def _named(log: Path) -> tuple[int, str] | None:
    """Return number and hash that the head says; None where it says nothing."""
    try:
        read = json.loads(read_head(log) or "")
        return int(read["number"]), str(read["hash"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


def _lost(log: Path, records: list[Record], named: tuple[int, str] | None, *, torn: bool) -> list[str]:
    """Say which records that were acknowledged cannot be read."""
    last = records[-1].number
    if named is None:
        if torn:  # a line without an end was never acknowledged
            return []
        return [f"what follows record {last} of `{log}` cannot be read, and no head says whether it was acknowledged"]
    number, digest = named
    if number > last:
        return [f"records {last + 1} to {number} of `{log}` were acknowledged and cannot be read: use a backup"]
    if number < 0 or records[number].hash != digest:
        return [f"the head of `{log}` is that of another log: one of both was replaced"]
    return []


def _unlike_signed(log: Path, records: list[Record]) -> list[str]:
    """Say where a log is not the one that was signed; who signed is not checked here."""
    try:
        signed = read_signed(log)
    except ArchiveError as error:
        return [f"{error}: bring it back from a backup"]
    if signed is None:
        return []
    tree = MerkleTree()
    for record in records:
        tree.append(leaf_of(record))
    if signed.size > len(tree):
        return [f"{signed.size} records of `{log}` were signed and {len(tree)} can be read: use a backup"]
    return [] if tree.root(signed.size) == signed.root else [f"`{log}` is not the log that was signed: use a backup"]
