"""The two feedbacks of Learning to Unlearn: each tunes on a support set and tests the result on query sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from fastforget.classifier.data_forms import Batch
from fastforget.classifier.inputs import Inputs
from fastforget.classifier.losses import check_depends
from fastforget.classifier.running import call_with, logits_of
from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.loaders import ForgetBatch

__all__ = ["Feedback", "Support", "Target", "forget_feedback", "meta_gradient", "remain_feedback"]

Parameters: TypeAlias = Mapping[str, Tensor]
Loss: TypeAlias = Callable[[Parameters], Tensor]
Support: TypeAlias = Literal["counterfactual", "random", "uniform", "ascent"]
Target: TypeAlias = Literal["counterfactual", "unseen", "zero"]


@dataclass(frozen=True)
class Feedback:
    """A gradient, and the losses that it lowers.

    Attributes:
        gradient: By parameter name.
        tune: The loss on the support set, a scalar.
        test: The mean loss on the query sets after the trial step, a scalar.
    """

    gradient: dict[str, Tensor]
    tune: Tensor
    test: Tensor


def meta_gradient(
    parameters: Parameters,
    tune: Loss,
    tests: Sequence[Loss],
    *,
    step: float,
    order: Literal[1, 2],
    weight: float = 1.0,
) -> Feedback:
    r"""Return the gradient of a loss plus other losses after a step down it.

    ::

        theta' = theta - step grad tune(theta)
        g      = grad_theta [ weight tune(theta) + 1/N sum_i test_i(theta') ]

    Source: the meta-optimisation of Huang, Foo, Liu, "Learning to Unlearn for Robust Machine Unlearning", ECCV 2024
    (meta-tune, meta-test, meta-update). ``order=1`` uses the gradients of the tests at theta' in place of those at
    theta, as first-order MAML does (Finn, Abbeel, Levine, ICML 2017).

    Args:
        parameters: theta by name, leaves that need a gradient.
        tune: The loss on the support set as a function of theta.
        tests: The N losses on the query sets as functions of theta.
        step: Length of the trial step. With 0 there is none, and g is the gradient of the plain sum.
        order: 2 for the exact gradient, which differentiates through the step. The model's operations must have second
            derivatives then. Fused attention has none: meanwhile the whole process computes attention step by step.
        weight: Of the loss on the support set. With 0 this loss only directs the trial step.

    Returns:
        The gradient and the losses.
    """
    if order == 2 and step != 0:
        with sdpa_kernel(SDPBackend.MATH):
            return _meta_gradient(parameters, tune, tests, step, weight, exact=True)
    return _meta_gradient(parameters, tune, tests, step, weight, exact=False)


def _meta_gradient(
    parameters: Parameters, tune: Loss, tests: Sequence[Loss], step: float, weight: float, *, exact: bool
) -> Feedback:
    names, leaves = list(parameters), list(parameters.values())
    tune_loss = tune(parameters)
    check_depends(depends=tune_loss.requires_grad)
    used = torch.autograd.grad(tune_loss, leaves, create_graph=exact, allow_unused=True)
    check_depends(depends=any(slope is not None for slope in used))
    inner = [torch.zeros_like(leaf) if slope is None else slope for leaf, slope in zip(leaves, used, strict=True)]
    moved = {name: leaf - step * slope for name, leaf, slope in zip(names, leaves, inner, strict=True)}
    if not exact:
        moved = {name: value.detach().requires_grad_() for name, value in moved.items()}
    test_loss = torch.stack([test(moved) for test in tests]).mean()
    if exact:
        total = torch.autograd.grad(weight * tune_loss + test_loss, leaves, materialize_grads=True)
    else:
        outer = torch.autograd.grad(test_loss, list(moved.values()), materialize_grads=True)
        total = tuple(weight * one + other for one, other in zip(inner, outer, strict=True))
    return Feedback(dict(zip(names, total, strict=True)), tune_loss.detach(), test_loss.detach())


def remain_feedback(
    model: nn.Module,
    parameters: Parameters,
    forget: ForgetBatch,
    queries: Sequence[Batch],
    *,
    support: Support,
    step: float,
    order: Literal[1, 2],
    weight: float,
    generator: torch.Generator,
) -> Feedback:
    """Return the gradient that forgets a batch while the remaining data stays known: g_r.

    The support set is the batch to forget. Its loss teaches the goals of the batch, wrong labels drawn at random, or
    all classes alike; or it is minus the cross-entropy. The query sets are batches of the remaining data with their
    labels.

    Args:
        model: The eager module.
        parameters: Those that move, by name.
        forget: Samples to forget.
        queries: Batches of the remaining data.
        support: The loss of the support set: "counterfactual" for the goals, which must be there then; "random";
            "uniform"; "ascent".
        step: As for `meta_gradient`.
        order: As for `meta_gradient`.
        weight: As for `meta_gradient`.
        generator: Draws the wrong labels, on the CPU.

    Returns:
        The gradient and the losses.
    """
    uniform = torch.rand(len(forget.targets), generator=generator, device="cpu")

    def tune(values: Parameters) -> Tensor:
        return _support_loss(_logits(model, values, forget.inputs), forget, support, uniform)

    def test(batch: Batch) -> Loss:
        return lambda values: F.cross_entropy(_logits(model, values, batch[0]), batch[1])

    return meta_gradient(parameters, tune, [test(batch) for batch in queries], step=step, order=order, weight=weight)


def _support_loss(logits: Tensor, forget: ForgetBatch, support: Support, uniform: Tensor) -> Tensor:
    """Return the loss of a batch to forget; wrong labels are made of random numbers, uniform in [0, 1)."""
    targets, classes = forget.targets, logits.shape[1]
    if support == "counterfactual" and forget.goals is not None:
        return F.cross_entropy(logits, forget.goals)
    if support == "random":
        wrong = (targets + 1 + (uniform * (classes - 1)).long().to(targets.device)) % classes
        return F.cross_entropy(logits, wrong)
    if support == "uniform":
        return -logits.log_softmax(1).mean()
    return -F.cross_entropy(logits, targets)


def forget_feedback(
    model: nn.Module,
    parameters: Parameters,
    forget: Sequence[ForgetBatch],
    attacks: Sequence[MembershipModel],
    *,
    target: Target,
    step: float,
    order: Literal[1, 2],
) -> Feedback:
    """Return the gradient that makes samples look unseen to membership models: g_f.

    ``L_k = mean over the samples of BCE(A_k(f(x)), q_k)``, the binary cross-entropy of attack k with the answer q that
    it is to give. The support set is L of the first attack on the first batch. Each other attack is a query set, on
    the second batch; a single attack is both.

    With q = 0 samples are pushed to where the attack is sure that they are strangers, which is further than unseen
    samples are. With the attack's mean answer for unseen samples they go only so far. With its answer for the twin of
    each sample, each goes as far as it has to.

    Args:
        model: The eager module.
        parameters: Those that move, by name.
        forget: Two batches to forget.
        attacks: The membership models, the one of the support set first.
        target: q: "zero", "unseen" for `MembershipModel.unseen`, or "counterfactual" for the answers for twins, which
            must be there then.
        step: As for `meta_gradient`.
        order: As for `meta_gradient`.

    Returns:
        The gradient and the losses.
    """

    def loss(attack: MembershipModel, batch: ForgetBatch) -> Loss:
        def attack_loss(values: Parameters) -> Tensor:
            odds = attack(_logits(model, values, batch.inputs), batch.targets)
            answer = torch.full_like(odds, attack.unseen if target == "unseen" else 0.0)
            if target == "counterfactual" and batch.twins is not None:
                answer = attack(batch.twins, batch.targets).sigmoid().to(odds)
            return F.binary_cross_entropy_with_logits(odds, answer)

        return attack_loss

    first, *others = attacks
    tests = [loss(attack, forget[1]) for attack in others or [first]]
    return meta_gradient(parameters, loss(first, forget[0]), tests, step=step, order=order)


def _logits(model: nn.Module, parameters: Parameters, inputs: Inputs) -> Tensor:
    """Run the model with other values of some parameters."""
    given = {id(p): parameters[name] for name, p in model.named_parameters() if name in parameters}
    named = model.named_parameters(remove_duplicate=False)
    return logits_of(call_with(model, {name: given[id(p)] for name, p in named if id(p) in given}, inputs))
