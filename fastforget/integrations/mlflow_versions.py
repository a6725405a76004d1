"""A model that was made to forget as a version in the model registry of MLflow."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch import Tensor, nn

from fastforget.auditing.report import AuditReport
from fastforget.classifier.class_names import class_names
from fastforget.classifier.compilation import eager
from fastforget.edits.history import EditHistory
from fastforget.edits.receipt import Receipt, check_fingerprint
from fastforget.files.checked import save
from fastforget.integrations.checked_audit import check_audit

__all__ = ["log_forgotten"]

_ARTIFACTS = "forgotten"


def log_forgotten(
    model: nn.Module,
    receipt: Receipt,
    registered_model_name: str,
    *,
    audit: AuditReport | None = None,
    history: EditHistory | None = None,
) -> Any:
    """Register a model that was made to forget as a new version, with its receipt, its audit and tags.

    It is logged to the active run, or to a new one, where ``mlflow.set_tracking_uri`` and ``set_experiment`` say. The
    artifacts are in the folder ``forgotten``:

    ===================== ==============================================================================================
    model.safetensors     the weights by the names of the state dict, never pickled. Its metadata hold the history of
                          edits, as the checkpoints of the command line do
    receipt.safetensors   the receipt. One that can be reverted holds what was forgotten: pass
                          ``receipt.without_undo()`` if nobody who reads the registry may have it
    receipt.json          what it says, without values
    audit.json            what the audit measured; with matplotlib also a page, audit.html
    ===================== ==============================================================================================

    The version and the run have the tags ``fastforget.classes`` and ``.names`` of the forgotten classes, with commas;
    ``.rule``; ``.outcome`` in words; the fingerprints ``.before`` and ``.after``; ``.reversible``, "true" or "false".

    Earlier versions of the model still know the class: delete them, with their artifacts, when the new one serves.

    Args:
        model: As the edit left it.
        receipt: Of the edit.
        registered_model_name: Of the model in the registry; made if it is not there.
        audit: What `fastforget.audit` measured.
        history: The edits before, if there were any.

    Returns:
        The `mlflow.entities.model_registry.ModelVersion`.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: The model is not as the edit left it, or the audit is of another model. Nothing is logged.
        ModuleNotFoundError: MLflow is not installed.
        MlflowException: MLflow refuses the name, or the store cannot be reached.
    """
    module, past = eager(model), EditHistory() if history is None else history
    for name, value, kind, what in (
        ("receipt", receipt, Receipt, "a Receipt"),
        ("registered_model_name", registered_model_name, str, "a text"),
        ("history", past, EditHistory, "an EditHistory"),
    ):
        if not isinstance(value, kind):
            raise TypeError(f"`{name}` must be {what}, got {type(value).__name__}")
    check_audit(audit, receipt)
    check_fingerprint(receipt, module, old=True)
    try:
        import mlflow  # noqa: PLC0415 (not every installation has it)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("versions in a registry need MLflow: pip install mlflow") from error
    tags, active, client = _tags(receipt, class_names(module)), mlflow.active_run(), mlflow.MlflowClient()
    try:
        client.create_registered_model(registered_model_name)
    except mlflow.MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    with TemporaryDirectory() as folder, mlflow.start_run() if active is None else nullcontext(active) as run:
        _write(Path(folder), module, receipt, audit, past.followed_by(receipt))
        mlflow.log_artifacts(folder, _ARTIFACTS)
        mlflow.set_tags(tags)
        source = f"{run.info.artifact_uri}/{_ARTIFACTS}"
        return client.create_model_version(registered_model_name, source, run.info.run_id, tags=tags)


def _write(folder: Path, model: nn.Module, receipt: Receipt, audit: AuditReport | None, history: EditHistory) -> None:
    # The format refuses tensors that share memory, so each is copied.
    tensors = {name: value.detach().cpu().clone().contiguous() for name, value in _state(model).items()}
    save(folder / "model.safetensors", tensors, history.written_into(None) or {})
    receipt.save(folder / "receipt.safetensors")
    (folder / "receipt.json").write_text(json.dumps(receipt.describe(), indent=2) + "\n", encoding="utf-8")
    if audit is not None:
        audit.save(folder / "audit.json")
        if find_spec("matplotlib") is not None:
            audit.save_html(folder / "audit.html")


def _state(model: nn.Module) -> Mapping[str, Tensor]:
    """Return the state without extra state that is no tensor."""
    return {name: value for name, value in model.state_dict().items() if isinstance(value, Tensor)}


def _tags(receipt: Receipt, names: list[str] | None) -> dict[str, str]:
    known = [names[cls] for cls in receipt.classes if cls < len(names)] if names else []
    return {
        "fastforget.classes": ",".join(map(str, receipt.classes)),
        "fastforget.names": ",".join(known),
        "fastforget.rule": receipt.rule,
        "fastforget.outcome": receipt.outcome,
        "fastforget.before": receipt.before,
        "fastforget.after": receipt.after,
        "fastforget.reversible": str(receipt.reversible).lower(),
    }
