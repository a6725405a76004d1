"""Forget in a service that goes on predicting."""

from __future__ import annotations

from fastforget.serving.history.archive import Archive
from fastforget.serving.history.entries import Entry, Version
from fastforget.serving.history.errors import ArchiveError
from fastforget.serving.history.log import RequestLog, read_log, verify_log
from fastforget.serving.history.records import Record
from fastforget.serving.history.requests import Request
from fastforget.serving.issuer import Issuer
from fastforget.serving.live import LiveModel
from fastforget.serving.replica import Prediction

__all__ = [
    "Archive",
    "ArchiveError",
    "Entry",
    "Issuer",
    "LiveModel",
    "Prediction",
    "Record",
    "Request",
    "RequestLog",
    "Version",
    "read_log",
    "verify_log",
]
