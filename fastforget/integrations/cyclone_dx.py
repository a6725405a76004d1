"""A bill of materials of an edited model, for inventories: CycloneDX 1.6, an "ML-BOM"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastforget.classifier.class_names import name_class, read_names
from fastforget.edits.receipt import Receipt
from fastforget.integrations.edit_identity import LIMITATION, check_name, identifier

__all__ = ["bill_of_materials"]


def bill_of_materials(
    receipt: Receipt, name: str, *, names: Sequence[str] | None = None, files: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Describe the model that an edit made, from its receipt, as CycloneDX 1.6.

    The model is the component; the model from before is its ancestor (``pedigree``). Both are named by their
    fingerprints. What was done stands in ``properties``, figures among the performance metrics of the model card.

    Source: ECMA-424 (CycloneDX 1.6), "machine-learning-model" components.

    Args:
        receipt: Of the edit.
        name: What the model is called.
        names: What classes 0, 1, ... are called; without, only their numbers are told.
        files: SHA-256 of files that belong to it, hexadecimal, by their names.

    Returns:
        The bill, as JSON knows it; the same for the same arguments.

    Raises:
        TypeError: A name is no text.
        ValueError: The name is empty.
    """
    check_name("name", name)
    known = read_names(names)
    said = [("rule", receipt.rule), *(("claim", claim) for claim in receipt.claims)]
    said += [("forgotten-class", name_class(cls, known)) for cls in (*receipt.forgotten, *receipt.classes)]
    said += [("changed-parameters", str(receipt.changed)), ("parameters", str(receipt.total))]
    metrics = [{"type": f"fastforget:{key}", "value": f"{value:g}"} for key, value in sorted(receipt.evidence.items())]
    card = {
        "modelParameters": {"task": "classification"},
        "considerations": {"technicalLimitations": [LIMITATION]},
        **({"quantitativeAnalysis": {"performanceMetrics": metrics}} if metrics else {}),
    }
    notes = receipt.summary(names)
    return {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{identifier(receipt, 'bom')}",
        "version": 1,
        "metadata": {
            "timestamp": receipt.created,
            "tools": {"components": [_library(*item) for item in receipt.versions.items() if item[0] == "fastforget"]},
            "component": {
                **_model("model", name, receipt.after),
                "modelCard": card,
                "pedigree": {"ancestors": [_model("before", name, receipt.before)], "notes": notes},
                "properties": [{"name": f"fastforget:{key}", "value": value} for key, value in said],
            },
        },
        "components": [
            *(_library(*item) for item in sorted(receipt.versions.items())),
            *(_file(*item) for item in sorted((files or {}).items())),
        ],
    }


def _model(reference: str, name: str, fingerprint: str) -> dict[str, Any]:
    return {
        "type": "machine-learning-model",
        "bom-ref": f"{reference}:{fingerprint}",
        "name": name,
        "version": f"fastforget.fingerprint:{fingerprint}",
    }


def _library(name: str, version: str) -> dict[str, Any]:
    return {"type": "library", "name": name, "version": version}


def _file(name: str, digest: str) -> dict[str, Any]:
    return {"type": "file", "name": name, "hashes": [{"alg": "SHA-256", "content": digest}]}
