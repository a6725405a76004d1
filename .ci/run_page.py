"""Run the Python of a Markdown page in a process of its own: ``python run_page.py PAGE``."""

from __future__ import annotations

import re
import sys
from pathlib import Path


def main() -> None:
    """Run it, and check that the package that ran is the installed one."""
    text = Path(sys.argv[1]).read_text(encoding="utf-8")
    names: dict[str, object] = {"__name__": "__main__"}
    for block in re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        exec(block, names)  # noqa: S102 (our own page)
    where = Path(sys.modules["fastforget"].__file__ or "")
    print(f"all of it ran, with {where}")
    if Path(sys.prefix) not in where.parents:
        raise SystemExit(f"that is not the installed package: {where}")


if __name__ == "__main__":
    main()
