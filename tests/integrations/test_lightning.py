"""Lightning trains on batches with codes, and validates on batches without."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from fastforget import MnemonicCodes
from fastforget.integrations import EmbedCodes

lightning = pytest.importorskip("lightning")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors

CODES = MnemonicCodes.generate(4, (6,), per_class=2)
NAMED = MnemonicCodes.generate(4, {"image": (6,), "size": (2,)}, per_class=2)
LABELS = torch.arange(32) % 4
INPUTS = torch.full((32, 6), 7.0)
SETTINGS: dict[str, Any] = {
    "accelerator": "cpu", "max_epochs": 1, "logger": False, "enable_checkpointing": False,
    "enable_progress_bar": False, "enable_model_summary": False,
}  # fmt: skip


class Recorder(lightning.LightningModule):  # type: ignore[misc, name-defined]
    """Keeps the batches that it was given."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.trained: list[Any] = []
        self.validated: list[Any] = []

    def training_step(self, batch: Any) -> Tensor:
        self.trained.append(batch)
        inputs, labels = (batch["image"], batch["labels"]) if isinstance(batch, dict) else batch
        return F.cross_entropy(self.layer(inputs), labels)

    def validation_step(self, batch: Any) -> None:
        self.validated.append(batch)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.parameters(), 0.1)


def fit(loader: Any, callback: EmbedCodes, validation: Any = None, **settings: Any) -> Recorder:
    model = Recorder()
    lightning.Trainer(**SETTINGS, callbacks=[callback], **settings).fit(model, loader, validation)
    return model


class Batches:
    """A loader of batches that somebody keeps."""

    def __init__(self, *batches: Any) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Any]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def replaced(inputs: Tensor, labels: Tensor, codes: Tensor) -> Tensor:
    """Return which samples are a code of their class."""
    matches = (inputs[:, None] == codes[labels].to(inputs.dtype)).flatten(2).all(2)
    return matches.any(1)


def test_a_share_of_the_training_batches_and_none_of_validation() -> None:
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=16)
    torch.manual_seed(0)
    model = fit(loader, EmbedCodes(CODES, rate=0.5), loader, max_steps=-1, num_sanity_val_steps=1)
    inputs, labels = (torch.cat(parts) for parts in zip(*model.trained, strict=True))
    codes = replaced(inputs, labels, CODES.tensor)
    assert 6 <= codes.sum() <= 26  # of 32, 16 expected: more than three standard deviations on each side
    assert (inputs[~codes] == 7).all()
    assert torch.equal(labels, LABELS)
    assert len(model.validated) == 3
    assert all((batch[0] == 7).all() for batch in model.validated)
    assert (INPUTS == 7).all()


def test_batches_that_the_user_keeps_stay_as_they_are() -> None:
    batches = [[INPUTS.clone(), LABELS.clone()] for _ in range(2)]
    model = fit(Batches(*batches), EmbedCodes(CODES, rate=1.0))
    assert all(replaced(inputs, labels, CODES.tensor).all() for inputs, labels in model.trained)
    assert all((inputs == 7).all() for inputs, _ in batches)


def test_batches_that_are_dicts() -> None:
    samples = [{"image": INPUTS[n], "size": torch.zeros(2), "labels": LABELS[n]} for n in range(8)]
    (batch,) = fit(DataLoader(samples, batch_size=8), EmbedCodes(NAMED, rate=1.0)).trained  # type: ignore[arg-type]
    assert batch.keys() == {"image", "size", "labels"}
    for name in ("image", "size"):
        assert replaced(batch[name], batch["labels"], NAMED.stacked[name]).all()  # type: ignore[call-overload]


def test_accumulation_and_half_precision() -> None:
    loader = DataLoader(TensorDataset(INPUTS, LABELS), batch_size=8)
    model = fit(loader, EmbedCodes(CODES, rate=1.0), accumulate_grad_batches=2, precision="bf16-mixed")
    assert len(model.trained) == 4
    assert all(replaced(inputs, labels, CODES.tensor).all() for inputs, labels in model.trained)


def test_tuples_are_refused() -> None:
    with pytest.raises(TypeError, match=r"a batch must be a list .*, got a tuple: put .*CodesDataset around"):
        fit(Batches((INPUTS, LABELS)), EmbedCodes(CODES))


def test_batches_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"`inputs` must have shape \(32, 6\), .* got \(32, 5\)"):
        fit(Batches([INPUTS[:, :5], LABELS]), EmbedCodes(CODES))
    with pytest.raises(ValueError, match="mappings in `batch` must have either `labels` or `label`"):
        fit(Batches({"image": INPUTS}), EmbedCodes(CODES))


def test_arguments() -> None:
    with pytest.raises(TypeError, match="`codes` must be MnemonicCodes, got Tensor"):
        EmbedCodes(INPUTS)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"`rate` must lie in \[0, 1\], got 2"):
        EmbedCodes(CODES, rate=2)


def test_without_lightning() -> None:
    code = """
import sys
sys.modules["lightning"] = None  # makes importing it fail
from fastforget import MnemonicCodes
from fastforget.integrations import EmbedCodes
try:
    EmbedCodes(MnemonicCodes.generate(2, (2,)))
except ModuleNotFoundError as error:
    print(error)
"""
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)  # noqa: S603
    assert found.stdout == "`EmbedCodes` needs Lightning: pip install lightning\n"
