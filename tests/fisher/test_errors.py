"""Every way to call fisher_diagonal wrongly, with the text that says so."""

import re
from collections.abc import Callable
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F
from asserts import prepared
from cases import randn
from torch import Tensor, nn

from fastforget.fisher.compute import fisher_diagonal

X, LABELS = randn(4, 3, seed=1), torch.tensor([0, 1, 1, 0])


def model() -> nn.Module:
    return prepared(lambda: nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)))


def raises(kind: type[Exception], text: str, function: Callable[[], Any]) -> None:
    with pytest.raises(kind, match=re.escape(text)):
        function()


CALLS: dict[str, tuple[type[Exception], str, dict[str, Any]]] = {
    "empty batch": (
        ValueError,
        "`inputs` must not be empty, got shape (0, 3)",
        {"inputs": X[:0], "targets": LABELS[:0]},
    ),
    "nan": (
        ValueError,
        "`inputs` must be finite, got NaN or infinity in a tensor of shape (4, 3)",
        {"inputs": X * float("nan")},
    ),
    "infinity": (ValueError, "`inputs` must be finite", {"inputs": (X.clone().fill_(float("inf")),)}),
    "inputs type": (TypeError, "`inputs` must be a tensor, tuple or dict, got str", {"inputs": "x"}),
    "no tensor": (TypeError, "`inputs` must hold at least one tensor", {"inputs": (1, 2)}),
    "sizes": (ValueError, "`targets` must have the batch size (4,) first, got shape (3,)", {"targets": LABELS[:3]}),
    "sizes of inputs": (
        ValueError,
        "`inputs` must have the batch size (4,) first, got shape (3, 3)",
        {"inputs": (X, X[:3])},
    ),
    "0-d input": (
        ValueError,
        "`inputs` must have the batch size () first, got shape ()",
        {"inputs": torch.tensor(1.0)},
    ),
    "reduction": (ValueError, '`reduction` must be "mean" or "sum", got \'none\'', {"reduction": "none"}),
    "unknown name": (
        ValueError,
        "`parameters` must name parameters of the model, got '1.weight'",
        {"parameters": ["0.weight", "1.weight"]},
    ),
    "no names": (ValueError, "`model` must have parameters, got none", {"parameters": []}),
    "weights size": (ValueError, "`weights` must have shape (4,) or (G, 4), got (3,)", {"weights": torch.ones(3)}),
    "weights dim": (
        ValueError,
        "`weights` must have shape (4,) or (G, 4), got (1, 1, 4)",
        {"weights": torch.ones(1, 1, 4)},
    ),
    "weights scalar": (ValueError, "`weights` must have shape (4,) or (G, 4), got ()", {"weights": torch.tensor(1.0)}),
    "no groups": (ValueError, "`weights` must have shape (4,) or (G, 4), got (0, 4)", {"weights": torch.ones(0, 4)}),
    "negative weights": (
        ValueError,
        "`weights` must be finite and not negative",
        {"weights": torch.tensor([1.0, -1, 1, 1])},
    ),
    "nan weights": (
        ValueError,
        "`weights` must be finite and not negative",
        {"weights": torch.tensor([1.0, float("nan"), 1, 1])},
    ),
    "zero group": (
        ValueError,
        "`weights` must have a positive sum in every group",
        {"weights": torch.tensor([[1.0, 1, 1, 1], [0, 0, 0, 0]])},
    ),
    "scalar loss": (
        ValueError,
        "`loss` must return one loss per sample, shape (4,), got ()",
        {"loss": F.cross_entropy},
    ),
    "loss matrix": (
        ValueError,
        "`loss` must return one loss per sample, shape (4,), got (4, 2)",
        {"loss": lambda o, _: o},
    ),
    "loss type": (
        ValueError,
        "`loss` must return one loss per sample, shape (4,), got float",
        {"loss": lambda *_: 1.0},
    ),
    "nan loss": (
        ValueError,
        "the loss of sample 2 is nan",
        {"loss": lambda o, _: o.sum(1) + torch.tensor([0, 0, float("nan"), 0])},
    ),
    "infinite loss": (
        ValueError,
        "the loss of sample 1 is inf",
        {"loss": lambda o, _: o.sum(1) + torch.tensor([0, float("inf"), 0, 0])},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_bad_call(name: str) -> None:
    kind, text, change = CALLS[name]
    raises(kind, text, lambda: fisher_diagonal(model(), **{"inputs": X, "targets": LABELS, **change}))


def test_not_a_module() -> None:
    raises(
        TypeError, "`model` must be a torch.nn.Module, got function", lambda: fisher_diagonal(lambda x: x, X, LABELS)
    )


def test_no_parameters() -> None:
    raises(ValueError, "`model` must have parameters, got none", lambda: fisher_diagonal(nn.ReLU(), X, LABELS))


def test_frozen_parameter() -> None:
    frozen = model()
    frozen[2].bias.requires_grad_(False)
    text = "parameter `2.bias` is frozen (requires_grad=False); name the parameters to work on with parameters=[...]"
    raises(ValueError, text, lambda: fisher_diagonal(frozen, X, LABELS))
    assert list(fisher_diagonal(frozen, X, LABELS, parameters=["2.bias"])) == ["2.bias"]


class Quantised(nn.Module):
    """Stands for any of torch's quantised modules."""


Quantised.__module__ = "torch.ao.nn.quantized.modules.linear"


def test_quantised_module() -> None:
    quantised = nn.Sequential(nn.Linear(3, 2), Quantised()).eval()
    raises(
        ValueError,
        "module `1` is quantised (Quantised); use the float model",
        lambda: fisher_diagonal(quantised, X, LABELS),
    )


def test_integer_parameter() -> None:
    integer = model()
    integer.code = nn.Parameter(torch.zeros(3, dtype=torch.int8), requires_grad=False)
    raises(
        ValueError,
        "parameter `code` must be floating point, got torch.int8",
        lambda: fisher_diagonal(integer, X, LABELS, parameters=["code"]),
    )


def test_mixed_dtypes() -> None:
    mixed = model()
    mixed[2].double()
    text = "parameters must have one dtype, got `0.weight` of torch.float32 and `2.weight` of torch.float64"
    raises(ValueError, text, lambda: fisher_diagonal(mixed, X, LABELS))


def test_mixed_devices() -> None:
    mixed = model()
    mixed[2].to("meta")
    text = "parameters must be on one device, got `0.weight` on cpu and `2.weight` on meta"
    raises(ValueError, text, lambda: fisher_diagonal(mixed, X, LABELS))


def test_device_without_kernels() -> None:
    raises(
        NotImplementedError,
        "`0.weight` is on meta; this build of fastforget has kernels for the CPU only",
        lambda: fisher_diagonal(model().to("meta"), X, LABELS),
    )


def test_uninitialised_parameter() -> None:
    lazy = nn.Sequential(nn.LazyLinear(2)).eval()
    raises(
        ValueError,
        "parameter `0.weight` must be initialised; run the model once",
        lambda: fisher_diagonal(lazy, X, LABELS),
    )


def test_inference_mode_parameters() -> None:
    with torch.inference_mode():
        created = model()
    raises(
        ValueError, "parameter `0.weight` must not be an inference tensor", lambda: fisher_diagonal(created, X, LABELS)
    )


@pytest.mark.parametrize(
    "layer", [nn.BatchNorm1d(5), nn.BatchNorm1d(5, affine=False), nn.BatchNorm1d(5, track_running_stats=False)]
)
@pytest.mark.parametrize("training", [True, False])
def test_batch_norm_in_train_mode(layer: nn.BatchNorm1d, training: bool) -> None:
    network = nn.Sequential(nn.Linear(3, 5), layer, nn.Linear(5, 2)).eval()
    layer.train(training)
    if training or not layer.track_running_stats:
        text = (
            "batch norm must use running statistics: in train mode a sample's gradient depends on the others of its "
            "batch; call model.eval() first"
        )
        raises(ValueError, text, lambda: fisher_diagonal(network, X, LABELS))
    else:
        fisher_diagonal(network, X, LABELS)


@pytest.mark.parametrize("square", ["sample", "batch"])
def test_batch_norm_of_one_sample_in_train_mode(square: Literal["sample", "batch"]) -> None:
    network = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5), nn.Flatten(), nn.Linear(20, 2)).eval()
    network[1].train()
    call = lambda: fisher_diagonal(network, torch.randn(1, 3, 4), LABELS[:1], square=square)  # noqa: E731
    raises(ValueError, "batch norm must use running statistics", call)


class Function(nn.Module):
    """A linear layer and a function."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.linear, self.function = nn.Linear(3, 6), function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self.linear(x))


def test_torch_batch_norm_in_train_mode() -> None:
    network = Function(lambda h: torch.batch_norm(h, None, None, None, None, True, 0.1, 1e-5, False))
    raises(ValueError, "batch norm must use running statistics", lambda: fisher_diagonal(network, X, LABELS))


def test_instance_norm_that_updates_its_statistics() -> None:
    network = nn.Sequential(nn.Unflatten(1, (3, 1)), nn.Conv1d(3, 3, 1), nn.InstanceNorm1d(3, track_running_stats=True))
    x = X.repeat_interleave(2, 1).view(4, 3, 2).flatten(1)
    network = nn.Sequential(nn.Unflatten(1, (3, 2)), nn.Conv1d(3, 3, 1), network[2], nn.Flatten()).train()
    raises(
        ValueError,
        "instance norm would update its running statistics: call model.eval() first",
        lambda: fisher_diagonal(network, x, LABELS),
    )


ACTIVE = "dropout must not be active"
RANDOM = "the model must not draw random numbers (active dropout, for instance)"
DROPOUT: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "F.dropout": (ACTIVE, lambda h: F.dropout(h, 0.3)),
    "F.dropout keywords": (ACTIVE, lambda h: F.dropout(h, p=0.3, training=True, inplace=True)),
    "F.alpha_dropout": (ACTIVE, lambda h: F.alpha_dropout(h, 0.3, training=True)),
    "F.dropout1d": (ACTIVE, lambda h: F.dropout1d(h.unsqueeze(2), 0.3).squeeze(2)),
    "nn.Dropout": (ACTIVE, nn.Dropout(0.3).train()),
    "nn.Dropout2d": (ACTIVE, lambda h: nn.Dropout2d(0.3).train()(h[:, :, None, None]).flatten(1)),
    "attention": (
        "attention dropout must not be active",
        lambda h: F.scaled_dot_product_attention(*[h.view(4, 1, 2, 3)] * 3, dropout_p=0.1).flatten(1),
    ),
    "torch.dropout": (RANDOM, lambda h: torch.dropout(h, 0.3, train=True)),
    "rrelu": (RANDOM, lambda h: F.rrelu(h, training=True)),
    "noise": (RANDOM, lambda h: h + torch.randn(6)),
    "lstm": (RANDOM, lambda h: nn.LSTM(3, 3, 2, batch_first=True, dropout=0.5).train()(h.view(4, 2, 3))[0].flatten(1)),
}


@pytest.mark.parametrize("name", DROPOUT)
def test_active_dropout(name: str) -> None:
    text, function = DROPOUT[name]
    torch.manual_seed(0)
    network = Function(function)
    raises(ValueError, text, lambda: fisher_diagonal(network, X, LABELS))


def test_attention_module_in_train_mode() -> None:
    network = nn.TransformerEncoderLayer(6, 2, 8, 0.1, batch_first=True).train()
    raises(ValueError, "dropout must not be active", lambda: fisher_diagonal(network, randn(4, 2, 6), LABELS))


def test_inactive_dropout_and_train_mode_without_either_are_fine() -> None:
    for function in (lambda h: F.dropout(h, 0.0), lambda h: F.dropout(h, 0.5, training=False), nn.Dropout(0.0).train()):
        assert fisher_diagonal(Function(function), X, LABELS).fallback == {}
    assert fisher_diagonal(model().train(), X, LABELS).fallback == {}
