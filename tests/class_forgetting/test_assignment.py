"""The assignment problem against all permutations."""

from itertools import permutations

import pytest
import torch

from fastforget.class_forgetting.assignment import assign


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 5), (3, 3), (4, 6), (6, 7)])
@pytest.mark.parametrize("digits", [0, 9])
def test_the_sum_is_the_least(rows: int, columns: int, digits: int) -> None:
    costs = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows + columns)).double()
    costs = costs.round(decimals=digits)  # without decimals there are ties, and costs below zero in any case
    found = assign(costs)
    assert found.shape == (rows,)
    assert len(set(found.tolist())) == rows
    every = torch.tensor(list(permutations(range(columns), rows)))
    least = costs[torch.arange(rows), every].sum(1).min()
    assert float(costs[torch.arange(rows), found].sum()) == pytest.approx(float(least))


def test_no_rows_have_no_columns() -> None:
    assert assign(torch.empty(0, 3)).tolist() == []
