"""The mathematics of benchmarks/latent_clusters.py against torch.distributions."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.distributions import Categorical, Independent, MixtureSameFamily, Normal, kl_divergence

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import latent_clusters  # pyright: ignore[reportMissingImports]


@pytest.fixture
def drawn():
    """Posteriors of 40 images in 3 dimensions and a mixture of 4 components, all at random."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    posterior = latent_clusters.Posterior(2 * normal(40, 3), normal(40, 3).exp())
    return posterior, latent_clusters.Mixture(normal(4).softmax(0), 2 * normal(4, 3), normal(4, 3).exp())


def test_divergences(drawn):
    """Of each image and component."""
    (mean, variance), mixture = drawn
    image = Independent(Normal(mean[:, None], variance[:, None].sqrt()), 1)
    component = Independent(Normal(mixture.means, mixture.variances.sqrt()), 1)
    torch.testing.assert_close(mixture.divergences(drawn[0]), kl_divergence(image, component))


def test_kl_bound(drawn):
    """The bound is its sum at the responsibilities, no other q is below it, and KL(q, p(z)) is not above it."""
    posterior, mixture = drawn
    bound, best = mixture.kl(posterior), mixture.responsibilities(posterior)

    def value(q):
        return (q * (mixture.divergences(posterior) + (q / mixture.weights).log())).sum(1)

    torch.testing.assert_close(value(best), bound)
    assert (value(0.9 * best + 0.1 * best.roll(1, 0)) >= bound - 1e-12).all()
    components = Independent(Normal(mixture.means, mixture.variances.sqrt()), 1)
    prior = MixtureSameFamily(Categorical(mixture.weights), components)
    image = Independent(Normal(posterior.mean, posterior.variance.sqrt()), 1)
    torch.manual_seed(1)
    z = image.sample((4000,))
    terms = image.log_prob(z) - prior.log_prob(z)
    assert (terms.mean(0) <= bound + 4 * terms.std(0) / 4000**0.5).all()


def test_em_of_the_mixture_never_raises_the_bound(drawn):
    """By each iteration, and to less than it began with."""
    posterior, mixture = drawn
    values = [float(mixture.kl(posterior).mean())]
    for _ in range(20):
        mixture = mixture.fit(posterior, 1)
        values.append(float(mixture.kl(posterior).mean()))
    assert all(after <= before + 1e-12 for before, after in zip(values, values[1:], strict=False))
    assert values[-1] < values[0] - 0.1
