"""Counts of how often the host waits for a device."""

from collections import Counter


def counted(waits: list[str]) -> dict[str, int]:
    """Count the waits of each file."""
    return dict(Counter(wait.split()[1].split(":")[0] for wait in waits))


def trials(waits: dict[str, int]) -> int:
    """How often the search for a step waited; its files are taken out."""
    rules = ("natural_rule", "paper_rule", "step_length")
    return sum(waits.pop(f"class_forgetting/{rule}.py", 0) for rule in rules)
