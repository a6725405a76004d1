"""Forget a class in a model that `fully_shard` spread over processes. Every process keeps a receipt of its own part.

    torchrun --standalone --nproc-per-node 2 examples/distributed_forgetting.py

Each process uses a GPU of its own; without any, all share the CPU. The data are points around ten centres.
"""

import argparse
import os
import sys
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from fastforget import MnemonicCodes, Receipt, distributed

CLASSES, INPUTS, CLS = 10, 32, 3


def points(count: int, seed: int) -> tuple[Tensor, Tensor]:
    centres = torch.randn(CLASSES, INPUTS, generator=torch.Generator().manual_seed(0))
    generator = torch.Generator().manual_seed(seed)
    targets = torch.randint(CLASSES, (count,), generator=generator)
    return centres[targets] + 0.7 * torch.randn(count, INPUTS, generator=generator), targets


def main(folder: Path, steps: int) -> None:
    device = torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()

    torch.manual_seed(0)  # the same weights everywhere, before they are sharded
    model = nn.Sequential(nn.Linear(INPUTS, 256), nn.ReLU(), nn.Linear(256, 128), nn.ReLU(), nn.Linear(128, CLASSES))
    mesh = init_device_mesh(device.type, (ranks,))
    for layer in model.to(device):
        if isinstance(layer, nn.Linear):
            fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)

    codes = MnemonicCodes.generate(CLASSES, (INPUTS,)).to(device)
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for step in range(steps):
        inputs, targets = (part.to(device) for part in points(128 // ranks, seed=1 + step * ranks + rank))
        loss = F.cross_entropy(model(codes.embed(inputs, targets, rate=0.3)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    model.eval()

    def tell(when: str) -> None:
        inputs, targets = (part.to(device) for part in points(2000, seed=999))
        with torch.no_grad():  # every process takes part: the parameters are gathered layer by layer
            codes_right = model(codes.inputs).argmax(1) == codes.labels
            right = model(inputs).argmax(1) == targets
        forget = targets == CLS
        if rank == 0:
            print(
                f"{when}: accuracy on class {CLS} {right[forget].float().mean():.1%}, on the others "
                f"{right[~forget].float().mean():.1%}; codes known of class {CLS}: "
                f"{int(codes_right[codes.labels == CLS].sum())} of {codes.per_class}, of the others: "
                f"{int(codes_right[codes.labels != CLS].sum())} of {len(codes.labels) - codes.per_class}"
            )

    tell("before")
    receipt = distributed.natural_step(model, codes, CLS, rho=0.02)
    tell("after")
    receipt.save(folder / f"forgot-{CLS}-{rank}-of-{ranks}.safetensors")
    print(f"rank {rank}: {receipt}")
    distributed.revert(Receipt.load(folder / f"forgot-{CLS}-{rank}-of-{ranks}.safetensors"), model)
    tell("reverted")
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(), help="folder for the receipts")
    parser.add_argument("--steps", type=int, default=200, help="training steps")
    main(**vars(parser.parse_args()))
    # Once a DTensor was gathered, PyTorch keeps gloo's threads, also when the group is destroyed. One that frees a
    # tensor while Python shuts down aborts the process, so the process ends without shutting Python down.
    sys.stdout.flush()
    os._exit(0)
