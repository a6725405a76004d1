"""The output row of a class that was never seen, in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Examined", "UnseenRows", "unseen_rows", "unseen_rows_of_layer", "usual_depth"]


_CLEAR = 1.0  # nats beyond the boundary, for each known sample
# By which share of its depth a class's own samples are deeper than those that stand in for them, in networks trained
# without the class: 17 % on digits, 22 and 23 % on Fashion-MNIST (docs/results/one-shot.md), on average over classes.
_DEEPER = 0.2
_DEPTH = 12.0  # nats, where nothing tells how deep
# Nats that a class lies deep at least: some of its samples lie far from the few that are known, and must not be
# assigned to it either. Networks with smoothed labels have a class never seen 3 to 5 nats deep.
_LEAST = 8.0


@dataclass(frozen=True, eq=False)
class UnseenRows:
    """Rows and biases of an output layer.

    Attributes:
        weight: The rows, float64 [K, D].
        bias: The biases, float64 [K]; None where the layer has none.
        depth: How many nats beyond the boundary they were to put samples of the classes, a float64 scalar.
    """

    weight: Tensor
    bias: Tensor | None
    depth: Tensor


@dataclass(frozen=True, eq=False)
class Examined:
    """Samples before an output layer.

    Attributes:
        features: [N, D], so that the logit of a class is ``features @ row + scale * bias`` and a constant.
        logits: Of the remaining classes, [N, R].
    """

    features: Tensor
    logits: Tensor

    def of(self, classes: Tensor) -> Examined:
        """Return the same samples with the logits of these classes alone, float64."""
        return Examined(self.features, self.logits.double()[:, classes])


def unseen_rows_of_layer(
    weight: Tensor,
    bias: Tensor | None,
    others: Examined,
    own: Examined | None,
    *,
    classes: Tensor,
    remaining: Tensor,
    depth: float | Tensor | None = None,
    scale: float = 1.0,
) -> UnseenRows:
    """Return what training would make of the rows of some classes of a layer, see `unseen_rows`.

    The layer says what that needs: how long rows of remaining classes are, where their biases are on average, and what
    the logits of the classes are without their rows and biases.

    Args:
        weight: The rows of all classes, [C, D] or [C, D, 1, ...].
        bias: The biases [C] if they may change; None leaves them, so that their part of the logits is a constant.
        others: Samples of remaining classes, with the logits of all classes, [N, C].
        own: Those of the classes, where there are any.
        classes: The classes, int64 [K].
        remaining: The remaining classes, int64 [R].
        depth: Nats; None for `usual_depth`.
        scale: Nats by which a logit rises when its bias rises by one.

    Returns:
        Rows and biases.
    """
    rows = weight.double().flatten(1)
    constants = (others.logits.double()[:, classes] - others.features.double() @ rows[classes].T).mean(0)
    start = None
    if bias is not None:
        constants, start = constants - scale * bias.double()[classes], bias.double()[remaining].mean()
    return unseen_rows(
        others.of(remaining),
        None if own is None else own.of(remaining),
        depth=depth,
        longest=rows[remaining].norm(dim=1).max(),
        constants=constants,
        bias=start,
        scale=scale,
    )


def unseen_rows(
    others: Examined,
    own: Examined | None = None,
    *,
    depth: float | Tensor | None = None,
    longest: Tensor,
    constants: Tensor,
    bias: Tensor | None = None,
    scale: float = 1.0,
) -> UnseenRows:
    r"""Return what training would make of the rows of classes that no sample belongs to.

    Training with weight decay ends where ``w = -(1 / decay) sum_n p(n) h(n)``: p(n) is the probability that the class
    has for sample n, and h(n) are the features. So the row points against mean features. A bias is the weight of a
    feature that is always 1, and moves in the same way from where biases start:

    ::

        [w, b] = [0, bias] - a m - a' m'      a, a' >= 0      m = mean_n [h(n), scale]

    The mean m is over samples of the other classes, m' over the class's own, where there are any: to a network that
    never saw them these are no more of the class than others are. Of all such rows it is the shortest that gives both
    kinds the log-odds they have in networks trained without the class, or less: on average ``-depth`` nats for own
    samples. For one that is not there a sample of another class stands in, where that other class, the one of its
    largest logit, is left out, and a fifth less will do. Where there are no own samples at all, stand-ins must be a
    fifth deeper: own samples lie less in the way of a row against the others alone. Mean log-odds are linear in a and
    a', so that both have a closed form. The row is not longer than those of other classes, as in networks trained
    without a class; where that does not suffice, both kinds fall equally short of their goals, and the bias does the
    rest. The bias also sees to it that none of the samples is assigned to the class: each is a nat beyond the boundary.

    Source: ours; the stationary point follows from the gradient of the cross-entropy.

    Args:
        others: Samples of remaining classes.
        own: Samples of the classes, where there are any.
        depth: Nats; None for `usual_depth` of the others.
        longest: The largest norm that a row may have, a tensor without dimensions.
        constants: What the logit of each of the K classes is without row and bias, [K].
        bias: Where biases start: the mean of those of the remaining classes. None for a layer without.
        scale: Nats by which a logit rises when its bias rises by one.

    Returns:
        Rows and biases, where the samples are: nothing waits for the device. Without a bias a class may end less deep,
        if its features point away from those of the others or the row would be longer than it may be.
    """
    start = constants.double() + (0.0 if bias is None else scale * bias.double())
    groups = [_Group.of(examined, scale if bias is not None else None) for examined in (others, own) if examined]
    means = torch.stack([group.features.mean(0) for group in groups])
    goal = (
        usual_depth(others.logits)
        if depth is None
        else torch.as_tensor(depth, dtype=torch.float64, device=start.device)
    )
    rivals = [groups[0].second_rivals.mean(), *(group.rivals.mean() for group in groups[1:])]
    depths = [goal * (1 - _DEEPER if own else 1 + _DEEPER), *(goal for _ in groups[1:])]
    # Nats that each logit has to fall, [G, K].
    excess = torch.stack([start - rival + deep for rival, deep in zip(rivals, depths, strict=True)])
    amounts = _shortest(means @ means.T, excess, longest.double())
    lowering = amounts.T @ means
    if bias is None:
        return UnseenRows(-lowering, None, goal)
    missing = [excess - means @ lowering.T]
    for group in groups:
        found = start - group.features @ lowering.T
        missing.append((found - group.rivals[:, None] + _CLEAR).amax(0, keepdim=True))
    lowered = lowering[:, -1] + torch.cat(missing).amax(0).clamp(min=0.0) / scale
    return UnseenRows(-lowering[:, :-1], bias.double() - lowered, goal)


def usual_depth(logits: Tensor) -> Tensor:
    """Return how far classes are from samples that are not theirs, on average, nats of log-odds; 8 at least.

    A class that a network never saw is about as unlikely to it as any other class is for samples that are not its own.
    So this depends on how the network was trained, and for how long: 5 nats with label smoothing, 20 after long
    training without weight decay (docs/results/one-shot.md). Never less than 8 nats: some samples of a class lie far
    from the few that are known, and must not be assigned to it either.

    Source: ours, measured.

    Args:
        logits: Of samples of these classes, [N, C]. Each counts for the class of its largest logit.

    Returns:
        A float64 scalar; 12 for a single class, which tells nothing.
    """
    samples, classes = logits.shape
    if classes < 2:
        return torch.full((), _DEPTH, dtype=torch.float64, device=logits.device)
    wide = logits.double()
    top, own = wide.max(1, keepdim=True)
    shares = (wide - top).exp().scatter(1, own, 0.0)  # of the other classes, as multiples of the largest
    depths = top - wide + (1.0 + shares.sum(1, keepdim=True) - shares).log()
    return (depths.scatter(1, own, 0.0).sum() / (samples * (classes - 1))).clamp(min=_LEAST)


def _shortest(gram: Tensor, excess: Tensor, longest: Tensor) -> Tensor:
    """Return how much of each mean makes up the shortest vector v with ``v @ mean >= excess`` for one mean or two.

    Where that would be longer than it may be, the vector of that length whose largest lack ``excess - v @ mean`` is the
    smallest. Both have a closed form: one mean serves alone, or both bind.

    Args:
        gram: Products of the means, [G, G].
        excess: [G, K].
        longest: The largest norm, a tensor without dimensions.

    Returns:
        Amounts [G, K].
    """
    squares = gram.diagonal()[:, None]
    alone = torch.where(squares > 0, excess.clamp(min=0.0) / squares, 0.0)
    full = torch.where(squares > 0, longest / squares.sqrt(), 0.0).expand_as(excess)
    if len(gram) == 1:
        return alone.minimum(full)
    product = gram[0, 1]

    def choose(alone: Tensor, lack: Tensor | float, both: Tensor) -> Tensor:
        """Take the first mean alone where the other lacks no more than it, else the second, else both."""
        serves = excess.flip(0) - product * alone <= lack
        none = torch.zeros_like(alone[0])
        first, second = torch.stack([alone[0], none]), torch.stack([none, alone[1]])
        return torch.where(serves[0], first, torch.where(serves[1], second, both))

    determinant = squares.prod() - product**2
    meeting = (squares.flip(0) * excess - product * excess.flip(0)) / determinant
    shortest = choose(alone, 0.0, meeting)
    # Vectors with equal lacks are a step along the difference of the means, fixed, and any across it.
    apart = squares.sum() - 2 * product  # squared
    along = (excess[1] - excess[0]) / apart
    across = (longest**2 - along**2 * apart).clamp(min=0.0) * apart / determinant
    across = torch.where(determinant > 0, across, 0.0).sqrt()
    place = (squares - product) / apart  # of the foot of the perpendicular, between the means
    equal = torch.stack([place[1] * across - along, place[0] * across + along])
    fits = (shortest * (gram @ shortest)).sum(0) <= longest**2  # not so where it is not a number
    return torch.where(fits, shortest, choose(full, excess - squares * full, equal))


@dataclass(frozen=True, eq=False)
class _Group:
    """Samples of one kind: their features [N, D], with that of the bias where there is one, and their rivals [N].

    A class's logit must be below the rivals: the logarithm of the summed exponentials of the remaining logits, of all
    or without the largest.
    """

    features: Tensor
    rivals: Tensor
    second_rivals: Tensor

    @classmethod
    def of(cls, examined: Examined, scale: float | None) -> _Group:
        h, logits = examined.features.double(), examined.logits.double()
        if scale is not None:
            h = torch.cat([h, torch.full_like(h[:, :1], scale)], 1)
        rest = logits
        if logits.shape[1] > 1:
            rest = logits.scatter(1, logits.argmax(1, keepdim=True), -torch.inf)
        return cls(h, logits.logsumexp(1), rest.logsumexp(1))
