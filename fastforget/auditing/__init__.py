"""Audits: what a model still knows of forgotten samples, compared with a model that never saw them."""

from __future__ import annotations

from fastforget.auditing.cost import Cost, measure_cost
from fastforget.auditing.finding import Finding
from fastforget.auditing.metric import Metric
from fastforget.auditing.report import AuditReport
from fastforget.auditing.report_file import load_report
from fastforget.auditing.run import audit

__all__ = ["AuditReport", "Cost", "Finding", "Metric", "audit", "load_report", "measure_cost"]
