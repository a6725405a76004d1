"""The assignment problem: pair rows with columns so that the costs add up to the least."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["assign"]


def assign(costs: Tensor) -> Tensor:
    """Return a column for each row, each column at most once, so that the sum of the costs is the least possible.

    Source: the shortest augmenting paths of Jonker and Volgenant, "A shortest augmenting path algorithm for dense and
    sparse linear assignment problems", Computing 1987, without its initialisation.

    Args:
        costs: Finite costs, [N, M] with N <= M.

    Returns:
        The column of each row, int64 [N], on the device of the costs.

    Example:
        >>> assign(torch.tensor([[1.0, 2.0], [1.0, 9.0]]))
        tensor([1, 0])
    """
    table = costs.detach().double().cpu().numpy()
    rows, columns = table.shape
    row_price, column_price = np.zeros(rows), np.zeros(columns)
    row_of = np.full(columns, -1)
    for row in range(rows):
        # Dijkstra over columns, from this row to a free one, along costs minus prices, which are never negative.
        distance, before = np.full(columns, np.inf), np.full(columns, -1)
        done, current, column, length = np.zeros(columns, dtype=bool), row, -1, 0.0
        while current >= 0:
            way = length + table[current] - row_price[current] - column_price
            shorter = ~done & (way < distance)
            distance[shorter], before[shorter] = way[shorter], column
            column = int(np.where(done, np.inf, distance).argmin())
            length, done[column], current = distance[column], True, int(row_of[column])
        row_price[row] += length
        passed = done.copy()
        passed[column] = False
        row_price[row_of[passed]] += length - distance[passed]
        column_price[passed] -= length - distance[passed]
        while column >= 0:
            previous = int(before[column])
            row_of[column] = row if previous < 0 else row_of[previous]
            column = previous
    found = np.empty(rows, dtype=np.int64)
    taken = row_of >= 0
    found[row_of[taken]] = np.flatnonzero(taken)
    return torch.from_numpy(found).to(costs.device)
