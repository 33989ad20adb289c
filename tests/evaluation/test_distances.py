"""Distances against published definitions written out in numpy, closed forms, and repeated draws."""

from __future__ import annotations

import math
from functools import reduce

import numpy as np
import pytest
import scipy.linalg
import scipy.stats
import torch
from sklearn.metrics import pairwise_distances

from fromnoise.evaluation.metrics import frechet, prdc
from fromnoise.evaluation.metrics.frechet import Moments


def draws(n: int, d: int, seed: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
    """Correlated Gaussian vectors."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(d, d, generator=torch.Generator().manual_seed(99), dtype=torch.float64) / math.sqrt(d)
    x = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return scale * (x @ (torch.eye(d, dtype=torch.float64) + 0.5 * mix)) + shift


# ---- independent implementations


def fid_of_heusel(x: np.ndarray, y: np.ndarray) -> float:
    """The distance as the paper's own program writes it."""
    mu1, mu2 = x.mean(0), y.mean(0)
    sigma1, sigma2 = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    covmean = scipy.linalg.sqrtm(sigma1.dot(sigma2))
    diff = mu1 - mu2
    return float(diff.dot(diff) + np.trace(sigma1) + np.trace(sigma2) - 2 * np.trace(covmean.real))


def mmd_of_binkowski(x: np.ndarray, y: np.ndarray) -> float:
    """Unbiased MMD, pair after pair."""

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return (a @ b / len(a) + 1) ** 3

    m, n = len(x), len(y)
    xx = sum(k(x[i], x[j]) for i in range(m) for j in range(m) if i != j) / (m * (m - 1))
    yy = sum(k(y[i], y[j]) for i in range(n) for j in range(n) if i != j) / (n * (n - 1))
    return xx + yy - 2 * sum(k(a, b) for a in x for b in y) / (m * n)


def prdc_of_naeem(real: np.ndarray, fake: np.ndarray, k: int) -> dict[str, float]:
    """The published definition of the ``prdc`` package."""

    def radii(x: np.ndarray) -> np.ndarray:
        return np.sort(pairwise_distances(x), axis=1)[:, k]  # the zeroth is the vector itself

    real_radii, fake_radii, apart = radii(real), radii(fake), pairwise_distances(real, fake)
    return {
        "precision": float((apart < real_radii[:, None]).any(0).mean()),
        "recall": float((apart < fake_radii[None]).any(1).mean()),
        "density": float((apart < real_radii[:, None]).sum(0).mean() / k),
        "coverage": float((apart.min(1) < real_radii).mean()),
    }


@pytest.mark.parametrize("d", [1, 5, 40])
def test_frechet_as_the_paper_s_program(d):
    """At any width, sets of different size."""
    x, y = draws(300, d, 1), draws(500, d, 2, 1.3, 0.2)
    found = frechet.frechet(Moments.of(x), Moments.of(y))
    assert found == pytest.approx(
        fid_of_heusel(x.numpy().reshape(300, d), y.numpy().reshape(500, d))
        if d > 1
        else (float((x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2)),
        rel=1e-6,
    )


def test_frechet_of_fewer_images_than_features():
    """Singular covariances have a root too: the overlap from singular values of the centred data."""
    x, y = draws(20, 60, 1), draws(30, 60, 2, 1.2)
    a, b = ((v - v.mean(0)) / math.sqrt(len(v) - 1) for v in (x, y))
    # tr (A^1/2 B A^1/2)^1/2 is the nuclear norm of the product of any two square roots
    overlap = torch.linalg.svdvals(a @ b.T).sum()
    expected = (x.mean(0) - y.mean(0)).square().sum() + a.square().sum() + b.square().sum() - 2 * overlap
    assert frechet.frechet(Moments.of(x), Moments.of(y)) == pytest.approx(float(expected), rel=1e-6)


def test_kernel_pair_by_pair(monkeypatch):
    """Blocks or not, sets of different size."""
    x, y = draws(37, 6, 1), draws(23, 6, 2, 1.2, 0.3)
    expected = mmd_of_binkowski(x.numpy(), y.numpy())
    assert prdc.kernel(x, y).value == pytest.approx(expected, rel=1e-6)
    monkeypatch.setattr(prdc, "_BLOCK", 10)
    assert prdc.kernel(x, y).value == pytest.approx(expected, rel=1e-6)
    assert prdc.kernel(x, y, limit=20).value == pytest.approx(
        mmd_of_binkowski(x[:20].numpy(), y[:20].numpy()), rel=1e-6
    )


@pytest.mark.parametrize("k", [1, 5])
def test_neighbourhoods_as_published(monkeypatch, k):
    """All four numbers, over several blocks."""
    monkeypatch.setattr(prdc, "_BLOCK", 50)
    real, fake = draws(130, 4, 1), draws(90, 4, 2, 0.8, 0.3)
    found = prdc.neighbourhoods(real, fake, k)
    for name, value in prdc_of_naeem(real.numpy(), fake.numpy(), k).items():
        assert getattr(found, name).value == pytest.approx(value, rel=1e-6), name


def test_torch_fidelity_agrees():
    """The numbers of another library on the same features, where it is installed (pip install fromnoise[fid])."""
    fid = pytest.importorskip("torch_fidelity.metric_fid", exc_type=ImportError)
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric

    x, y = draws(200, 16, 1), draws(200, 16, 2, 1.2, 0.3)
    theirs = fid.fid_statistics_to_metric(*map(fid.fid_features_to_statistics, (x, y)), False)
    found = frechet.frechet(Moments.of(x), Moments.of(y))
    assert found == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    theirs = kid_features_to_metric(x, y, kid_subsets=1, kid_subset_size=200, verbose=False)
    assert prdc.kernel(x, y).value == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-6)
    theirs = isc_features_to_metric(x, splits=10, shuffle=False)
    found = frechet.score([frechet.ClassVotes.of(p) for p in x.softmax(1).tensor_split(10)])
    assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-6)


# ---- closed forms


def test_frechet_of_known_gaussians():
    """Moments given, not sampled: independent coordinates have the sum of (m - m')^2 + (s - s')^2."""
    deviations = torch.tensor([[1.0, 2.0, 0.5], [3.0, 0.1, 0.5]], dtype=torch.float64)
    means = torch.tensor([[0.0, 1.0, -2.0], [0.5, 1.0, 2.0]], dtype=torch.float64)
    turn = torch.linalg.qr(draws(3, 3, 7))[0]
    a, b = (
        Moments(11, turn @ m, 10 * turn @ torch.diag(s.square()) @ turn.T)
        for m, s in zip(means, deviations, strict=True)
    )
    expected = (means[0] - means[1]).square().sum() + (deviations[0] - deviations[1]).square().sum()
    assert frechet.frechet(a, b) == pytest.approx(float(expected), rel=1e-9)
    assert frechet.frechet(a, a) == pytest.approx(0.0, abs=1e-9)


def test_scores_of_sure_and_of_ignorant_classifiers():
    """K classes told surely and equally often: K. Nothing told: 1."""
    sure = frechet.ClassVotes.of(torch.eye(8).repeat(50, 1))
    assert frechet.score([sure, sure]).value == pytest.approx(8) and frechet.score([sure, sure]).n == 800
    assert frechet.ClassVotes.of(torch.full((100, 8), 1 / 8)).score == pytest.approx(1)


def test_the_score_as_published():
    """Salimans's program, image by image; merged sums are the whole's."""
    p = torch.rand(60, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p = (p / p.sum(1, keepdim=True)).numpy()
    expected = np.exp(np.mean([scipy.stats.entropy(row, p.mean(0)) for row in p]))
    assert frechet.ClassVotes.of(torch.from_numpy(p)).score == pytest.approx(expected, rel=1e-9)
    merged = frechet.ClassVotes.of(torch.from_numpy(p[:7])) + frechet.ClassVotes.of(torch.from_numpy(p[7:]))
    assert merged.score == pytest.approx(expected, rel=1e-9)


def test_shares_have_the_error_of_a_coin():
    """The spread of many coins."""
    throws = torch.rand(4000, 200, generator=torch.Generator().manual_seed(0)) < 0.3
    errors = [frechet.share(row).error for row in throws]
    spread = float(throws.double().mean(1).std())
    assert np.mean(errors) == pytest.approx(spread, rel=0.05)


# ---- merging


def test_merged_moments_are_the_whole_s():
    """In any cut, in any order, far from the origin."""
    x = draws(1000, 7, 3, 1.0, 1e4)
    whole = Moments.of(x)
    parts = [Moments.of(x[i : i + s]) for i, s in ((0, 1), (1, 499), (500, 3), (503, 497))]
    for order in (parts, parts[::-1]):
        merged = reduce(Moments.__add__, order)
        assert merged.n == 1000
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=0)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)
    assert frechet.frechet_from(parts[1:], whole).n == 999


# ---- honest errors


def test_equal_sets_have_no_kernel_distance():
    """Within 3 standard errors of 0 in at least 95 of 100 draws, and on both sides of it."""
    found = [prdc.kernel(draws(150, 8, 2 * i), draws(100, 8, 2 * i + 1)) for i in range(100)]
    assert sum(abs(e.value) < 3 * e.error for e in found) >= 95
    assert 20 < sum(e.value < 0 for e in found) < 80


@pytest.mark.parametrize("scale", [1.0, 1.25, 1.6])
def test_the_kernel_distance_s_error_is_its_spread(scale):
    """For equal sets, where its first order vanishes, and for others."""
    found = [prdc.kernel(draws(150, 8, 2 * i), draws(100, 8, 2 * i + 1, scale)) for i in range(300)]
    spread = float(np.std([e.value for e in found]))
    told = math.sqrt(np.mean([e.error**2 for e in found]))
    assert told == pytest.approx(spread, rel=0.2)


def test_the_frechet_distance_s_error_and_limit():
    """Over repeated draws the error is the spread, and the limit is near the distance of endless samples."""
    reference = Moments.of(draws(200_000, 6, 1))
    endless = frechet.frechet(Moments.of(draws(200_000, 6, 2, 1.3, 0.2)), reference)
    found = [frechet.frechet_from(frechet.split(draws(400, 6, 10 + i, 1.3, 0.2), 10), reference) for i in range(120)]
    values, limits = [f.value for f in found], [f.limit for f in found]
    assert math.sqrt(np.mean([f.error**2 for f in found])) == pytest.approx(np.std(values), rel=0.25)
    bias, left = np.mean(values) - endless, np.mean(limits) - endless
    assert bias > 4 * np.std(values) / math.sqrt(120)  # the plain value is biased at this n
    assert abs(left) < 0.25 * bias


# ---- mistakes


def test_too_few_vectors():
    """Said, not divided by zero."""
    x = draws(2, 3, 0)
    with pytest.raises(ValueError):
        prdc.kernel(x, x)
    with pytest.raises(ValueError):
        prdc.neighbourhoods(x, x)
    with pytest.raises(ValueError):
        _ = Moments.of(x[:1]).covariance
    with pytest.raises(ValueError):
        frechet.frechet_from([Moments.of(x)], Moments.of(x))
