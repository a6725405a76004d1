"""An engine for packages that torch.export and AOTInductor made."""

from __future__ import annotations

import os
import re
import zipfile
from os import PathLike
from typing import Any

from torch import nn
from torch.utils import _pytree as pytree

from fastforget.classifier.inputs import Inputs
from fastforget.serving.engines.engine import Predictor
from fastforget.serving.engines.expected_inputs import ExpectedInputs, fixed_sizes
from fastforget.serving.engines.swapped import Swapped, parameter_names, weights_of

__all__ = ["AOTInductor"]


class AOTInductor(Swapped[Predictor]):
    """Runs a package made by ``torch._inductor.aoti_compile_and_package``.

    The package is loaded twice. The weights of an edit are copied into the one that is idle (``load_constants``), and
    the two change places: the switch assigns an attribute. A prediction that still runs in the idle one holds up the
    next edit, and no other prediction. The weights from before stay in memory until the next edit,
    and the file keeps those it was made with; where they must not be kept, package the edited model.

    Weights that became part of the code cannot be changed. Make the package without freezing, and with
    ``inductor_configs={"always_keep_tensor_constants": True}``: otherwise AOTInductor writes vectors of up to eight
    elements, such as the bias of a small head, into the code. The weights must be in the package
    (``package_constants_in_so``, the default).

    A package does not look at its inputs. With one of another type, or of a size that it was not compiled for, it would
    read memory that is not the input's: such inputs are refused here. With one in another memory layout, such as
    channels-last, it would give a wrong answer: it is copied into the layout of the example.

    Args:
        path: The package, a ``.pt2`` file.
        example: Inputs that the package was made for, a tensor or a tuple or dict of what the forward takes, in the
            memory layout that it was made for.
        tolerance: How far outputs may be from those of the eager model, absolute and relative to them.
        runners: How many predictions run at the same time; others wait for them.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no package, or one without its weights, or of inputs with other names than in the example, or
            ``runners`` or ``tolerance`` is not positive.
    """

    reuses = True

    def __init__(
        self, path: str | PathLike[str], *, example: Inputs, tolerance: float = 1e-4, runners: int = 1
    ) -> None:
        from torch._inductor.package.package import load_package  # noqa: PLC0415 (takes long to load, and only this needs it)

        if isinstance(runners, bool) or not isinstance(runners, int) or runners < 1:
            raise ValueError(f"`runners` must be a positive number, got {runners!r}")
        super().__init__(example, tolerance)
        file = os.fspath(path)
        if not os.path.exists(file):  # noqa: PTH110 (a path may be of any kind)
            raise FileNotFoundError(f"`path` must be a package, got no file `{file}`")
        sources = _sources(file)
        _check_holds_weights(sources)
        self._packages = [load_package(file, num_runners=runners) for _ in range(2)]
        self._predictor: Predictor = self._packages[0]
        form = pytree.treespec_loads(self._packages[0].loader.get_call_spec()[0])
        _, by_name = pytree.tree_unflatten(range(form.num_leaves), form)
        self._inputs = ExpectedInputs(self._comparison.example, list(by_name), fixed_sizes("".join(sources)))

    def run(self, predictor: Predictor, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Predict with one of the two packages; arguments and result as for the model."""
        args, kwargs = self._inputs.lay_out(args, kwargs)
        return super().run(predictor, args, kwargs)

    def _adopt(self, model: nn.Module) -> Predictor:
        known = set(self._packages[0].get_constant_fqns())
        missing = self._used_parameters(
            model, [name for name, aliases in parameter_names(model).items() if not known & aliases]
        )
        if missing:
            raise ValueError(
                f"the package must hold every parameter as a constant of its name, got none for {missing}: it is of "
                "another model, or they became part of the code; make it without freezing and with "
                'inductor_configs={"always_keep_tensor_constants": True}'
            )
        return self._predictor

    def _rebuild(self, model: nn.Module) -> Predictor:
        idle = next(package for package in self._packages if package is not self._predictor)
        known = set(idle.get_constant_fqns())
        # As many bytes are copied as a tensor's whole storage has: each needs one of its own. By reference
        # (user_managed=True), PyTorch 2.13 would never free them.
        weights = {name: value.detach().clone() for name, value in weights_of(model).items() if name in known}
        idle.load_constants(weights, check_full_update=False)
        return idle


def _sources(path: str) -> list[str]:
    """Return the generated code that is in a package."""
    if not zipfile.is_zipfile(path):
        raise ValueError(f"`path` must be a package of AOTInductor, got `{path}`")
    with zipfile.ZipFile(path) as archive:
        return [archive.read(name).decode() for name in archive.namelist() if name.endswith(".wrapper.cpp")]


def _check_holds_weights(sources: list[str]) -> None:
    """Raise ValueError for a package without its weights: to run it would end the process."""
    # The last argument of the constructor in the generated code says whether they are in.
    if any(re.search(r"AOTInductorModelBase\([^{]*\bfalse\)\s*\{", source) for source in sources):
        raise ValueError("the package must hold its weights; make it with package_constants_in_so, the default")
