"""Membership models of the learner, and calls of few steps."""

from functools import cache, partial

import torch
from learners import MEMBERS, OTHERS, batches, learner

from fastforget import learn_to_unlearn
from fastforget.membership.model import MembershipModel
from fastforget.membership.training import train_membership_model


@cache
def attacks(count: int = 3) -> tuple[MembershipModel, ...]:
    names = ("loss", "confidences", "logits")
    return tuple(
        train_membership_model(learner(), batches(MEMBERS), batches(OTHERS), features=name, hidden=(16,), seed=seed)
        for seed, name in enumerate(names[:count])
    )


ADAM = partial(torch.optim.Adam, lr=3e-3)
few_steps = partial(learn_to_unlearn, steps=4)
