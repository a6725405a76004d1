"""torch.compile with weights as constants."""

import threading
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from torch import Tensor, nn

from fastforget.serving.engines import Rebuilt, compile_frozen


@pytest.mark.slow
def test_frozen_compilation(network: Callable[..., nn.Module], images: Tensor) -> None:
    """More edits than torch.compile compiles one code object for; each is compiled once, and before it predicts."""
    from torch._dynamo.utils import counters

    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    edited = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    built: list[nn.Module] = []

    def build(given: nn.Module) -> Any:
        built.append(given)
        return compile_frozen(given, images)

    engine = Rebuilt(build, example=images)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.jit\.script_method` is deprecated", DeprecationWarning)
        counters.clear()
        engine.check(model)
    with torch.no_grad():
        answers = [engine(images)]
        for number in range(1, 10):
            engine.stage(edited if number % 2 else model)()
            answers.append(engine(images))
        assert float((answers[0] - model(images)).abs().max()) <= 1e-5
        assert float((answers[1] - edited(images)).abs().max()) <= 1e-5
        for number, answer in enumerate(answers):
            assert_same_bits(answer, answers[number % 2])
        built[-1][1].bias.add_(1.0)  # weights are constants: an edit in place is not seen
        assert_same_bits(engine(images), answers[1])

    seen: list[Tensor] = []

    def client() -> None:
        with torch.no_grad():
            seen.append(engine(images))

    thread = threading.Thread(target=client)
    thread.start()
    thread.join(60)
    assert_same_bits(seen[0], answers[1])
    assert len(built) == 11  # one to check that edits are followed
    assert counters["stats"]["unique_graphs"] == 11
    assert counters["frames"]["ok"] == counters["frames"]["total"] == 11
