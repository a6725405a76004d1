"""Forget in a service that goes on predicting."""

from __future__ import annotations

from fastforget.serving.live import LiveModel, Prediction, Version

__all__ = ["LiveModel", "Prediction", "Version"]
