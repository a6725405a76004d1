"""A sum that its owner keeps is changed in its own memory, and is as it was after an error."""

import pytest
import torch
from fisher.partial_sums import assert_same, part, snapshot
from models import N

from fastforget import FisherDiagonal
from fastforget.fisher.diagonal import FACTS
from fastforget.fisher.kept_sums import replace_sum, restored_on_error


def change(kept: FisherDiagonal) -> None:
    """Half of everything, as if two of the samples had gone."""
    replace_sum(kept, {name: value / 2 for name, value in kept.items()}, torch.zeros(N - 2), "another", removed=2)


def memory(kept: FisherDiagonal) -> list[int]:
    return [value.data_ptr() for value in kept.values()]


def test_facts_are_all_that_is_known() -> None:
    assert set(FACTS) == set(vars(part("mlp", slice(0, N))))


def test_a_sum_over_fewer_samples_is_in_the_same_memory() -> None:
    kept, before = part("mlp", slice(0, N)), part("mlp", slice(0, N))
    where = memory(kept)
    change(kept)
    assert memory(kept) == where
    assert all(torch.equal(value, before[name] / 2) for name, value in kept.items())
    assert (kept.samples, kept.weight.item(), len(kept.losses)) == (N - 2, N - 2, N - 2)
    assert (kept.model, kept.gradient) == ("another", None)


@pytest.mark.parametrize("stays", [False, True])
def test_an_error_restores_the_sum_unless_it_must_stay_changed(stays: bool) -> None:
    kept = part("mlp", slice(0, N))
    before, changed, where = snapshot(kept), part("mlp", slice(0, N)), memory(kept)
    change(changed)

    def stop() -> None:
        with restored_on_error(kept, unless=lambda: stays):
            change(kept)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stop()
    assert_same(kept, snapshot(changed) if stays else before)
    assert memory(kept) == where


def test_without_an_error_nothing_is_restored() -> None:
    kept = part("mlp", slice(0, N))
    with restored_on_error(kept, unless=lambda: False), restored_on_error(None, unless=lambda: False):
        change(kept)
    assert kept.samples == N - 2
