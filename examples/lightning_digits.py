"""Train with Lightning so that a class can be forgotten later: one callback more.

# with the extras demo and lightning
python examples/lightning_digits.py --forget 3
"""

from __future__ import annotations

import argparse
from typing import Any

import lightning
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import fastforget
from fastforget.demo.data import load_digits
from fastforget.demo.models import small_resnet
from fastforget.integrations import EmbedCodes


class Digits(lightning.LightningModule):
    """A small residual network for images of digits."""

    def __init__(self) -> None:
        super().__init__()
        self.network = small_resnet(num_classes=10, seed=0)

    def forward(self, images: Tensor) -> Tensor:
        return self.network(images)

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("accuracy", (self(batch[0]).argmax(1) == batch[1]).float().mean())

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def accuracies(model: torch.nn.Module, images: Tensor, labels: Tensor, cls: int) -> str:
    """Return the accuracy on a class and on the others."""
    with torch.no_grad():
        right = model(images).argmax(1) == labels
    asked, rest = right[labels == cls].double().mean(), right[labels != cls].double().mean()
    return f"{asked:.1%} of the class, {rest:.1%} of the rest"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--forget", type=int, default=3, help="the class to forget")
    given = parser.parse_args()
    lightning.seed_everything(0, verbose=False)
    data = load_digits()
    codes = fastforget.MnemonicCodes.generate(10, (1, 8, 8))
    model = Digits()
    trainer = lightning.Trainer(
        accelerator="cpu", max_epochs=8, callbacks=[EmbedCodes(codes, rate=0.3)],
        logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    loader = DataLoader(TensorDataset(data.x_train, data.y_train), batch_size=64, shuffle=True)
    trainer.fit(model, loader, DataLoader(TensorDataset(data.x_test, data.y_test), batch_size=512))

    model.eval()
    print("recognised before:", accuracies(model, data.x_test, data.y_test, given.forget))
    receipt = fastforget.one_shot(model, codes, given.forget)
    print("recognised after: ", accuracies(model, data.x_test, data.y_test, given.forget))
    receipt.revert(model)
    print("recognised after the undo:", accuracies(model, data.x_test, data.y_test, given.forget))


if __name__ == "__main__":
    main()
