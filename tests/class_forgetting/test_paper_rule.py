"""The paper's rule: how far each tensor moves."""

import torch
from torch import nn

from fastforget.class_forgetting.code_batch import CodeBatch
from fastforget.class_forgetting.paper_rule import take_paper_step
from fastforget.class_forgetting.sensitivity import Sensitivity
from fastforget.class_forgetting.settings import PaperSettings
from fastforget.fisher import FisherDiagonal


def test_paper_rule_bounds() -> None:
    """lambda2 is the largest change where a parameter is sensitive, lambda1 the scale where none is."""
    model = nn.Linear(2, 2).eval()
    ratios = {"weight": torch.tensor([[4.0, 1.0], [2.0, 1.0]]), "bias": torch.tensor([1e-3, 1e-4])}
    fisher = FisherDiagonal(
        {name: torch.stack([value, torch.ones_like(value)]) for name, value in ratios.items()},
        gradient=None,
        fallback={},
        losses=torch.zeros(0),
    )
    codes = CodeBatch(torch.zeros(2, 2), torch.tensor([0, 1]), torch.ones(2), class_rows=((0,),))
    originals = {name: p.detach().clone() for name, p in model.named_parameters()}
    parameters = dict(model.named_parameters())
    settings = PaperSettings(lambda1=0.5, lambda2=0.1)
    step = take_paper_step(model, parameters, Sensitivity.of_groups(fisher).into_ratios(), codes, settings)
    moved = {name: step.stage.parameters[name] - originals[name] for name in originals}
    torch.testing.assert_close(moved["weight"] * step.alpha, ratios["weight"] * 0.1 / 4, rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(moved["bias"] * step.alpha, ratios["bias"] * 0.5, rtol=1e-3, atol=1e-7)
    step.retake(0.5)
    torch.testing.assert_close(step.stage.parameters["weight"] - originals["weight"], moved["weight"] / 2)
