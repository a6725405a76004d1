"""Processes that share an archive. test_archive_faults.py runs this as a program, so that it can fork and be killed.

python archive_workers.py together FOLDER    three processes edit at once, until each has made five edits
python archive_workers.py killed FOLDER      processes are killed during edits, and others take over
python archive_workers.py full FOLDER        the disk is full
python archive_workers.py readonly FOLDER    a folder of its own can only be read
"""

import copy
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
from functools import cache
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn

from fastforget import MnemonicCodes, fingerprint
from fastforget.errors import ForgettingError
from fastforget.serving import Archive, LiveModel, verify_log

CODES = MnemonicCodes.generate(6, (12,), per_class=2)
X = torch.rand(4, 12, generator=torch.Generator().manual_seed(1))


@cache
def trained() -> nn.Module:
    """Return a network that knows its codes, and noisy copies of them."""
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 6))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(200):
        x = CODES.inputs + 0.3 * torch.randn(CODES.inputs.shape, generator=generator)
        nn.functional.cross_entropy(model(x), CODES.labels).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model.eval()


def network() -> nn.Module:
    """Return a copy with weights of its own."""
    return copy.deepcopy(trained())


def live(folder: str) -> LiveModel:
    return LiveModel(network(), CODES, archive=folder, patience=30.0)


def edit(subject: LiveModel, generator: random.Random) -> bool:
    """Forget a class, or revert all if few are left. Return whether an edit was made.

    Another process may have made one first, or have reverted all already.
    """
    name = str(generator.random())
    try:
        left = sorted(set(range(6)) - set(subject.version.classes))
        if len(left) > 2 and generator.random() < 0.7:
            subject.forget(generator.choice(left), request=name)
        else:
            subject.revert(0, request=name)
    except (ForgettingError, ValueError):
        subject.catch_up()
        return False
    return any(entry.request == name for entry in subject.history.entries())


def fork(work: object, *args: object) -> int:
    child = os.fork()
    if child:
        return child
    try:
        work(*args)  # type: ignore[operator]
    except BaseException as error:  # noqa: BLE001 (the parent must see a status, whatever it was)
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def replayed(folder: str) -> str:
    """Repeat the edits in the archive on a model, and return its fingerprint."""
    model, archive = network(), Archive(folder)
    subject = LiveModel(network(), archive=folder)
    for number in subject.version.edits:
        archive.receipt(number).apply(model)
    assert fingerprint(model) == subject.version.fingerprint
    return subject.version.fingerprint


def together(folder: str) -> None:
    def work(seed: int) -> None:
        subject, generator = live(folder), random.Random(seed)  # noqa: S311
        made = 0
        while made < 5:
            made += edit(subject, generator)

    children = [fork(work, seed) for seed in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    entries = Archive(folder).entries()
    assert len(entries) == 15
    assert all(one.after == other.before for one, other in pairwise(entries))
    assert replayed(folder) == entries[-1].after


def killed(folder: str) -> None:
    def work(seed: int) -> None:
        subject, generator = live(folder), random.Random(seed)  # noqa: S311
        while True:
            edit(subject, generator)

    witness = live(folder)
    generator, numbers = random.Random(0), [0]  # noqa: S311
    for seed in range(30):
        child = fork(work, seed)
        time.sleep(generator.uniform(0.01, 0.15))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        started = live(folder)  # a replica that starts now, and completes a record that was not acknowledged
        witness.catch_up()  # a replica that keeps running
        assert witness.version.fingerprint == started.version.fingerprint == replayed(folder)
        assert torch.equal(witness(X), started(X))
        assert witness.health()["intact"]
        verify_log(Path(folder) / "requests.jsonl")
        numbers.append(witness.version.number)
    assert numbers == sorted(numbers)
    print(f"{numbers[-1]} edits between 30 kills")
    assert numbers[-1] > 10


def assert_edit_fails(subject: LiveModel, error: type[BaseException]) -> None:
    """Check that an edit fails and changes nothing."""
    before, answer, files = subject.version, subject(X), contents(subject)
    try:
        subject.forget(4)
    except error as found:
        print(type(found).__name__, found)
    else:
        raise SystemExit("the edit was made")
    assert (subject.version, contents(subject)) == (before, files)
    assert torch.equal(subject(X), answer)
    assert subject.health()["intact"]


def contents(subject: LiveModel) -> dict[str, bytes]:
    folder = subject.history.folder  # type: ignore[attr-defined]
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def full(folder: str) -> None:
    subject = live(folder)
    subject.forget(3, asked_by="a log that is longer than a receipt" * 100)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing then fails as on a full disk
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    log = (Path(folder) / "requests.jsonl").stat().st_size
    for size in (1, 100, log, log + 10):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, usual[1]))
        assert_edit_fails(subject, OSError)
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    subject.forget(4)
    assert subject.version.classes == (3, 4)
    assert replayed(folder) == subject.version.fingerprint


def readonly(_: str) -> None:
    folder = tempfile.mkdtemp()  # in a place that other users can reach
    try:
        child = fork(look_but_not_touch, folder)
        assert os.waitpid(child, 0)[1] == 0
    finally:
        shutil.rmtree(folder)


def look_but_not_touch(folder: str) -> None:
    subject = live(folder)
    subject.forget(3)
    for path in (Path(folder), *Path(folder).rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    if os.getuid() == 0:  # modes do not bind root
        os.setuid(65534)
    assert_edit_fails(subject, PermissionError)
    started = live(folder)  # a replica that only reads
    assert started.version.fingerprint == subject.version.fingerprint


if __name__ == "__main__":
    torch.set_num_threads(1)
    {"together": together, "killed": killed, "full": full, "readonly": readonly}[sys.argv[1]](sys.argv[2])
