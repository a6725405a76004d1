"""The two feedbacks of Learning to Unlearn, by one scheme: tune on a support set, test the result on query sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastforget.batch import Inputs, forward, logits_of
from fastforget.membership import MembershipModel
from fastforget.unlearning.batches import Batch, Forgotten

__all__ = ["Feedback", "Support", "Target", "forgetting", "meta_gradient", "remembering"]

Parameters: TypeAlias = Mapping[str, Tensor]
Support: TypeAlias = Literal["counterfactual", "random", "uniform", "ascent"]
Target: TypeAlias = Literal["counterfactual", "unseen", "zero"]


@dataclass(frozen=True)
class Feedback:
    """A gradient with the losses that it is of.

    Attributes:
        gradient: By parameter name.
        tune: The loss on the support set.
        test: The mean loss on the query sets, after the trial step.
    """

    gradient: dict[str, Tensor]
    tune: Tensor
    test: Tensor


def meta_gradient(
    parameters: Parameters,
    tune: Callable[[Parameters], Tensor],
    tests: Sequence[Callable[[Parameters], Tensor]],
    *,
    step: float,
    order: Literal[1, 2],
    weight: float = 1.0,
) -> Feedback:
    r"""Differentiate a loss together with what a step down its gradient does to others.

    ::

        theta' = theta - step grad tune(theta)
        g      = grad_theta [ weight tune(theta) + 1/N sum_i test_i(theta') ]

    Source: the meta-optimisation of Huang, Foo, Liu, "Learning to Unlearn for Robust Machine Unlearning", ECCV 2024
    (meta-tune, meta-test, meta-update); ``order=1`` takes the gradients of the tests at theta' for those at theta, as
    first-order MAML does (Finn, Abbeel, Levine, ICML 2017).

    Args:
        parameters: theta by name, leaves that need a gradient.
        tune: The loss on the support set as a function of them.
        tests: The N losses on the query sets.
        step: Length of the trial step; 0 for none, which makes g the gradient of the plain sum.
        order: 2 for the exact gradient, which differentiates through the step; the model's operations must have second
            derivatives then. Fused attention has none: it is computed step by step meanwhile, in the whole process.
        weight: Of the loss on the support set; with 0 it only says where the trial step leads.

    Returns:
        The gradient and the losses.
    """
    if order == 2 and step != 0:
        with sdpa_kernel(SDPBackend.MATH):
            return _meta_gradient(parameters, tune, tests, step, weight, exact=True)
    return _meta_gradient(parameters, tune, tests, step, weight, exact=False)


def _meta_gradient(
    parameters: Parameters,
    tune: Callable[[Parameters], Tensor],
    tests: Sequence[Callable[[Parameters], Tensor]],
    step: float,
    weight: float,
    *,
    exact: bool,
) -> Feedback:
    names, leaves = list(parameters), list(parameters.values())
    loss = tune(parameters)
    inner = torch.autograd.grad(loss, leaves, create_graph=exact, materialize_grads=True)
    moved = {name: leaf - step * slope for name, leaf, slope in zip(names, leaves, inner, strict=True)}
    if not exact:
        moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
    found = torch.stack([test(moved) for test in tests]).mean()
    if exact:
        total = torch.autograd.grad(weight * loss + found, leaves, materialize_grads=True)
    else:
        outer = torch.autograd.grad(found, list(moved.values()), materialize_grads=True)
        total = tuple(weight * one + other for one, other in zip(inner, outer, strict=True))
    return Feedback(dict(zip(names, total, strict=True)), loss.detach(), found.detach())


def remembering(
    model: nn.Module,
    parameters: Parameters,
    forget: Forgotten,
    queries: Sequence[Batch],
    *,
    support: Support,
    step: float,
    order: Literal[1, 2],
    weight: float,
    generator: torch.Generator,
) -> Feedback:
    """Return what forgetting a batch would do to the remaining data: g_r.

    The support set is the batch to forget, made to be forgotten: with its goals, with wrong labels drawn at random,
    with all classes alike, or by ascent on its loss. The query sets are batches of the remaining data with their
    labels.

    Args:
        model: The eager module.
        parameters: Those that move, by name.
        forget: Samples to forget.
        queries: Batches of the remaining data.
        support: Which labels the batch to forget gets; "counterfactual" for its goals, which must be there then.
        step: As for `meta_gradient`.
        order: As for `meta_gradient`.
        weight: As for `meta_gradient`.
        generator: Draws the labels, on the CPU.

    Returns:
        The gradient and the losses.
    """
    inputs, targets = forget.inputs, forget.targets
    shift = torch.rand(len(targets), generator=generator, device="cpu")

    def tune(values: Parameters) -> Tensor:
        logits = _run(model, values, inputs)
        classes = logits.shape[1]
        if support == "counterfactual" and forget.goals is not None:
            return F.cross_entropy(logits, forget.goals)
        if support == "random":
            wrong = (targets + 1 + (shift * (classes - 1)).long().to(targets.device)) % classes
            return F.cross_entropy(logits, wrong)
        if support == "uniform":
            return -logits.log_softmax(1).mean()
        return -F.cross_entropy(logits, targets)

    def test(batch: Batch) -> Callable[[Parameters], Tensor]:
        return lambda values: F.cross_entropy(_run(model, values, batch[0]), batch[1])

    return meta_gradient(parameters, tune, [test(batch) for batch in queries], step=step, order=order, weight=weight)


def forgetting(
    model: nn.Module,
    parameters: Parameters,
    forget: Sequence[Forgotten],
    attacks: Sequence[MembershipModel],
    *,
    target: Target,
    step: float,
    order: Literal[1, 2],
) -> Feedback:
    """Return what makes samples look as if they had never been trained on, to attacks not seen meanwhile: g_f.

    ``L_k = mean over the samples of BCE(A_k(f(x)), q_k)`` for the first attack on the first batch is the support set;
    for each other attack on the second batch, a query set. A single attack is both. With q = 0 the samples are pushed
    to where the attack is sure that they are strangers, further than unseen ones are; with what the attack says of
    those on average, only so far; with what it says of the twin of each, each as far as it has to go.

    Args:
        model: The eager module.
        parameters: Those that move, by name.
        forget: Two batches to forget.
        attacks: The membership models, the one of the support set first.
        target: q: "zero", "unseen" for `MembershipModel.unseen`, or "counterfactual" for what the attack says of twins,
            which must be there then.
        step: As for `meta_gradient`.
        order: As for `meta_gradient`.

    Returns:
        The gradient and the losses.
    """

    def caught(attack: MembershipModel, batch: Forgotten) -> Callable[[Parameters], Tensor]:
        def loss(values: Parameters) -> Tensor:
            odds = attack(_run(model, values, batch.inputs), batch.targets)
            goal = torch.full_like(odds, attack.unseen if target == "unseen" else 0.0)
            if target == "counterfactual" and batch.twins is not None:
                goal = attack(batch.twins, batch.targets).sigmoid().to(odds)
            return F.binary_cross_entropy_with_logits(odds, goal)

        return loss

    first, *others = attacks
    tests = [caught(attack, forget[1]) for attack in others or [first]]
    return meta_gradient(parameters, caught(first, forget[0]), tests, step=step, order=order)


def _run(model: nn.Module, parameters: Parameters, inputs: Inputs) -> Tensor:
    values = dict(parameters)
    return logits_of(forward(lambda *a, **k: functional_call(model, values, a, k), inputs))
