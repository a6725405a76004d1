"""An audit that is kept beside a model must be of that model."""

from __future__ import annotations

from fastforget.auditing.report import AuditReport
from fastforget.edits.receipt import Receipt

__all__ = ["check_audit"]


def check_audit(audit: object, receipt: Receipt) -> None:
    """Check what was given as `audit`.

    Args:
        audit: A report, or None.
        receipt: Of the last edit.

    Raises:
        TypeError: It is neither.
        ValueError: It is of another model than the one that the edit left.
    """
    if audit is None:
        return
    if not isinstance(audit, AuditReport):
        raise TypeError(f"`audit` must be an AuditReport, got {type(audit).__name__}")
    if audit.model != receipt.after:
        raise ValueError(f"`audit` must be of the model that the edit left, {receipt.after}, got one of {audit.model}")
