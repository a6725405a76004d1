"""Edits: what changed in a model, how it is written, and the receipt that undoes or repeats it."""

from fastforget.edits.edit import Edit
from fastforget.edits.receipt import Receipt
from fastforget.edits.recorder import Recording, recorded, recording

__all__ = ["Edit", "Receipt", "Recording", "recorded", "recording"]
