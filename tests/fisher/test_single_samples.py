"""A single sample has the gradient that it has in a batch, whatever path computes it.

PyTorch 2.13's backward of a batch norm in eval mode is wrong on the CPU for one sample whose gradient lies in another
order in memory. Autograd on single samples is no yardstick here; the same function without the transposition is.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_close
from torch import Tensor, nn

from fastforget import baselines, fisher_diagonal, learn_to_unlearn

X = torch.randn(3, 3, 8, 8, generator=torch.Generator().manual_seed(1))
Y = torch.tensor([0, 2, 1])


class Transposed(nn.Module):
    """[N, C, H, W] after the batch norm becomes tokens [N, H * W, C], as in XCiT."""

    def __init__(self, last: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.head, self.last = nn.Linear(8, 4), last

    def tokens(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).flatten(2).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.head(self.tokens(x).mean(1)))


class Straight(Transposed):
    """The same function."""

    def tokens(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).mean((2, 3))[:, None]


def _networks(last: Callable[[Tensor], Tensor] = torch.clone) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    one, other = Transposed(last).eval(), Straight(last).eval()
    for norm in (one.norm,):
        nn.init.normal_(norm.weight)
        nn.init.uniform_(norm.running_var, 0.5, 2)  # type: ignore[arg-type]
    other.load_state_dict(one.state_dict())
    return one, other


def _centred(x: Tensor) -> Tensor:
    """Mixes samples, though not one alone: everything goes sample by sample."""
    return x - (x - x.detach()).sum(0)


@pytest.mark.parametrize("square", ["sample", "batch"])
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("last", [torch.clone, _centred])
def test_fisher(last: Callable[[Tensor], Tensor], samples: int, square: str) -> None:
    one, other = _networks(last)
    found, expected = (
        fisher_diagonal(m, X[:samples], Y[:samples], square=square, batch_size=1 if square == "batch" else None)  # type: ignore[arg-type]
        for m in (one, other)
    )
    for name, value in expected.items():
        assert_close(found[name], value)


def test_by_finite_differences() -> None:
    model = _networks()[0].double()
    found = fisher_diagonal(model, X[:1].double(), Y[:1])["norm.weight"]
    weight, step = model.get_parameter("norm.weight"), 1e-6
    for place in range(len(weight)):
        losses = []
        for move in (step, -step):
            with torch.no_grad():
                weight[place] += move
                losses.append(F.cross_entropy(model(X[:1].double()), Y[:1]))
                weight[place] -= move
        assert float(found[place]) == pytest.approx(
            float((losses[0] - losses[1]) / (2 * step)) ** 2, rel=1e-4, abs=1e-12
        )


@pytest.mark.parametrize("method", ["learn_to_unlearn", "boundary_shrink"])
def test_training_on_batches_of_one(method: str) -> None:
    one, other = _networks()
    for model in (one, other):
        if method == "boundary_shrink":
            baselines.boundary_shrink(model, [(X[:1], Y[:1])], [], epochs=1)
        else:
            learn_to_unlearn(model, [(X[:1], Y[:1])], [(X[1:2], Y[1:2]), (X[2:], Y[2:])], steps=2)
    for name, value in other.state_dict().items():
        assert_close(one.state_dict()[name], value, 1e-4)
