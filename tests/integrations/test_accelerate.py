"""Models whose values accelerate offloads: what is in the model is edited, and the rest is refused by name."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from asserts import assert_same_bits
from known_codes import model_with_codes
from torch import nn

from fastforget import fingerprint, fisher_diagonal, learn_to_unlearn, one_shot

accelerate = pytest.importorskip("accelerate")
pytestmark = pytest.mark.filterwarnings("default")  # warnings of other libraries are no errors

CPU = torch.device("cpu")
INSIDE = ["2.weight", "2.bias"]
WAYS: dict[str, Callable[[nn.Module, Path], Any]] = {
    "cpu": lambda module, _: accelerate.cpu_offload(module, execution_device=CPU),
    "cpu, with buffers": lambda module, _: accelerate.cpu_offload(module, execution_device=CPU, offload_buffers=True),
    "disk": lambda module, folder: accelerate.disk_offload(module, str(folder), execution_device=CPU),
}


@pytest.mark.parametrize("cls", [1, [0, 2]])
@pytest.mark.parametrize("way", WAYS)
def test_what_is_in_the_model(way: str, cls: Any, tmp_path: Path) -> None:
    """The rest is brought by its hooks for each forward; all is the same to the bit."""
    plain, codes = model_with_codes()
    model = copy.deepcopy(plain)
    WAYS[way](model[0], tmp_path)
    assert model[0].weight.device.type == "meta"
    before = fingerprint(plain)
    assert fingerprint(model) == before
    fisher = fisher_diagonal(model, codes.inputs, codes.labels, parameters=INSIDE)
    assert not fisher.fallback
    for name, value in fisher_diagonal(plain, codes.inputs, codes.labels, parameters=INSIDE).items():
        assert_same_bits(fisher[name], value)
    found, expected = (one_shot(one, codes, cls, rho=0.5, parameters=INSIDE) for one in (model, plain))
    assert (found.before, found.after, found.evidence) == (before, expected.after, expected.evidence)
    assert fingerprint(model) == fingerprint(plain) == found.after
    found.revert(model)
    assert fingerprint(model) == before
    assert model[0].weight.device.type == "meta"


@pytest.mark.parametrize("way", WAYS)
def test_what_is_not(way: str, tmp_path: Path) -> None:
    model, codes = model_with_codes()
    before = fingerprint(model)
    WAYS[way](model, tmp_path)
    samples = [(codes.inputs, codes.labels)]
    calls: list[Callable[[], Any]] = [
        lambda: fisher_diagonal(model, codes.inputs, codes.labels),
        lambda: one_shot(model, codes, 1),
        lambda: one_shot(model, codes, 1, parameters=["0.weight"]),
        lambda: learn_to_unlearn(model, samples, samples),
    ]
    for call in calls:
        with pytest.raises(NotImplementedError) as found:
            call()
        assert str(found.value) == (
            "parameter `0.weight` is offloaded: hooks of accelerate keep its values outside of the model. Name "
            "parameters that are in it (parameters=[...]), or bring all to the CPU with "
            "accelerate.hooks.remove_hook_from_submodules(model)"
        )
    assert fingerprint(model) == before
    accelerate.hooks.remove_hook_from_submodules(model)  # what the error says
    assert one_shot(model, codes, 1, rho=0.2).before == before


@pytest.mark.parametrize("device_map", [{"": "cpu"}, {"0": "cpu", "1": "cpu", "2": "cpu"}])
def test_dispatched_to_the_cpu(device_map: dict[str, str]) -> None:
    plain, codes = model_with_codes()
    model = accelerate.dispatch_model(copy.deepcopy(plain), device_map, force_hooks=True)
    assert one_shot(model, codes, 1, rho=0.2).after == one_shot(plain, codes, 1, rho=0.2).after
