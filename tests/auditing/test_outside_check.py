"""The audit agrees with the attacks of the adversarial-robustness-toolbox."""

from typing import Any

import numpy as np
import pytest
import torch
from asserts import assert_close
from learners import CLASSES, FORGET, FRESH, OTHERS, REMAIN, SIZE, batches, learner
from torch import Tensor, nn

from fastforget import audit, learn_to_unlearn
from fastforget.membership.area import area_under_curve

inference = pytest.importorskip("art.attacks.inference.membership_inference")
classification = pytest.importorskip("art.estimators.classification")

UNSEEN = batches(FRESH)


def wrapped(model: nn.Module) -> Any:
    return classification.PyTorchClassifier(
        model=model, loss=nn.CrossEntropyLoss(), input_shape=(SIZE,), nb_classes=CLASSES
    )


def arrays(data: list[tuple[Tensor, Tensor]]) -> tuple[Any, Any]:
    x, y = (torch.cat(parts) for parts in zip(*data, strict=True))
    return x.numpy(), y.numpy()


def unlearned() -> nn.Module:
    model = learner()
    learn_to_unlearn(model, FORGET, REMAIN, unseen=batches(OTHERS))
    return model


@pytest.mark.parametrize("make", [learner, unlearned])
def test_the_attack_by_correctness_agrees(make: Any) -> None:
    """The areas of the classes are averaged with their shares of the samples to forget, as in the audit."""
    model = make()
    attack = inference.MembershipInferenceBlackBoxRuleBased(wrapped(model))
    (x, y), (x_unseen, y_unseen) = arrays(FORGET), arrays(UNSEEN)
    caught, wrong = attack.infer(x, y), attack.infer(x_unseen, y_unseen)
    area = 0.0
    for label in range(CLASSES):
        apart = caught[y == label].mean() - wrong[y_unseen == label].mean()
        area += (y == label).mean() * (0.5 + apart / 2)
    found = audit(model, FORGET, REMAIN, UNSEEN, relearning_steps=0).metrics["attack: correctness"].value
    assert found is not None
    assert_close(torch.tensor(found), torch.tensor(area), 1e-6)


def test_the_attack_by_loss_agrees() -> None:
    """The attack is a logistic regression on the loss, trained on other members and non-members."""
    found: dict[str, tuple[float, float]] = {}
    for name, model in (("before", learner()), ("after", unlearned())):
        attack = inference.MembershipInferenceBlackBox(wrapped(model), attack_model_type="lr", input_type="loss")
        attack.fit(*arrays(REMAIN), *arrays(batches(OTHERS)))
        scores = [
            torch.from_numpy(np.ravel(attack.infer(*arrays(data), probabilities=True))) for data in (FORGET, UNSEEN)
        ]
        ours = audit(model, FORGET, REMAIN, UNSEEN, relearning_steps=0).metrics["attack: loss"].value
        assert ours is not None
        found[name] = area_under_curve(*scores), ours
    assert min(found["before"]) > 0.7
    assert max(abs(area - 0.5) for area in found["after"]) < 0.1
    assert all(abs(outside - ours) < 0.05 for outside, ours in found.values())
