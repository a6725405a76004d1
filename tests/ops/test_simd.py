"""Every instruction set gives the same numbers; a machine without AVX2 works."""

import os
import subprocess
import sys

import pytest

from fastforget import ops

LEVELS = ("generic", "avx2", "avx512")

CODE = """
import sys
import torch
from fastforget import ops
from fastforget.ops import reference

torch.set_num_threads(1)
assert ops.simd_level() == sys.argv[1], ops.simd_level()

def check(name, operands, shapes, tolerance):
    wide = torch.float64 if operands["grad"].dtype == torch.float64 else torch.float32
    found = {key: torch.zeros(shape, dtype=wide) for key, shape in shapes.items()}
    expected = {key: value.double() for key, value in found.items()}
    getattr(ops, name)(**operands, **found)
    exact = {k: v.double() if isinstance(v, torch.Tensor) and v.is_floating_point() else v for k, v in operands.items()}
    getattr(reference, name)(**exact, **expected)
    for key in found:
        error = (found[key].double() - expected[key]).norm() / expected[key].norm()
        assert error <= tolerance, (name, operands["grad"].shape, operands["grad"].dtype, key, float(error))

torch.manual_seed(0)
for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    tolerance = 1e-12 if dtype == torch.float64 else 1e-5
    weights = torch.rand(2, 3).to(wide)
    both = lambda *shape: dict.fromkeys(("fisher", "gradient"), (2, *shape))
    for T, O, I in [(1, 13, 33), (7, 25, 65), (6200, 5, 9)]:
        operands = {"grad": torch.randn(3, T, O).to(dtype), "input": torch.randn(3, T, I).to(dtype), "weights": weights}
        check("fisher_linear", operands, both(O, I), tolerance)
    for groups, columns in [(1, 6), (2, 3), (6, 1)]:
        operands = {
            "grad": torch.randn(3, 12, 4, 9).to(dtype), "input": torch.randn(3, 6, 8, 9).to(dtype), "weights": weights,
            "stride": [2, 1], "padding": [1, 1], "dilation": [1, 1], "groups": groups,
        }
        check("fisher_convolution", operands, both(12, columns, 3, 3), tolerance)
    for size in [(3, 5, 33, 1), (3, 2, 9, 70)]:
        operands = {
            "grad": torch.randn(size).to(dtype), "input": torch.randn(size).to(dtype),
            "mean": torch.randn(size[:3]).to(wide), "rstd": torch.rand(size[:3]).to(wide), "weights": weights,
        }
        names = ("scale_fisher", "scale_gradient", "shift_fisher", "shift_gradient")
        check("fisher_affine", operands, dict.fromkeys(names, (2, size[2])), tolerance)
    operands = {
        "grad": torch.randn(3, 9, 33).to(dtype), "tokens": torch.randint(0, 4, (3, 9)), "weights": weights,
        "padding_idx": 2,
    }
    check("fisher_embedding", operands, both(4, 33), tolerance)
    for tasks in (1, 2, 3, 4, 5, 6, 7, 8):
        grads, weights = [torch.randn(1111).to(dtype) for _ in range(tasks)], torch.randn(1, tasks, dtype=torch.float64)
        gram, expected = (module.project_gram(grads, tasks) for module in (ops, reference))
        assert torch.allclose(gram, expected, rtol=0, atol=1e-10), (tasks, dtype)
        found, exact = [torch.empty(1111, dtype=dtype)], [torch.empty(1111, dtype=torch.float64)]
        ops.project_combine(grads, weights, found)
        reference.project_combine(grads, weights, exact)
        error = (found[0].double() - exact[0]).norm() / exact[0].norm()
        assert error <= torch.finfo(dtype).eps, (tasks, dtype, float(error))

def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b), (a.dtype, a.shape)

for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.float16):
    scores = [torch.randn(size).to(dtype) for size in (70, 600_001, 3)]
    scores.append(torch.zeros(99_999, dtype=dtype))
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    bits = 8 * wide.itemsize
    parameters, directions = ([torch.randn(s.shape).to(t) for s in scores] for t in (dtype, wide))
    for k in (1, 6_000, 350_000, 700_073):
        mask, threshold = ops.select(scores, k)
        same((mask, threshold), reference.select(scores, k))
        for digit in ((0, bits, bits - 11), (5, bits - 4, bits - 15), (0, 6, 0)):
            same([ops.select_histogram(scores, *digit)], [reference.select_histogram(scores, *digit)])
        same(ops.select_mask(mask, scores), reference.select_mask(mask, scores))
        changed, expected = ([p.clone() for p in parameters] for _ in range(2))
        old = ops.perturb(changed, directions, mask, k, 0.3)
        same((old, *changed), (reference.perturb(expected, directions, mask, k, 0.3), *expected))
"""


@pytest.mark.parametrize("level", LEVELS)
def test_forced_level(level: str) -> None:
    best = ops.simd_level()
    if LEVELS.index(level) > LEVELS.index(best):
        pytest.skip(f"this process runs on {best}; {level} cannot be forced")
    environment = {**os.environ, "FASTFORGET_SIMD": level}
    command = [sys.executable, "-c", CODE, level]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603
    assert run.returncode == 0, run.stderr
