"""An event of an edit for data catalogues: OpenLineage 2.0."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fastforget.classifier.class_names import name_class, read_names
from fastforget.edits.receipt import Receipt
from fastforget.integrations.edit_identity import LIMITATION, check_name, identifier

__all__ = ["lineage_event"]

_SPEC = "https://openlineage.io/spec"
_EVENT = f"{_SPEC}/2-0-2/OpenLineage.json#/$defs/RunEvent"
_VERSION = f"{_SPEC}/facets/1-0-0/DatasetVersionDatasetFacet.json#/$defs/DatasetVersionDatasetFacet"
_DESCRIPTION = f"{_SPEC}/facets/1-0-0/DocumentationJobFacet.json#/$defs/DocumentationJobFacet"
_TAGS = f"{_SPEC}/facets/2-0-3/TagsRunFacet.json#/$defs/TagsRunFacet"


def lineage_event(
    receipt: Receipt, name: str, *, namespace: str = "fastforget", names: Sequence[str] | None = None
) -> dict[str, Any]:
    """Describe an edit, from its receipt, as a ``COMPLETE`` event of OpenLineage.

    The model is a data set: input in the version before the edit, output in the one after it. Versions are
    fingerprints. What was done stands in the tags of the run.

    Source: the OpenLineage specification, 2-0-2, ``RunEvent``.

    Args:
        receipt: Of the edit.
        name: What the model is called.
        namespace: Where it belongs, as your catalogue names it.
        names: What classes 0, 1, ... are called; without, only their numbers are told.

    Returns:
        The event, as JSON knows it; the same for the same arguments.

    Raises:
        TypeError: A name is no text.
        ValueError: A name is empty.
    """
    check_name("name", name)
    check_name("namespace", namespace)
    known = read_names(names)
    version = receipt.versions.get("fastforget", "")
    producer = f"pkg:pypi/fastforget{f'@{version}' if version else ''}"
    said = [("rule", receipt.rule), *(("claim", claim) for claim in receipt.claims)]
    said += [("forgotten-class", name_class(cls, known)) for cls in receipt.classes]
    said += [("summary", receipt.summary(names))]

    def facet(schema: str, **content: Any) -> dict[str, Any]:
        return {"_producer": producer, "_schemaURL": schema, **content}

    def model(fingerprint: str) -> dict[str, Any]:
        return {
            "namespace": namespace,
            "name": name,
            "facets": {"version": facet(_VERSION, datasetVersion=fingerprint)},
        }

    tags = [{"key": key, "value": value, "source": "fastforget"} for key, value in said]
    return {
        "eventType": "COMPLETE",
        "eventTime": receipt.created,
        "producer": producer,
        "schemaURL": _EVENT,
        "run": {"runId": str(identifier(receipt, "run")), "facets": {"tags": facet(_TAGS, tags=tags)}},
        "job": {
            "namespace": namespace,
            "name": f"forget.{name}",
            "facets": {"documentation": facet(_DESCRIPTION, description=LIMITATION)},
        },
        "inputs": [model(receipt.before)],
        "outputs": [model(receipt.after)],
    }
