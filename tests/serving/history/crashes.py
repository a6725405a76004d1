"""Crashes of a process at every step that it takes on disk, and losses of power; test_crashes.py runs a part of them.

python crashes.py kills FOLDER [STEP]      a process is killed before every STEP-th call that changes files, in each job
python crashes.py power FOLDER [STATES]    power fails at random calls; what was not synced came to the disk or did not

Calls are those of Python's `os`, which is all that the library uses, except while safetensors writes the content of a
receipt. In a loss of power each name of a folder that was not synced is old or new, and each content that was not
synced is old, new, a beginning of the new one, or zeros. Both are done without a key, and with one that is changed.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from serving.archive_workers import CODES, fork, network

from fastforget.serving import Archive, LiveModel, Request
from fastforget.serving.history.verification import verify_archive

try:
    from fastforget.files.signing import SigningKey

    KEY, NEXT = (SigningKey.generate() for _ in range(2))
    KEYS: list[Any] = [None, KEY]
except ModuleNotFoundError:
    KEYS = [None]

CALLS = ("open", "write", "fsync", "link", "replace", "unlink", "ftruncate", "truncate", "mkdir", "chmod")


def live(folder: Path, *, key: Any = None, undo: str = "keep") -> LiveModel:
    return LiveModel(network(), CODES, archive=Archive(folder, key=key), undo=undo, patience=30.0)


def state(subject: LiveModel) -> tuple[int, tuple[int, ...], tuple[str, ...]]:
    """What was acknowledged: the version, what it forgot, and which requests were filed."""
    return subject.version.number, subject.version.classes, tuple(request.name for request in subject.requests())


def current(folder: Path, key: Any) -> Any:
    """The key that signs when the archive is opened: a whole record counts, also where no head names it yet."""
    log = folder / "requests.jsonl"
    if key is None or not log.exists():
        return key
    lines = log.read_bytes()
    return NEXT if NEXT.public.text.encode() in lines[: lines.rfind(b"\n") + 1] else key


def request(name: str) -> Request:
    return Request(name, (5,), "a person", "2026-01-01T00:00:00+00:00")


@contextmanager
def watched(before: Callable[[str], None]) -> Iterator[None]:
    """Have a function called before each call that changes files."""
    real, busy = {name: getattr(os, name) for name in CALLS}, False

    def watching(name: str) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal busy
            if not busy:  # what is called in the function itself is not the library's
                busy = True
                try:
                    before(name)
                finally:
                    busy = False
            return real[name](*args, **kwargs)

        return call

    try:
        for name in CALLS:
            setattr(os, name, watching(name))
        yield
    finally:
        for name, function in real.items():
            setattr(os, name, function)


# Kills


def begun(folder: Path, key: Any) -> None:
    subject = live(folder, key=key)
    subject.forget(1)
    subject.ask(5, request="earlier")


def nothing(_: Path, __: Any) -> None:
    pass


JOBS: dict[str, tuple[Callable[[Path, Any], None], Callable[[Path, Any], object]]] = {
    "a new archive": (nothing, lambda folder, key: live(folder, key=key).forget(3)),
    "a first request": (nothing, lambda folder, key: Archive(folder, key=key).ask(request("first"))),
    "an edit": (begun, lambda folder, key: live(folder, key=key).forget(3)),
    "a way back": (begun, lambda folder, key: live(folder, key=key).revert(0)),
    "a request": (begun, lambda folder, key: Archive(folder, key=key).ask(request("later"))),
    "another key": (begun, lambda folder, key: Archive(folder, key=key).change_key(NEXT) if key else None),
}


def kills(folder: Path, step: int) -> int:
    """Kill a process at each call of each job; return how often."""
    count = 0
    for key in KEYS:
        for number, (prepare, work) in enumerate(JOBS.values()):
            start, after = folder / f"start {number} {key is None}", folder / f"after {number} {key is None}"
            start.mkdir(parents=True)
            prepare(start, key)
            shutil.copytree(start, after)
            work(after, key)
            copied = shutil.copytree(start, folder / "copy")  # opening it may begin it
            allowed = state(live(copied, key=key)), state(live(after))
            shutil.rmtree(copied)
            place = 0
            while killed(start, folder / "now", place, lambda now, work=work, key=key: work(now, key)):  # type: ignore[misc]
                check(folder / "now", allowed, key)
                place, count = place + step, count + 1
            check(folder / "now", allowed[1:], key)  # it came to its end
    return count


def killed(start: Path, now: Path, place: int, work: Callable[[Path], object]) -> bool:
    """Do a job in another process, which is killed before a call; return whether that call came."""
    shutil.rmtree(now, ignore_errors=True)
    shutil.copytree(start, now)

    def child() -> None:
        left = place

        def before(_: str) -> None:
            nonlocal left
            if not left:
                os.kill(os.getpid(), signal.SIGKILL)
            left -= 1

        with watched(before):
            work(now)

    status = os.waitpid(fork(child), 0)[1]
    assert status in (0, signal.SIGKILL), status
    return status != 0


def check(folder: Path, allowed: tuple[Any, ...], key: Any) -> None:
    """Whoever opens the archive sees one of the states, its files fit, and the next edit and request are made."""
    key = current(folder, key)
    subject = live(folder, key=key)
    found = state(subject)
    assert found in allowed, f"{found} is none of {allowed}"
    subject.forget(4)
    subject.ask(5, request="afterwards")
    assert state(live(folder, key=key)) == (found[0] + 1, (*found[1], 4), (*found[2], "afterwards"))
    verify_archive(folder, key=key and key.public)
    own = {f"{number:06d}.safetensors" for number in range(1, found[0] + 2)}
    assert {path.name for part in ("edits", "undo") for path in (folder / part).iterdir()} <= own


# Power


@dataclass
class Disk:
    """What of a folder is on the disk, and what only in memory."""

    folder: Path
    contents: dict[int, bytes] = field(default_factory=dict)  # by inode, as it was synced
    names: dict[Path, dict[str, int]] = field(default_factory=dict)  # by folder, as it was synced
    held: dict[int, int] = field(default_factory=dict)  # open files, so that no inode is used again

    def now(self) -> tuple[dict[int, bytes], dict[Path, dict[str, int]]]:
        """What is in memory."""
        contents, names = {}, {}
        for path in (self.folder, *(one for one in self.folder.rglob("*") if one.is_dir())):
            names[path] = {}
            for one in path.iterdir():
                if one.is_file():
                    inode = one.stat().st_ino
                    names[path][one.name], contents[inode] = inode, one.read_bytes()
                    if inode not in self.held:
                        self.held[inode] = REAL_OPEN(one, os.O_RDONLY)
        return contents, names

    def sync(self, file: int) -> None:
        """A file, or the names in a folder, come to the disk."""
        path = Path(f"/proc/self/fd/{file}").readlink()
        contents, names = self.now()
        if path in names:
            self.names[path] = names[path]
        elif (inode := os.fstat(file).st_ino) in contents:
            self.contents[inode] = contents[inode]

    def lost(self, target: Path, draw: random.Random) -> None:
        """Write what may be found after a loss of power now."""
        contents, names = self.now()
        for path, current in names.items():
            synced = self.names.get(path, {})
            made = target / path.relative_to(self.folder)
            made.mkdir(parents=True)
            for name in sorted({*current, *synced}):
                inode = draw.choice([current.get(name), synced.get(name)])
                if inode is not None:
                    (made / name).write_bytes(self._content(inode, contents, draw))

    def _content(self, inode: int, contents: dict[int, bytes], draw: random.Random) -> bytes:
        synced = self.contents.get(inode, b"")
        current = contents.get(inode, synced)
        if current == synced:
            return current
        cut = draw.randrange(len(current) + 1)
        start = synced if current.startswith(synced) else b""
        return draw.choice([synced, current, current[: max(cut, len(start))], start + bytes(len(current) - len(start))])


REAL_OPEN = os.open
CALLS_UNSIGNED, CALLS_SIGNED = 133, 205  # that change files in `power_with`


def power(folder: Path, states: int) -> int:
    """Lose power at random calls; return how many states were looked at."""
    return sum(power_with(folder / f"{key is None}", states // len(KEYS), key) for key in KEYS)


def power_with(folder: Path, states: int, key: Any) -> int:
    """Lose power of an archive that is signed, or not."""
    draw, archive, found = random.Random(0), folder / "archive", 0  # noqa: S311
    reached: list[Any] = [(0, (), ())]  # what was acknowledged, in order
    archive.mkdir(parents=True)
    disk, cuts, calls = Disk(archive), folder / "cuts", 0
    share = states / (CALLS_UNSIGNED if key is None else CALLS_SIGNED)

    def before(name: str) -> None:
        nonlocal calls
        calls += 1
        for number in range(int(share + draw.random())):
            disk.lost(cuts / f"{calls:05d}.{number} {len(reached) - 1}", draw)

    real = os.fsync

    def synced(file: int) -> None:
        real(file)
        disk.sync(file)

    os.fsync = synced
    try:
        subject: Any = None

        def begin() -> None:
            nonlocal subject
            subject = live(archive, key=key)

        def change_key() -> None:
            nonlocal subject
            if key is not None:
                Archive(archive, key=key).change_key(NEXT)
                subject = live(archive, key=NEXT)

        for work in (
            begin,
            lambda: subject.ask(5, request="one"),
            lambda: subject.forget(1),
            lambda: subject.forget(3),
            lambda: subject.revert(1),
            change_key,
            lambda: subject.ask(5, request="two"),
            lambda: subject.forget(2),
        ):
            with watched(before):
                work()
            reached.append(state(subject))
    finally:
        os.fsync = real
    for cut in sorted(cuts.iterdir()):
        acknowledged = int(cut.name.split()[1])
        check(cut, tuple(reached[acknowledged : acknowledged + 2]), key)
        shutil.rmtree(cut)
        found += 1
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    work = {"kills": kills, "power": power}[sys.argv[1]]
    made = work(Path(sys.argv[2]), int(sys.argv[3]))
    print(f"{made} {sys.argv[1]}: nothing lost, nothing half accepted")
