"""What a model still knows of samples it was made to forget, against a model that never saw them: an audit report."""

from __future__ import annotations

from fastforget.audit.cost import Cost, measure_cost
from fastforget.audit.report import AuditReport, Finding, Metric
from fastforget.audit.run import audit

__all__ = ["AuditReport", "Cost", "Finding", "Metric", "audit", "measure_cost"]
