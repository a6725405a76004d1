"""Repair of an archive: what can be put right without losing anything that was acknowledged, said before it is done.

What opening an archive puts right by itself (an unfinished line, a head one record behind) is among it. Nothing is
repaired that would hide a loss: records that were acknowledged and cannot be read are for a backup to bring back.
"""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from fastforget.files.durable import sync
from fastforget.serving.history.archive import LOG
from fastforget.serving.history.damage import Damage
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.head import write_head
from fastforget.serving.history.locks import locked, retry
from fastforget.serving.history.receipt_damage import unneeded_files

__all__ = ["Step", "repair", "repair_steps"]

_OLD = 60.0  # seconds after which a draft is nobody's any more
_PATIENCE = 5.0  # seconds that another process may take


@dataclass(frozen=True)
class Step:
    """A step of a repair.

    Attributes:
        text: What it does, or what cannot be repaired.
        do: Does it; None where it cannot be done.
    """

    text: str
    do: Callable[[], None] | None = None


def repair_steps(path: Path) -> list[Step]:
    """Return what a repair would do; nothing is changed.

    Args:
        path: The folder of an archive, or a log.

    Returns:
        The steps, in order; none where all is well. If the log itself cannot be repaired, only what says why.

    Raises:
        OSError: There is no such log, or it cannot be read.
    """
    log = _log(path)
    damage = Damage.of(log)
    if damage.beyond_repair:
        return [Step(text) for text in damage.beyond_repair]
    steps = []
    if damage.tail:
        aside = log.with_name(f"{log.name}.damaged-{datetime.now(timezone.utc):%Y%m%dT%H%M%S}")
        size, text = len(damage.tail), f"after record {damage.records[-1].number}, which nobody was told of"
        steps.append(Step(f"move {size} bytes {text}, to `{aside}`", partial(_cut, log, aside, damage)))
    if damage.head:
        last = damage.records[-1]
        steps.append(
            Step(f"write the head anew, of record {last.number}: {damage.head}", partial(write_head, log, last))
        )
    drafts = _drafts(log)
    steps += [Step(f"remove `{draft}`, which a killed process left", partial(_remove, draft)) for draft in drafts]
    if path.is_dir():
        removable, lost = unneeded_files(path, damage.records)
        steps += [Step(text, partial(_remove, file)) for file, text in removable]
        steps += [Step(text) for text in lost]
    return steps


def repair(path: Path) -> list[Step]:
    """Do what `repair_steps` returns, while no other process edits.

    Args:
        path: The folder of an archive, or a log.

    Returns:
        The steps, as they were found when nobody else could write any more.

    Raises:
        OSError: A step failed; those before it are done.
        TimeoutError: Another process edits.
    """
    with _alone(path):
        steps = repair_steps(path)
        for step in steps:
            if step.do is not None:
                step.do()
    return steps


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep all others from writing."""
    log = _log(path)
    with ExitStack() as stack:
        if path.is_dir():
            stack.enter_context(locked(path / "editing", _PATIENCE, f"another process edits `{path}`"))
        file = os.open(log, os.O_RDWR)
        stack.callback(os.close, file)
        retry(lambda: fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB), _PATIENCE, f"another process writes to `{log}`")
        yield


def _log(path: Path) -> Path:
    log = path / LOG if path.is_dir() else path
    with log.open("rb"):
        pass
    return log


def _cut(log: Path, aside: Path, damage: Damage) -> None:
    """Keep what cannot be read in a file of its own, then end the log before it."""
    opened = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(opened, "wb") as file:
        file.write(damage.tail)
        file.flush()
        os.fsync(file.fileno())
    sync(log.absolute().parent)
    if log.read_bytes()[damage.size :] != damage.tail:
        raise ArchiveError(f"`{log}` must not change during a repair")
    os.truncate(log, damage.size)
    sync(log)


def _drafts(log: Path) -> list[Path]:
    """Return files that a process which was killed long ago left beside a log."""
    draft = re.compile(rf"\.{re.escape(log.name)}\.[0-9a-f]{{8}}|{re.escape(log.name)}\.(head|signed)\.unfinished")
    found = [file for file in log.parent.iterdir() if draft.fullmatch(file.name)]
    return sorted(file for file in found if time.time() - file.stat().st_mtime > _OLD)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
    sync(file.parent)
