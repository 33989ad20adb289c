"""Latent diffusion on distributions whose samples and bounds are known: linear autoencoders and Gaussian latents."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from fromnoise.config import parse
from fromnoise.data import to_uint8
from fromnoise.data.dataset_info import DatasetInfo
from fromnoise.diffusion import schedules, targets
from fromnoise.diffusion.denoiser import Denoiser
from fromnoise.diffusion.likelihood.code_length import ELBO
from fromnoise.diffusion.likelihood.elbo import decoder_nll, density_nll
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.reconstruction import kl_to_standard_normal, reconstruction_nll
from fromnoise.diffusion.rng import Noise
from fromnoise.evaluation.autoencoder_bits import vae_bound
from fromnoise.evaluation.likelihood import LikelihoodEvaluator
from fromnoise.model import AutoencoderModel, Model
from fromnoise.networks.latent_space import LatentSpace
from fromnoise.pipeline import sample_steps
from fromnoise.utils.device import select_device

STEPS = 100


class Linear(nn.Module):
    """q(z | x) = N(A x, d^2), p(x | z) = N(B z, s^2) for images (1, 2, 3) and latents (2, 1, 1)."""

    def __init__(self, decoder, encoder=None, deviation=0.05, scale=0.3):
        super().__init__()
        encoder = torch.linalg.pinv(decoder) if encoder is None else encoder
        self.register_buffer("matrix", decoder)
        self.register_buffer("inverse", encoder)
        self.log_scale = nn.Parameter(torch.full((1,), math.log(scale)))
        self.latent_shape, self.size, self.factor, self.decoder = (len(encoder), 1, 1), (2, 3), None, "gaussian"
        self.deviation = deviation

    def encode(self, x):
        mean = (x.flatten(1) @ self.inverse.T)[..., None, None]
        return mean, torch.full_like(mean, 2 * math.log(self.deviation))

    def decode(self, z):
        return (z.flatten(1) @ self.matrix.T).unflatten(1, (1, 2, 3))


class Exact(nn.Module):
    """The network whose output is E[z | z_t] of a distribution."""

    def __init__(self, oracle, schedule):
        super().__init__()
        self.oracle, self.schedule = oracle, schedule

    def forward(self, x, t, cond):
        level = self.schedule.at((t.cpu().double() + 1) / STEPS, like=x.double())
        return self.oracle(x.double(), level, None, None).x0.to(x.dtype)


def latent_model(autoencoder, covariance, mean=None, **sample):
    """Diffusion of latents N(mean, covariance)."""
    schedule = schedules.linear(STEPS)
    mean = torch.zeros(len(covariance)).double() if mean is None else mean
    oracle = GaussianMixture(torch.ones(1).double(), mean[None], covariance[None].double())
    denoiser = Denoiser(
        Exact(oracle, schedule), schedule, targets.X0(), latent_space=LatentSpace(autoencoder) if autoencoder else None
    )
    recipe = parse(
        {
            "network": "custom",
            "autoencoder": "vector" if autoencoder else None,
            "diffusion": {"schedule": {"kind": "linear", "steps": STEPS}, "target": "x0"},
            "sample": {"sampler": "ancestral", "clip": False} | sample,
        }
    )
    return Model(recipe, DatasetInfo((1, 2, 3)), denoiser.eval())


DECODER = torch.tensor([[0.5, 0.0], [0.2, -0.4], [0.0, 0.3], [-0.3, 0.1], [0.4, 0.4], [0.1, -0.2]])
CPU = select_device("cpu", "fp32")


def test_samples_have_the_mean_and_covariance_of_the_decoded_latents():
    """Decoded samples of N(m, S) have mean B m and covariance B S B^T, within four standard errors."""
    covariance = torch.tensor([[0.8, 0.3], [0.3, 0.4]])
    mean = torch.tensor([0.3, -0.5]).double()
    model = latent_model(Linear(DECODER), covariance, mean, sampler="heun", steps=40)
    n = 4000
    steps = sample_steps(model, model.recipe.sample, CPU, ids=torch.arange(n), seed=3, batch=n)
    (last,) = [step for step in steps if step.last]
    assert last.step.x.shape == (n, 2, 1, 1)
    x = last.decode(last.step.x).flatten(1).double()
    expected = DECODER.double() @ covariance.double() @ DECODER.double().T
    errors = (x.var(0) / n).sqrt()
    assert bool(((x.mean(0) - DECODER.double() @ mean).abs() < 4 * errors).all())
    products = torch.outer(expected.diag(), expected.diag())
    assert bool(((x.T.cov() - expected).abs() < 4 * ((products + expected**2) / n).sqrt()).all())
    assert last.images.shape == (n, 1, 2, 3)


def gaussian_bound(schedule, variance, square):
    """The bound -log p(z) of N(0, variance) by its exact denoiser, expected over noise, for E z^2 = ``square``, nats.

    A transcription of Ho et al. 2020, eq. 5, for one dimension: E(z - a (alpha z + sigma e))^2 at each step.
    """
    levels = [schedule.at(k / STEPS) for k in range(STEPS + 1)]
    alpha, sigma = ([float(getattr(level, name)) for level in levels] for name in ("alpha", "sigma"))
    total = 0.5 * (alpha[-1] ** 2 * square + sigma[-1] ** 2 - 1 - math.log(sigma[-1] ** 2))
    for k in range(1, STEPS + 1):
        a = alpha[k] * variance / (alpha[k] ** 2 * variance + sigma[k] ** 2)
        error = (1 - a * alpha[k]) ** 2 * square + a**2 * sigma[k] ** 2
        if k == 1:
            step = 1 - (alpha[2] / alpha[1]) ** 2
            posterior = step * sigma[1] ** 2 / sigma[2] ** 2  # beta tilde of the second step
            total += 0.5 * (error / posterior + math.log(2 * math.pi * posterior))
        else:
            snr = [(alpha[j] / sigma[j]) ** 2 for j in (k - 1, k)]
            total += 0.5 * (snr[0] - snr[1]) * error
    return total


def test_the_joint_bound_is_its_closed_form():
    """E_q[-log p(x | z) + log q(z | x)] and the bound of N(0, S), S diagonal, all terms in closed form."""
    scale, deviation, variances = 0.3, 0.05, (0.8, 0.4)
    autoencoder = Linear(DECODER, deviation=deviation, scale=scale)
    model = latent_model(autoencoder, torch.diag(torch.tensor(variances)))
    pixels = to_uint8(
        torch.tensor([0.7, -0.1, -0.8, 0.3, -0.5, -0.7]).reshape(1, 1, 2, 3)
    )  # no extreme value: its bin is wider
    n = 2000
    found = LikelihoodEvaluator(model, CPU, batch=n).bound(pixels.expand(n, -1, -1, -1), None, None)
    x = (pixels.double() / 127.5 - 1).flatten(1)
    mean = (x @ autoencoder.inverse.T.double())[0]
    square = mean**2 + deviation**2
    latent = sum(gaussian_bound(model.schedule, v, float(s)) for v, s in zip(variances, square, strict=True))
    log_q = -2 * (0.5 + 0.5 * math.log(2 * math.pi) + math.log(deviation))
    residual = (x[0] - DECODER.double() @ mean).square().sum() + deviation**2 * DECODER.double().square().sum()
    # bins of 2/255 are narrow beside the scale: -log of a density times the width of a bin
    nll = 0.5 * residual / scale**2 + 6 * (math.log(scale) + 0.5 * math.log(2 * math.pi) - math.log(2 / 255))
    expected = (latent + log_q + float(nll)) / (6 * math.log(2))
    error = float(found.each.std()) / n**0.5
    assert error < 0.1
    assert float(found.each.mean()) == pytest.approx(expected, abs=4 * error)


def test_a_perfect_autoencoder_has_the_bound_of_pixels_up_to_its_jacobian():
    """Standardized latents z = (c R x + b - b) / c of a rotation R: the bound of pixels, whatever c and b are."""
    rotation = torch.linalg.qr(torch.randn(6, 6, generator=torch.Generator().manual_seed(1)))[0]
    factors = torch.randn(6, 6, generator=torch.Generator().manual_seed(2))
    covariance = (factors @ factors.T / 12).double()
    x = 0.5 * torch.randn(8, 1, 2, 3, generator=torch.Generator().manual_seed(3))
    pixel = latent_model(None, covariance)
    turned = rotation.double() @ covariance @ rotation.double().T
    bounds = []
    for c in (1.0, 30.0):
        autoencoder = Linear(rotation.T / c, c * rotation)
        latent = latent_model(autoencoder, turned)
        latent.latent_space.deviation.fill_(c)
        z = latent.encode(x)
        torch.testing.assert_close(latent.decode(z), x, rtol=0, atol=1e-5)
        elbo = ELBO(latent.denoiser, latent.schedule, 0.0, decoder=density_nll)
        noise = Noise(0, torch.arange(8))
        bounds.append(sum(t.nats for t in elbo.all_terms(z, noise)) + elbo.prior(z))
    torch.testing.assert_close(bounds[0], bounds[1], rtol=1e-5, atol=1e-4)

    elbo = ELBO(pixel.denoiser, pixel.schedule, 0.0, decoder=density_nll)
    noise = Noise(0, torch.arange(8))
    total = elbo.prior(x)  # with the noise of the latents turned back: the same points of the same process
    for k in range(STEPS, 0, -1):
        eps = ELBO(latent.denoiser, latent.schedule)._eps(noise, z, k).flatten(1) @ rotation
        total = total + elbo.term_at(x, torch.full((8,), k), eps.unflatten(1, (1, 2, 3)))[0]
    torch.testing.assert_close(bounds[0], total, rtol=1e-4, atol=1e-3)


def test_the_bound_of_a_linear_vae_with_the_true_posterior_is_the_likelihood():
    """For p(x | z) = N(B z, s^2) and q the posterior, the bound is -log N(x; 0, B B^T + s^2) (probabilistic PCA)."""
    scale, matrix = 0.4, torch.tensor([[0.5], [0.2], [0.0], [-0.3], [0.4], [0.1]])
    precision = float(matrix.square().sum()) / scale**2 + 1
    autoencoder = Linear(matrix, matrix.T / scale**2 / precision, deviation=precision**-0.5, scale=scale)
    model = AutoencoderModel(
        parse({"autoencoder": "vector", "reconstruction": "elbo"}), DatasetInfo((1, 2, 3)), autoencoder
    )
    pixels = to_uint8(0.3 * torch.randn(3, 1, 2, 3, generator=torch.Generator().manual_seed(0)))
    n = 4000
    found = vae_bound(model, CPU, pixels.repeat(n, 1, 1, 1), batch=3 * n).each.reshape(n, 3)
    x = (pixels.double() / 127.5 - 1).flatten(1)
    covariance = matrix.double() @ matrix.double().T + scale**2 * torch.eye(6).double()
    nats = -torch.distributions.MultivariateNormal(torch.zeros(6).double(), covariance).log_prob(x)
    expected = (nats - 6 * math.log(2 / 255)) / (6 * math.log(2))
    assert bool(((found.mean(0) - expected).abs() < 4 * found.std(0) / n**0.5 + 1e-4).all())


def test_kl_divergence_is_that_of_torch():
    """Against torch.distributions."""
    mean, log_variance = torch.randn(4, 3, 2, 2), torch.randn(4, 3, 2, 2)
    one = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(one, torch.distributions.Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(kl_to_standard_normal(mean, log_variance), expected)


@pytest.mark.parametrize("decoder", ["gaussian", "logistic"])
def test_the_probabilities_of_all_pixel_values_add_to_one(decoder):
    """Sum over the 256 values of a pixel, at a small and at a large scale and near both ends."""
    values = (torch.arange(256).double() / 127.5 - 1).reshape(256, 1, 1, 1)
    for scale, centre in ((0.02, -0.99), (0.02, 0.3), (0.5, 0.99), (3.0, 0.0)):
        autoencoder = Linear(DECODER, scale=scale).double()
        autoencoder.decoder = decoder
        nll = reconstruction_nll(values, torch.full_like(values, centre), autoencoder)
        assert float((-nll).exp().sum().detach()) == pytest.approx(1.0, abs=1e-9)


def test_logistic_bins_are_differences_of_the_logistic_function():
    """-log(sigmoid(high) - sigmoid(low)) inside of the range (Salimans et al. 2017, eq. 2)."""
    x, centre, scale = torch.tensor([[0.2, -0.5]]).double(), torch.tensor([[0.1, 0.1]]).double(), torch.tensor(0.3)
    high, low = ((x - centre + sign / 255) / scale for sign in (1, -1))
    expected = -(high.sigmoid() - low.sigmoid()).log().sum(1)
    torch.testing.assert_close(decoder_nll(x, centre, scale, nn.functional.logsigmoid), expected)
