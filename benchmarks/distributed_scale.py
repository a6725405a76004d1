"""Spread a large model over processes of one machine; measure seconds, bytes sent and memory of every step.

    python benchmarks/distributed_scale.py --save benchmarks/results/distributed-scale.json

A residual network of 12 layers of 4096 x 4096 has 202 million parameters. `fully_shard` spreads it over 4 processes
(gloo). Its head is set so that it knows its codes. Before, the same steps on a small network are compared with those of
a single process. The processes share the machine's cores and talk over its loopback. So the seconds only show that the
steps end. Bytes and memory are what they would be on machines of their own.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import machine
import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard

import fastforget
from fastforget import FisherDiagonal, MnemonicCodes, distributed

CLASSES, PER_CLASS, INPUTS, RHO = 10, 4, 256, 0.003
# What a rank of W sends per byte that it passes in: the least that any algorithm needs.
SENT: dict[str, Callable[[int], float]] = {
    "all_gather": lambda ranks: ranks - 1,
    "all_gather_single": lambda ranks: ranks - 1,
    "all_gather_into_tensor": lambda ranks: ranks - 1,
    "all_reduce": lambda ranks: 2 * (ranks - 1) / ranks,
    "all_to_all_single": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter_single": lambda ranks: (ranks - 1) / ranks,
    "reduce_scatter_tensor": lambda ranks: (ranks - 1) / ranks,
}
FULLY_SHARD = {"all_gather_single", "all_gather_into_tensor", "reduce_scatter_single", "reduce_scatter_tensor"}


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.linear = nn.LayerNorm(width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.relu(self.linear(self.norm(x)))


def network(width: int, layers: int) -> nn.Module:
    blocks = [Block(width) for _ in range(layers)]
    return nn.Sequential(nn.Linear(INPUTS, width), *blocks, nn.LayerNorm(width), nn.Linear(width, CLASSES)).eval()


def sharded_network(width: int, layers: int) -> nn.Module:
    """Make the network as shards: no process ever holds all of it."""
    with torch.device("meta"):
        model = network(width, layers)
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh).to_empty(device="cpu")
    for at, (name, parameter) in enumerate(distributed.local_shards(model).named_parameters()):
        generator = torch.Generator().manual_seed(1000 * at + dist.get_rank())
        fan_in = parameter.shape[-1] if parameter.dim() == 2 else 1
        if name.endswith("weight") and parameter.dim() == 2:
            parameter.copy_(torch.randn(parameter.shape, generator=generator)).div_(fan_in**0.5)
        else:
            parameter.fill_(float(name.endswith("weight")))
    return model


def make_codes() -> MnemonicCodes:
    """Make codes that resemble each other within a class, so that even random weights tell classes apart."""
    generator = torch.Generator().manual_seed(0)
    classes = torch.randn(CLASSES, 1, INPUTS, generator=generator)
    return MnemonicCodes(classes + 0.3 * torch.randn(CLASSES, PER_CLASS, INPUTS, generator=generator))


def teach(model: nn.Module, codes: MnemonicCodes) -> None:
    """Set the head from the mean features of each class, so that every code has log-odds of at least 6."""
    seen: list[Tensor] = []
    handle = model[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        model(codes.inputs)
    handle.remove()
    middle = seen[0].mean(0)
    means = (seen[0] - middle).view(CLASSES, PER_CLASS, -1).mean(1)
    logits = (seen[0] - middle) @ means.T
    own = logits.gather(1, codes.labels[:, None])
    others = logits.scatter(1, codes.labels[:, None], float("-inf")).max(1, keepdim=True).values
    scale = float((6 + torch.tensor(float(CLASSES)).log()) / (own - others).min())
    parts = distributed.local_shards(model)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    for name, whole in (("weight", scale * means), ("bias", -scale * means @ middle)):
        chunks = whole.chunk(ranks)
        if rank < len(chunks):
            parts.get_parameter(f"{len(model) - 1}.{name}").copy_(chunks[rank])


class Meter:
    """Seconds and bytes sent by phase, and the peak memory of the process so far."""

    def __init__(self) -> None:
        self.phases: dict[str, dict[str, float]] = {}
        self._sent = {"sent": 0.0, "sent_by_fully_shard": 0.0}
        for name, share in SENT.items():
            if hasattr(dist, name):
                setattr(dist, name, self._counted(name, getattr(dist, name), share))

    def _counted(self, name: str, function: Callable[..., Any], share: Callable[[int], float]) -> Callable[..., Any]:
        def counted(*args: Any, **kwargs: Any) -> Any:
            given = args[0] if name == "all_reduce" else kwargs.get("input", args[1] if len(args) > 1 else None)
            if given is None:
                given = kwargs["input_tensor"]
            who = "sent_by_fully_shard" if name in FULLY_SHARD else "sent"
            self._sent[who] += given.numel() * given.element_size() * share(dist.get_world_size())
            return function(*args, **kwargs)

        return counted

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        dist.barrier()
        started, before = time.perf_counter(), dict(self._sent)
        yield
        dist.barrier()
        self.phases[name] = {
            "seconds": round(time.perf_counter() - started, 2),
            **{who: round(self._sent[who] - before[who]) for who in before},
            "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
        }


def own_sum(sizes: list[int], seed: int) -> FisherDiagonal:
    """Return what a rank with a whole copy of the model contributes: a sum over its own samples."""
    generator = torch.Generator().manual_seed(seed)
    values = {str(at): torch.rand(size, 1024, generator=generator) for at, size in enumerate(sizes)}
    return FisherDiagonal(
        values, gradient=None, fallback={}, losses=torch.zeros(0), reduction="sum", model="m", samples=8
    )


def merging(meter: Meter, rows: int, layers: int) -> int:
    sums = own_sum([rows] * layers, dist.get_rank())
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    mine = -(-rows // dist.get_world_size())
    shards = {name: DTensor.from_local(torch.empty(mine, 1024), mesh, [Shard(0)], run_check=False) for name in sums}
    with meter.phase("merge_sharded"):
        distributed.merge_sharded(sums, shards)
    return sum(value.numel() for value in sums.values())


def forgetting(meter: Meter, width: int, layers: int) -> dict[str, Any]:
    codes = make_codes()
    with meter.phase("make the network"):
        model = sharded_network(width, layers)
        teach(model, codes)
    rank, ranks = dist.get_rank(), dist.get_world_size()
    inputs, labels = codes.inputs[codes.labels == 3][rank::ranks], codes.labels[codes.labels == 3][rank::ranks]
    held = fastforget.fingerprint(distributed.local_shards(model))
    with meter.phase("fisher_diagonal, a code per process"):
        fisher = distributed.fisher_diagonal(model, inputs, labels, with_gradient=True)
    with meter.phase("topk_mask"):
        mask = distributed.topk_mask(fisher, RHO)
    with meter.phase("perturb"):
        receipt = distributed.perturb(model, fisher.gradient or {}, mask, 0.1)
    receipt_bytes = sum(
        part.numel() * part.element_size()
        for edit in receipt.edits.values()
        for part in (edit.indices, edit.old, edit.new)
        if part is not None
    )
    with meter.phase("revert"):
        distributed.revert(receipt, model)
    del fisher, mask, receipt
    with meter.phase("natural_step, all of it"):
        step = distributed.natural_step(model, codes, 3, rho=RHO)
    with torch.no_grad():
        known = (model(codes.inputs).argmax(1) == codes.labels).view(CLASSES, PER_CLASS).float().mean(1)
    distributed.revert(step, model)
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "receipt_bytes": receipt_bytes,
        "changed_here": step.changed,
        "codes_of_the_class_known": float(known[3]),
        "codes_of_the_others_known": float(torch.cat([known[:3], known[4:]]).mean()),
        "evidence": dict(step.evidence),
        "every_bit_back": fastforget.fingerprint(distributed.local_shards(model)) == held,
    }


def equals_single_process() -> dict[str, bool]:
    """Compare the same steps on a small network with the result of one process."""
    model, codes = sharded_network(256, 2), make_codes()
    teach(model, codes)
    distributed.local_shards(model)
    whole = network(256, 2)
    for name, parameter in whole.named_parameters():
        parameter.data.copy_(model.get_parameter(name).full_tensor())
    rank, ranks = dist.get_rank(), dist.get_world_size()
    # labels that the model does not predict: where it is sure, the gradient p - 1 is a difference of near equals
    inputs, labels = codes.inputs, (codes.labels + 1) % CLASSES
    fisher = distributed.fisher_diagonal(model, inputs[rank::ranks], labels[rank::ranks], with_gradient=True)
    expected = fastforget.fisher_diagonal(whole, inputs, labels, with_gradient=True)
    gathered = {name: value.full_tensor() for name, value in fisher.items()}
    errors = [float((gathered[n] - value).norm() / value.norm()) for n, value in expected.items()]
    mask = distributed.topk_mask(fisher, RHO)
    same_mask = all(
        torch.equal(mask[name].full_tensor(), value) for name, value in fastforget.topk_mask(gathered, RHO).items()
    )
    receipt = distributed.natural_step(model, codes, 3, rho=0.05)
    fastforget.one_shot(whole, codes, 3, rho=0.05, output_row=False, widen=1.0)
    distributed.local_shards(model)
    with torch.no_grad():
        steps = [
            float((model.get_parameter(name).full_tensor() - p).norm() / p.norm().clamp(min=1))
            for name, p in whole.named_parameters()
        ]
    parts = [own_sum([7, 33], seed) for seed in range(ranks)]
    merged, total = distributed.merge(parts[rank]), FisherDiagonal.merge(parts)
    return {
        "fisher_within_1e-6": max(errors) <= 1e-6,
        "mask_same_bits": same_mask,
        "natural_step_within_1e-5": max(steps) <= 1e-5 and receipt.reversible,
        "merge_same_bits": all(torch.equal(merged[name], total[name]) for name in total),
    }


def work(rank: int, given: argparse.Namespace, rendezvous: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=given.ranks)
    equal = equals_single_process()
    meter = Meter()
    merged = merging(meter, given.merge_rows, given.layers)
    facts = forgetting(meter, given.width, given.layers)
    found: list[Any] = [None] * given.ranks
    dist.all_gather_object(found, {**facts, "phases": meter.phases, "equal": equal})
    if rank == 0:
        row = {
            "processes": given.ranks,
            "parameters": facts["parameters"],
            "merged_elements": merged,
            "codes": CLASSES * PER_CLASS,
            "equals_single_process": {key: all(one["equal"][key] for one in found) for key in equal},
            "every_bit_back": all(one["every_bit_back"] for one in found),
            "changed": sum(one["changed_here"] for one in found),
            **{key: facts[key] for key in ("codes_of_the_class_known", "codes_of_the_others_known", "evidence")},
            "receipt_bytes_of_a_process": max(one["receipt_bytes"] for one in found),
            "phases": {
                name: {key: max(one["phases"][name][key] for one in found) for key in phase}
                for name, phase in meter.phases.items()
            },
            "peak_bytes_of_a_process": max(one["phases"]["natural_step, all of it"]["peak_bytes"] for one in found),
        }
        Path(given.result).write_text(json.dumps(row))
    dist.barrier()  # else gloo's threads may free tensors after Python has ended
    dist.destroy_process_group()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, default=4)
    parser.add_argument("--width", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--merge-rows", type=int, default=8192, help="rows of 1024 in each of LAYERS merged tensors")
    parser.add_argument("--save", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given.result = str(Path(folder) / "row.json")
        torch.multiprocessing.spawn(work, (given, str(Path(folder) / "rendezvous")), nprocs=given.ranks)
        row = json.loads(Path(given.result).read_text())
    row = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "command": " ".join(["python benchmarks/distributed_scale.py", *sys.argv[1:]]),
        "commit": machine.commit(),
        "machine": machine.facts(),
        **row,
    }
    print(json.dumps(row))
    if given.save:
        given.save.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
