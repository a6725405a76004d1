"""Map a Fisher diagonal over replicas with Ray, forget a class in one process, and bring the edit to all replicas.

    # with the extra services
    python examples/ray_fisher.py --folder service --replicas 2 --forget 3

Each replica, on one machine or many, computes the Fisher of its own share of the codes. The shares are added up here,
in the order of the replicas, to the sum over all codes. With that sum, `one_shot` runs the codes to forget alone. Its
receipt goes to the replicas as a file's bytes; each makes the same edit, to the bit, and names its fingerprint.
"""

from __future__ import annotations

import argparse
import tempfile
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path

import digits_service
import ray
from torch import nn

import fastforget
from fastforget import FisherDiagonal, MnemonicCodes, Receipt


@ray.remote(num_cpus=0.5)
class Replica:
    """A copy of the network, with its share of the codes."""

    def __init__(self, model: nn.Module, codes: MnemonicCodes, start: int, stop: int) -> None:
        self.model = model
        self.inputs, self.labels = codes.inputs[start:stop], codes.labels[start:stop]

    def fisher(self) -> FisherDiagonal:
        return fastforget.fisher_diagonal(self.model, self.inputs, self.labels, reduction="sum")

    def edit(self, receipt: bytes) -> str:
        """Make an edit; return the fingerprint of the network after it."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "receipt.safetensors"
            path.write_bytes(receipt)
            Receipt.load(path).apply(self.model)
        return fastforget.fingerprint(self.model)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("service"), help="network and codes")
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--forget", type=int, default=3, metavar="CLASS")
    given = parser.parse_args()
    digits_service.prepare(given.folder)
    model, codes = digits_service.load(given.folder)
    samples = len(codes.labels)
    bounds = [samples * replica // given.replicas for replica in range(given.replicas + 1)]
    ray.init(include_dashboard=False, logging_level="warning", log_to_driver=False)
    try:
        shared = ray.put(model), ray.put(codes)  # once for all replicas
        replicas = [Replica.remote(*shared, *share) for share in pairwise(bounds)]  # type: ignore[attr-defined]
        shares = ray.get([replica.fisher.remote() for replica in replicas])
        total = reduce(add, shares)
        print(f"the Fisher of {total.samples} codes, in shares of {[share.samples for share in shares]}")
        receipt = fastforget.one_shot(model, codes, given.forget, fisher=total)
        receipt.save(given.folder / "receipt.safetensors")
        written = ray.put((given.folder / "receipt.safetensors").read_bytes())
        found = ray.get([replica.edit.remote(written) for replica in replicas])
        same = sum(fingerprint == receipt.after for fingerprint in found)
        known = int((model(codes.inputs).argmax(1) == given.forget).sum())
        print(f"forgot class {given.forget}: {known} codes are assigned to it; {same} of {len(found)} replicas match")
    finally:
        ray.shutdown()


if __name__ == "__main__":
    main()
