"""`fisher_diagonal` of single layers equals the float64 loop over samples."""

from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
from asserts import assert_close, assert_fisher, prepared, square_error
from cases import randn
from fisher.small_modules import TARGETS, First, N
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from fastforget.fisher.compute import fisher_diagonal

LAYERS = {
    "linear": (lambda: nn.Linear(5, 7), (5,)),
    "linear without bias": (lambda: nn.Linear(5, 7, bias=False), (5,)),
    "linear on tokens": (lambda: nn.Linear(5, 7), (6, 5)),
    "linear on a grid": (lambda: nn.Linear(5, 7), (2, 3, 5)),
    "conv1d": (lambda: nn.Conv1d(3, 5, 3, 2, 1), (3, 9)),
    "conv2d": (lambda: nn.Conv2d(3, 5, 3, padding=1), (3, 6, 7)),
    "conv2d without bias": (lambda: nn.Conv2d(3, 5, (3, 2), (2, 1), bias=False), (3, 6, 7)),
    "conv2d dilated": (lambda: nn.Conv2d(3, 5, 3, padding=2, dilation=2), (3, 6, 7)),
    "conv2d grouped": (lambda: nn.Conv2d(4, 12, 3, padding=1, groups=2), (4, 6, 7)),
    "conv2d depthwise": (lambda: nn.Conv2d(4, 4, 3, padding=1, groups=4), (4, 6, 7)),
    "conv2d depthwise multiplier": (lambda: nn.Conv2d(4, 8, 3, 2, groups=4), (4, 6, 7)),
    "conv2d same": (lambda: nn.Conv2d(3, 5, 3, padding="same"), (3, 6, 7)),
    "conv1d same, even kernel": (lambda: nn.Conv1d(3, 5, 4, padding="same"), (3, 9)),
    "conv2d same, even kernel": (lambda: nn.Conv2d(3, 5, (4, 3), padding="same", dilation=(1, 2)), (3, 6, 7)),
    "conv2d valid": (lambda: nn.Conv2d(3, 5, 3, padding="valid"), (3, 6, 7)),
    "conv2d reflect": (lambda: nn.Conv2d(3, 5, 3, padding=1, padding_mode="reflect"), (3, 6, 7)),
    "conv2d circular": (lambda: nn.Conv2d(3, 5, 3, padding=(2, 1), padding_mode="circular"), (3, 6, 7)),
    "conv2d one position": (lambda: nn.Conv2d(3, 5, (6, 7)), (3, 6, 7)),
    "conv3d": (lambda: nn.Conv3d(3, 5, (2, 3, 3), (1, 2, 1), (1, 1, 0)), (3, 4, 5, 6)),
    "conv3d grouped": (lambda: nn.Conv3d(4, 6, 3, padding=1, groups=2), (4, 3, 4, 5)),
    "conv1d transposed": (lambda: nn.ConvTranspose1d(3, 5, 4, 3, 1, 2), (3, 7)),
    "conv2d transposed": (lambda: nn.ConvTranspose2d(3, 5, 3, 2, 1, 1), (3, 5, 6)),
    "conv2d transposed, grouped, dilated": (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, groups=2, dilation=2), (4, 5, 6)),
    "conv3d transposed": (lambda: nn.ConvTranspose3d(3, 2, 2, 2), (3, 3, 4, 3)),
    "layer norm": (lambda: nn.LayerNorm(6), (6,)),
    "layer norm on tokens": (lambda: nn.LayerNorm(6), (5, 6)),
    "layer norm of two dimensions": (lambda: nn.LayerNorm((5, 6)), (3, 5, 6)),
    "layer norm without bias": (lambda: nn.LayerNorm(6, bias=False), (5, 6)),
    "group norm": (lambda: nn.GroupNorm(2, 6), (6, 4, 5)),
    "group norm of channels alone": (lambda: nn.GroupNorm(3, 6), (6,)),
    "rms norm": (lambda: nn.RMSNorm(6), (5, 6)),
    "rms norm with eps": (lambda: nn.RMSNorm(6, eps=1e-3), (6,)),
    "instance norm": (lambda: nn.InstanceNorm2d(3, affine=True), (3, 4, 5)),
    "instance norm with running statistics": (
        lambda: nn.InstanceNorm1d(3, affine=True, track_running_stats=True),
        (3, 6),
    ),
    "instance norm 3d": (lambda: nn.InstanceNorm3d(3, affine=True), (3, 2, 3, 4)),
    "batch norm": (lambda: nn.BatchNorm1d(6), (6,)),
    "batch norm 1d": (lambda: nn.BatchNorm1d(6), (6, 5)),
    "batch norm 2d": (lambda: nn.BatchNorm2d(6), (6, 4, 5)),
    "batch norm 3d": (lambda: nn.BatchNorm3d(6), (6, 2, 3, 4)),
    "dropout in eval mode": (lambda: nn.Sequential(nn.Linear(5, 7), nn.Dropout(0.5), nn.Linear(7, 3)), (5,)),
}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # from the loop, not from this library
@pytest.mark.parametrize("name", LAYERS)
def test_layer(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(N, *shape, seed=1), TARGETS)


@pytest.mark.parametrize("name", ["conv2d", "conv2d depthwise", "conv2d transposed", "batch norm 2d"])
def test_channels_last_input(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(N, *shape, seed=1).to(memory_format=torch.channels_last), TARGETS)


@pytest.mark.parametrize("samples", [1, N])
def test_channels_last_group_norm(samples: int) -> None:
    """Against itself: the loop over samples crashes PyTorch 2.13 here (GroupNorm's backward on a batch of one)."""
    model, x, targets = prepared(lambda: nn.GroupNorm(2, 6)), randn(samples, 6, 4, 5, seed=1), TARGETS[:samples]
    expected = fisher_diagonal(model, x, targets, loss=square_error)
    found = fisher_diagonal(model, x.to(memory_format=torch.channels_last), targets, loss=square_error)
    for name, value in found.items():
        assert_close(value, expected[name])


def test_channels_last_group_norm_in_batches_of_one() -> None:
    model, x = prepared(lambda: nn.GroupNorm(2, 6)), randn(N, 6, 4, 5, seed=1)
    expected = fisher_diagonal(model, x, TARGETS, loss=square_error)
    last = x.to(memory_format=torch.channels_last)
    found = fisher_diagonal(model, last, TARGETS, loss=square_error, square="batch", batch_size=1)
    for name, value in found.items():
        assert_close(value, expected[name])


@pytest.mark.parametrize("name", ["linear", "linear on tokens", "conv2d", "layer norm", "batch norm 2d"])
def test_one_sample(name: str) -> None:
    build, shape = LAYERS[name]
    assert_fisher(build, randn(1, *shape, seed=1), TARGETS[:1])


def attention(**settings: Any) -> Callable[[], nn.Module]:
    return lambda: First(nn.MultiheadAttention(6, 2, **settings))


class SequenceFirst(nn.Module):
    """A module of [T, N, E] for inputs [N, T, E]."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.module(*(x.transpose(0, 1) for x in inputs)).transpose(0, 1)


X, MEMORY = randn(N, 5, 6, seed=1), randn(N, 7, 6, seed=2)


@pytest.mark.parametrize("settings", [{}, {"bias": False}, {"add_bias_kv": True}, {"add_zero_attn": True}], ids=str)
@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("inputs", [(X, X, X), (X, MEMORY, MEMORY)], ids=["self", "cross"])
def test_multi_head_attention(inputs: tuple[Tensor, ...], batch_first: bool, settings: dict[str, Any]) -> None:
    build = attention(batch_first=batch_first, **settings)
    assert_fisher(build if batch_first else lambda: SequenceFirst(build()), inputs, TARGETS)


def test_multi_head_attention_with_other_key_and_value_sizes() -> None:
    inputs = (X, randn(N, 7, 4, seed=2), randn(N, 7, 3, seed=3))
    assert_fisher(attention(kdim=4, vdim=3, batch_first=True), inputs, TARGETS)


@pytest.mark.parametrize("padding_idx", [None, 2, -1])
def test_embedding(padding_idx: int | None) -> None:
    tokens = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])
    found = assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens, TARGETS)
    assert found["weight"][2].any() == (padding_idx != 2)
    assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens.int(), TARGETS)
    assert_fisher(lambda: nn.Embedding(6, 3, padding_idx=padding_idx), tokens[:, 0], TARGETS)


@pytest.mark.parametrize("samples", [1, N])
@pytest.mark.parametrize("square", ["sample", "batch"])
def test_embedding_with_sparse_gradients(samples: int, square: Literal["sample", "batch"]) -> None:
    tokens = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])[:samples]
    sparse, dense = (prepared(lambda kind=kind: nn.Embedding(6, 3, sparse=kind)) for kind in (True, False))
    found, expected = (
        fisher_diagonal(model, tokens, TARGETS[:samples], loss=square_error, square=square) for model in (sparse, dense)
    )
    assert_close(found["weight"], expected["weight"])


def test_embedding_bag_falls_back() -> None:
    tokens = torch.tensor([[1, 1, 2, 5], [5, 5, 5, 5], [0, 2, 2, 3], [4, 3, 2, 1]])
    assert_fisher(lambda: nn.EmbeddingBag(6, 3), tokens, TARGETS, fallback={"weight"})


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_between_others(kind: type[nn.Module]) -> None:
    build = lambda: nn.Sequential(nn.Linear(3, 5), First(kind(5, 4, batch_first=True)), nn.Linear(4, 2))  # noqa: E731
    assert_fisher(build, randn(N, 6, 3, seed=1), TARGETS)


@pytest.mark.parametrize("normalise", [parametrizations.weight_norm, parametrizations.spectral_norm])
@pytest.mark.parametrize("layer", [lambda: nn.Linear(5, 7), lambda: nn.Conv1d(5, 7, 3)])
def test_parametrised_weights(layer: Callable[[], nn.Module], normalise: Callable[..., nn.Module]) -> None:
    build = lambda: normalise(layer())  # noqa: E731
    x = randn(N, 5, seed=1) if isinstance(layer(), nn.Linear) else randn(N, 5, 6, seed=1)
    assert_fisher(build, x, TARGETS)
