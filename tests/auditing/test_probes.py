"""Classifiers of features agree with those of scikit-learn."""

import torch
from asserts import assert_same_bits
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from torch import Tensor

from fastforget.auditing.probes import linear_probe, nearest_mean


def features(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Return features of four classes that overlap, of the labels 1, 3, 4 and 7."""
    generator = torch.Generator().manual_seed(seed)
    means = torch.randn(4, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    targets = torch.randint(4, (count,), generator=generator)
    values = 3 + 0.7 * means[targets] + torch.randn(count, 12, generator=generator, dtype=torch.float64)
    return values, torch.tensor([1, 3, 4, 7])[targets]


KNOWN, UNKNOWN = features(200, 1), features(500, 2)


def test_the_linear_probe_is_logistic_regression() -> None:
    (x, y), (unknown, targets) = KNOWN, UNKNOWN
    scale = (x - x.mean(0)).square().mean().sqrt()
    peer = LogisticRegression(C=1 / (1e-3 * len(x)), tol=1e-8, max_iter=5000).fit(((x - x.mean(0)) / scale).numpy(), y)
    expected = torch.from_numpy(peer.predict(((unknown - x.mean(0)) / scale).numpy()))
    found = linear_probe(x, y, unknown)
    assert_same_bits(found, expected)
    assert 0.6 < float((found == targets).double().mean()) < 0.98


def test_the_scale_of_features_does_not_matter() -> None:
    (x, y), (unknown, _) = KNOWN, UNKNOWN
    expected = linear_probe(x, y, unknown)
    for factor in (1e-6, 1e6):
        assert_same_bits(linear_probe(factor * x, y, factor * unknown), expected)
    assert_same_bits(linear_probe(torch.zeros_like(x), y, unknown), torch.full_like(expected, int(y.mode().values)))


def test_it_repeats_for_any_number_of_threads() -> None:
    threads, found = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with torch.no_grad():
                found.append(linear_probe(*KNOWN, UNKNOWN[0]))
    finally:
        torch.set_num_threads(threads)
    assert_same_bits(*found)


def test_the_nearest_mean_is_the_nearest_centroid() -> None:
    (x, y), (unknown, _) = KNOWN, UNKNOWN
    expected = torch.from_numpy(NearestCentroid().fit(x.numpy(), y.numpy()).predict(unknown.numpy()))
    assert_same_bits(nearest_mean(x, y, unknown), expected)
