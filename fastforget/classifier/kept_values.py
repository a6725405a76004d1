"""Values of parameters that a model keeps in eval mode, beside its parameters.

Some modules compute something of a parameter once and keep it for later predictions: LeViT, EfficientFormer and others
index a table of attention biases so (pytorch-image-models#2795). When the parameter moves, what is kept does not. With
other parameters, such a model answers with the old ones, and no gradient reaches them.
"""

from __future__ import annotations

import dis
import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import CodeType
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

__all__ = ["KeptValues", "keep_nothing", "kept_beside", "prepare_to_drop"]

_OF_EVERY_MODULE = frozenset(vars(nn.Module()))
_ANY_NAME = {"setattr", "__setattr__", "__dict__", "vars"}  # what may assign an attribute without naming it


class _Attribute(NamedTuple):
    """An attribute of a module that is none of PyTorch's own, and the contents of one that holds others."""

    module: nn.Module
    name: str
    value: Any
    contents: dict[Any, Any] | list[Any] | None


class KeptValues:
    """What a model keeps of its parameters, looked up once for any number of runs on other parameters."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        """Look at all attributes of the modules of a model."""
        self._all = modules
        self._before = list(_attributes(modules, with_parameters=True))
        self._of_parameters = [
            each for each in self._before if each.contents is not None and not _has_parameters(each) and _has_kept(each)
        ]
        self._holders = [each for each in self._before if each.contents is not None]
        # With the values, whose identities must stay theirs.
        self._modules = [(vars(module), _identities(vars(module)), list(vars(module).values())) for module in modules]

    @contextmanager
    def hidden(self) -> Iterator[None]:
        """Run the model on other parameters than its own.

        Inside, dicts and lists hold no values of parameters, so that these are computed anew. Afterwards all attributes
        are what they were; what the run has kept is dropped. So are lists of the parameters themselves: a recurrent
        layer has one, in which PyTorch 2.13's `functional_call` leaves the others.
        """
        for attribute in self._of_parameters:
            attribute.value.clear()
        try:
            yield
        finally:
            if any(_identities(now) != before for now, before, _ in self._modules) or any(map(_changed, self._holders)):
                _put_back(self._all, self._before)


def _identities(attributes: dict[str, Any]) -> list[int]:
    return list(map(id, attributes.values()))


def keep_nothing(model: nn.Module) -> RemovableHandle:
    """Have a model, whose parameters are about to move, keep nothing from one forward to the next.

    Returns:
        What ends it.
    """
    before = list(_attributes(model.modules()))
    for place, attribute in enumerate(before):
        if attribute.contents is not None and _has_kept(attribute):
            attribute.value.clear()
            before[place] = attribute._replace(contents=type(attribute.value)())
    return model.register_forward_hook(lambda *_: _put_back(model.modules(), before), always_call=True)


def prepare_to_drop(model: nn.Module, names: Iterable[str]) -> Callable[[], None]:
    """Find what is kept of parameters that are about to change.

    Args:
        model: The module, with the old values.
        names: Of the parameters.

    Returns:
        A function that drops it.

    Raises:
        ValueError: Something is kept in an attribute that cannot be emptied.
    """
    owners = {name.rpartition(".")[0] for name in names}
    kept: list[_Attribute] = []
    for path, module in model.named_modules():
        found = [each for each in _attributes([module]) if _has_kept(each)] if path in owners else []
        for attribute in found:
            if attribute.contents is None:
                raise ValueError(
                    f"`{path}.{attribute.name}` holds values of a parameter that is to change, and would stay as it "
                    "is: set it to None, or to what makes the module compute it anew, before the edit"
                )
        kept += found

    def drop() -> None:
        for attribute in kept:
            attribute.value.clear()

    return drop


def kept_beside(model: nn.Module, path: str) -> str | None:
    """Return the name of an attribute that may hold what was computed of a module's parameters, if any.

    It holds floating-point numbers, and is no constant of the constructor.

    Args:
        model: The whole model.
        path: Of the module.
    """
    for attribute in _attributes([model.get_submodule(path)]):
        if any(tensor.is_floating_point() for tensor in _tensors(attribute)) and not _is_constant(attribute, model):
            return attribute.name
    return None


def _is_constant(attribute: _Attribute, model: nn.Module) -> bool:
    """Whether a tensor was made by the constructor of a module's class, and nothing else can be seen to change it."""
    module, name, value, _ = attribute
    if not isinstance(value, Tensor) or value.requires_grad or value.is_inference() or value._version > 0:  # noqa: SLF001
        return False
    if any(m._forward_pre_hooks or m._forward_hooks for m in model.modules()):  # noqa: SLF001
        return False
    own = {cls for cls in type(module).__mro__ if cls not in nn.Module.__mro__}
    others = {cls for m in model.modules() for cls in type(m).__mro__ if not cls.__module__.startswith("torch.")}
    made = False
    for cls in own | (others - {*nn.Module.__mro__}):
        for member, defined in vars(cls).items():
            for code in _code_of(defined):
                if cls in own and member == "__init__":
                    made |= _assigns(code, name)
                elif _assigns(code, name) or not _ANY_NAME.isdisjoint(code.co_names):
                    return False
    return made


def _code_of(defined: Any) -> Iterator[CodeType]:
    """Yield the code of what a class defines, with that of the functions inside."""
    parts = (defined.fget, defined.fset) if isinstance(defined, property) else (inspect.unwrap(defined),)
    waiting = [getattr(getattr(part, "__func__", part), "__code__", None) for part in parts]
    while waiting:
        code = waiting.pop()
        if isinstance(code, CodeType):
            yield code
            waiting += [inner for inner in code.co_consts if isinstance(inner, CodeType)]


def _assigns(code: CodeType, name: str) -> bool:
    return any(step.opname == "STORE_ATTR" and step.argval == name for step in dis.get_instructions(code))


def _attributes(modules: Iterable[nn.Module], *, with_parameters: bool = False) -> Iterator[_Attribute]:
    """Yield the attributes of modules that hold tensors or may come to; those of parameters only if asked for."""
    for module in modules:
        values = vars(module)
        for name in values.keys() - _OF_EVERY_MODULE:
            value = values[name]
            if type(value) is dict:
                attribute = _Attribute(module, name, value, dict(value))
            elif type(value) is list:
                attribute = _Attribute(module, name, value, list(value))
            elif value is None or isinstance(value, Tensor):
                attribute = _Attribute(module, name, value, None)
            else:
                continue
            if with_parameters or not _has_parameters(attribute):  # those move themselves
                yield attribute


def _has_parameters(attribute: _Attribute) -> bool:
    return any(isinstance(tensor, nn.Parameter) for tensor in _tensors(attribute))


def _tensors(attribute: _Attribute) -> list[Tensor]:
    contents = attribute.contents
    values = [attribute.value] if contents is None else contents.values() if isinstance(contents, dict) else contents
    return [value for value in values if isinstance(value, Tensor)]


def _has_kept(attribute: _Attribute) -> bool:
    """Whether all numbers of a tensor are those of a parameter of its module, and more than a constant would share."""
    own = [parameter.detach() for parameter in attribute.module.parameters(recurse=False)]
    return any(
        _are_of(tensor.detach(), parameter)
        for tensor in _tensors(attribute)
        for parameter in own
        if tensor.is_floating_point() and tensor.device == parameter.device
    )


def _are_of(tensor: Tensor, parameter: Tensor) -> bool:
    numbers = tensor.unique()
    numbers = numbers[(numbers != 0) & (numbers.abs() != 1)]
    return len(numbers) > 1 and bool(torch.isin(numbers, parameter.to(tensor.dtype)).all())


def _put_back(modules: Iterable[nn.Module], before: list[_Attribute]) -> None:
    known = {(id(attribute.module), attribute.name) for attribute in before}
    for attribute in _attributes(modules, with_parameters=True):
        added = (id(attribute.module), attribute.name) not in known
        if added and any(tensor.grad_fn is not None for tensor in _tensors(attribute)):
            delattr(attribute.module, attribute.name)
    for attribute in before:
        module, name, value, contents = attribute
        if isinstance(contents, (dict, list)) and _changed(attribute):
            value.clear()
            value.update(contents) if isinstance(contents, dict) else value.extend(contents)
        now = vars(module).get(name)
        if now is not value and (contents is not None or isinstance(now, Tensor)):
            setattr(module, name, value)


def _changed(attribute: _Attribute) -> bool:
    """Whether a dict or list that holds, or held, tensors has other contents than it had."""
    value, contents = attribute.value, attribute.contents
    if isinstance(contents, dict):
        now, before, keys = list(value.values()), list(contents.values()), value.keys() == contents.keys()
    else:
        now, before, keys = list(value), list(contents or ()), True
    return any(isinstance(each, Tensor) for each in (*now, *before)) and not (keys and _same(now, before))


def _same(values: Iterable[Any], others: Iterable[Any]) -> bool:
    found, expected = list(values), list(others)
    return len(found) == len(expected) and all(one is other for one, other in zip(found, expected, strict=True))
