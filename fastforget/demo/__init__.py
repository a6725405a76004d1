"""The demonstration behind `fastforget demo`: train with mnemonic codes, forget every class in turn, undo."""

from importlib.util import find_spec

_NEEDED = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn", "tqdm": "tqdm"}

if _missing := [package for module, package in _NEEDED.items() if find_spec(module) is None]:
    raise ModuleNotFoundError(f"the demo needs {', '.join(_missing)}: pip install 'fastforget[demo]'")
