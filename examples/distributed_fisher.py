"""Sum the Fisher over data that is divided among processes, and edit sharded parameters where it is largest.

    torchrun --standalone --nproc-per-node 2 examples/distributed_fisher.py

Every process holds a copy of the model. It computes the Fisher of its own samples, in one backward for all of them. The
sum is scattered to the shards of the parameters: no process ever holds all of it.
"""

import os
import sys

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

import fastforget
from fastforget import distributed

SAMPLES = 1000


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 10)).eval()


def gathered(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def main() -> None:
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    generator = torch.Generator().manual_seed(0)
    inputs, targets = torch.randn(SAMPLES, 32, generator=generator), torch.arange(SAMPLES) % 10

    copy = network()
    own = slice(rank, None, ranks)  # in practice, the samples that this process reads
    fisher = fastforget.fisher_diagonal(copy, inputs[own], targets[own], reduction="sum", with_gradient=True)

    sharded = network()
    fully_shard(sharded, mesh=init_device_mesh("cpu", (ranks,)))
    total = distributed.merge_sharded(fisher, sharded, reduction="mean")
    mask = distributed.topk_mask(total, 0.01)
    receipt = distributed.perturb(sharded, total.gradient or {}, mask, alpha=-1.0)
    print(f"rank {rank}: {total.samples} samples in all, changed {receipt.changed} of {receipt.total} elements here")

    # the same in one process
    whole = fastforget.fisher_diagonal(copy, inputs, targets)
    expected = fastforget.topk_mask(whole, 0.01)
    same = sum(int((gathered(mask[name]) == expected[name]).sum()) for name in expected)
    if rank == 0:
        print(f"one process marks the same on {same} of {sum(m.numel() for m in expected.values())} elements")

    distributed.revert(receipt, sharded)
    equal = all(bool((gathered(p) == copy.get_parameter(n)).all()) for n, p in sharded.named_parameters())
    print(f"rank {rank}: reverted, every value back: {equal}")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
    # Once a DTensor was gathered, PyTorch keeps gloo's threads, also when the group is destroyed. One that frees a
    # tensor while Python shuts down aborts the process, so the process ends without shutting Python down.
    sys.stdout.flush()
    os._exit(0)
