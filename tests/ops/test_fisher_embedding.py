"""fisher_embedding against its reference."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_accumulates, assert_close, assert_traceable, by_fault
from cases import DTYPES, LAYOUTS, randn, results, sample_weights

from fastforget import ops
from fastforget.ops import reference

SIZES = [  # N, T, V, D
    (1, 1, 1, 1),
    (5, 9, 4, 33),  # every token repeated
    (3, 6, 50, 17),
    (2, 3000, 11, 5),
    (2, 5, 7, 300),
    (40, 9, 3, 70),  # tokens in many samples
    (0, 3, 4, 5),
    (3, 0, 4, 5),
    (3, 4, 5, 0),
]


def operands(
    n: int, t: int, v: int, d: int, dtype: torch.dtype = torch.float32, groups: int = 1, padding_idx: int = -1
) -> dict[str, Any]:
    return {
        "grad": randn(n, t, d, dtype=dtype, seed=1),
        "tokens": torch.randint(0, v, (n, t), generator=torch.Generator().manual_seed(2)),
        "weights": sample_weights(groups, n, dtype),
        "padding_idx": padding_idx,
    }


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", SIZES)
def test_equals_reference(size: tuple[int, ...], dtype: torch.dtype) -> None:
    assert_accumulates("fisher_embedding", operands(*size, dtype, groups=2), results((2, *size[2:]), dtype))


@pytest.mark.parametrize("padding_idx", [0, 3])
def test_padding_has_no_gradient(padding_idx: int) -> None:
    case = operands(5, 9, 4, 33, padding_idx=padding_idx)
    assert_accumulates("fisher_embedding", case, results((1, 4, 33), torch.float32))
    found = results((1, 4, 33), torch.float32)
    ops.fisher_embedding(**case, **found)
    assert not found["fisher"][0, padding_idx].any()
    assert found["fisher"][0, 1].any()


def test_one_token_everywhere() -> None:
    case = operands(3, 40, 6, 17)
    case["tokens"].fill_(5)
    assert_accumulates("fisher_embedding", case, results((1, 6, 17), torch.float32))


def test_frequent_tokens_beside_rare_ones() -> None:
    """Tokens that fill samples, and others that are met once; samples of one position each, too."""
    case = operands(30, 40, 50, 300)
    case["tokens"][5:20] = 7
    case["tokens"][25:, 1:] = 9
    assert_accumulates("fisher_embedding", case, results((1, 50, 300), torch.float32))
    case = operands(300, 1, 3, 33)
    assert_accumulates("fisher_embedding", case, results((1, 3, 33), torch.float32))


@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_result_and_three_groups(wanted: tuple[bool, bool]) -> None:
    found = results((3, 4, 33), torch.float32, fisher=wanted[0], gradient=wanted[1])
    assert_accumulates("fisher_embedding", operands(5, 9, 4, 33, groups=3), found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_strides(layout: str, dtype: torch.dtype) -> None:
    case = operands(5, 9, 4, 33, dtype)
    case["grad"] = LAYOUTS[layout](case["grad"])
    assert_accumulates("fisher_embedding", case, results((1, 4, 33), dtype))


@pytest.mark.parametrize("dim", [0, 1, 2])
def test_expanded_grad(dim: int) -> None:
    case = operands(5, 9, 4, 33)
    case["grad"] = case["grad"].narrow(dim, 0, 1).expand(5, 9, 33)
    assert_accumulates("fisher_embedding", case, results((1, 4, 33), torch.float32))


def test_adds_to_what_is_there() -> None:
    found = {"fisher": randn(2, 4, 33, seed=3), "gradient": randn(2, 4, 33, seed=4)}
    assert_accumulates("fisher_embedding", operands(5, 9, 4, 33, groups=2), found)


def test_samples_without_weight_change_nothing() -> None:
    case, found = operands(5, 9, 4, 33), results((1, 4, 33), torch.float32)
    case["grad"][4] = float("nan")
    ops.fisher_embedding(**case, **found)
    assert all(t.isfinite().all() for t in found.values())


def test_reference_is_what_autograd_gives() -> None:
    case, found = operands(5, 9, 4, 7, torch.float64, padding_idx=2), results((1, 4, 7), torch.float64)
    reference.fisher_embedding(**case, **found)
    expected = results((1, 4, 7), torch.float64)
    for n in range(5):
        table = torch.zeros(4, 7, dtype=torch.float64, requires_grad=True)
        output = F.embedding(case["tokens"][n], table, padding_idx=2)
        (c,) = torch.autograd.grad(output, table, case["grad"][n])
        expected["fisher"][0] += case["weights"][0, n] * c**2
        expected["gradient"][0] += case["weights"][0, n] * c
    for key in expected:
        assert_close(found[key], expected[key], 1e-12)


def test_opcheck_and_compile() -> None:
    assert_traceable("fisher_embedding", *operands(5, 9, 4, 33).values(), *results((1, 4, 33), torch.float32).values())


BAD = {
    "grad dim": ({"grad": randn(5, 33)}, r"`grad` must be 3-D, got shape \(5, 33\)"),
    "tokens dim": ({"tokens": torch.zeros(5, dtype=torch.int64)}, "`tokens` must be 2-D"),
    "tokens dtype": ({"tokens": torch.zeros(5, 9, dtype=torch.int32)}, "`tokens` must be Long, got Int"),
    "tokens shape": ({"tokens": torch.zeros(5, 8, dtype=torch.int64)}, "`tokens` must have size 9 in dimension 1"),
    "tokens strides": ({"tokens": torch.zeros(9, 5, dtype=torch.int64).t()}, "`tokens` must be contiguous"),
    "token too large": ({"tokens": torch.full((5, 9), 4)}, r"`tokens` must lie in \[0, 4\), got 4"),
    "negative token": ({"tokens": torch.full((5, 9), -1)}, r"`tokens` must lie in \[0, 4\), got -1"),
    "weights": ({"weights": torch.ones(1, 4)}, "`weights` must have size 5 in dimension 1"),
    "no result": ({"fisher": None, "gradient": None}, "`fisher` or `gradient` must be given"),
    "fisher dim": ({"fisher": torch.zeros(4, 33)}, "`fisher` must be 3-D"),
    "gradient shape": ({"gradient": torch.zeros(1, 5, 33)}, "`gradient` must have size 4 in dimension 1"),
}


@pytest.mark.parametrize("fault", by_fault(BAD, "token too large", "negative token"))
def test_bad_arguments(fault: str) -> None:
    change, text = BAD[fault]
    case = {**operands(5, 9, 4, 33), **results((1, 4, 33), torch.float32), **change}
    with pytest.raises(RuntimeError, match=text):
        ops.fisher_embedding(**case)
