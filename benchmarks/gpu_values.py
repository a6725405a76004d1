"""Show in a minute that a device's kernels agree with those of the CPU. Sizes are small, so that sanitizers can watch.

python benchmarks/gpu_values.py                 every operator, and the calls built on them
python benchmarks/gpu_values.py --operators     the operators alone
python benchmarks/gpu_values.py --only linear   those whose names begin so
python benchmarks/gpu_values.py --device cpu    shows that this file runs
"""

from __future__ import annotations

import argparse
import copy
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import fastforget
from fastforget import MnemonicCodes, ops

Case = Callable[[torch.device], Any]
# Relative to the norm. Operators sum in another order. Whole networks also have tiny gradients where they are sure.
TOLERANCE, TOLERANCE_WHOLE = 1e-5, 1e-3


def randn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def linear(n: int, t: int, o: int, i: int, dtype: torch.dtype = torch.float32) -> Case:
    def run(device: torch.device) -> Any:
        grad, x = randn(n, t, o, seed=1, dtype=dtype).to(device), randn(n, t, i, seed=2, dtype=dtype).to(device)
        weights = randn(2, n, seed=3).abs().to(device)
        results = [torch.zeros(2, o, i, device=device) for _ in range(2)]
        biases = [torch.zeros(2, o, device=device) for _ in range(2)]
        ops.fisher_linear(grad, x, weights, *results, bias_fisher=biases[0], bias_gradient=biases[1])
        return results, biases

    return run


def convolution(size: int, stride: int, groups: int, dtype: torch.dtype = torch.float32) -> Case:
    def run(device: torch.device) -> Any:
        x = randn(3, 8, size, size, seed=1, dtype=dtype)
        out = F.conv2d(x.float(), torch.zeros(12, 8 // groups, 3, 3), None, stride, 1, 1, groups)
        grad = randn(*out.shape, seed=2, dtype=dtype)
        result = torch.zeros(1, 12, 8 // groups, 3, 3, device=device)
        settings = ([stride] * 2, [1, 1], [1, 1], groups)
        ops.fisher_convolution(grad.to(device), x.to(device), torch.ones(1, 3, device=device), *settings, result)
        return result

    return run


def affine(device: torch.device) -> Any:
    grad, x = randn(4, 3, 17, 29, seed=1).to(device), randn(4, 3, 17, 29, seed=2).to(device)
    results = {
        f"{kind}_{what}": torch.zeros(1, 17, device=device)
        for kind in ("scale", "shift")
        for what in ("fisher", "gradient")
    }
    ops.fisher_affine(grad, x, None, None, torch.ones(1, 4, device=device), **results)
    return results


def embedding(device: torch.device) -> Any:
    tokens = torch.randint(11, (4, 9), generator=torch.Generator().manual_seed(0)).to(device)
    result = torch.zeros(1, 11, 20, device=device)
    ops.fisher_embedding(randn(4, 9, 20).to(device), tokens, torch.ones(1, 4, device=device), 3, result)
    return result


def selection(device: torch.device) -> Any:
    shapes = ((300, 40), (7,), (0,), (129,))
    scores = [randn(*shape, seed=n).to(device) for n, shape in enumerate(shapes)]
    parameters = [score.clone() for score in scores]
    mask, threshold = ops.select(scores, 1000)
    indices, counts = ops.select_indices(mask, scores, 1000)
    old = ops.perturb(parameters, scores, mask, 1000, 0.5)
    changed = [p.clone() for p in parameters]
    ops.perturb_undo(parameters, mask, old)
    ops.perturb_write(parameters, indices, counts, old * 2)
    return mask, threshold, indices, counts, old, changed, parameters, ops.select_mask(mask, scores)


def projection(device: torch.device) -> Any:
    tasks = [[randn(300, 40, seed=k).to(device), randn(7, seed=9 + k).to(device)] for k in range(3)]
    return [fastforget.harmonize(*tasks, project="both", scope=scope) for scope in ("global", "tensor")]


def fingerprints(device: torch.device) -> Any:
    kinds = (torch.float32, torch.float16)
    return ops.fingerprint([randn(n, seed=n, dtype=kind).to(device) for n in (1, 999) for kind in kinds])


OPERATORS: dict[str, Case] = {
    "linear": linear(3, 5, 33, 70),
    "linear of one position": linear(70, 1, 12, 9),
    "linear bf16": linear(3, 40, 64, 128, torch.bfloat16),
    "convolution": convolution(9, 1, 1),
    "convolution bf16": convolution(16, 2, 1, torch.bfloat16),
    "depthwise": convolution(9, 1, 4),
    "affine": affine,
    "embedding": embedding,
    "selection": selection,
    "projection": projection,
    "fingerprint": fingerprints,
}


def network() -> tuple[nn.Module, MnemonicCodes]:
    """Return a convolutional network that was fitted to its codes."""
    codes = MnemonicCodes.generate(5, (3, 8, 8), per_class=2)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.Tanh(), nn.Conv2d(16, 16, 3, 2, groups=2), nn.Flatten(),
        nn.LayerNorm(144), nn.Linear(144, 5),
    ).eval()  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        F.cross_entropy(model(codes.inputs), codes.labels).backward()
        optimiser.step()
    optimiser.zero_grad()
    return model, codes


def fisher(device: torch.device) -> Any:
    model, codes = network()
    model, codes = model.to(device), codes.to(device)
    found = fastforget.fisher_diagonal(model, codes.inputs, codes.labels, with_gradient=True)
    if found.fallback:
        raise RuntimeError(f"no parameter must fall back, got {found.fallback}")
    return dict(found), found.losses


def one_shot(device: torch.device) -> Any:
    """Forget a class, and undo it to the bit."""
    model, codes = network()
    model = copy.deepcopy(model).to(device)
    before = fastforget.fingerprint(model)
    receipt = fastforget.one_shot(model, codes, 1, rho=0.2)
    forgotten = model(codes.inputs.to(device)).argmax(1)[2:4] != 1
    receipt.revert(model)
    if fastforget.fingerprint(model) != before or not bool(forgotten.all()):
        raise RuntimeError("the class must be forgotten, and every bit come back")
    return torch.tensor(receipt.changed)


WHOLE: dict[str, Case] = {"fisher_diagonal": fisher, "one_shot": one_shot}


def difference(found: Any, expected: Any) -> float:
    """Return the largest error of a tensor relative to its norm; infinity if integers differ."""
    worst = 0.0
    for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(expected), strict=True):
        one, other = a.detach().cpu(), b.detach()
        if one.shape != other.shape or (not other.is_floating_point() and not torch.equal(one, other)):
            return float("inf")
        scale = float(other.double().norm())
        worst = max(worst, float((one.double() - other.double()).norm()) / scale if scale else 0.0)
    return worst


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--operators", action="store_true", help="the operators alone")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="those whose names begin so")
    arguments = parser.parse_args()
    device, wrong = torch.device(arguments.device), 0
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    cases = OPERATORS if arguments.operators else {**OPERATORS, **WHOLE}
    if arguments.only:
        cases = {name: case for name, case in cases.items() if name.startswith(tuple(arguments.only))}
        if not cases:
            parser.error(f"--only must name operators or calls, got {' '.join(arguments.only)}")
    for name, case in cases.items():
        try:
            error = difference(case(device), case(torch.device("cpu")))
            right = error <= (TOLERANCE_WHOLE if name in WHOLE else TOLERANCE)
            verdict = f"{'ok' if right else 'WRONG'}, relative error {error:.1e}"
        except Exception:  # noqa: BLE001 - the others must still run
            verdict = "FAILED\n" + traceback.format_exc()
        wrong += not verdict.startswith("ok")
        print(f"{name}: {verdict}", flush=True)
    print(f"{wrong} wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
