"""The diagonal Fisher of a model's parameters, fused into the backward pass."""

from fastforget.fisher.compute import fisher_diagonal
from fastforget.fisher.diagonal import FisherDiagonal

__all__ = ["FisherDiagonal", "fisher_diagonal"]
