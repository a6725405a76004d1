"""Forget in a service that goes on predicting."""

from __future__ import annotations

from fastforget.serving.archive import Archive, ArchiveError
from fastforget.serving.history import Entry, Request, Version
from fastforget.serving.live import LiveModel, Prediction
from fastforget.serving.log import Record, RequestLog, read_log, verify_log

__all__ = [
    "Archive",
    "ArchiveError",
    "Entry",
    "LiveModel",
    "Prediction",
    "Record",
    "Request",
    "RequestLog",
    "Version",
    "read_log",
    "verify_log",
]
