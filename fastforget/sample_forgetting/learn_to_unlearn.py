"""Learning to Unlearn: forget samples by feedback from remaining data and from membership models."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timezone
from os import PathLike
from pathlib import Path
from typing import Any, Literal

from torch import Tensor, nn

from fastforget.classifier.clock import Clock
from fastforget.classifier.compilation import check_one_replica, eager
from fastforget.classifier.data_forms import LabelledData
from fastforget.classifier.fingerprint import fingerprint
from fastforget.classifier.modes import check_eval, reproducible
from fastforget.classifier.parameters import chosen_parameters
from fastforget.classifier.problem_type import check_one_class_each
from fastforget.classifier.progress import progress_bar
from fastforget.edits.edit import write_edits
from fastforget.edits.receipt import Receipt
from fastforget.edits.shortfall import warn_of_shortfall
from fastforget.errors import ForgettingError
from fastforget.functional.harmonization import Project, Scope
from fastforget.membership.model import MembershipModel
from fastforget.sample_forgetting.feedback import Support, Target
from fastforget.sample_forgetting.loaders import UnlearningData
from fastforget.sample_forgetting.settings import Settings, check_attacks, check_checkpoint
from fastforget.sample_forgetting.work import OptimizerFactory, Work

__all__ = ["learn_to_unlearn"]

_LOG = logging.getLogger(__name__)


def learn_to_unlearn(
    model: nn.Module,
    forget: LabelledData,
    remain: LabelledData,
    *,
    unseen: LabelledData | None = None,
    attacks: Sequence[MembershipModel] = (),
    steps: int = 60,
    lr: float = 2e-3,
    trial: float = 3e-3,
    queries: int = 1,
    support: Support | None = None,
    tune: float = 1.0,
    target: Target | None = None,
    weight: float = 1.0,
    order: Literal[1, 2] = 1,
    meta: bool = True,
    project: Project = "forget",
    scope: Scope = "global",
    output_row: bool | None = None,
    output_depth: float | None = None,
    optimizer: OptimizerFactory | None = None,
    parameters: Iterable[str] | None = None,
    floor: tuple[Any, Tensor, float] | None = None,
    callback: Callable[[int, dict[str, float]], object] | None = None,
    checkpoint: str | PathLike[str] | None = None,
    every: int = 50,
    seed: int = 0,
    progress: bool = False,
    undo: bool = True,
) -> Receipt:
    r"""Make a classifier forget some samples, in place, with all or a part of the remaining data.

    Every step follows the sum of two gradients:

    * g_r, remembering: of a loss that forgets a batch of ``forget``, plus the loss on batches of ``remain`` after a
      trial step down it, see `fastforget.sample_forgetting.feedback.remain_feedback`.
    * g_f, forgetting: of a loss that makes batches of ``forget`` look unseen to a membership model, plus the same loss
      of other membership models after a trial step down it, see
      `fastforget.sample_forgetting.feedback.forget_feedback`. Without ``attacks`` there is none.

    ::

        g = grad [ L_tune(theta) + 1/N sum_i L_test,i(theta - trial grad L_tune(theta)) ]          each of the two
        theta <- optimizer(theta, harmonize(weight g_f, g_r))

    Each sample is paired with a similar unseen one, its twin; the model is trained to treat it as it treats the twin.
    A model is surest of training samples that it would get right unseen, too. So samples are matched by rank within
    each class: the one that the model is surest of with the unseen one that it is surest of, and so on, see
    `fastforget.sample_forgetting.twins.twin_logits`. Most samples then stay as they are. Those that were known by heart
    become as uncertain, or wrong, as unseen ones. A class of which nothing remains is excluded, which needs no unseen
    samples. At the end it also gets the output row of a class that was never seen, see
    `fastforget.functional.output_row.unseen_rows`: else a few samples would bring it back.

    The work is done on a copy in eval mode: batch norms keep their statistics, dropout is off. The model changes in one
    short moment at the end. The random state is put back.

    Source: Huang, Foo, Liu, "Learning to Unlearn for Robust Machine Unlearning", ECCV 2024 (the two feedbacks, the
    meta-optimisation and the harmonisation). The twins, the losses of support and query sets, the membership models'
    inputs, which gradient yields, and all defaults are ours.

    Args:
        model: A classifier in eval mode; logits [N, C] from its forward.
        forget: Batches (inputs, targets) to forget, on the model's device, for instance a DataLoader, or another form
            of samples, see `fastforget.classifier.data_forms.batches_of`; gone through as often as needed. With twins,
            they are kept in memory. Each step then draws as many samples as the first batch has; those that have
            farther to move are drawn more often.
        remain: Batches of the remaining data, or of a part of it; none of the samples to forget. A class to forget of
            which there is no sample here is excluded altogether.
        unseen: Batches of data of the same kind that the model was not trained on. They must hold samples of every
            class to forget that remains.
        attacks: Membership models of this classifier, see `fastforget.membership.train_membership_model`. In each step
            one of them, drawn at random, makes the support set, and all others the query sets.
        steps: How many updates.
        lr: Length of the first step of the default optimiser as a share of the norm of the parameters, see
            `fastforget.sample_forgetting.optimizer.NormalizedDescent`.
        trial: Length of the trial step.
        queries: How many batches of ``remain`` each trial step is tested on.
        support: What the trial step teaches for the samples to forget: "counterfactual" the predictions for their
            twins, "random" wrong labels, "uniform" all classes alike; "ascent" goes up their loss. By default the first
            if ``unseen`` is given or no class to forget remains, the second otherwise.
        tune: Weight of this loss in g_r. With 0 the trial step is still taken, but only the attacks make the samples be
            forgotten.
        target: What the attacks are to answer for the samples to forget: "counterfactual" their answers for the twins,
            "unseen" their mean answer for unseen samples, "zero" that the samples are unseen for sure. By default the
            first where ``support`` may be "counterfactual", the second otherwise.
        weight: Of the forgetting gradient.
        order: 2 differentiates through the trial step; 1 uses the gradients after it in place of those before it.
        meta: False leaves out the trial step: query sets are tested with the parameters as they are.
        project: Which gradient yields in a conflict, see `harmonize`; "none" for the plain sum.
        scope: Whether conflicts are looked for over all parameters or in each, see `harmonize`.
        output_row: Whether a class to forget of which there is no sample in ``remain`` gets the output row of a class
            never seen, after the last step. The row is computed from up to 256 samples of these classes and as many of
            what remains, drawn at random. By default where there is such a class, and the rows of the layer that
            produces the logits are among the parameters that may move and serve nothing else. True raises
            ForgettingError where that is not so.
        output_depth: How far beyond the decision boundary the output row puts samples of such a class on average, nats
            of log-odds. By default as far as the remaining classes are from samples of each other on average, see
            `fastforget.functional.output_row.usual_depth`: about where networks trained without the class have it.
        optimizer: Called with the list of parameters, returns an optimiser of torch.optim to be used instead.
        parameters: Names of the parameters that may move; all by default.
        floor: ``(inputs, targets, accuracy)``: validation samples, their classes as integers, and the accuracy in
            [0, 1] that every step must keep. The work ends before the first step that does not. The output row is
            set after that, and taken back if the accuracy does not hold with it.
        callback: Called after each step with its number, from 1, and the losses; a true result ends the work.
        checkpoint: A file to keep the work in. If it exists, the work continues from it, to the same bits as without an
            interruption if the loaders give the same batches again. It is removed when the model has changed.
        every: After how many steps the checkpoint is written.
        seed: Of which samples are drawn, the wrong labels, the choice of attacks, and loaders that shuffle without a
            generator of their own.
        progress: Whether to show a bar, in notebooks and where standard error is a terminal; needs tqdm.
        undo: Keep the old values in the receipt, so that it can be reverted.

    Returns:
        The receipt. Its ``classes`` are those that were excluded altogether, none where samples of every class to
        forget remain. Its ``evidence`` has the number of steps, and the losses of the first and of the last one. Where
        a class was excluded, it has ``disconnected``, ``output_depth`` and ``output_depth_goal``, see `Receipt`.

    Warns:
        ShallowForgettingWarning: A class is excluded, but its output row could not be set, or not as deep.

    Raises:
        TypeError: An argument has the wrong type.
        ValueError: An argument has a wrong value: no data, samples both to forget and to remain, targets that are no
            classes, twins that are asked for and not to be found, a loss that does not stay finite or depends on no
            parameter that may move, a checkpoint of other work, a model in DistributedDataParallel over several ranks.
        NotImplementedError: The model is on a device without kernels.
        ForgettingError: The first step already falls below the floor, or ``output_row`` is True and no row can be set.

    After any error the model is what it was before.

    Example:
        >>> import torch
        >>> _ = torch.manual_seed(0)
        >>> model = nn.Linear(4, 3).eval()
        >>> batches = [(torch.randn(8, 4), torch.arange(8) % 3) for _ in range(4)]
        >>> receipt = learn_to_unlearn(model, batches[:1], batches[1:], steps=3)
        >>> receipt.evidence["steps"]
        3.0
        >>> receipt.revert(model)
    """
    check_one_replica(model)
    clock, model = Clock(), eager(model)
    settings = Settings(
        steps=steps,
        lr=lr,
        trial=trial,
        queries=queries,
        support=support,
        tune=tune,
        target=target,
        weight=weight,
        order=order,
        meta=meta,
        project=project,
        scope=scope,
        output_row=output_row,
        output_depth=output_depth,
        seed=seed,
    )
    check_attacks(attacks, model)
    check_checkpoint(checkpoint, every)
    chosen = chosen_parameters(model, None if parameters is None else list(parameters))
    check_one_class_each(model)
    check_eval(model)
    data = UnlearningData(forget, remain, unseen)
    with reproducible(model, seed):
        work = Work(model, chosen, settings, data, attacks, optimizer, floor)
        if checkpoint is not None:
            work.resume(checkpoint)
        for number in _progress(range(work.step + 1, steps + 1), shown=progress):
            losses = work.take_step()
            if not work.floor.holds():
                break
            work.accept(losses)
            if checkpoint is not None and number % every == 0:
                work.save(checkpoint)
            if callback is not None and callback(number, dict(losses)):
                break
        if not work.step:
            raise ForgettingError(
                "the first step falls below the floor already: use a smaller `lr`; the model is unchanged"
            )
        reason, excluded = work.set_rows(), work.excluded
    edits = work.edits(chosen)
    warn_of_shortfall(work.evidence, reason, wanted="disconnected" in work.evidence)  # may raise
    write_edits(model, edits, old=False)
    receipt = Receipt(
        classes=excluded,
        rule="learn_to_unlearn",
        settings={**work.settings.record(), "attacks": len(attacks)},
        alpha=1.0,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        before=work.before,
        after=fingerprint(model),
        total=sum(parameter.numel() for parameter in model.parameters()),
        seconds=clock.seconds(),
        evidence=work.evidence | {"steps": float(work.step)},
        edits=edits,
    )
    if checkpoint is not None:
        Path(checkpoint).unlink(missing_ok=True)
    receipt = receipt if undo else receipt.without_undo()
    _LOG.info("learn_to_unlearn edited a model: %r", receipt)
    return receipt


def _progress(numbers: range, *, shown: bool) -> Iterable[int]:
    """Return the numbers, behind a bar if it is to be shown."""
    if not shown:
        return numbers
    bar: Iterable[int] = progress_bar(numbers, desc="unlearning")
    return bar
