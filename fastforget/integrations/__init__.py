"""Forgetting in the libraries that people train, save and register classifiers with, and in inventories of models.

Nothing here imports such a library before it is needed. See docs/guide/integrations.md.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from fastforget.integrations.code_dataset import CodesDataset
from fastforget.integrations.cyclone_dx import bill_of_materials
from fastforget.integrations.mlflow_versions import log_forgotten
from fastforget.integrations.model_folder import history_of, save_forgotten
from fastforget.integrations.open_lineage import lineage_event

if TYPE_CHECKING:  # imported when it is asked for, see `__getattr__`
    from fastforget.integrations.lightning_callback import EmbedCodes

__all__ = [
    "CodesDataset",
    "EmbedCodes",
    "bill_of_materials",
    "history_of",
    "lineage_event",
    "log_forgotten",
    "save_forgotten",
]


def __getattr__(name: str) -> Any:
    """Import what is made of a class of Lightning when it is first asked for (PEP 562)."""
    if name == "EmbedCodes":
        return import_module("fastforget.integrations.lightning_callback").EmbedCodes
    raise AttributeError(f"module 'fastforget.integrations' has no attribute {name!r}")
