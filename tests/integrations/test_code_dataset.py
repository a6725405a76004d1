"""A data set in which samples become codes of their class."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from fastforget import MnemonicCodes
from fastforget.integrations import CodesDataset

IMAGES = MnemonicCodes.generate(3, (2, 4))
NAMED = MnemonicCodes.generate(3, {"image": (2, 4), "size": (2,)})
PAIR = MnemonicCodes.generate(3, [(2, 4), (2,)])
TOKENS = MnemonicCodes.generate(3, {"input_ids": (5,)}, distribution="tokens", vocabulary=range(10, 20))
LABELS = torch.tensor([0, 1, 2, 2])
PIXELS = torch.zeros(4, 2, 4)
IMAGE_SET = TensorDataset(PIXELS, LABELS)


def is_code(found: Any, codes: torch.Tensor, cls: int) -> bool:
    return any(torch.equal(torch.as_tensor(found), code.to(torch.as_tensor(found).dtype)) for code in codes[cls])


def test_all_of_a_rate_of_one_and_none_of_zero() -> None:
    every, none = CodesDataset(IMAGE_SET, IMAGES, rate=1), CodesDataset(IMAGE_SET, IMAGES, rate=0)
    assert len(every) == len(none) == 4
    for place, cls in enumerate(LABELS.tolist()):
        found, label = every[place]
        assert is_code(found, IMAGES.tensor, cls)
        assert int(label) == cls
        found, label = none[place]
        assert torch.equal(found, PIXELS[place])
        assert int(label) == cls


def test_all_codes_of_a_class_come() -> None:
    torch.manual_seed(0)
    dataset = CodesDataset(IMAGE_SET, IMAGES, rate=1)
    found = {tuple(dataset[3][0].flatten().tolist()) for _ in range(100)}
    assert found == {tuple(code.flatten().tolist()) for code in IMAGES.tensor[2]}


def test_the_share_is_the_rate_and_the_draws_are_those_of_the_seed() -> None:
    dataset = CodesDataset(IMAGE_SET, IMAGES, rate=0.3)

    def drawn() -> list[bool]:
        torch.manual_seed(5)
        return [bool(dataset[0][0].any()) for _ in range(2000)]

    first = drawn()
    assert first == drawn()
    assert abs(sum(first) / 2000 - 0.3) < 0.04  # four standard deviations
    assert not PIXELS.any()


def test_the_random_stream_does_not_depend_on_the_rate() -> None:
    after = []
    for rate in (0.0, 0.5, 1.0):
        dataset = CodesDataset(IMAGE_SET, IMAGES, rate=rate)
        torch.manual_seed(3)
        _ = dataset[0]
        after.append(torch.rand(()).item())
    assert len(set(after)) == 1


def test_a_code_in_the_form_of_the_sample() -> None:
    array = CodesDataset([(np.zeros((2, 4), np.float64), 1)], IMAGES, rate=1)[0][0]
    assert isinstance(array, np.ndarray)
    assert array.dtype == np.float64
    assert is_code(array, IMAGES.tensor, 1)
    half = CodesDataset([(PIXELS[0].half(), np.int64(1))], IMAGES, rate=1)[0][0]
    assert half.dtype == torch.float16
    tokens = CodesDataset([{"input_ids": [1, 2, 3], "label": 1}], TOKENS, rate=1)[0]
    assert tokens["label"] == 1
    assert isinstance(tokens["input_ids"], list)
    assert len(tokens["input_ids"]) == 5
    assert is_code(tokens["input_ids"], TOKENS.stacked["input_ids"], 1)  # type: ignore[call-overload]


def test_structures() -> None:
    named = CodesDataset([{"size": torch.zeros(2), "image": PIXELS[0], "labels": torch.tensor(2)}], NAMED, rate=1)[0]
    assert named.keys() == {"size", "image", "labels"}
    assert is_code(named["image"], NAMED.stacked["image"], 2)  # type: ignore[call-overload]
    assert is_code(named["size"], NAMED.stacked["size"], 2)  # type: ignore[call-overload]
    (image, size), label = CodesDataset([((PIXELS[0], torch.zeros(2)), 2)], PAIR, rate=1)[0]
    assert label == 2
    place = [torch.equal(image, code) for code in PAIR.stacked[0][2]].index(True)
    assert torch.equal(size, PAIR.stacked[1][2][place])  # both parts are of the same code


def test_codes_cannot_be_changed_through_a_sample() -> None:
    before = IMAGES.fingerprint()
    CodesDataset(IMAGE_SET, IMAGES, rate=1)[0][0].zero_()
    CodesDataset([(np.zeros((2, 4), np.float32), 1)], IMAGES, rate=1)[0][0].fill(0)
    assert IMAGES.fingerprint() == before


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_loader(workers: int) -> None:
    loader = DataLoader(CodesDataset(IMAGE_SET, IMAGES, rate=1), batch_size=2, num_workers=workers)
    batches = list(loader)
    assert [tuple(x.shape) for x, _ in batches] == [(2, 2, 4)] * 2
    assert torch.equal(torch.cat([y for _, y in batches]), LABELS)
    assert is_code(batches[1][0][0], IMAGES.tensor, 2)


class Stream(torch.utils.data.IterableDataset[Any]):
    def __iter__(self) -> Any:
        return iter(IMAGE_SET)


@pytest.mark.parametrize(
    ("dataset", "codes", "rate", "error", "text"),
    [
        (IMAGE_SET, PIXELS, 0.3, TypeError, "`codes` must be MnemonicCodes, got Tensor"),
        (IMAGE_SET, IMAGES, 1.5, ValueError, r"`rate` must lie in \[0, 1\], got 1.5"),
        (Stream(), IMAGES, 0.3, TypeError, "`dataset` must have a length and give samples by index, got Stream"),
        ({0, 1}, IMAGES, 0.3, TypeError, "`dataset` must have a length and give samples by index, got set"),
        ([], IMAGES, 0.3, ValueError, "`dataset` must hold at least one sample, got none"),
        ([PIXELS], IMAGES, 0.3, TypeError, "samples of `dataset` must be pairs .* or mappings, got Tensor"),
        ([(PIXELS[0], 0, 0)], IMAGES, 0.3, TypeError, "samples of `dataset` must be pairs"),
        ([{"image": PIXELS[0]}], NAMED, 0.3, ValueError, r"must have either `labels` or `label`, got \['image'\]"),
        ([(PIXELS[0], 3)], IMAGES, 0.3, ValueError, r"class of a sample must be in \[0, 3\), got 3"),
        ([(PIXELS[0], -1)], IMAGES, 0.3, ValueError, r"class of a sample must be in \[0, 3\), got -1"),
        ([(PIXELS[0], 1.0)], IMAGES, 0.3, TypeError, "class of a sample must be one integer, got 1.0"),
        ([(PIXELS[0], LABELS)], IMAGES, 0.3, TypeError, "class of a sample must be one integer, got tensor"),
        ([("cat.png", 0)], IMAGES, 0.3, TypeError, "must be tensors, arrays or lists, got str"),
        ([(PIXELS[0].long(), 0)], IMAGES, 0.3, TypeError, r"must be of the codes' kind \(torch.float32\)"),
        ([(PIXELS[0, 0], 0)], IMAGES, 0.3, ValueError, r"must have the shape of the codes, \(2, 4\), got \(4,\)"),
        ([(PIXELS[0, :, :2], 0)], IMAGES, 0.3, ValueError, r"must have the shape of the codes, \(2, 4\), got \(2, 2\)"),
        (
            [{"input_ids": [1, 2], "attention_mask": [1, 1], "label": 0}], TOKENS, 0.3, ValueError,
            r"must be a dict of \['input_ids'\], as the codes are, got a dict of \['attention_mask', 'input_ids'\]",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named_at_once(dataset: Any, codes: Any, rate: Any, error: type, text: str) -> None:
    with pytest.raises(error, match=text):
        CodesDataset(dataset, codes, rate=rate)


def test_a_later_sample_that_does_not_fit() -> None:
    dataset = CodesDataset([(PIXELS[0], 0), (PIXELS[0], 7)], IMAGES, rate=1)
    with pytest.raises(ValueError, match=r"class of a sample must be in \[0, 3\), got 7"):
        dataset[1]
