"""What the rules know of the parameters: the Fisher of both groups of codes, and a gradient."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.live_codes import LiveCodes
from fastforget.class_forgetting.recognition import RecognisingLoss, examine_codes
from fastforget.classifier.fitting import DEVICE_ERRORS, SHAPE_ERRORS, checked_logits
from fastforget.classifier.losses import Loss, ScaledCrossEntropy
from fastforget.errors import ForgettingError
from fastforget.fisher.compute import fisher_diagonal
from fastforget.fisher.diagonal import FisherDiagonal
from fastforget.fisher.micro_batches import mean_fisher

__all__ = ["TINY", "Ratios", "Sensitivity", "measure_sensitivity", "recognise_and_measure"]

TINY = 1e-16  # where both Fisher sums start in their ratio, so that one of two zeros is one
_LARGEST = 700.0  # whose exponential is a float
# On a CPU, elements that stay in cache through several operations. PyTorch must not sum them in parallel, since the
# order would depend on the number of threads: it does so from 2**15 on.
_PIECE = 2**15 - 64
# On a device, elements of several parameters that share their launches. It bounds the memory of what is in between.
_TOGETHER = 2**24


@dataclass(frozen=True)
class Ratios:
    """The sensitivity ratios of the parameters, and what a step along them needs.

    Attributes:
        values: f_CF / f_CR by name, finite.
        remain: f_CR by name.
        remain_sums: The sum of f_CR of each parameter that has elements, float64 [].
        gradient: g_CF by name, or None.
        log_scales: See `Sensitivity`.
    """

    values: dict[str, Tensor]
    remain: dict[str, Tensor]
    remain_sums: dict[str, Tensor]
    gradient: dict[str, Tensor] | None
    log_scales: tuple[float, float]

    @property
    def loss_scale(self) -> float:
        """What g_CF / f_CR of the losses themselves was multiplied by, inverted: s of one factor s for both groups.

        With s_F and s_R it is s_R^2 / s_F. Where no float holds that, it is the nearest that can be divided by.
        """
        of_forget, of_remain = self.log_scales
        return math.exp(min(max(2 * of_remain - of_forget, -_LARGEST), _LARGEST))

    def sums_of(self, names: Iterable[str]) -> Tensor:
        """Return the sum of f_CR of each of these parameters that has elements, float64."""
        return torch.stack([self.remain_sums[name] for name in names if name in self.remain_sums])

    def steepest(self, places: Mapping[str, Tensor], sums: Sequence[float] | None = None) -> tuple[Tensor, Tensor]:
        """Return g_CF / (f_CR + eps) and g_CF at some places, where eps = 0.1 mean f_CR.

        Args:
            places: Indices of elements by parameter; f_CR is averaged over all elements of these parameters.
            sums: The `sums_of` these parameters, where the host has read them.

        Returns:
            Both in one piece, in the order of the places.

        Raises:
            TypeError: There is no gradient.
        """
        if self.gradient is None:
            raise TypeError("`fisher` must come with the gradient")
        gradient, remain = (
            torch.cat([values[name].view(-1)[indices] for name, indices in places.items() if len(indices)])
            for values in (self.gradient, self.remain)
        )
        elements = sum(self.remain[name].numel() for name in places)
        mean = sum(self.sums_of(places).tolist() if sums is None else sums) / elements
        return gradient / remain.add_(max(0.1 * mean, TINY)), gradient


@dataclass
class Sensitivity:
    """How the losses of the codes depend on the parameters.

    The losses of each group are multiplied by a factor of their own, see `CodeBatch.log_scales`, so that the stabiliser
    and float32 resolve both. That multiplies every ratio by the same number and the direction by another: neither the
    most sensitive parameters nor where the direction points depend on the factors.

    Attributes:
        forget: f_CF by name.
        remain: f_CR by name, or memory for it where it is yet to be computed from ``kept``.
        gradient: g_CF by name, or None.
        log_scales: The logarithm of what the losses of the codes to forget were multiplied by, and of the remaining.
        kept: Sum over all codes, or None.
        forget_samples: The number of codes to forget, where there is a ``kept``.
    """

    forget: dict[str, Tensor]
    remain: dict[str, Tensor]
    gradient: dict[str, Tensor] | None
    log_scales: tuple[float, float] = (0.0, 0.0)
    kept: FisherDiagonal | None = None
    forget_samples: int = 0

    @classmethod
    def of_groups(cls, fisher: FisherDiagonal, log_scales: tuple[float, float] = (0.0, 0.0)) -> Sensitivity:
        """Take apart the Fisher of the groups forget and remain, [2, *shape], whose losses were scaled like this."""
        parts = {name: value.unbind() for name, value in fisher.items()}
        forget, remain = ({name: both[group] for name, both in parts.items()} for group in (0, 1))
        gradient = fisher.gradient and {name: value[0] for name, value in fisher.gradient.items()}
        return cls(forget, remain, gradient, log_scales)

    @classmethod
    def of_difference(
        cls, kept: FisherDiagonal, forget: FisherDiagonal, log_scales: tuple[float, float]
    ) -> Sensitivity:
        """Subtract the codes to forget from all: f_CR = (sum over all - n f_CF) / (all - n).

        The difference is right to about 1e-6 of f_all, see `FisherDiagonal.__sub__`, and not negative.

        Args:
            kept: Sum over all codes; not changed. Its loss has a scale of its own.
            forget: Mean over the n codes to forget, with the gradient; taken over.
            log_scales: Of ``forget``, and that which f_CR is to have, see the attributes.

        Returns:
            The sensitivity, whose f_CR is computed with the ratios.
        """
        remain = {name: torch.empty_like(value) for name, value in forget.items()}
        return cls(dict(forget), remain, forget.gradient, log_scales, kept, forget.samples)

    def into_ratios(self) -> Ratios:
        """Divide f_CF by f_CR in the memory of f_CF, and hand all tensors over.

        The tensors are as large as the model: a copy is what a large one has no room for.

        Returns:
            The ratios.

        Raises:
            RuntimeError: They were handed over already.
        """
        if not self.forget:
            raise RuntimeError("this sensitivity was turned into ratios already")
        values, remain, gradient, kept = self.forget, self.remain, self.gradient, self.kept
        self.forget, self.remain, self.gradient, self.kept = {}, {}, None, None
        names = [name for name, value in values.items() if value.numel()]
        operands = [
            (values[name], remain[name], *([] if kept is None else [kept[name].contiguous()])) for name in names
        ]
        divide = self._divide_pieces if all(value.is_cpu for value in values.values()) else self._divide_together
        sums = dict(zip(names, divide(operands, kept), strict=True))
        return Ratios(values, remain, sums, gradient, self.log_scales)

    def _divide_pieces(self, operands: Sequence[tuple[Tensor, ...]], facts: FisherDiagonal | None) -> list[Tensor]:
        """Make each f_CF a ratio, a piece after the other; return the sum of each f_CR, float64 []."""
        sums = []
        for of_parameter in operands:
            parts = []
            for forget, remain, *kept in _pieces(*of_parameter):
                if kept and facts is not None:
                    part, scale = self._shares(facts)
                    torch.sub(kept[0], forget, alpha=part, out=remain).clamp_(min=0).mul_(scale)
                parts.append(remain.sum())
                forget.add_(TINY).div_(remain + TINY).nan_to_num_(nan=1.0)
            sums.append(torch.stack(parts).double().sum())
        return sums

    def _divide_together(self, operands: Sequence[tuple[Tensor, ...]], facts: FisherDiagonal | None) -> list[Tensor]:
        """Do the same, to the bit where a parameter is one piece, with few launches: many parameters share them."""
        sums: list[Tensor] = []
        for group in _groups(operands):
            forgets, remains, *kept = map(list, zip(*group, strict=True))
            if kept and facts is not None:
                part, scale = self._shares(facts)
                torch._foreach_copy_(remains, kept[0])
                torch._foreach_sub_(remains, forgets, alpha=part)
                torch._foreach_clamp_min_(remains, 0.0)
                torch._foreach_mul_(remains, scale)
            sums += [remain.sum() for remain in remains]
            torch._foreach_add_(forgets, TINY)
            torch._foreach_div_(forgets, torch._foreach_add(remains, TINY))  # noqa: SLF001 - optimisers use it
            for forget in forgets:
                forget.nan_to_num_(nan=1.0)
        return list(torch.stack(sums).double().unbind()) if sums else []

    def _shares(self, facts: FisherDiagonal) -> tuple[float, float]:
        """Return what to take of f_CF from a kept sum, and what brings the rest to the scale of f_CR."""
        # f_CF is brought to the scale of the sum, and the difference from there to its own
        of_forget, of_remain = (log_scale - math.log(facts.definition.scale) for log_scale in self.log_scales)
        others = facts.samples - self.forget_samples
        return self.forget_samples * math.exp(-2 * of_forget), math.exp(2 * of_remain) / others


def recognise_and_measure(
    model: nn.Module, parameters: dict[str, Tensor], live: LiveCodes, classes: Sequence[int]
) -> tuple[CodeBatch, Sensitivity]:
    """Run all codes forward and backward once, for whether the model knows them and for their Fisher, natural rule.

    Args:
        model: The eager module.
        parameters: The parameters that may move.
        live: The codes; all of them fit at once.
        classes: The classes to forget.

    Returns:
        The codes as `examine_codes` returns them, and what `measure_sensitivity` returns.

    Raises:
        SHAPE_ERRORS: The model fails on the codes for another reason than their shape.
        DEVICE_ERRORS: The device has no room for it now, or is in trouble.
        ValueError: The model does not take the codes, or its outputs do not fit.
        UnrecognisedCodesError: The model does not know them.
    """
    rows = tuple(live.rows(c) for c in classes)
    groups = CodeBatch(live.inputs, live.labels, torch.empty(0), rows).group_weights
    loss = RecognisingLoss(live, classes)
    try:
        fisher = fisher_diagonal(
            model, live.inputs, live.labels, loss=loss, weights=groups, parameters=parameters, with_gradient=True
        )
    except DEVICE_ERRORS:
        raise
    except SHAPE_ERRORS as error:
        if error is loss.fault and loss.batch is None:
            raise
        if error is not loss.fault:
            checked_logits(model, live.inputs, "mnemonic_codes")  # if the codes are the reason, this says so
            raise
    if loss.batch is None or loss.fault is not None:  # some are left out
        codes = loss.batch or examine_codes(model, live, classes)
        return codes, measure_sensitivity(model, parameters, codes)
    return loss.batch, Sensitivity.of_groups(fisher, loss.batch.log_scales)


def measure_sensitivity(
    model: nn.Module, parameters: dict[str, Tensor], codes: CodeBatch, *, natural: bool = True
) -> Sensitivity:
    """Run all codes forward and backward, in the two groups: at once, or one group after the other in micro-batches.

    Args:
        model: The eager module.
        parameters: The parameters that may move.
        codes: The codes.
        natural: For the natural rule: with a loss that resolves codes the model is sure of, and the gradient.

    Returns:
        f_CF, f_CR and, for the natural rule, g_CF.

    Raises:
        ForgettingError: For the paper's rule the model is too sure of its codes.
    """
    if not natural:
        _check_resolved(codes)
    loss: Loss = codes.loss if natural else ScaledCrossEntropy()
    log_scales = codes.log_scales if natural else (0.0, 0.0)
    if codes.batch_size is None or codes.batch_size >= len(codes.labels):
        fisher = fisher_diagonal(
            model,
            codes.inputs,
            codes.labels,
            loss=loss,
            weights=codes.group_weights,
            parameters=parameters,
            with_gradient=natural,
        )
        return Sensitivity.of_groups(fisher, log_scales)
    forget, remain = (
        mean_fisher(
            model, codes.samples, rows, codes.batch_size, loss=loss, parameters=parameters, with_gradient=with_gradient
        )
        for rows, with_gradient in ((codes.forget_rows, natural), (codes.remain_rows, False))
    )
    return Sensitivity(dict(forget), dict(remain), forget.gradient, log_scales)


def _check_resolved(codes: CodeBatch) -> None:
    """Raise ForgettingError where the squared gradients of a group lie below the paper's stabiliser."""
    for group, inverse_doubt in zip(("codes to forget", "remaining codes"), codes.log_scales, strict=True):
        if 2 * inverse_doubt > -math.log(TINY):
            raise ForgettingError(
                f'rule="paper" takes the ratios of the Fisher as they are, and the model is so sure of the {group} '
                f"(log-odds of about {inverse_doubt:.0f} nats) that theirs is below {TINY}, where both sums of the "
                'rule start; use rule="natural"; the model is unchanged'
            )


def _pieces(*tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yield views of contiguous tensors of one shape, small enough that several of them fit the cache."""
    return zip(*(tensor.view(-1).split(_PIECE) for tensor in tensors), strict=True)


def _groups(operands: Iterable[tuple[Tensor, ...]]) -> Iterator[list[tuple[Tensor, ...]]]:
    """Yield tuples of tensors of one shape in groups of so few elements that a copy of one tensor of each fits."""
    group: list[tuple[Tensor, ...]] = []
    elements = 0
    for tensors in operands:
        if group and elements + tensors[0].numel() > _TOGETHER:
            yield group
            group, elements = [], 0
        group.append(tensors)
        elements += tensors[0].numel()
    if group:
        yield group
