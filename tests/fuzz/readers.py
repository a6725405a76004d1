"""Every reader of files, good files for each, and the errors that it may raise."""

import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from fuzz.damage import Folder
from known_codes import CLASSES, model_with_codes
from safetensors.torch import save_file
from serving.archive_workers import CODES, network
from torch import Tensor, nn

from fastforget import FisherDiagonal, MnemonicCodes, Receipt, fisher_diagonal, one_shot
from fastforget.auditing.report_file import load_report, save_report
from fastforget.cli import checkpoints, samples
from fastforget.cli.names import names_in
from fastforget.comparison.config import read_config
from fastforget.comparison.rows import Row
from fastforget.comparison.store import RowStore
from fastforget.demo.idx import read_idx
from fastforget.edits.history import EditHistory
from fastforget.files.signing import PublicKey, SigningKey
from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.checkpoint import Checkpoint, state_tensors
from fastforget.serving import Archive, LiveModel, read_log
from fastforget.serving.history.damage import Damage
from fastforget.serving.history.proofs import HeadProof, RecordProof
from fastforget.serving.history.repair import repair_steps
from fastforget.serving.history.verification import verify_archive
from fastforget.serving.history.witness import Kept, read_head_proof

EXAMPLES = Path(__file__).parents[2] / "examples"
KEY = SigningKey(Ed25519PrivateKey.from_private_bytes(bytes(range(32))))
MODEL = "fuzz.readers:plain"


@dataclass(frozen=True)
class Reader:
    """What reads files.

    Attributes:
        name: What it reads.
        write: Writes good files into a folder.
        read: Reads them, and uses what it read.
        errors: What it may raise, by its documentation.
    """

    name: str
    write: Callable[[Path], None]
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...] = (ValueError,)

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def plain() -> nn.Module:
    """What `--model` names."""
    return model_with_codes()[0]


@cache
def good_files(reader: Reader) -> Folder:
    """Return what the reader reads without complaint."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reader.write(folder)
        return contents(folder)


def contents(folder: Path) -> Folder:
    """Return the files of a folder by their paths in it."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _inputs(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    return torch.randn(8, 6, generator=generator), torch.arange(8) % CLASSES


def _write_codes(folder: Path) -> None:
    for name, shape in (("tensor", (6,)), ("tuple", [(5,), (3,)]), ("dict", {"image": (5,), "text": (3,)})):
        MnemonicCodes.generate(CLASSES, shape, per_class=2).save(folder / name)


def _read_codes(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        codes = MnemonicCodes.load(path)
        assert len(repr(codes)) < 1000
        codes.for_classes([0])


@cache
def _receipt() -> Receipt:
    model, codes = model_with_codes()
    return one_shot(model, codes, 1)


def _write_receipts(folder: Path) -> None:
    _receipt().save(folder / "plain")
    _receipt().save(folder / "signed", key=KEY)


def _read_receipts(folder: Path) -> None:
    for path in sorted(folder.iterdir()):
        receipt = Receipt.load(path, signed_by=KEY.public if path.name == "signed" else None)
        json.dumps(receipt.describe())
        receipt.apply(plain())


def _write_fisher(folder: Path) -> None:
    model, _ = model_with_codes()
    data = _inputs(torch.Generator().manual_seed(0))
    fisher_diagonal(model, *data, reduction="sum", with_gradient=True).save(folder / "fisher")


def _read_fisher(folder: Path) -> None:
    found = FisherDiagonal.load(folder / "fisher")
    with suppress(ValueError):  # a mean, or of something else
        found.check_compatible(found)
    assert found.keys() is not None


def _write_membership(folder: Path) -> None:
    MembershipModel("confidences", 3, (4, 2)).save(folder / "attack")


def _read_membership(folder: Path) -> None:
    attack = MembershipModel.load(folder / "attack")
    attack(torch.zeros(2, attack.classes), torch.zeros(2, dtype=torch.int64))


def _work() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    return model, optimizer


def _write_checkpoint(folder: Path) -> None:
    model, optimizer = _work()
    tensors = state_tensors(dict(model.named_parameters()), optimizer, torch.Generator())
    Checkpoint("a" * 16, {"lr": 0.1}, 3, {"first": 1.0}, tensors).save(folder / "checkpoint")


def _read_checkpoint(folder: Path) -> None:
    model, optimizer = _work()
    checkpoint = Checkpoint.load(folder / "checkpoint", "a" * 16, {"lr": 0.1}, 5)
    checkpoint.restore(dict(model.named_parameters()), optimizer, torch.Generator())


def _write_model(folder: Path) -> None:
    metadata = EditHistory().followed_by(_receipt()).written_into({"epoch": "12"})
    save_file(plain().state_dict(), folder / "model.safetensors", metadata)


def _read_model(folder: Path) -> None:
    checkpoints.load(MODEL, folder / "model.safetensors").history.written_into({})


def _write_samples(folder: Path) -> None:
    inputs, targets = _inputs(torch.Generator().manual_seed(0))
    save_file({"inputs": inputs, "targets": targets}, folder / "samples.safetensors")


def _read_samples(folder: Path) -> None:
    loaded = checkpoints.LoadedModel(plain(), folder / "model", (), None)
    samples.read(folder / "samples.safetensors", loaded)


def _write_reports(folder: Path) -> None:
    report = {"model": "a" * 16, "metrics": {"forget accuracy": {"value": 0.5}}, "findings": [{"kind": "remembers"}]}
    save_report(folder / "plain", report, None)
    save_report(folder / "signed", report, KEY)


def _read_reports(folder: Path) -> None:
    load_report(folder / "plain")
    load_report(folder / "signed", signed_by=KEY.public)


def _write_keys(folder: Path) -> None:
    KEY.save(folder / "private")
    KEY.public.save(folder / "public")


def _read_keys(folder: Path) -> None:
    PublicKey.load(folder / "public")
    SigningKey.load(folder / "private").sign(b"content")


def _write_config(folder: Path) -> None:
    (folder / "compare.toml").write_bytes((EXAMPLES / "compare_digits.toml").read_bytes())


def _write_rows(folder: Path) -> None:
    store = RowStore(folder / "rows.jsonl")
    for seed in range(3):
        store.add(Row(f"key {seed}", seed, "a method", "module:f", {"lr": 0.1}, {"gap": 0.5, "no": None}, "now", {}))


def _write_names(folder: Path) -> None:
    (folder / "names.txt").write_text("zero\none\ntwo é\n", encoding="utf-8")


def _write_idx(folder: Path) -> None:
    (folder / "images").write_bytes(bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 3, 4)) + bytes(24))


def _write_archive(folder: Path) -> None:
    live = LiveModel(network(), CODES, archive=Archive(folder / "archive", key=KEY))
    live.forget(3, request="ticket-1")
    live.revert(0)
    live.forget(1, request="ticket-2", undo="never")
    live.ask(2, request="ticket-3")


def _read_archive(folder: Path) -> None:
    """Check it, say what a repair would do, and read the record as those do who write nothing."""
    archive = folder / "archive"
    with suppress(ValueError):
        verify_archive(archive, key=KEY.public)
    repair_steps(archive)
    Damage.of(archive / "requests.jsonl")
    read_log(archive / "requests.jsonl")
    read_head_proof(archive / "requests.jsonl", 2).describe()


def _open_archive(folder: Path) -> None:
    """Serve it; this may remove what a killed process left."""
    live = LiveModel(network(), CODES, archive=folder / "archive")
    live.history.requests()
    live.receipts(1)


def _write_proofs(folder: Path) -> None:
    archive = Archive(folder / "archive", key=KEY)
    live = LiveModel(network(), CODES, archive=archive)
    live.ask(2, request="ticket-1")
    earlier = archive.head(0).head
    live.ask(3, request="ticket-2")
    proof, head = live.proof("ticket-2"), archive.head(earlier.size)
    assert proof is not None
    for path in sorted((folder / "archive").iterdir()):
        path.unlink() if path.is_file() else path.rmdir()
    proof.save(folder / "proof.json")
    Kept(earlier, KEY.public.text, "now").save(folder / "witness.json")
    (folder / "head.json").write_text(json.dumps(head.describe()))


def _read_proofs(folder: Path) -> None:
    RecordProof.load(folder / "proof.json").check(KEY.public)
    kept = Kept.load(folder / "witness.json")
    assert kept is not None
    found = HeadProof.parse(_json(folder / "head.json"))
    found.head.check_signature(KEY.public)
    found.check(kept.head)


def _json(path: Path) -> object:
    """Read what a service answered; its bytes are the business of another reader."""
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return None


READERS = (
    Reader("codes", _write_codes, _read_codes),
    Reader("receipts", _write_receipts, _read_receipts),
    Reader("Fisher sums", _write_fisher, _read_fisher),
    Reader("membership models", _write_membership, _read_membership),
    Reader("checkpoints of learn_to_unlearn", _write_checkpoint, _read_checkpoint),
    Reader("checkpoints of models", _write_model, _read_model),
    Reader("samples", _write_samples, _read_samples),
    Reader("reports", _write_reports, _read_reports),
    Reader("keys", _write_keys, _read_keys),
    Reader("configurations", _write_config, lambda folder: read_config(folder / "compare.toml")),
    Reader("rows", _write_rows, lambda folder: RowStore(folder / "rows.jsonl")),
    Reader("names", _write_names, lambda folder: names_in(folder / "names.txt")),
    Reader("idx", _write_idx, lambda folder: read_idx(folder / "images", 3)),
    Reader("archives", _write_archive, _read_archive),
    Reader("proofs", _write_proofs, _read_proofs),
)
SERVED = Reader("served archives", _write_archive, _open_archive, (OSError, ValueError))
