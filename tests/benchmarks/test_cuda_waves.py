"""How CUDA kernels share samples among blocks: the host's decision, as it is compiled."""

import shutil

import cuda_waves
import pytest

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no compiler")


def test_shares_fill_the_device_and_fit() -> None:
    works = [
        (blocks, samples, slots, size)
        for blocks in (1, 3, 36, 108, 144, 1000)
        for samples in (1, 7, 64, 513)
        for slots in (3, 132, 1056)
        for size in (1, 9 << 20, 1 << 30)
    ]
    for (blocks, samples, slots, size), (splits, time, alone) in zip(works, cuda_waves.shared(works), strict=True):
        assert 1 <= splits <= samples
        assert splits == 1 or splits * size <= 64 << 20
        assert time <= alone
        if blocks * samples <= slots and samples * size <= 64 << 20 and samples > 3:
            assert splits > 1, "blocks enough for all samples at once"


def test_nothing_to_share() -> None:
    assert cuda_waves.shared([(0, 5, 132, 4), (5, 0, 132, 4), (5, 5, 132, 0)]) == [(1, 0, 0), (1, 1, 1), (1, 6, 6)]


def test_networks_keep_an_h200_busy() -> None:
    works = [(36, 64, 132, 4), (108, 64, 132, 4), (144, 64, 132, 4), (288, 128, 132, 4)]
    for (blocks, samples, slots, _), (splits, _, _) in zip(works, cuda_waves.shared(works), strict=True):
        assert cuda_waves.busy(blocks, samples, splits, slots) > 0.78
    # Two blocks per multiprocessor, rounded up, end in a third wave that is almost empty.
    assert cuda_waves.busy(144, 64, 2) < 0.75
