"""A text data set without download: the task is to name the Python library that a paragraph of documentation is from.

The paragraphs come from the docstrings of ten libraries of the development environment. constraints.txt and PyTorch fix
their versions. No file is in both the training and the test set.
"""

from __future__ import annotations

import ast
import random
import re
from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from fastforget.demo.data import Dataset

LIBRARIES = (
    "fontTools",
    "matplotlib",
    "mypy",
    "networkx",
    "numpy",
    "scipy",
    "setuptools",
    "sklearn",
    "sympy",
    "torch",
)
LENGTH, VOCABULARY = 32, 3000
TRAIN, TEST = 1500, 300
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def paragraphs(file: Path) -> Iterator[tuple[str, ...]]:
    """Yield the paragraphs of a module's docstrings as words, without short paragraphs and examples."""
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, RecursionError):
        return
    for node in ast.walk(tree):
        text = ast.get_docstring(node) if isinstance(node, DOCUMENTED) else None
        for paragraph in re.split(r"\n\s*\n", text or ""):
            words = re.findall(r"[a-z]+", paragraph.lower())
            if len(words) >= 10 and ">>>" not in paragraph:
                yield tuple(words[:LENGTH])


def collect(library: str) -> tuple[list[tuple[str, ...]], list[tuple[str, ...]]]:
    """Return different paragraphs of a library, for training and for testing."""
    spec = find_spec(library)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"the text problem needs {library}")
    folder = Path(spec.origin).parent
    files = [file for file in sorted(folder.rglob("*.py")) if "test" not in str(file.relative_to(folder))]
    random.Random(0).shuffle(files)  # noqa: S311 (not for secrets)
    found: dict[tuple[str, ...], bool] = {}
    wanted = {True: TEST, False: TRAIN}
    for place, file in enumerate(files):
        testing = place % 5 == 0
        if wanted[testing] > 0:
            new = [words for words in dict.fromkeys(paragraphs(file)) if words not in found][: wanted[testing]]
            found.update(dict.fromkeys(new, testing))
            wanted[testing] -= len(new)
    return [words for words, test in found.items() if not test], [words for words, test in found.items() if test]


@lru_cache(maxsize=1)
def load_docstrings() -> Dataset:
    """Load the paragraphs as token numbers, int64 [N, 32]. 0 is padding, 1 a rare word; the others go by frequency."""
    parts = [collect(library) for library in LIBRARIES]
    counts = Counter(word for train, _ in parts for words in train for word in words)
    common = sorted(counts, key=lambda word: (-counts[word], word))[: VOCABULARY - 2]
    numbers = {word: number for number, word in enumerate(common, 2)}

    def tokens(part: int) -> tuple[Tensor, Tensor]:
        lines = [(words, label) for label, both in enumerate(parts) for words in both[part]]
        x = torch.zeros(len(lines), LENGTH, dtype=torch.int64)
        for row, (words, _) in enumerate(lines):
            x[row, : len(words)] = torch.tensor([numbers.get(word, 1) for word in words])
        return x, torch.tensor([label for _, label in lines])

    (x_train, y_train), (x_test, y_test) = tokens(0), tokens(1)
    return Dataset("docstrings", LIBRARIES, x_train, y_train, x_test, y_test)
