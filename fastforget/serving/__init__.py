"""Forget in a service that goes on predicting."""

from __future__ import annotations

from fastforget.serving.live import LiveModel, Prediction, Version
from fastforget.serving.log import Record, RequestLog, read_log, verify_log

__all__ = ["LiveModel", "Prediction", "Record", "RequestLog", "Version", "read_log", "verify_log"]
