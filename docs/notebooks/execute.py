"""Run the notebooks and store what they print: ``make notebooks``, after a change of what they show."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent


def main() -> None:
    os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # bars of text will do
    chosen = [HERE / name for name in sys.argv[1:]] or sorted(HERE.glob("*.ipynb"))
    for path in chosen:
        notebook = nbformat.read(path, as_version=4)
        # When and for how long a cell ran is different every time, and no matter of a reader.
        NotebookClient(
            notebook, timeout=300, record_timing=False, resources={"metadata": {"path": str(HERE)}}
        ).execute()
        nbformat.write(notebook, path)


if __name__ == "__main__":
    main()
