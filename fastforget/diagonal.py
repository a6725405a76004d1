"""A diagonal Fisher as a sum that grows: added up over batches and processes, subtracted, averaged, kept in a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from os import PathLike
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fastforget.files import fisher_file

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Definition", "FisherDiagonal", "kept_unless", "replace_sum"]


@dataclass(frozen=True)
class Definition:
    """Which of the quantities called Fisher diagonal it is; only equal ones can be added.

    Attributes:
        labels: "given", "expectation" or "sampled".
        square: "sample" or "batch": the gradient of what is squared.
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
    subtracted. Values are float32 (float64 for float64 models), so that an element of a total of B parts is right to
    about B * 6e-8 of itself, in whatever order they come; another order may give other last bits.

    Attributes:
        gradient: The weighted mean (or sum) of the per-sample gradients, same names and shapes, or None.
        fallback: Parameters that no fused kernel covered, with the reason; their values are exact too.
        losses: The loss of each sample, [N] (of each batch, for ``square="batch"``), in the order they were added;
            empty where they are not known.
        reduction: "sum", or "mean" if the sums are divided by ``weight``.
        weight: The sum of the weights, float64, [] or [G] for G groups. Every sample weighs 1 unless weights were
            given, and so does every batch for ``square="batch"``.
        samples: The number of samples.
        model: Fingerprint of the model it was computed on; None where nobody asked for it, see `fisher_diagonal`.
        definition: Which Fisher it is.
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
    ) -> None:
        """Hold ``values``; see the class attributes for the rest."""
        super().__init__(values)
        self.gradient = gradient
        self.fallback = fallback
        self.losses = losses
        self.reduction = reduction
        self.weight = torch.zeros((), dtype=torch.float64) if weight is None else weight
        self.samples = samples
        self.model = model
        self.definition = definition or Definition()

    @classmethod
    def merge(cls, parts: Iterable[FisherDiagonal]) -> FisherDiagonal:
        """Return the sum of any number of parts, as of one run over all their samples.

        Only the total and one part are held at a time, so parts may come from a generator that loads them.

        Args:
            parts: Sums over different samples, at least one; they are not changed.

        Returns:
            The total.

        Raises:
            ValueError: There is none, one is a mean, or they differ in model, definition, names or shapes.

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
                total = _copy(part)
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
        for mine, others in self._pairs(other):
            mine.add_(others)
        self.fallback = {**other.fallback, **self.fallback}
        known = len(self.losses) and len(other.losses)
        self.losses = torch.cat([self.losses, other.losses]) if known else self.losses[:0]
        self.weight = self.weight + other.weight
        self.samples += other.samples
        return self

    def __sub__(self, other: FisherDiagonal) -> FisherDiagonal:
        """Return the sum without the samples of ``other``, which must be among them; the losses become unknown.

        An element is right to about 1e-6 of the minuend, however small the difference: what is left of a parameter
        that only ``other`` uses is noise of that size. Where it is negative it becomes zero.

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
        result = _copy(self)
        for mine, others in result._pairs(other):
            mine.sub_(others)
        for value in result.values():
            value.clamp_(min=0)
        result.losses = self.losses[:0]
        result.weight, result.samples = self.weight - other.weight, self.samples - other.samples
        return result

    def mean(self) -> FisherDiagonal:
        """Return the sums divided by the weight; a mean as it is.

        Returns:
            A new Fisher diagonal with ``reduction="mean"``.

        Raises:
            ValueError: The weight is zero.
        """
        return self if self.reduction == "mean" else _copy(self).mean_()

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
        """Return it on a device; tensors that are there already are shared.

        Args:
            device: For instance that of the model, after `load`.

        Returns:
            A new Fisher diagonal.
        """
        gradient = self.gradient and {name: value.to(device) for name, value in self.gradient.items()}
        moved = {"losses": self.losses.to(device), "weight": self.weight.to(device), "gradient": gradient}
        facts = {**vars(self), "fallback": dict(self.fallback), **moved}
        return FisherDiagonal({name: value.to(device) for name, value in self.items()}, **facts)

    def save(self, path: str | PathLike[str]) -> None:
        """Write a safetensors file with a checksum; whole or not at all.

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
        """Read what `save` wrote; a file from a stranger can be refused but cannot run code.

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
        """Raise ValueError if these are means, or nobody knows of which model."""
        if self.reduction != "sum" or self.model is None:
            raise ValueError(f'{name} must be a sum, got a mean: compute it with reduction="sum"')

    def check_compatible(self, other: FisherDiagonal) -> None:
        """Raise ValueError if adding ``other`` would have no meaning.

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
            "shapes and dtypes": (_kinds(self), _kinds(other)),
            "with_gradient": (self.gradient is not None, other.gradient is not None),
        }
        for fact, (mine, others) in facts.items():
            if mine != others:
                raise ValueError(f"Fisher diagonals must agree in their {fact} to be added, got {mine} and {others}")

    def _pairs(self, other: FisherDiagonal) -> Iterable[tuple[Tensor, Tensor]]:
        """The tensors of two compatible diagonals, side by side."""
        yield from zip(self.values(), other.values(), strict=True)
        if self.gradient is not None and other.gradient is not None:
            yield from ((value, other.gradient[name]) for name, value in self.gradient.items())


def replace_sum(
    diagonal: FisherDiagonal, values: Mapping[str, Tensor], losses: Tensor, model: str, *, gone: int
) -> None:
    """Make a sum one over fewer samples, in its own memory; of their gradient nothing is known, it has none then.

    Args:
        diagonal: The sum, every sample of weight 1.
        values: What it becomes, by name.
        losses: Of the samples that are left.
        model: Fingerprint of the model that it is taken for.
        gone: How many samples it loses.
    """
    for name, value in values.items():
        diagonal[name].copy_(value)
    diagonal.losses, diagonal.model, diagonal.gradient = losses, model, None
    diagonal.samples -= gone
    diagonal.weight = diagonal.weight - gone


@contextmanager
def kept_unless(diagonal: FisherDiagonal | None, done: Callable[[], bool]) -> Iterator[None]:
    """Make a sum what it was, in its own memory, after an error meanwhile.

    Args:
        diagonal: The sum; None for nothing.
        done: Whether what it was changed for is done in spite of the error.
    """
    before = None if diagonal is None else _copy(diagonal)
    try:
        yield
    except BaseException:
        if diagonal is not None and before is not None and not done():
            for name, value in before.items():
                diagonal[name].copy_(value)
            vars(diagonal).update(vars(before))
        raise


def _copy(diagonal: FisherDiagonal) -> FisherDiagonal:
    """The same with tensors of its own."""
    gradient = diagonal.gradient and {name: value.clone() for name, value in diagonal.gradient.items()}
    facts = {**vars(diagonal), "fallback": dict(diagonal.fallback), "gradient": gradient}
    return FisherDiagonal({name: value.clone() for name, value in diagonal.items()}, **facts)


def _kinds(values: Mapping[str, Tensor]) -> list[tuple[tuple[int, ...], str]]:
    return [(tuple(value.shape), str(value.dtype)) for value in values.values()]
