"""Take a class out of the features of a network, from a few samples of each class."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from fastforget.class_forgetting.assignment import assign
from fastforget.classifier.devices import upload
from fastforget.classifier.inputs import Inputs, split_samples
from fastforget.classifier.kept_values import keep_nothing
from fastforget.classifier.losses import check_depends
from fastforget.classifier.modes import enable_recurrent_backward, reproducible
from fastforget.classifier.output_layer import OutputLayer
from fastforget.classifier.progress import progress_bar
from fastforget.errors import ForgettingError

__all__ = ["Dispersal", "disperse"]

_HISTORY = 10  # past steps that L-BFGS remembers, each twice the size of the parameters


@dataclass(frozen=True, eq=False)
class Dispersal:
    """Parameters with which the features no longer show a class, and what was reached.

    Attributes:
        parameters: The new values of the parameters that were given, by name.
        evidence: On the samples given, so better than on others:

            * ``own_mean_before``, ``own_mean_after``: share of the samples to forget whose nearest class mean is that
              of their own class. Each sample is left out of its own mean.
            * ``distance_before``, ``distance_after``: root mean square distance of their features from where these
              shall be, in units of the spread of the features of the remaining classes.
            * ``remaining_moved``: the same distance for the remaining samples, from where they were.
            * ``remaining_divergence``: how much their predictions changed, mean Kullback-Leibler divergence, nats.
            * ``dispersal_seconds``.
    """

    parameters: dict[str, Tensor]
    evidence: dict[str, float]


def disperse(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    layer: OutputLayer,
    inputs: Inputs,
    targets: Tensor,
    classes: Sequence[int],
    *,
    choice: int = 3,
    proximity: float = 1.0,
    iterations: int = 60,
    seed: int = 0,
    batch_size: int | None = None,
    progress: bool = False,
) -> Dispersal:
    r"""Move the features of classes onto those of the remaining ones, and hold these.

    A network that never saw a class takes its samples for samples of similar classes. Here each sample n to forget gets
    the features t(n) of a sample of another class as its goal, and the parameters minimise

    ::

        mean_forget |h(n) - t(n)|^2 / s^2  +  mean_remain |h(n) - h0(n)|^2 / s^2  +  mean_remain |z(n) - z0(n)|^2 / r^2
            +  proximity * |theta - theta0|^2 / |theta0|^2

    with the features h, the logits z of the remaining classes less their mean, the total variances s^2 and r^2 of
    either over the remaining samples, and 0 for values before. No class mean is left for the class, nothing else moves,
    and the last term keeps what the few samples do not show. Logits are held and not probabilities: where the model is
    sure these hardly change, while the logits move the boundaries between others, near to which are few of the samples
    given. Every term is a change relative to what there was, so none needs a weight of its own.

    The goals are chosen by optimal transport: of ``choice`` times as many remaining samples as there are to forget, as
    many of each class as can be, each is used once at most, and the features move the least on average. Similar classes
    so get most of the samples, but no single one all of them.

    The minimum is found by L-BFGS with a line search: there is no learning rate. The seed chooses the samples among
    which the goals are; the bits are the same each time with the same number of threads.

    Source: ours. L-BFGS: Liu and Nocedal, "On the limited memory BFGS method", Mathematical Programming 1989.

    Args:
        model: The eager module in eval mode. It is not changed; a copy is.
        parameters: Values to start from of the parameters that may move, by name. The output layer stays as it is.
        layer: The output layer of the model.
        inputs: Samples of every class to forget and of at least two others, leaves [N, ...]. 16 of each class do.
        targets: Their classes, int64 [N].
        classes: The classes to forget.
        choice: How many remaining samples there are to choose from for each one to forget. Fewer disperse the class
            further, more change less.
        proximity: Weight of the change of the parameters.
        iterations: Steps of L-BFGS. They end earlier at the minimum.
        seed: Of the choice.
        batch_size: How many samples are run at a time; None for all at once.
        progress: Whether to show a bar, in notebooks and where standard error is a terminal; needs tqdm.

    Returns:
        The new values and what was reached.

    Raises:
        ValueError: There is no sample of a class to forget, or of fewer than two others, or nothing but the output
            layer may move, or nothing that the model uses.
        ForgettingError: The loss is not finite, or rose.
    """
    began = time.monotonic()
    forget = _check_samples(targets, classes)
    moving = {name: value.detach() for name, value in parameters.items() if name not in (layer.weight, layer.bias)}
    if not moving:
        raise ValueError("`parameters` must name more than the output layer to change features, got nothing else")
    with reproducible(model, seed):
        work, leaves = _copy_with(model, parameters, list(moving))
        samples = _like(leaves[0], inputs)
        features, logits = layer.examine(work, samples, None, batch_size)
        rows = _choose_goals(features, targets, forget, choice, seed)
        goals = features.index_copy(0, forget.nonzero()[:, 0], features[rows])
        others = [cls for cls in range(logits.shape[1]) if cls not in set(classes)]
        loss = _Loss(work, layer, samples, forget, goals, _centred(logits[:, others]), others, batch_size)
        first = loss.terms(backward=False)
        if math.isfinite(sum(first)):
            with _bar(iterations, shown=progress) as advance:
                _minimise(loss, leaves, proximity, iterations, advance)
        last, (moved, after) = loss.terms(backward=False), layer.examine(work, samples, None, batch_size)
    if not sum(last) <= sum(first):
        raise ForgettingError(
            f"the features could not be dispersed: the loss went from {sum(first):.3g} to {sum(last):.3g}; the model "
            "is unchanged"
        )
    evidence = {
        "own_mean_before": _own_mean_share(features, targets, forget),
        "own_mean_after": _own_mean_share(moved, targets, forget),
        "distance_before": first[0] ** 0.5,
        "distance_after": last[0] ** 0.5,
        "remaining_moved": last[1] ** 0.5,
        "remaining_divergence": _divergence(loss.logits[~forget], after[~forget][:, others]),
        "dispersal_seconds": time.monotonic() - began,
    }
    found = {name: leaf.detach().to(moving[name].dtype) for name, leaf in zip(moving, leaves, strict=True)}
    return Dispersal({**parameters, **found}, evidence)


@dataclass(frozen=True, eq=False)
class _Loss:
    """How far the features of samples are from their goals, and the predictions from what they were.

    Attributes:
        model: A copy that may change.
        layer: Its output layer.
        inputs: All samples.
        forget: Which of them are to be forgotten, bool [N].
        goals: Where their features shall be, [N, D]; those of the others where they were.
        logits: Of the remaining classes as they were, [N, R], less their mean.
        others: The remaining classes.
        batch_size: How many samples are run at a time.
    """

    model: nn.Module
    layer: OutputLayer
    inputs: Inputs
    forget: Tensor
    goals: Tensor
    logits: Tensor
    others: list[int]
    batch_size: int | None

    def terms(self, *, backward: bool) -> list[float]:
        """Return the three means of `disperse`; with backward, also add the gradient of their sum."""
        samples, gone, kept = len(self.forget), self.forget.to(self.goals.dtype), (~self.forget).to(self.goals.dtype)
        spread, logit_spread = (_total_variance(values[~self.forget]) for values in (self.goals, self.logits))
        moved, held = gone / (gone.sum() * spread), kept / (kept.sum() * spread)
        known = (self.goals, self.logits, moved, held, kept / (kept.sum() * logit_spread))
        total = self.goals.new_zeros(3)
        for part, (goals, before, *shares) in split_samples(self.inputs, known, samples, self.batch_size or samples):
            features, logits = self.layer.run(self.model, part)
            distance = (features - goals).square().sum(1)
            parts = (distance, distance, (_centred(logits[:, self.others]) - before).square().sum(1))
            terms = torch.stack([values @ share for values, share in zip(parts, shares, strict=True)])
            if backward:
                check_depends(depends=terms.requires_grad)
                terms.sum().backward()
            total += terms.detach()
        return [float(term) for term in total.tolist()]


def _minimise(
    loss: _Loss, leaves: list[Tensor], proximity: float, iterations: int, advance: Callable[[], object]
) -> None:
    """Move the leaves to where the loss and the weighted relative square of their change are least."""
    starts = [leaf.detach().clone() for leaf in leaves]
    size = torch.stack([start.square().sum() for start in starts]).sum()
    pull = proximity / size.clamp(min=torch.finfo(size.dtype).tiny)
    optimizer = torch.optim.LBFGS(
        leaves, max_iter=iterations, max_eval=2 * iterations, history_size=_HISTORY, line_search_fn="strong_wolfe"
    )

    def measure() -> float:
        optimizer.zero_grad()
        total = sum(loss.terms(backward=True))
        for leaf, start in zip(leaves, starts, strict=True):
            change = leaf.detach() - start
            total += float(pull * change.square().sum())
            slope = 2 * pull * change
            leaf.grad = slope if leaf.grad is None else leaf.grad + slope
        advance()
        return total

    optimizer.step(measure)


def _copy_with(model: nn.Module, parameters: Mapping[str, Tensor], moving: list[str]) -> tuple[nn.Module, list[Tensor]]:
    """Return a copy of the model with these values, in at least float32, and those parameters that move."""
    work = copy.deepcopy(model).requires_grad_(requires_grad=False)
    enable_recurrent_backward(work)
    keep_nothing(work)
    named = dict(work.named_parameters(remove_duplicate=False))
    for name, value in parameters.items():
        named[name].copy_(value.detach())
    if named[moving[0]].dtype in (torch.float16, torch.bfloat16):
        work.float()
    named = dict(work.named_parameters(remove_duplicate=False))
    return work, [named[name].requires_grad_() for name in moving]


def _like(leaf: Tensor, inputs: Inputs) -> Inputs:
    """Return inputs with floats of the type of a parameter."""
    like: Inputs = pytree.tree_map_only(Tensor, lambda v: v.to(leaf.dtype) if v.is_floating_point() else v, inputs)
    return like


def _choose_goals(features: Tensor, targets: Tensor, forget: Tensor, choice: int, seed: int) -> Tensor:
    """Return for each sample to forget the remaining sample whose features are its goal, rows of all samples."""
    generator = torch.Generator().manual_seed(seed)
    remaining = (~forget).nonzero()[:, 0].cpu()
    remaining = remaining[torch.randperm(len(remaining), generator=generator)]
    # Every class's first, then every class's second, ...: so that all are there, however many samples each has.
    turn = F.one_hot(targets.cpu()[remaining]).cumsum(0).gather(1, targets.cpu()[remaining, None])[:, 0]
    wanted, total = int(forget.sum()), len(remaining)
    candidates = remaining[turn.argsort(stable=True)][: choice * wanted]
    candidates = candidates.repeat(-(-wanted // total))
    costs = torch.cdist(features[forget].double(), features[candidates.to(features.device)].double()).square()
    return candidates.to(features.device)[assign(costs)]


def _centred(logits: Tensor) -> Tensor:
    """Return logits [N, R] less the mean of each sample, which no prediction depends on."""
    return logits - logits.mean(1, keepdim=True)


def _total_variance(values: Tensor) -> Tensor:
    """Return the variance over the samples, summed over the columns of values [N, D]; above zero."""
    return values.var(0, correction=0).sum().clamp(min=torch.finfo(values.dtype).tiny)


def _divergence(before: Tensor, after: Tensor) -> float:
    """Return the mean Kullback-Leibler divergence of predictions from what they were, from logits [N, R], nats."""
    then, now = before.double().log_softmax(1), after.double().log_softmax(1)
    return float(F.kl_div(now, then, reduction="batchmean", log_target=True))


def _own_mean_share(features: Tensor, targets: Tensor, forget: Tensor) -> float:
    """Return the share of the samples to forget whose nearest class mean is their own, each left out of its own."""
    h = features.double()
    members = F.one_hot(targets).to(h.dtype)
    number = members.sum(0)
    totals = members.T @ h
    distances = torch.cdist(h, totals / number[:, None].clamp(min=1)).masked_fill(number == 0, torch.inf)
    without = (totals[targets] - h) / (number[targets] - 1).clamp(min=1)[:, None]
    own = torch.where(number[targets] > 1, (h - without).norm(dim=1), torch.inf)
    nearest = distances.scatter(1, targets[:, None], own[:, None]).argmin(1)
    return float((nearest == targets)[forget].double().mean())


def _check_samples(targets: Tensor, classes: Sequence[int]) -> Tensor:
    """Return which samples are to be forgotten, after checking that the others can take their place."""
    found = set(targets.tolist())
    for cls in classes:
        if cls not in found:
            raise ValueError(f"`samples` must hold samples of class {cls}, which is to be forgotten, got none")
    remaining = len(found - set(classes))
    if remaining < 2:
        raise ValueError(f"`samples` must hold samples of at least two remaining classes, got {remaining}")
    return torch.isin(targets, upload(list(classes), targets.device))


@contextmanager
def _bar(iterations: int, *, shown: bool) -> Iterator[Callable[[], object]]:
    """Give a function that is called once for each evaluation."""
    if not shown:
        yield lambda: None
        return
    with progress_bar(total=iterations, desc="dispersing") as bar:
        yield lambda: bar.update(bar.n < iterations)
