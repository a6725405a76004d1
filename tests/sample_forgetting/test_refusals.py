"""What learning to unlearn refuses, and in which words."""

import math
from typing import Any

import pytest
from known_codes import refused
from learners import CLASSES, FORGET, MEMBERS, OTHERS, REMAIN, learner
from sample_forgetting.calls import few_steps
from torch import nn
from torch.utils.data import DataLoader, Subset, SubsetRandomSampler, TensorDataset

from fastforget import ForgettingError, learn_to_unlearn
from fastforget.membership.model import MembershipModel

# Refusals

X, Y = FORGET[0]


def of_other_classes() -> MembershipModel:
    found = MembershipModel("loss", 7)
    found.unseen = 0.5
    return found


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"forget": []}, ValueError, "^`forget` must hold at least one batch"),
    ({"remain": []}, ValueError, "^`remain` must hold at least one batch"),
    ({"remain": iter(())}, ValueError, "^`remain` must hold at least one batch"),
    ({"forget": REMAIN}, ValueError, "^`forget` and `remain` must not be the same object"),
    ({"forget": [(X, Y + CLASSES)]}, ValueError, r"^targets of `forget` must be in \[0, 4\), got values from 4"),
    ({"remain": [(X, Y - 9)]}, ValueError, r"^targets of `remain` must be in \[0, 4\)"),
    (
        {"remain": [(X, Y.float())]},
        TypeError,
        r"^targets of `remain` must be torch\.int64 \[N\], got torch\.float32 \(\d+,\)$",
    ),
    ({"remain": [(X, 3)]}, TypeError, r"^targets of `remain` must be torch\.int64 \[N\], got int$"),
    ({"remain": [(X, Y[:3])]}, ValueError, "^`targets` must have the batch size"),
    ({"forget": [(X * math.nan, Y)]}, ValueError, "^models must return finite logits on `forget`"),
    ({"remain": [*REMAIN, (X * math.nan, Y)], "steps": 20}, ValueError, "^the losses must stay finite"),
    ({"unseen": []}, ValueError, "^`unseen` must hold at least one batch"),
    ({"unseen": [(X, Y + CLASSES)]}, ValueError, r"^targets of `unseen` must be in \[0, 4\)"),
    ({"unseen": [(X[Y != 1], Y[Y != 1])]}, ValueError, "^`unseen` must hold samples of every class .* got none of 1$"),
    ({"support": "counterfactual"}, ValueError, "^`unseen` must hold samples of every class"),
    ({"target": "counterfactual"}, ValueError, "^`unseen` must hold samples of every class"),
    ({"lr": 1e30}, ValueError, "must stay finite"),
    ({"steps": 0}, ValueError, "^`steps` must be at least 1, got 0$"),
    ({"steps": 2.0}, TypeError, "^`steps` must be an integer, got float$"),
    ({"every": 0}, ValueError, "^`every` must be at least 1, got 0$"),
    ({"queries": 0}, ValueError, "^`queries` must be at least 1, got 0$"),
    ({"seed": -1}, ValueError, "^`seed` must be at least 0, got -1$"),
    ({"lr": math.nan}, ValueError, r"^`lr` must lie in \(0, inf\), got nan$"),
    ({"trial": -1}, ValueError, r"^`trial` must lie in \(0, inf\), got -1$"),
    ({"weight": math.inf}, ValueError, r"^`weight` must lie in \[0, inf\), got inf$"),
    ({"tune": -1}, ValueError, r"^`tune` must lie in \[0, inf\), got -1$"),
    ({"target": 0}, ValueError, "^`target` must be one of"),
    ({"lr": "0.1"}, TypeError, "^`lr` must be a number"),
    ({"meta": 1}, TypeError, "^`meta` must be a bool"),
    ({"output_row": 1}, TypeError, "^`output_row` must be a bool or None, got int$"),
    ({"output_depth": "12"}, TypeError, "^`output_depth` must be a number"),
    ({"output_depth": -1.0}, ValueError, r"^`output_depth` must lie in \(0, inf\), got -1.0$"),
    ({"output_depth": math.nan}, ValueError, r"^`output_depth` must lie in \(0, inf\), got nan$"),
    ({"order": 3}, ValueError, "^`order` must be one of 1, 2, got 3$"),
    ({"support": "noise"}, ValueError, "^`support` must be one of"),
    ({"project": "all"}, ValueError, "^`project` must be one of"),
    ({"scope": "layer"}, ValueError, "^`scope` must be one of"),
    ({"attacks": [nn.Linear(1, 1)]}, TypeError, "^`attacks` must be membership models, got Linear"),
    ({"attacks": [of_other_classes().to("meta")]}, ValueError, "^`attacks` must be on the model's device"),
    ({"attacks": [MembershipModel("loss", 4)]}, ValueError, "^`attacks` must be trained, got one that says nan"),
    ({"attacks": [of_other_classes()]}, ValueError, r"^`logits` must be \[N, 7\]"),
    ({"checkpoint": "/nowhere/at/all/file"}, ValueError, "^`checkpoint` must be in a folder that is there"),
    ({"optimizer": lambda _: None}, TypeError, "^`optimizer` must return a torch.optim.Optimizer"),
    ({"parameters": ["5.weight"]}, ValueError, "^`parameters` must name parameters"),
    ({"floor": 0.5}, TypeError, "^`floor` must be"),
    ({"floor": (X, Y, 1.5)}, ValueError, "^the accuracy of `floor` must lie in"),
    ({"floor": (X, Y, "1")}, TypeError, "^the accuracy of `floor` must be a number"),
    ({"floor": (X, Y.float(), 0.5)}, TypeError, "^the targets of `floor`"),
    ({"floor": (X, (Y + 1) % CLASSES, 0.9)}, ValueError, "^`floor` must be at most the accuracy before"),
    ({"floor": (X, Y, 0.99), "lr": 10.0}, ForgettingError, "^the first step falls below the floor already"),
]


@pytest.mark.parametrize(("change", "error", "text"), REFUSED)
def test_refused(change: dict[str, Any], error: type[Exception], text: str) -> None:
    given = {"forget": FORGET, "remain": REMAIN, "steps": 3, **change}
    model = learner()
    with refused(model, error, text):
        learn_to_unlearn(model, **given)


def test_a_model_in_train_mode() -> None:
    model = learner()
    model[3].train()
    with refused(model, ValueError, "^`model` must be in eval mode"):
        learn_to_unlearn(model, FORGET, REMAIN)


def test_samples_on_both_sides_are_found() -> None:
    data = TensorDataset(*MEMBERS)
    forget, remain = Subset(data, range(50)), Subset(Subset(data, range(20, 400)), range(40))
    model = learner()
    with refused(model, ValueError, "^`forget` and `remain` must have no samples in common, got 30, for instance 20$"):
        few_steps(model, DataLoader(forget, 10), DataLoader(remain, 10))
    few_steps(model, DataLoader(forget, 10), DataLoader(Subset(data, range(50, 400)), 10))
    few_steps(model, DataLoader(forget, 10), DataLoader(TensorDataset(*OTHERS), 10))
    loaders = [
        DataLoader(data, 10, sampler=SubsetRandomSampler(range(*ends))) for ends in ((0, 50), (50, 400), (49, 99))
    ]
    few_steps(model, *loaders[:2])
    with refused(model, ValueError, "^`forget` and `remain` must have no samples in common, got 1, for instance 49$"):
        few_steps(model, loaders[0], loaders[2])
    few_steps(model, loaders[0], DataLoader(data, batch_sampler=[[0, 1]]))  # nobody can say
