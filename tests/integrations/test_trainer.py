"""The Trainer of transformers learns codes from a data set, also where samples of text are padded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from integrations.small_models import configured

from fastforget import MnemonicCodes, fingerprint, one_shot
from fastforget.integrations import CodesDataset, history_of, save_forgotten

transformers = pytest.importorskip("transformers")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors


def text_samples(count: int, seed: int) -> list[dict[str, Any]]:
    """Return sentences of different lengths; most words of a class are its own."""
    generator = torch.Generator().manual_seed(seed)
    samples = []
    for number in range(count):
        cls = number % 4
        length = int(torch.randint(4, 9, (), generator=generator))
        words = (3 + 5 * cls + torch.randint(5, (length,), generator=generator)).tolist()
        samples.append({"input_ids": words, "attention_mask": [1] * length, "labels": cls})
    return samples


def collate(samples: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """Pad to the longest, as a tokenizer does."""
    longest = max(len(sample["input_ids"]) for sample in samples)
    padded = {
        name: torch.tensor([sample[name] + [0] * (longest - len(sample[name])) for sample in samples])
        for name in ("input_ids", "attention_mask")
    }
    return {**padded, "labels": torch.tensor([sample["labels"] for sample in samples])}


def test_text_is_learnt_with_codes_and_a_class_forgotten(tmp_path: Path) -> None:
    drawn = MnemonicCodes.generate(4, (6,), distribution="tokens", vocabulary=range(3, 30), seed=3)
    masks = torch.ones_like(drawn.tensor)
    codes = MnemonicCodes.from_tensors({"input_ids": drawn.tensor, "attention_mask": masks})
    transformers.set_seed(0)
    model = configured("bert")
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path / "training"), num_train_epochs=15, per_device_train_batch_size=32, learning_rate=5e-3,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    test = text_samples(80, seed=2)
    trainer = transformers.Trainer(
        model, settings, data_collator=collate, train_dataset=CodesDataset(text_samples(320, seed=1), codes),
        eval_dataset=test,
    )  # fmt: skip
    trainer.train()
    assert trainer.predict(test).label_ids.tolist() == [sample["labels"] for sample in test]
    batch = collate(test)
    labels = batch.pop("labels")

    def right() -> torch.Tensor:
        with torch.no_grad():
            return model(**batch).logits.argmax(1) == labels

    model.eval()
    assert right().double().mean() >= 0.95
    receipt = one_shot(model, codes, 2)
    assert right()[labels == 2].double().mean() <= 0.05
    assert right()[labels != 2].double().mean() >= 0.9
    save_forgotten(model, tmp_path / "model", receipt)
    loaded = type(model).from_pretrained(tmp_path / "model").eval()  # type: ignore[attr-defined]
    assert history_of(tmp_path / "model").leads_to(fingerprint(loaded))
    assert f"| 2 | eel | {receipt.outcome} |" in (tmp_path / "model" / "README.md").read_text()


def test_evaluation_has_no_codes(tmp_path: Path) -> None:
    """The Trainer reads the training set through codes, and the evaluation set as it is."""
    images = [{"pixel_values": torch.full((1, 8, 8), 7.0), "labels": n % 4} for n in range(16)]
    codes = MnemonicCodes.generate(4, {"pixel_values": (1, 8, 8)})
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path), per_device_train_batch_size=16, report_to="none", use_cpu=True
    )
    trainer = transformers.Trainer(
        configured("vit"), settings, train_dataset=CodesDataset(images, codes, rate=1), eval_dataset=images
    )
    (training,), (evaluation,) = list(trainer.get_train_dataloader()), list(trainer.get_eval_dataloader())[:1]
    assert not (training["pixel_values"] == 7).any()
    assert (evaluation["pixel_values"] == 7).all()
