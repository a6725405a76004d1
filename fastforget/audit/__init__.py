"""What a model still knows of samples it was made to forget, against a model that never saw them: an audit report."""

from __future__ import annotations

from fastforget.audit.report import AuditReport, Finding, Metric
from fastforget.audit.run import audit

__all__ = ["AuditReport", "Finding", "Metric", "audit"]
