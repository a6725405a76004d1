"""The stored notebooks have run to their end, and say nothing of the machine that they ran on."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

if not NOTEBOOKS:
    pytest.skip("the pages are not part of this distribution", allow_module_level=True)


def faults(notebook: dict[str, Any]) -> list[str]:
    """Return what a stored notebook must not have."""
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    found = [] if [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1)) else ["not run in order"]
    outputs = [output for cell in code for output in cell["outputs"]]
    found += [output["output_type"] for output in outputs if output["output_type"] == "error"]
    found += ["stderr" for output in outputs if output.get("name") == "stderr"]
    found += re.findall(r"/(?:root|home|tmp|usr|work)/[\w./-]+", json.dumps(notebook))
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_stored_notebook_is_whole(path: Path) -> None:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert faults(notebook) == []
    assert sum(bool(cell.get("outputs")) for cell in notebook["cells"]) >= 5


def test_faults_are_found() -> None:
    outputs = [{"output_type": "error"}, {"output_type": "stream", "name": "stderr", "text": "in /home/somebody/x"}]
    notebook = {"cells": [{"cell_type": "code", "execution_count": 2, "outputs": outputs}]}
    assert faults(notebook) == ["not run in order", "error", "stderr", "/home/somebody/x"]
