"""How long the package's files are: ``python tests/architecture/sizes.py`` prints it by room."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median

PACKAGE = Path(__file__).parents[2] / "fastforget"


def lengths(package: Path = PACKAGE) -> dict[str, int]:
    """Return the number of lines of every Python file, but for those that only hand names on."""
    paths = [path for path in package.rglob("*.py") if path.name not in {"__init__.py", "__main__.py"}]
    texts = {path.relative_to(package).as_posix(): path.read_text(encoding="utf-8") for path in sorted(paths)}
    return {name: len(text.splitlines()) for name, text in texts.items()}


def report(found: dict[str, int]) -> str:
    """Return a table: files, median and longest of each room, and of all."""
    rooms: dict[str, list[int]] = defaultdict(list)
    for name, lines in found.items():
        rooms[name.partition("/")[0].removesuffix(".py")].append(lines)
    rows = [*sorted(rooms.items()), ("all", list(found.values()))]
    head = f"{'room':<20}{'files':>6}{'lines':>8}{'median':>8}{'longest':>9}"
    body = [f"{room:<20}{len(n):>6}{sum(n):>8}{median(n):>8.0f}{max(n):>9}" for room, n in rows]
    return "\n".join([head, *body])


if __name__ == "__main__":
    print(report(lengths()))
