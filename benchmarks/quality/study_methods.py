"""The methods of the study, with the settings of their papers. Our own functions have their defaults."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from study_subjects import Samples, Subject
from torch import Tensor, nn

from fastforget import MnemonicCodes, baselines, one_shot
from fastforget.membership.model import FEATURES, MembershipModel
from fastforget.membership.training import train_membership_model
from fastforget.sample_forgetting.learn_to_unlearn import learn_to_unlearn

Method = Callable[[nn.Module, Subject, Samples], object]


def by_class(*parts: Samples) -> list[tuple[Tensor, Tensor]]:
    """Return batches in the order of the classes, as in the code of SSD's authors."""
    x, y = torch.cat([part.x for part in parts]), torch.cat([part.y for part in parts])
    order = y.sort(stable=True).indices
    return [(x[rows], y[rows]) for rows in order.split(64)]


def membership_models(model: nn.Module, subject: Subject, remain: Samples) -> list[MembershipModel]:
    """Train a membership model for each kind of features."""
    others = unseen(subject, remain)
    return [train_membership_model(model, remain, others, features=features) for features in FEATURES]


def unseen(subject: Subject, remain: Samples) -> Samples:
    """Return samples that the network was not trained on: as many as remain, between 500 and 2,000."""
    return subject.held_out.first(max(len(remain.y), 500))


def unlearn(model: nn.Module, subject: Subject, remain: Samples, **settings: object) -> None:
    """Learn to unlearn. ``membership=True`` also trains membership models, and their time counts."""
    twins = settings.pop("twins", True)
    given: dict[str, object] = {"unseen": unseen(subject, remain) if twins else None, "undo": False}
    if settings.pop("membership", False):
        given["attacks"] = membership_models(model, subject, remain)
    learn_to_unlearn(model, subject.forget, remain, **given, **settings)  # type: ignore[arg-type]


def one_shot_images(model: nn.Module, subject: Subject, remain: Samples) -> None:
    """Forget the class in one step, with 16 images of each class as codes."""
    classes = int(subject.test.y.max()) + 1
    cls = int(subject.forget.y[0])
    images = [(subject.forget if c == cls else remain[remain.y == c]).x[:16] for c in range(classes)]
    one_shot(model, MnemonicCodes.from_tensors(torch.stack(images)), cls)


def _baseline(function: Callable[..., object]) -> Method:
    return lambda model, subject, remain: function(model, subject.forget, remain)


def _ssd(function: Callable[..., object], **settings: object) -> Method:
    def method(model: nn.Module, subject: Subject, remain: Samples) -> None:
        everything = by_class(subject.forget, remain)
        function(model, by_class(subject.forget), [], everything=everything, **settings)

    return method


def _shuffled(function: Callable[..., object]) -> Method:
    def method(model: nn.Module, subject: Subject, remain: Samples) -> None:
        torch.manual_seed(0)
        everything = Samples(*map(torch.cat, zip(*by_class(subject.forget, remain), strict=True)))
        function(model, subject.forget, [], everything=everything)

    return method


_PLAIN = {"support": "random", "target": "unseen"}
METHODS: dict[str, Method] = {
    "original": lambda *_: None,
    "fine-tune": _baseline(baselines.fine_tune),
    "CF-k": _baseline(baselines.cf_k),
    "NegGrad": _baseline(baselines.neg_grad),
    "NegGrad+": _baseline(baselines.neg_grad_plus),
    "random labels": _baseline(baselines.random_labels),
    "SalUn": _baseline(baselines.salun),
    "SSD, ordered batches": _ssd(baselines.ssd),
    "SSD, shuffled batches": _shuffled(baselines.ssd),
    "SSD, per sample": _ssd(baselines.ssd, alpha=5.0, square="sample"),
    "LFSSD, shuffled batches": _shuffled(baselines.lfssd),
    "LFSSD, per sample": _ssd(baselines.lfssd, alpha=5.0, square="sample"),
    "Fisher forgetting": _baseline(baselines.fisher_forgetting),
    "SCRUB": _baseline(baselines.scrub),
    "Bad Teacher": _baseline(baselines.bad_teacher),
    "UNSIR": _baseline(baselines.unsir),
    "L1-sparse": _baseline(baselines.l1_sparse),
    "ASSD, shuffled batches": _shuffled(baselines.assd),
    "JiT": _baseline(baselines.jit),
    "Kodge's SVD": _baseline(baselines.class_svd),
    "LoTUS": lambda model, subject, remain: baselines.lotus(
        model, subject.forget, remain, unseen=unseen(subject, remain)
    ),
    "DELETE": _baseline(baselines.delete),
    "boundary shrink": _baseline(baselines.boundary_shrink),
    "boundary expand": _baseline(baselines.boundary_expand),
    "one-shot, 16 images": one_shot_images,
    "learn to unlearn": unlearn,
    "learn to unlearn, with membership models": partial(unlearn, membership=True),
}
# What each part of the method contributes. All but the last three use membership models.
ABLATIONS: dict[str, Method] = {
    "everything": partial(unlearn, membership=True),
    "no trial step": partial(unlearn, membership=True, meta=False),
    "no harmonisation": partial(unlearn, membership=True, project="none"),
    "what remains yields": partial(unlearn, membership=True, project="remain"),
    "both yield": partial(unlearn, membership=True, project="both"),
    "conflicts in each tensor": partial(unlearn, membership=True, scope="tensor"),
    "second order": partial(unlearn, membership=True, order=2),
    "Adam, 1e-3": partial(unlearn, membership=True, optimizer=partial(torch.optim.Adam, lr=1e-3)),
    "no twins: random labels, what attacks say on average": partial(unlearn, membership=True, twins=False, **_PLAIN),
    "no twins for the labels": partial(unlearn, membership=True, support="random"),
    "no twins for the attacks": partial(unlearn, membership=True, target="unseen"),
    "no membership models": unlearn,
    "no membership models, no trial step": partial(unlearn, meta=False),
    "no membership models, no twins": partial(unlearn, twins=False, **_PLAIN),
}
# The methods that move far enough to forget, with 0.1 to 10 times the learning rate of their papers.
RATES: dict[str, Method] = {
    f"{name}, learning rate {times:g} times": _baseline(partial(function, lr=times * rate))
    for name, function, rate in (
        ("NegGrad+", baselines.neg_grad_plus, 0.01),
        ("random labels", baselines.random_labels, 1e-4),
        ("SalUn", baselines.salun, 0.013),
        ("SCRUB", baselines.scrub, 5e-4),
        ("Bad Teacher", baselines.bad_teacher, 1e-4),
    )
    for times in (0.1, 0.3, 1, 3, 10)
}
FOR_CLASSES = ("UNSIR", "Kodge's SVD", "one-shot, 16 images")
