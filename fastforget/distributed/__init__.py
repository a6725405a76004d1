"""The same steps where data and parameters are spread over ranks of `torch.distributed`.

Every function is called by all ranks of a group, on its own part, and communicates counts, sums and lines of text:
parameters are never gathered. An error on one rank is raised on all. See docs/guide/scale.md for what is sent and held.
"""

from fastforget.distributed.fisher import fisher_diagonal
from fastforget.distributed.merging import merge, merge_sharded
from fastforget.distributed.natural_forgetting import natural_step
from fastforget.distributed.perturbation import apply, perturb, revert
from fastforget.distributed.sharding import local_shards
from fastforget.distributed.topk import topk_mask

__all__ = [
    "apply",
    "fisher_diagonal",
    "local_shards",
    "merge",
    "merge_sharded",
    "natural_step",
    "perturb",
    "revert",
    "topk_mask",
]
