"""Which file of the package imports which, read from the sources without running them."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# From the ground up: a room imports rooms of floors below its own, and itself.
FLOORS = (
    ("errors", "files", "ops"),
    ("classifier",),
    ("functional",),
    ("codes", "edits", "fisher", "membership"),
    ("auditing", "baselines", "class_forgetting", "sample_forgetting"),
    ("comparison", "demo", "distributed", "integrations", "serving"),
    ("cli",),
)
FACE = ("fastforget", "fastforget.__main__")  # the public face, which may import everything and is imported by nobody

Graph = Mapping[str, set[str]]


def module_name(path: Path, root: Path) -> str:
    """Return ``fastforget.ops`` for fastforget/ops/__init__.py below ``root``."""
    return ".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__")


def sources(package: Path) -> dict[str, str]:
    """Return the text of every module of a package by its name."""
    paths = [*package.rglob("*.py"), *package.rglob("*.pyi")]
    return {module_name(path, package.parent): path.read_text(encoding="utf-8") for path in paths}


def imports(text: str, known: frozenset[str]) -> Iterator[str]:
    """Yield the known modules that a module imports, also in functions and for type checkers alone."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module in known:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in known else node.module


def graph(texts: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the modules that each module imports."""
    known = frozenset(texts)
    return {name: set(imports(text, known)) for name, text in texts.items()}


def floor(module: str) -> int:
    """Return the floor of a module's room, counted from the ground."""
    room = module.split(".")[1]
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def upward(arrows: Graph) -> list[str]:
    """Return the imports of rooms that are not below the importing one, and those of the public face."""
    return sorted(
        f"{name} -> {imported}"
        for name, all_imported in arrows.items()
        for imported in all_imported
        if name not in FACE
        and (imported in FACE or (name.split(".")[1] != imported.split(".")[1] and floor(imported) >= floor(name)))
    )


def circle(arrows: Graph) -> list[str]:
    """Return modules that import each other in a circle, or none."""
    try:
        TopologicalSorter(arrows).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def shadowed(texts: Mapping[str, str]) -> list[str]:
    """Return modules whose package exports something else under their name."""
    found = []
    for package, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and node.module:
                names = {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
                hidden = [f"{package}.{name}" for name, origin in names.items() if origin != f"{package}.{name}"]
                found += [module for module in hidden if module in texts]
    return sorted(found)


def private(texts: Mapping[str, str]) -> list[str]:
    """Return private names that a module takes from another room or file of the package."""
    found = []
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fastforget":
                names = [alias.name for alias in node.names if alias.name.startswith("_")]
                # The compiled library is private to the package that loads it.
                found += [f"{module}: {name}" for name in names if (module, name) != ("fastforget.ops.library", "_C")]
    return sorted(found)


def set_from_outside(texts: Mapping[str, str]) -> list[str]:
    """Return where ``vars(x)[...]`` or ``vars(x).update`` sets attributes of something other than ``self``."""
    found = []
    for module, text in texts.items():
        for node in ast.walk(ast.parse(text)):
            set_one = isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store)
            set_many = isinstance(node, ast.Attribute) and node.attr == "update"
            if (set_one or set_many) and isinstance(node.value, ast.Call) and ast.unparse(node.value.func) == "vars":
                owner = ast.unparse(node.value.args[0])
                if owner != "self":
                    found.append(f"{module}: vars({owner})")
    return sorted(found)
