"""What runs a model in a form that does not see its weights where they lie: one file for each stack."""

from __future__ import annotations

from fastforget.serving.engines.engine import Engine

__all__ = ["Engine"]
