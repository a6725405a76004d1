"""The demonstration of `fastforget demo`: train with mnemonic codes, forget each class, undo it."""

from importlib.util import find_spec

_PACKAGES = {"matplotlib": "matplotlib", "rich": "rich", "sklearn": "scikit-learn", "tqdm": "tqdm"}

if _missing := [package for module, package in _PACKAGES.items() if find_spec(module) is None]:
    raise ModuleNotFoundError(f"the demo needs {', '.join(_missing)}: pip install 'fastforget[demo]'")
