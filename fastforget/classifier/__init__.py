"""The user's model: checked, run, and left as it was."""
