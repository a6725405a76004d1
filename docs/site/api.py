"""The pages of the API reference, one for each public module, made from what the modules export.

They are read from the sources, so a new public name has its entry without anybody adding it. One without documentation
ends the build.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import griffe
from mkdocs.exceptions import PluginError

# Public modules, and what they are for. The order is that of the pages; a name that two of them export is on the first.
MODULES = {
    "fastforget": "The public face: what most programs need.",
    "fastforget.auditing": "What an audit reports.",
    "fastforget.edits": "Edits of your own, with receipts.",
    "fastforget.baselines": "Published methods to compare with.",
    "fastforget.comparison": "What a comparison of methods returns.",
    "fastforget.serving": "Forgetting in a service that goes on predicting.",
    "fastforget.serving.engines": "Other forms to run a model in.",
    "fastforget.serving.web": "The service over HTTP.",
    "fastforget.integrations": "transformers, timm, Lightning, MLflow, inventories and catalogues.",
    "fastforget.distributed": "The same steps on many processes.",
    "fastforget.membership": "Telling training data from other data.",
    "fastforget.ops": "The operators of `torch.ops.fastforget`.",
}

BARE = ("members", "show_root_heading", "show_root_toc_entry")  # of a module only what it says of itself


def page_of(module: str) -> str:
    """Return the page of a public module."""
    return f"api/{module}.md"


def resolved(item: griffe.Object | griffe.Alias) -> griffe.Object:
    """Return what a name stands for."""
    return item.final_target if isinstance(item, griffe.Alias) else item


def exported(module: griffe.Object | griffe.Alias) -> dict[str, griffe.Object]:
    """Return the public names of a module and what they stand for, without modules."""
    names = [str(name) for name in module.exports or ()]
    found = {name: resolved(module[name]) for name in names if name in module.members and not name.startswith("__")}
    missing = [name for name in names if name not in module.members]
    if missing:
        raise PluginError(f"`{module.path}` exports what it does not have: {', '.join(missing)}")
    return {name: item for name, item in found.items() if not item.is_module}


def undocumented(path: str, item: griffe.Object) -> Iterator[str]:
    """Yield a public name, and the public names in a class of it, that have no docstring."""
    if not item.has_docstring:
        yield path
    if item.is_class:
        for name, member in item.members.items():
            real = None if isinstance(member, griffe.Alias) else member
            if real is not None and not name.startswith("_") and real.is_function and not real.has_docstring:
                yield f"{path}.{name}"


def summary(item: griffe.Object) -> str:
    """Return the first sentence of a docstring."""
    return item.docstring.value.partition("\n\n")[0].replace("\n", " ") if item.docstring else ""


def pages(root: Path, package: str = "fastforget", modules: dict[str, str] = MODULES) -> dict[str, str]:
    """Return the pages by their names.

    Raises:
        PluginError: A public name has no documentation.
    """
    tree = griffe.load(package, search_paths=[str(root)], resolve_aliases=True, resolve_external=False)
    texts, seen, faults = {}, {}, []
    index = ["# API", "Every public name, by module. Names that begin with an underscore are not public."]
    for module, purpose in modules.items():
        where = tree if module == package else tree[module.removeprefix(f"{package}.")]
        new, earlier = [], []
        for name, item in sorted(exported(where).items()):
            faults += undocumented(f"{module}.{name}", item)
            (earlier if item.path in seen else new).append((name, item))
            seen.setdefault(item.path, f"{module}.{name}")
        rows = [f"| [`{name}`]({module}.md#{module}.{name}) | {summary(item)} |" for name, item in new]
        index.append(f"## {module}\n\n{purpose}\n\n| name | what it is |\n| --- | --- |\n" + "\n".join(rows))
        text = [f"# {module}", purpose]
        if module != package:  # what the package says of itself is on the start page
            text.append(f"::: {module}\n    options:\n" + "".join(f"      {option}: false\n" for option in BARE))
        if earlier:
            links = ", ".join(f"[`{name}`][{seen[item.path]}]" for name, item in earlier)
            text.append(f"Documented elsewhere: {links}.")
        text += [f"::: {module}.{name}" for name, _ in new]
        texts[page_of(module)] = "\n\n".join(text) + "\n"
    if faults:
        raise PluginError(f"these public names have no documentation: {', '.join(sorted(set(faults)))}")
    return {"api/index.md": "\n\n".join(index) + "\n", **texts}
