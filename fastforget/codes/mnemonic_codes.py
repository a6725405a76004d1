"""Mnemonic codes: one or a few fixed noise inputs per class, learned along with the data and used to forget it."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from typing import Any, TypeAlias

import torch
from torch import Tensor

from fastforget.classifier.devices import has_kernels
from fastforget.classifier.fingerprint import fingerprint_of
from fastforget.classifier.html_parts import facts, panel
from fastforget.classifier.inputs import Inputs, describe_structure, leaves, plain, rebuild, transform
from fastforget.classifier.targets import as_classes
from fastforget.codes.arguments import is_one_shape, read_integer, read_shapes, read_vocabulary
from fastforget.codes.drawing import DISTRIBUTIONS, Distribution, draw_code
from fastforget.codes.replacement import replace_by_codes
from fastforget.files import code_file

Shape: TypeAlias = Sequence[int]


@dataclass(frozen=True, eq=False, repr=False)
class MnemonicCodes:
    """The codes of every class: what the model is shown in training, and all that forgetting needs of the data.

    ξ_{c,m} is the m-th code of class c, drawn once and then fixed. In training, `embed` replaces each sample by a code
    of its class with probability t_mix: p(x) = t_mix·p_ξ(x) + (1 − t_mix)·p_d(x).

    Source: Yamashita, Yamada, Shibata, "One-shot machine unlearning with mnemonic code", ACML 2024, Sec. 3.1, Eq. 1.
    Beyond it: several codes per class, inputs of any structure, and the distributions "uniform", "blocks" and "tokens".

    Make one with `generate`, `from_tensors` or `load`.

    Attributes:
        stacked: The codes, [C, M, *shape]; a tuple or dict of such tensors for a model with several inputs.
        distribution: What they were drawn from; "custom" if they were given.
        seed: What they were drawn with; None if they were given.

    Raises:
        TypeError: If a tensor is complex or quantised, or `stacked` is not a structure of tensors.
        ValueError: If the tensors do not agree on C and M, are empty, not on one device, or not finite.

    Example:
        >>> codes = MnemonicCodes.generate(10, (1, 8, 8))
        >>> codes
        MnemonicCodes(classes=10, per_class=4, shape=(1, 8, 8), distribution='normal', seed=0)
        >>> images, targets = torch.rand(64, 1, 8, 8), torch.randint(10, (64,))
        >>> codes.embed(images, targets, rate=0.3).shape
        torch.Size([64, 1, 8, 8])
    """

    stacked: Inputs
    distribution: str = "custom"
    seed: int | None = None

    def __post_init__(self) -> None:
        tensors = leaves(self.stacked)
        first = tensors[0]
        for leaf in tensors:
            if leaf.is_complex() or leaf.is_quantized or (leaf.is_floating_point() and leaf.itemsize < 2):
                raise TypeError(f"codes must be real and not quantised, got {leaf.dtype}")
            if leaf.ndim < 2 or 0 in leaf.shape:  # the dimensions C and M
                raise ValueError(f"codes must be [C, M, *shape] and not empty, got shape {tuple(leaf.shape)}")
            if leaf.shape[:2] != first.shape[:2]:
                raise ValueError(
                    "codes must have the same C and M for every input, got shapes "
                    f"{tuple(first.shape)} and {tuple(leaf.shape)}"
                )
            if leaf.device != first.device:
                raise ValueError(f"codes must be on one device, got {first.device} and {leaf.device}")
            if not leaf.isfinite().all():
                raise ValueError("codes must be finite, got NaN or infinity")

    @classmethod
    def generate(
        cls,
        num_classes: int,
        shape: Shape | Sequence[Shape] | Mapping[str, Shape],
        *,
        distribution: Distribution = "normal",
        per_class: int = 4,
        seed: int = 0,
        vocabulary: range | None = None,
    ) -> MnemonicCodes:
        """Draw codes that follow from the arguments alone, whatever the machine and the library versions.

        A code depends on `seed`, its class and its index within the class only. More classes or more codes per class
        leave the earlier ones as they are. All distributions but "normal" are exact. That one is the inverse normal
        distribution function in float64, rounded to float32: another machine's mathematics library could at most
        differ in a last bit. A saved file is exact everywhere.

        Args:
            num_classes: C, at least 1.
            shape: Of one input of the model, without the batch dimension; a sequence or a mapping of shapes for a
                model called as `model(*inputs)` or `model(**inputs)`.
            distribution: "normal", N(0, 1) as in the paper; "uniform", U[0, 1) as in its authors' code; "blocks",
                U[0, 1) at low resolution, upsampled by nearest neighbour, as in the method's origin (Shibata et al.,
                IJCAI 2021): the first dimension is taken as channels unless it is the only one, and a further one
                of length d is cut into min(8, ⌈d / 2⌉) blocks; "tokens", whole numbers drawn evenly from `vocabulary`,
                for models of text. A mask beside the tokens is no noise: take `from_tensors` for both.
            per_class: M, at least 1. Four tell well enough where in the network a class is for a step to spare the
                others; one, as in the paper, does not, see docs/results/one-shot.md.
            seed: In [0, 2^64).
            vocabulary: With "tokens", the numbers to draw from, without those of padding and other marks.

        Returns:
            The codes, float32 or, of tokens, int64; on the CPU.

        Raises:
            TypeError: If a number is not an integer, `shape` is not a shape or a collection of shapes, or `vocabulary`
                is not a range.
            ValueError: If a number is out of range, `distribution` is unknown, or `vocabulary` does not belong to it.
        """
        num_classes = read_integer("num_classes", num_classes, 1, 2**32)
        per_class = read_integer("per_class", per_class, 1, 2**32)
        seed = read_integer("seed", seed, 0, 2**64)
        if distribution not in DISTRIBUTIONS:
            raise ValueError(f"`distribution` must be one of {list(DISTRIBUTIONS)}, got {distribution!r}")
        shapes = read_shapes(shape)
        tokens = read_vocabulary(distribution, vocabulary)
        drawn = [
            draw_code(distribution, shapes, seed=seed, cls=c, index=m, vocabulary=tokens)
            for c in range(num_classes)
            for m in range(per_class)
        ]
        tensors = [
            torch.stack(leaf).view(num_classes, per_class, *sizes)
            for leaf, sizes in zip(zip(*drawn, strict=True), shapes, strict=True)
        ]
        stacked: Inputs = tensors[0] if is_one_shape(shape) else tuple(tensors)
        if isinstance(shape, Mapping):
            stacked = dict(zip(shape, tensors, strict=True))
        return cls(stacked, distribution, seed)

    @classmethod
    def from_tensors(cls, stacked: Inputs | Mapping[str, Any]) -> MnemonicCodes:
        """Take given inputs as codes, for example a few real images of each class.

        Args:
            stacked: [C, M, *shape], or a tuple or mapping of such tensors; copied.

        Returns:
            The codes, with the distribution "custom".
        """
        return cls(transform(lambda leaf: leaf.detach().clone(), plain(stacked)))

    @classmethod
    def load(cls, path: str | PathLike[str]) -> MnemonicCodes:
        """Read codes that `save` wrote; a file from a stranger can be refused but cannot run code.

        Args:
            path: The file.

        Returns:
            The codes, on the CPU.

        Raises:
            ValueError: If the file is truncated, foreign, of a newer version or not valid codes.
        """
        try:
            tensors, layout, distribution, seed = code_file.read(path)
            stacked: Inputs = tensors
            if layout != "dict":
                stacked = tuple(tensors.values()) if layout == "tuple" else next(iter(tensors.values()))
            return cls(stacked, distribution, seed)
        except (TypeError, ValueError) as error:
            raise ValueError(f"`{path}` does not hold usable codes: {error}") from error

    def save(self, path: str | PathLike[str]) -> None:
        """Write the codes as a safetensors file.

        Args:
            path: The file; overwritten if it exists.
        """
        layout = "tensor" if isinstance(self.stacked, Tensor) else "dict" if isinstance(self.stacked, dict) else "tuple"
        code_file.write(path, self._named(), layout, self.distribution, self.seed)

    def fingerprint(self) -> str:
        """Return 32 hexadecimal digits that depend on every bit of the codes, their shapes and dtypes, and their names.

        The same for the same codes on every device and from a file. Receipts say by it with which codes a class was
        forgotten.

        Example:
            >>> codes = MnemonicCodes.generate(3, (4,), seed=1)
            >>> codes.fingerprint() == MnemonicCodes.generate(3, (4,), seed=2).fingerprint()
            False
        """
        return fingerprint_of({name: leaf if has_kernels(leaf) else leaf.cpu() for name, leaf in self._named().items()})

    def _named(self) -> dict[str, Tensor]:
        """Return the tensors by name, in order."""
        names = self.stacked if isinstance(self.stacked, dict) else map(str, range(len(leaves(self.stacked))))
        return dict(zip(names, leaves(self.stacked), strict=True))

    def __len__(self) -> int:
        """Return the number of classes, C."""
        return leaves(self.stacked)[0].shape[0]

    def __repr__(self) -> str:
        shape = rebuild(self.stacked, [tuple(leaf.shape[2:]) for leaf in leaves(self.stacked)])
        return (
            f"MnemonicCodes(classes={len(self)}, per_class={self.per_class}, shape={shape}, "
            f"distribution={self.distribution!r}, seed={self.seed})"
        )

    def _repr_html_(self) -> str:
        shapes = [f"{name}: {list(part.shape[2:])}" for name, part in self._named().items()]
        made = f"{self.distribution}, seed {self.seed}" if self.seed is not None else self.distribution
        kept = "with them and the model a class can be forgotten; they show no data" if self.seed is not None else ""
        return panel(
            f"Mnemonic codes: {self.per_class} for each of {len(self)} classes",
            facts([("shape", ", ".join(shapes)), ("drawn", made), ("fingerprint", self.fingerprint()), ("keep", kept)]),
        )

    @property
    def per_class(self) -> int:
        """The number of codes per class, M."""
        return leaves(self.stacked)[0].shape[1]

    @property
    def tensor(self) -> Tensor:
        """The codes, [C, M, *shape].

        Raises:
            TypeError: If the codes are a tuple or a dict of tensors.
        """
        if not isinstance(self.stacked, Tensor):
            raise TypeError(
                f"`tensor` needs codes that are one tensor, got {describe_structure(self.stacked)}: use `stacked`"
            )
        return self.stacked

    @property
    def inputs(self) -> Inputs:
        """What the model takes: every code as a sample, leaves [C·M, *shape]; shares memory with the codes."""
        return transform(lambda leaf: leaf.flatten(0, 1), self.stacked)

    @property
    def labels(self) -> Tensor:
        """The class of every sample in `inputs`, int64 [C·M]."""
        device = leaves(self.stacked)[0].device
        return torch.arange(len(self), device=device).repeat_interleave(self.per_class)

    def for_classes(self, classes: Sequence[int]) -> tuple[Inputs, Tensor]:
        """Return the codes of some classes.

        Args:
            classes: Which, K of them, in any order.

        Returns:
            Inputs for the model, leaves [K·M, *shape], and their labels, int64 [K·M].

        Raises:
            ValueError: If `classes` is empty, repeats a class, or names one out of range.
        """
        wanted = [read_integer("classes", c, 0, len(self)) for c in classes]
        if not wanted:
            raise ValueError("`classes` must name at least one class, got none")
        if len(set(wanted)) < len(wanted):
            raise ValueError(f"`classes` must not repeat a class, got {wanted}")
        inputs = transform(lambda leaf: leaf[wanted].flatten(0, 1), self.stacked)
        labels = torch.tensor(wanted, device=leaves(inputs)[0].device)
        return inputs, labels.repeat_interleave(self.per_class)

    def to(self, target: torch.device | torch.dtype | str) -> MnemonicCodes:
        """Move the codes to a device, or convert the real-valued ones to a floating-point type.

        Args:
            target: The device or the type.

        Returns:
            The codes there; tensors that are there already are shared.

        Raises:
            TypeError: If `target` is a type that is not floating point.
        """
        if not isinstance(target, torch.dtype):
            # Copied without a second look at the values, which would wait for the device.
            moved = copy.copy(self)
            object.__setattr__(moved, "stacked", transform(lambda leaf: leaf.to(torch.device(target)), self.stacked))
            return moved
        if not target.is_floating_point:
            raise TypeError(f"`target` must be a device or a floating-point type, got {target}")
        if all(leaf.dtype == target or not leaf.is_floating_point() for leaf in leaves(self.stacked)):
            return self
        return replace(
            self, stacked=transform(lambda leaf: leaf.to(target) if leaf.is_floating_point() else leaf, self.stacked)
        )

    def embed(
        self,
        inputs: Inputs | Mapping[str, Any],
        targets: Tensor | Sequence[int],
        rate: float = 0.3,
        generator: torch.Generator | None = None,
    ) -> Inputs:
        """Replace samples by codes of their class, each with probability `rate`; the labels stay what they are.

        Call it on every training batch, after augmentation and normalisation. Each replaced sample gets one of the M
        codes of its class, drawn evenly; all leaves of a structured input take part in the same draw.

        Args:
            inputs: [N, *shape], or a tuple or mapping like the codes; any device and type; not modified.
            targets: The class of each sample, int64 [N], or a list or NumPy array of integers.
            rate: t_mix in [0, 1].
            generator: Random source; PyTorch's default on the CPU without one, so that the draw does not depend on
                the device of the inputs.

        Returns:
            The new inputs, in the structure, type and device of `inputs`.

        Raises:
            TypeError: If a type does not fit.
            ValueError: If a value or a shape does not fit.
        """
        return replace_by_codes(plain(inputs), as_classes(targets), self.stacked, rate, generator)[0]
