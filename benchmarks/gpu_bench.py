"""Time the CUDA kernels and the calls built on them, beside PyTorch's own ways and the machine's measured rates.

python benchmarks/gpu_bench.py --seconds 160          all rows; a row without time left is reported as left out
python benchmarks/gpu_bench.py --device cpu --small   smoke mode: shows that every row runs; nothing is saved

Every row is checked before it is timed. A row that fails is recorded with its error, and the rest goes on. Results are
medians by CUDA events after a warm-up; those of kernels by the replay of a CUDA graph, so that they hold no time of the
host. Inputs are taken in turn, so that they do not sit in the L2 cache. Results are saved after every row, to $OUT or
benchmarks/results, as gpu-<device>.json and gpu-<device>.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import torch
from gpu.forgetting import forgetting, thousand_classes
from gpu.lists import lists
from gpu.measuring import PRECISIONS, Bench
from gpu.models import MODELS
from gpu.rates import rates
from gpu.report import facts, slug, table
from gpu.weight_kernels import kernels, vit_in_all
from gpu.whole_models import whole

from fastforget import ops


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300, help="no row is begun after so long")
    parser.add_argument("--device", default="cuda", help=argparse.SUPPRESS)
    parser.add_argument("--small", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not ops.cuda_built():
        text = "gpu_bench: there must be a CUDA device and kernels for it (FASTFORGET_CUDA=1), got none"
        print(text, file=sys.stderr)
        return 1
    bench, about = Bench(device, small=arguments.small, seconds=arguments.seconds), facts(device)
    folder = Path(os.environ.get("OUT") or Path(__file__).parent / "results")

    def save() -> None:
        folder.mkdir(parents=True, exist_ok=True)
        stem = folder / f"gpu-{slug(about['device'])}"
        stem.with_suffix(".json").write_text(json.dumps({"facts": about, "rows": bench.rows}, indent=1) + "\n")
        stem.with_suffix(".md").write_text(table(about, bench.rows))

    if device.type == "cuda" and not arguments.small:
        bench.save = save
    rates(bench)  # then the rows that bars are on, in case that time runs out
    kernels(bench, "bf16")
    bench.row("weight kernels of ViT-B/16 b64 in all, bf16", lambda: vit_in_all(bench))
    lists(bench)
    for name, (build, kind) in MODELS.items():
        bench.row(f"fisher_diagonal {name}, {kind}", lambda b=build, k=kind: whole(bench, b, k))
    for name, settings in {"natural": {}, "natural, kept Fisher": {"kept": True}}.items():
        bench.row(
            f"one_shot ResNet-18 224, 1000 codes, {name}",
            lambda s=settings: forgetting(bench, thousand_classes, **s),
        )
    for name, settings in {"natural": {}, "natural, kept Fisher": {"kept": True}, "paper": {"rule": "paper"}}.items():
        bench.row(f"one_shot ResNet-18 CIFAR, {name}", lambda s=settings: forgetting(bench, **s))
    for name in PRECISIONS:
        if name != "bf16":
            kernels(bench, name)
    print("\n" + table(about, bench.rows))
    return int(any(row.get("error") for row in bench.rows))


if __name__ == "__main__":
    sys.exit(main())
