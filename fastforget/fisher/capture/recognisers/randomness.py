"""Functions that may draw random numbers: refused where they would, because a random network has no Fisher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F

from fastforget.fisher.capture.watch import Watch

__all__ = ["RECOGNISERS"]


def _dropout(watch: Watch, func: Any, input: Any, p: float = 0.5, training: bool = True, *rest: Any, **kw: Any) -> Any:
    if training and p > 0:
        raise ValueError(
            "dropout must not be active: the Fisher of a random network is not defined; call model.eval() first"
        )
    return NotImplemented


def _attention(watch: Watch, func: Any, *args: Any, **kwargs: Any) -> Any:
    if (args[4] if len(args) > 4 else kwargs.get("dropout_p", 0.0)) > 0:
        raise ValueError("attention dropout must not be active; call model.eval() first")
    return NotImplemented


RECOGNISERS: dict[Any, Callable[..., Any]] = {
    **dict.fromkeys(
        (F.dropout, F.alpha_dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.feature_alpha_dropout), _dropout
    ),
    F.scaled_dot_product_attention: _attention,
}
