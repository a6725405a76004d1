"""DistributedDataParallel: the same edit on all ranks, or none where ranks would drift apart."""

import copy
import warnings

import pytest
import torch
import torch.distributed as dist
from distributed.ranks import Ranks
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fastforget import MnemonicCodes, learn_to_unlearn, one_shot
from fastforget.baselines import neg_grad, scrub
from fastforget.classifier.fingerprint import fingerprint


def check_edits() -> None:
    codes = MnemonicCodes.generate(3, (16,), per_class=1)
    bare = nn.Sequential(nn.Linear(16, 3)).eval()
    with torch.no_grad():
        bare[0].weight.copy_(codes.tensor.squeeze(1))
        bare[0].bias.zero_()  # type: ignore[union-attr]
    served = DistributedDataParallel(copy.deepcopy(bare)).eval()
    assert one_shot(served, codes, 1).after == one_shot(bare, codes, 1).after == fingerprint(served)
    batches = [(torch.randn(6, 16), torch.arange(6) % 3) for _ in range(3)]
    edits = (
        lambda: learn_to_unlearn(served, batches[:1], batches[1:], steps=1),
        lambda: neg_grad(served, batches, batches),
        lambda: scrub(served, batches[:1], batches[1:]),
    )
    if dist.get_world_size() == 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for edit in edits:
                edit()
        assert fingerprint(served) != fingerprint(bare)
        return
    text = f"^`model` must be whole, got DistributedDataParallel over {dist.get_world_size()} ranks, whose replicas"
    for edit in edits:
        with pytest.raises(ValueError, match=text):
            edit()
    assert fingerprint(served) == fingerprint(bare)


def test_edits(ranks: Ranks) -> None:
    ranks.run(check_edits)
