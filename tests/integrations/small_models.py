"""Small models of transformers and timm, and edits of them."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from fastforget import Receipt
from fastforget.classifier.running import logits_of

NAMES = ("cat", "dog", "eel", "fox")
TIMM = "test_resnet"


def configured(kind: str) -> nn.Module:
    """Return an untrained classifier of transformers with four named classes."""
    import transformers as t

    named: dict[str, Any] = {"id2label": dict(enumerate(NAMES)), "label2id": {n: c for c, n in enumerate(NAMES)}}
    sizes: dict[str, Any] = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if kind == "vit":
            config = t.ViTConfig(**sizes, **named, image_size=8, patch_size=4, num_channels=1)
            return t.ViTForImageClassification(config).eval()
        if kind == "bert":  # with buffers that are not saved
            config = t.BertConfig(**sizes, **named, vocab_size=30, max_position_embeddings=16)
            return t.BertForSequenceClassification(config).eval()
        config = t.BartConfig(
            **named, vocab_size=30, d_model=16, max_position_embeddings=16, encoder_layers=1, decoder_layers=1,
            encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=16, decoder_ffn_dim=16,
        )  # fmt: skip
        return t.BartForSequenceClassification(config).eval()  # with weights that are tied


def edited(model: nn.Module, cls: int) -> Receipt:
    """Lower the output of a class, and return the receipt."""
    before = copy.deepcopy(model)
    with torch.no_grad():
        bias = list(model.parameters())[-1]  # that of the output layer
        bias[cls] -= 50
    return Receipt.between(before, model, classes=cls, rule="by hand")


def large(digits: Tensor) -> Tensor:
    """Return digits as images of 32x32 pixels."""
    return nn.functional.interpolate(digits, scale_factor=4, mode="nearest")


def digits_vit() -> nn.Module:
    """Return a vision transformer of transformers for images of 8x8 pixels."""
    import transformers as t

    sizes: dict[str, Any] = {"image_size": 8, "patch_size": 4, "num_channels": 1, "num_labels": 10}
    layers: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
    return t.ViTForImageClassification(t.ViTConfig(hidden_size=64, initializer_range=0.1, **layers, **sizes))


def train_on(model: nn.Module, inputs: Tensor, targets: Tensor, epochs: int) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    model.train()
    for _ in range(epochs):
        for part in torch.randperm(len(targets)).split(64):
            nn.functional.cross_entropy(logits_of(model(inputs[part])), targets[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
    model.eval()


def accuracy(model: nn.Module, inputs: Tensor, targets: Tensor, cls: int) -> tuple[float, float]:
    """Return the accuracy on a class and on the others."""
    with torch.no_grad():
        right = logits_of(model(inputs)).argmax(1) == targets
    return right[targets == cls].double().mean().item(), right[targets != cls].double().mean().item()
