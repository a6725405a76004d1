"""A diagonal Fisher, as a sum that can be added up over batches and processes, subtracted, averaged and saved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastforget.files import fisher_file

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["FACTS", "Definition", "FisherDiagonal", "clone"]

# What a Fisher diagonal knows beside its values.
FACTS = ("gradient", "fallback", "losses", "reduction", "weight", "samples", "model", "definition", "prefix")


@dataclass(frozen=True)
class Definition:
    """Which of the quantities called Fisher diagonal it is; only diagonals of one definition can be added.

    Attributes:
        labels: "given", "expectation" or "sampled".
        square: "sample" or "batch": whose gradient is squared.
        loss: Name of the loss.
        scale: What the loss was multiplied by.
    """

    labels: str = "given"
    square: str = "sample"
    loss: str = "cross_entropy"
    scale: float = 1.0


class FisherDiagonal(dict[str, Tensor]):
    """Diagonal Fisher information by parameter name, with what is known about how it was computed.

    Sums (``reduction="sum"``) of the same model can be added, ``a + b``, ``a += b`` in place, ``merge(parts)``, and
    subtracted. Values are float32, or float64 for float64 models. In float32 an element of a total of B parts is right
    to about B * 6e-8 of itself, whatever the order of the parts; another order may give other last bits.

    Attributes:
        gradient: The weighted mean (or sum) of the per-sample gradients, same names and shapes, or None.
        fallback: Parameters that no fused kernel covered, with the reason; their values are exact too.
        losses: The loss of each sample, [N] (of each batch, for ``square="batch"``), in the order in which they were
            added; empty where they are not known.
        reduction: "sum", or "mean" if the sums are divided by ``weight``.
        weight: The sum of the weights, float64, [] or [G] for G groups. Every sample weighs 1 unless weights were
            given, and so does every batch for ``square="batch"``.
        samples: The number of samples.
        model: Fingerprint of the model; None unless a sum was asked for, see `fisher_diagonal`.
        definition: Which Fisher it is.
        prefix: What comes before the names of the parameters in the compiled or replicated module that was given, such
            as "module."; ``fisher[name]`` takes a name with and without it.
    """

    def __init__(
        self,
        values: Mapping[str, Tensor],
        *,
        gradient: dict[str, Tensor] | None,
        fallback: dict[str, str],
        losses: Tensor,
        reduction: str = "mean",
        weight: Tensor | None = None,
        samples: int = 0,
        model: str | None = None,
        definition: Definition | None = None,
        prefix: str = "",
    ) -> None:
        """Hold ``values``; see the class attributes for the rest."""
        super().__init__(values)
        self.gradient = gradient
        self.fallback: dict[str, str] = fallback
        self.losses: Tensor = losses
        self.reduction: str = reduction
        self.weight: Tensor = torch.zeros((), dtype=torch.float64) if weight is None else weight
        self.samples: int = samples
        self.model: str | None = model
        self.definition: Definition = definition or Definition()
        self.prefix = prefix

    def __missing__(self, name: str) -> Tensor:
        """Return the value of a parameter that is named as in the module that was given."""
        if not self.prefix or not name.startswith(self.prefix):
            raise KeyError(name)
        return self[name.removeprefix(self.prefix)]

    @classmethod
    def merge(cls, parts: Iterable[FisherDiagonal]) -> FisherDiagonal:
        """Return the sum of any number of parts: what one computation over all their samples gives.

        Only the total and one part are held at a time, so parts may come from a generator that loads them.

        Args:
            parts: Sums over different samples, at least one; they are not changed.

        Returns:
            The total.

        Raises:
            ValueError: There is no part, one is a mean, or they differ in model, definition, names or shapes.

        Example:
            >>> from fastforget import fisher_diagonal
            >>> model, x, y = torch.nn.Linear(3, 2).eval(), torch.randn(4, 3), torch.tensor([0, 1, 1, 0])
            >>> halves = (fisher_diagonal(model, x[h], y[h], reduction="sum") for h in (slice(2), slice(2, 4)))
            >>> FisherDiagonal.merge(halves).samples
            4
        """
        total: FisherDiagonal | None = None
        for part in parts:
            if total is None:
                part.check_sum()
                total = clone(part)
            else:
                total += part
        if total is None:
            raise ValueError("`parts` must hold at least one Fisher diagonal, got none")
        return total

    def __add__(self, other: FisherDiagonal) -> FisherDiagonal:
        """Return the sum over the samples of both."""
        return FisherDiagonal.merge((self, other)) if isinstance(other, FisherDiagonal) else NotImplemented

    def __iadd__(self, other: FisherDiagonal) -> Self:
        """Add in place: the tensors stay the same ones."""
        if not isinstance(other, FisherDiagonal):
            return NotImplemented
        self.check_compatible(other)
        for mine, others in self._paired_with(other):
            mine.add_(others)
        self.fallback = {**other.fallback, **self.fallback}
        both_known = len(self.losses) and len(other.losses)
        self.losses = torch.cat([self.losses, other.losses]) if both_known else self.losses[:0]
        self.weight = self.weight + other.weight
        self.samples += other.samples
        return self

    def __sub__(self, other: FisherDiagonal) -> FisherDiagonal:
        """Return the sum without the samples of ``other``, which must be among them; the losses become unknown.

        An element is right to about 1e-6 of the minuend, however small the difference is: of a parameter that only
        ``other`` uses, noise of that size remains. Negative differences become zero.

        Raises:
            ValueError: ``other`` cannot be a part of it.
        """
        if not isinstance(other, FisherDiagonal):
            return NotImplemented
        self.check_compatible(other)
        if other.samples > self.samples or bool((other.weight > self.weight).any()):
            raise ValueError(
                f"`other` must be a part of what it is subtracted from, got {other.samples} samples of weight "
                f"{other.weight.tolist()} from {self.samples} of {self.weight.tolist()}"
            )
        result = clone(self)
        for mine, others in result._paired_with(other):
            mine.sub_(others)
        for value in result.values():
            value.clamp_(min=0)
        result.losses = self.losses[:0]
        result.weight, result.samples = self.weight - other.weight, self.samples - other.samples
        return result

    def mean(self) -> FisherDiagonal:
        """Return the sums divided by the weight; a mean is returned as it is.

        Returns:
            A new Fisher diagonal with ``reduction="mean"``.

        Raises:
            ValueError: The weight is zero.
        """
        return self if self.reduction == "mean" else clone(self).mean_()

    def mean_(self) -> FisherDiagonal:
        """Divide the sums by the weight in place.

        Returns:
            The same Fisher diagonal.

        Raises:
            ValueError: The weight is zero.
        """
        if not bool((self.weight > 0).all()):
            raise ValueError(f"`weight` must be positive for a mean, got {self.weight.tolist()}")
        if self.reduction == "sum" and not bool((self.weight == 1).all()):
            for value in (*self.values(), *(self.gradient or {}).values()):
                groups = self.weight.shape + (1,) * (value.dim() - self.weight.dim())
                value.div_(self.weight.to(value.dtype).view(groups))
        self.reduction = "mean"
        return self

    def to(self, device: torch.device | str) -> FisherDiagonal:
        """Return a copy on a device, which shares the tensors that are there already.

        Args:
            device: For instance the model's, after `load`.

        Returns:
            A new Fisher diagonal.
        """
        gradient = self.gradient and {name: value.to(device) for name, value in self.gradient.items()}
        moved = {"losses": self.losses.to(device), "weight": self.weight.to(device), "gradient": gradient}
        facts = {**vars(self), "fallback": dict(self.fallback), **moved}
        return FisherDiagonal({name: value.to(device) for name, value in self.items()}, **facts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file with a checksum, whole or not at all.

        Args:
            path: The file; overwritten if it exists.

        Raises:
            ValueError: The fingerprint of the model is not known.
        """
        if self.model is None:
            raise ValueError('only sums know their model and can be saved: compute with reduction="sum"')
        facts = ("reduction", "samples", "model", "fallback")
        description = {key: getattr(self, key) for key in facts}
        description |= {"weight": self.weight.tolist(), "definition": dict(vars(self.definition))}
        fisher_file.write(path, description, {"fisher": self, "gradient": self.gradient or {}}, self.losses)

    @classmethod
    def load(cls, path: str | PathLike[str]) -> FisherDiagonal:
        """Read a file that `save` wrote; a file from a stranger may be refused, but it cannot run code.

        Args:
            path: The file.

        Returns:
            The Fisher diagonal, on the CPU; see `to`.

        Raises:
            FileNotFoundError: There is no such file.
            ValueError: The file is truncated, changed, foreign or of a newer version.
        """
        try:
            facts, groups, losses = fisher_file.read(path)
        except ValueError as error:
            raise ValueError(f"`{path}` is not a usable Fisher diagonal: {error}") from error
        facts["weight"] = torch.tensor(facts["weight"], dtype=torch.float64, device="cpu")
        facts["definition"] = Definition(**facts["definition"])
        return cls(groups["fisher"], gradient=groups["gradient"] or None, losses=losses, **facts)

    def check_sum(self, name: str = "a part") -> None:
        """Raise ValueError if it is a mean, or if its model is not known."""
        if self.reduction != "sum" or self.model is None:
            raise ValueError(f'{name} must be a sum, got a mean: compute it with reduction="sum"')

    def check_compatible(self, other: FisherDiagonal) -> None:
        """Check that adding ``other`` has a meaning.

        Args:
            other: What is to be added.

        Raises:
            ValueError: One is a mean, or they differ in model, definition, groups, names, shapes or dtypes.
        """
        self.check_sum("a sum of Fisher diagonals and every part of it")
        other.check_sum("a sum of Fisher diagonals and every part of it")
        facts = {
            "fingerprint of the model": (self.model, other.model),
            "definition": (self.definition, other.definition),
            "groups": (tuple(self.weight.shape), tuple(other.weight.shape)),
            "names of parameters": (list(self), list(other)),
            "shapes and dtypes": (_shapes_and_dtypes(self), _shapes_and_dtypes(other)),
            "with_gradient": (self.gradient is not None, other.gradient is not None),
        }
        for fact, (mine, others) in facts.items():
            if mine != others:
                raise ValueError(f"Fisher diagonals must agree in their {fact} to be added, got {mine} and {others}")

    def _paired_with(self, other: FisherDiagonal) -> Iterable[tuple[Tensor, Tensor]]:
        """The tensors of two compatible diagonals, side by side."""
        yield from zip(self.values(), other.values(), strict=True)
        if self.gradient is not None and other.gradient is not None:
            yield from ((value, other.gradient[name]) for name, value in self.gradient.items())


def clone(diagonal: FisherDiagonal) -> FisherDiagonal:
    """Return a copy with values and gradients of its own; losses and weight, never changed in place, are shared."""
    gradient = diagonal.gradient and {name: value.clone() for name, value in diagonal.gradient.items()}
    facts = {**vars(diagonal), "fallback": dict(diagonal.fallback), "gradient": gradient}
    return FisherDiagonal({name: value.clone() for name, value in diagonal.items()}, **facts)


def _shapes_and_dtypes(values: Mapping[str, Tensor]) -> list[tuple[tuple[int, ...], str]]:
    return [(tuple(value.shape), str(value.dtype)) for value in values.values()]
