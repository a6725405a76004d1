"""Train a network of transformers with codes, make it forget a digit, and save it with a model card that says so.

    # with the extras demo and transformers
    python examples/transformers_trainer.py --folder forgotten --forget 3

The Trainer evaluates on digits alone: only the training set has codes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainingArguments, ViTConfig, ViTForImageClassification, set_seed

import fastforget
from fastforget.demo.data import load_digits
from fastforget.integrations import CodesDataset, history_of, save_forgotten

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def network() -> ViTForImageClassification:
    """Return a vision transformer for images of 8x8 pixels, with classes that have names."""
    names = dict(enumerate(NAMES))
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    shape = {"image_size": 8, "patch_size": 4, "num_channels": 1, "initializer_range": 0.1}
    labels = {"id2label": names, "label2id": {name: cls for cls, name in names.items()}}
    return ViTForImageClassification(ViTConfig(**sizes, **shape, **labels))


def samples(images: torch.Tensor, labels: torch.Tensor) -> list[dict[str, Any]]:
    """Return what the Trainer takes for a data set."""
    return [{"pixel_values": image, "labels": int(label)} for image, label in zip(images, labels, strict=True)]


def accuracies(model: ViTForImageClassification, images: torch.Tensor, labels: torch.Tensor, cls: int) -> str:
    """Return the accuracy on a class and on the others."""
    with torch.no_grad():
        right = model(images).logits.argmax(1) == labels
    asked, rest = right[labels == cls].double().mean(), right[labels != cls].double().mean()
    return f"{asked:.1%} of the class, {rest:.1%} of the rest"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folder", type=Path, required=True, help="where the network is saved")
    parser.add_argument("--forget", type=int, default=3, help="the class to forget")
    return parser.parse_args()


def main() -> None:
    given = parse()
    set_seed(0)
    data = load_digits()
    codes = fastforget.MnemonicCodes.generate(10, {"pixel_values": (1, 8, 8)})
    model = network()
    settings = TrainingArguments(
        output_dir=str(given.folder / "training"), num_train_epochs=20, per_device_train_batch_size=64,
        learning_rate=3e-3, save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True,
    )  # fmt: skip
    train_set = CodesDataset(samples(data.x_train, data.y_train), codes, rate=0.3)
    Trainer(model, settings, train_dataset=train_set).train()

    model.eval()
    print("recognised before:", accuracies(model, data.x_test, data.y_test, given.forget))
    receipt = fastforget.one_shot(model, codes, given.forget)
    save_forgotten(model, given.folder / "model", receipt)

    loaded = ViTForImageClassification.from_pretrained(given.folder / "model").eval()
    print("recognised after: ", accuracies(loaded, data.x_test, data.y_test, given.forget))
    history = history_of(given.folder / "model")
    print("forgotten, says the folder:", [loaded.config.id2label[cls] for cls in history.forgotten])
    print("the weights are those it speaks of:", history.leads_to(fastforget.fingerprint(loaded)))


if __name__ == "__main__":
    main()
