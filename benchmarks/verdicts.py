"""Judge a diagonal Fisher, in words for a table: ok, wrong, missing or an error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

TOLERANCE = 1e-4  # norm of the difference, relative to the norm of the exact tensor
ZERO = 1e-24  # an exact tensor below this share of the largest one is zero except for rounding (the bias of keys)


def judged(found: Mapping[str, Tensor], exact: Mapping[str, Tensor], tolerance: float = TOLERANCE) -> str:
    """Compare with the exact tensors. Return ``"ok"``, or how many of them are wrong or missing."""
    largest = max(float(value.norm()) for value in exact.values())

    def right(name: str) -> bool:
        if found[name].shape != exact[name].shape:
            return False
        scale = float(exact[name].norm())
        if scale <= ZERO * largest:
            return float(found[name].double().norm()) <= 1e-12 * largest
        return float((found[name].double() - exact[name]).norm()) <= tolerance * scale

    missing = sum(name not in found for name in exact)
    wrong = sum(name in found and not right(name) for name in exact)
    words = [f"{kind}: {count}" for kind, count in (("wrong", wrong), ("missing", missing)) if count]
    return f"{', '.join(words)} of {len(exact)} tensors" if words else "ok"


def attempted(method: Callable[[], Mapping[str, Tensor]], exact: Mapping[str, Tensor], **settings: Any) -> str:
    """Run a method and judge its result. A library that is absent gives ``"not installed"``."""
    try:
        return judged(method(), exact, **settings)
    except ImportError as error:
        return f"not installed: {error.name}"
    except Exception as error:  # noqa: BLE001 - the table shows whatever a peer raises
        lines = str(error).strip().splitlines() or [""]
        return f"error: {type(error).__name__}: {lines[0]}"[:120]
