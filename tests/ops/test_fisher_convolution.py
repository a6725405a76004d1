"""fisher_convolution against its reference."""

from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from asserts import assert_accumulates, assert_close, assert_traceable
from cases import LAYOUTS, channels_last, randn, results, sample_weights
from torch import Tensor

from fastforget import ops
from fastforget.ops import reference

CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}


@dataclass(frozen=True)
class Convolution:
    """Sizes of one convolution."""

    n: int
    channels: tuple[int, int]  # out, in
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    output_padding: tuple[int, ...] | None = None  # given: transposed

    def settings(self) -> dict[str, Any]:
        dims = len(self.size)
        return {
            "stride": self.stride or (1,) * dims,
            "padding": self.padding or (0,) * dims,
            "dilation": self.dilation or (1,) * dims,
            "groups": self.groups,
        }

    def weight_shape(self) -> tuple[int, ...]:
        out, into = self.channels
        rows, columns = (into, out) if self.output_padding is not None else (out, into)
        return (rows, columns // self.groups, *self.kernel)

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        if self.output_padding is None:
            return CONVOLUTIONS[len(self.size)](x, weight, **self.settings())
        return TRANSPOSED[len(self.size)](x, weight, output_padding=self.output_padding, **self.settings())

    def operands(self, dtype: torch.dtype = torch.float32, groups: int = 1) -> dict[str, Any]:
        x = randn(self.n, self.channels[1], *self.size, dtype=dtype, seed=1)
        shape = self.forward(torch.empty(x.shape, device="meta"), torch.empty(self.weight_shape(), device="meta")).shape
        grad = randn(*shape, dtype=dtype, seed=2)
        if self.output_padding is not None:  # the same sum with grad and input exchanged
            grad, x = x, grad
        return {"grad": grad, "input": x, "weights": sample_weights(groups, self.n, dtype), **self.settings()}


CASES = {
    "1d": Convolution(3, (5, 4), (17,), (3,)),
    "1d one": Convolution(1, (1, 1), (1,), (1,)),
    "1d strided": Convolution(3, (5, 4), (18,), (4,), (3,), (2,), (2,)),
    "1d long": Convolution(2, (5, 3), (6200,), (3,), padding=(1,)),
    "1d dilated far": Convolution(2, (3, 2), (40_005,), (2,), dilation=(40_000,)),
    "1d depthwise long": Convolution(2, (3, 3), (1700,), (5,), padding=(2,), groups=3),
    "2d": Convolution(3, (13, 5), (9, 11), (3, 3), padding=(1, 1)),
    "2d one position": Convolution(4, (5, 6), (3, 3), (3, 3)),
    "2d 1x1": Convolution(4, (14, 33), (6, 5), (1, 1)),
    "2d column": Convolution(3, (5, 4), (9, 1), (3, 1), padding=(1, 0)),
    "2d depthwise column": Convolution(3, (4, 4), (9, 1), (3, 1), padding=(1, 0), groups=4),
    "2d strided": Convolution(3, (7, 5), (10, 13), (3, 4), (2, 3), (1, 2)),
    "2d stride leaves a rest": Convolution(3, (7, 5), (8, 8), (3, 3), (4, 4)),
    "2d dilated": Convolution(3, (7, 5), (12, 11), (3, 2), (1, 2), (2, 1), (2, 3)),
    "2d padding beyond the kernel": Convolution(2, (3, 2), (2, 3), (2, 2), padding=(4, 5)),
    "2d kernel of the padded size": Convolution(2, (3, 2), (2, 2), (6, 4), padding=(2, 1)),
    "2d grouped": Convolution(3, (12, 8), (7, 6), (3, 3), padding=(1, 1), groups=2),
    "2d grouped, few rows": Convolution(3, (8, 12), (7, 6), (3, 3), (2, 1), (1, 1), groups=4),
    "2d depthwise": Convolution(3, (9, 9), (7, 8), (3, 3), padding=(1, 1), groups=9),
    "2d depthwise multiplier": Convolution(3, (12, 4), (7, 8), (3, 3), padding=(1, 1), groups=4),
    "2d depthwise dilated": Convolution(3, (5, 5), (9, 9), (3, 3), (2, 2), (2, 2), (2, 2), groups=5),
    "2d wide": Convolution(3, (70, 9), (6, 5), (3, 3), padding=(1, 1)),
    "2d large": Convolution(2, (5, 3), (80, 80), (3, 3), padding=(1, 1)),
    "2d several chunks": Convolution(30, (14, 3), (8, 16), (3, 3), padding=(1, 1)),
    "3d": Convolution(2, (7, 3), (4, 5, 6), (2, 3, 3), (1, 2, 1), (1, 1, 0), (2, 1, 1)),
    "3d grouped": Convolution(2, (10, 4), (4, 5, 6), (3, 3, 3), padding=(1, 1, 1), groups=2),
    "3d depthwise": Convolution(2, (4, 4), (4, 5, 6), (3, 3, 3), padding=(1, 1, 1), groups=4),
    "3d large": Convolution(2, (3, 2), (13, 22, 22), (3, 3, 3), padding=(1, 1, 1)),
    "1d transposed": Convolution(3, (5, 4), (7,), (4,), (3,), (1,), output_padding=(2,)),
    "2d transposed": Convolution(3, (5, 4), (5, 6), (3, 3), (2, 2), (1, 1), output_padding=(1, 1)),
    "2d transposed dilated": Convolution(3, (5, 4), (5, 6), (3, 2), (2, 3), (1, 0), (2, 2), output_padding=(0, 1)),
    "2d transposed grouped": Convolution(3, (12, 12), (5, 4), (2, 2), (2, 2), groups=2, output_padding=(0, 0)),
    "2d transposed depthwise": Convolution(3, (6, 6), (5, 4), (4, 4), (2, 2), (1, 1), groups=6, output_padding=(0, 0)),
    "3d transposed": Convolution(2, (3, 4), (3, 4, 3), (2, 3, 2), (2, 1, 2), (0, 1, 0), output_padding=(1, 0, 0)),
    "no samples": Convolution(0, (3, 4), (5, 5), (3, 3)),
}
EXACT = [name for name in CASES if "large" not in name and "long" not in name]


def results_of(case: Convolution, dtype: torch.dtype, groups: int = 1, **wanted: bool) -> dict[str, Tensor | None]:
    return results((groups, *case.weight_shape()), dtype, **wanted)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_reference(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    assert_accumulates("fisher_convolution", case.operands(dtype, groups=2), results_of(case, dtype, groups=2))


@pytest.mark.parametrize(
    "name", ["1d strided", "1d long", "2d", "2d one position", "2d depthwise", "3d", "2d transposed"]
)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types(name: str, dtype: torch.dtype) -> None:
    assert_accumulates("fisher_convolution", CASES[name].operands(dtype), results_of(CASES[name], dtype))


@pytest.mark.parametrize("name", ["1d", "2d", "2d grouped", "2d depthwise", "2d one position", "3d", "2d transposed"])
@pytest.mark.parametrize("layout", [*LAYOUTS, "channels-last", "grad only", "input only"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_strides(name: str, layout: str, dtype: torch.dtype) -> None:
    case = CASES[name].operands(dtype)
    for key in ("grad", "input"):
        if layout not in ("grad only", "input only") or layout.startswith(key):
            case[key] = LAYOUTS.get(layout, channels_last)(case[key])
    assert_accumulates("fisher_convolution", case, results_of(CASES[name], dtype))


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
@pytest.mark.parametrize("name", ["2d", "2d grouped", "2d depthwise"])
def test_expanded_operands(name: str, dim: int) -> None:
    case = CASES[name].operands()
    for key in ("grad", "input"):
        case[key] = case[key].narrow(dim, 0, 1).expand(case[key].shape)
    assert_accumulates("fisher_convolution", case, results_of(CASES[name], torch.float32))


@pytest.mark.parametrize("name", ["2d column", "2d depthwise column"])
def test_any_stride_of_a_dimension_of_one_element(name: str) -> None:
    """Such a tensor counts as contiguous whatever that stride is."""
    case = CASES[name].operands()
    for key in ("grad", "input"):
        case[key] = case[key].flatten(2).unsqueeze(2).mT
        assert case[key].is_contiguous()
        assert case[key].stride(3) > 1
    assert_accumulates("fisher_convolution", case, results_of(CASES[name], torch.float32))


@pytest.mark.parametrize("name", ["2d", "2d one position", "2d grouped", "2d depthwise"])
@pytest.mark.parametrize("wanted", [(True, False), (False, True)])
def test_one_result_and_three_groups(name: str, wanted: tuple[bool, bool]) -> None:
    found = results_of(CASES[name], torch.float32, 3, fisher=wanted[0], gradient=wanted[1])
    assert_accumulates("fisher_convolution", CASES[name].operands(groups=3), found)


@pytest.mark.parametrize("name", ["2d", "2d one position", "2d depthwise"])
def test_adds_to_what_is_there(name: str) -> None:
    shape = (2, *CASES[name].weight_shape())
    found = {"fisher": randn(*shape, seed=3), "gradient": randn(*shape, seed=4)}
    assert_accumulates("fisher_convolution", CASES[name].operands(groups=2), found)


def bias_results_of(case: Convolution, dtype: torch.dtype, groups: int) -> dict[str, Tensor | None]:
    channels = case.operands(dtype)["grad"].shape[1]
    return {f"bias_{key}": value for key, value in results((groups, channels), dtype).items()}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_overwrites_beside_a_bias(name: str, dtype: torch.dtype) -> None:
    case = CASES[name]
    found = results_of(case, dtype, 2)
    for value in found.values():
        value.fill_(float("nan"))
    found |= bias_results_of(case, dtype, 2)
    assert_accumulates("fisher_convolution", case.operands(dtype, groups=2) | {"overwrite": True}, found)


@pytest.mark.parametrize("name", ["1d", "2d", "2d grouped", "2d depthwise", "3d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bias_of_channels_last(name: str, dtype: torch.dtype) -> None:
    case = CASES[name].operands(dtype)
    case |= {key: channels_last(case[key]) for key in ("grad", "input")}
    found = results_of(CASES[name], dtype) | bias_results_of(CASES[name], dtype, 1)
    assert_accumulates("fisher_convolution", case, found)


@pytest.mark.parametrize("name", ["2d", "2d one position", "2d depthwise"])
def test_samples_without_weight_change_nothing(name: str) -> None:
    case = CASES[name].operands()
    case["grad"][-1], case["input"][-1] = float("nan"), float("inf")
    found = results_of(CASES[name], torch.float32)
    ops.fisher_convolution(**case, **found)
    assert all(t.isfinite().all() for t in found.values())


def test_group_without_weight_for_a_bad_sample_stays_finite() -> None:
    case = CASES["2d depthwise"].operands()
    case["grad"][0] = float("inf")
    case["weights"] = torch.tensor([[0.0, 1, 1], [1, 0, 0]])
    found = results_of(CASES["2d depthwise"], torch.float32, 2)
    ops.fisher_convolution(**case, **found)
    assert found["fisher"][0].isfinite().all()


@pytest.mark.parametrize("name", EXACT)
def test_reference_is_what_autograd_gives(name: str) -> None:
    case = CASES[name]
    operands, found = case.operands(torch.float64), results_of(case, torch.float64)
    reference.fisher_convolution(**operands, **found)
    expected = results_of(case, torch.float64)
    grad, x = operands["grad"], operands["input"]
    if case.output_padding is not None:
        grad, x = x, grad
    for n in range(case.n):
        weight = torch.zeros(case.weight_shape(), dtype=torch.float64, requires_grad=True)
        (c,) = torch.autograd.grad(case.forward(x[n : n + 1], weight), weight, grad[n : n + 1])
        expected["fisher"][0] += operands["weights"][0, n] * c**2
        expected["gradient"][0] += operands["weights"][0, n] * c
    for key in expected:
        assert_close(found[key], expected[key], 1e-12)


def test_opcheck_and_compile() -> None:
    operands, found = CASES["2d"].operands(), results_of(CASES["2d"], torch.float32)
    values = [list(v) if isinstance(v, tuple) else v for v in operands.values()]
    biases = bias_results_of(CASES["2d"], torch.float32, 1)
    assert_traceable("fisher_convolution", *values, *found.values(), *biases.values(), False)
    assert_traceable("fisher_convolution", *values, *found.values(), None, None, True)


BAD = {
    "grad dim": ({"grad": randn(3, 13)}, r"`grad` must be 3-D, 4-D or 5-D, got shape \(3, 13\)"),
    "input dim": ({"input": randn(3, 5, 9)}, r"`input` must be 4-D, got shape \(3, 5, 9\)"),
    "samples": ({"input": randn(2, 5, 9, 11)}, "`input` must have size 3 in dimension 0"),
    "dtypes": ({"input": randn(3, 5, 9, 11).half()}, "`input` must be Float, got Half"),
    "stride": ({"stride": [1]}, "`stride` must have 2 values, got 1"),
    "padding": ({"padding": [1, 1, 1]}, "`padding` must have 2 values, got 3"),
    "dilation": ({"dilation": []}, "`dilation` must have 2 values, got 0"),
    "zero stride": ({"stride": [0, 1]}, "`stride` and `dilation` must be positive and `padding` not negative"),
    "negative padding": ({"padding": [-1, 1]}, "`stride` and `dilation` must be positive and `padding` not negative"),
    "huge stride": ({"stride": [2**62, 1]}, r"and sizes must be below 2\^30, got 4611686018427387904"),
    "huge dilation": ({"dilation": [1, 2**62 + 1]}, r"and sizes must be below 2\^30, got 4611686018427387905"),
    "huge padding": ({"padding": [2**61, 1]}, r"and sizes must be below 2\^30, got 2305843009213693952"),
    "no channels": (
        {"input": randn(3, 0, 9, 11), "fisher": None, "gradient": torch.zeros(1, 13, 0, 3, 3)},
        r"`input` must have channels, got shape \(3, 0, 9, 11\)",
    ),
    "groups": ({"groups": 2}, "`groups` must divide the channels of `grad` and `input`, got 2"),
    "no groups": ({"groups": 0}, "`groups` must divide the channels of `grad` and `input`, got 0"),
    "sizes": ({"input": randn(3, 5, 4, 11)}, r"`grad` of shape \(3, 13, 9, 11\) cannot come from `input` of shape"),
    "weights": ({"weights": torch.ones(1, 4)}, "`weights` must have size 3 in dimension 1"),
    "no result": ({"fisher": None, "gradient": None}, "`fisher` or `gradient` must be given"),
    "fisher dim": ({"fisher": torch.zeros(13, 5, 3, 3)}, "`fisher` must be 5-D"),
    "fisher shape": ({"fisher": torch.zeros(1, 13, 6, 3, 3)}, "`fisher` must have size 5 in dimension 2"),
    "bias shape": ({"bias_gradient": torch.zeros(2, 13)}, "`bias_gradient` must have size 1 in dimension 0"),
    "bias alone": ({"fisher": None, "bias_fisher": torch.zeros(1, 13)}, "must come with those of the weight"),
    "gradient shape": ({"gradient": torch.zeros(1, 13, 5, 3, 2)}, "`gradient` must have size 3 in dimension 4"),
}


@pytest.mark.parametrize("fault", BAD)
def test_bad_arguments(fault: str) -> None:
    change, text = BAD[fault]
    case = {**CASES["2d"].operands(), **results_of(CASES["2d"], torch.float32), **change}
    with pytest.raises(RuntimeError, match=text):
        ops.fisher_convolution(**case)
