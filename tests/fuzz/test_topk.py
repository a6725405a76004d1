"""topk_mask on random tensors agrees with a sort by value, then by tensor and element."""

import math
from dataclasses import dataclass

import torch
from fuzz.draws import CASES, SETTINGS, Case, Draw, Memory, memories
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fastforget.functional.topk import topk_mask

SPECIAL = (0.0, -0.0, 1.0, -1.0, math.inf, -math.inf, 6e-8, -6e-8, 1e-45)


@dataclass(frozen=True, repr=False)
class Selection(Case):
    """A call of ``topk_mask``.

    Attributes:
        shapes: The shapes of the tensors.
        memories: The layouts of the tensors.
        k: The number of elements, or the share.
        distinct: Values are rounded to multiples of 1 / distinct, so that many are equal; 0 for no rounding.
        special: The share of zeros, infinities, denormal and other special values.
        structure: The container of the tensors.
        dtype: The type of the scores.
        seed: The seed of all values.
    """

    shapes: tuple[tuple[int, ...], ...]
    memories: tuple[Memory, ...]
    k: float
    distinct: int = 0
    special: float = 0.0
    structure: str = "list"
    dtype: str = "float32"
    seed: int = 0

    def scores(self) -> list[Tensor]:
        generator = torch.Generator().manual_seed(self.seed)

        def change(values: Tensor) -> Tensor:
            if self.distinct:
                values = (values * self.distinct).round() / self.distinct
            special = torch.tensor(SPECIAL, dtype=values.dtype)
            which = torch.randint(len(SPECIAL), values.shape, generator=generator)
            return torch.where(torch.rand(values.shape, generator=generator) < self.special, special[which], values)

        dtype = getattr(torch, self.dtype)
        return [m.tensor(s, dtype, generator, change) for s, m in zip(self.shapes, self.memories, strict=True)]

    def masks(self, scores: list[Tensor]) -> list[Tensor]:
        """Return the expected masks, in the structure of the scores."""
        if self.structure == "tensor":
            return [topk_mask(scores[0], self.k)]
        if self.structure == "dict":
            names = [f"p{i}" for i in range(len(scores))]
            found = topk_mask(dict(zip(names, scores, strict=True)), self.k)
            assert list(found) == names
            return list(found.values())
        masks = topk_mask(scores if self.structure == "list" else tuple(scores), self.k)
        assert isinstance(masks, list)
        return masks


def check(case: Selection) -> None:
    scores = case.scores()
    masks = case.masks(scores)
    assert [mask.shape for mask in masks] == [score.shape for score in scores]
    assert all(mask.dtype == torch.bool for mask in masks)
    values = [value for score in scores for value in score.flatten().tolist()]
    marked = [i for i, one in enumerate(one for mask in masks for one in mask.flatten().tolist()) if one]
    if isinstance(case.k, int):
        assert len(marked) == case.k
    else:  # a share, rounded to at least one element
        assert len(marked) == 1 or abs(len(marked) - case.k * len(values)) <= 0.5 + 1e-9
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    assert marked == sorted(order[: len(marked)])


@st.composite
def selections(draw: Draw) -> Selection:
    structure = draw(st.sampled_from(["list", "tuple", "dict", "tensor"]))
    sizes = st.lists(st.sampled_from([1, 2, 3, 0, 5, 8, 13, 33, 65]), max_size=3).map(tuple)
    small = sizes.map(lambda s: s if math.prod(s) <= 1000 else s[:1])
    shapes = draw(st.lists(small, min_size=1, max_size=1 if structure == "tensor" else 5))
    if not any(map(math.prod, shapes)):
        shapes[0] = (1,)
    total = sum(map(math.prod, shapes))
    share = st.floats(0, 1, exclude_min=True) | st.sampled_from([0.1, 0.25, 0.5, 1.0])
    return Selection(
        shapes=tuple(shapes),
        memories=tuple(draw(memories(len(s))) for s in shapes),
        k=draw(st.integers(1, total) | share),
        distinct=draw(st.sampled_from([0, 1, 2, 100])),
        special=draw(st.sampled_from([0.0, 0.3, 1.0])),
        structure=structure,
        dtype=draw(st.sampled_from(["float32", "float64", "bfloat16", "float16"])),
        seed=draw(st.integers(0, 2**16)),
    )


@settings(SETTINGS, max_examples=CASES // 4)
@given(selections())
def test_topk_mask(case: Selection) -> None:
    check(case)
