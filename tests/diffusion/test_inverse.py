"""Linear operators, and images drawn to agree with what they leave."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from fromnoise.diffusion import DDIM, Ancestral, Noise, Prediction, initial_noise, sampling, sampling_loop, schedules
from fromnoise.diffusion.inverse import DDNM, MMPS, Mask, PiGDM, downsampling, gaussian_blur, grayscale
from fromnoise.diffusion.inverse.mmps import conjugate_gradients
from fromnoise.diffusion.inverse.repaint import ReplacementSampler
from fromnoise.diffusion.oracles import GaussianMixture
from fromnoise.diffusion.samplers import DPMSolverPP

D = {"dtype": torch.float64}
G = torch.Generator().manual_seed(0)
X = torch.randn(3, 3, 8, 12, generator=G, **D)
OPERATORS = {
    "mask": Mask(torch.rand(1, 8, 12, generator=G) < 0.4),
    "grayscale": grayscale(),
    "downsampling": downsampling(8, 12, 4),
    "blur": gaussian_blur(8, 12, 1.3),
}


@pytest.mark.parametrize("name", OPERATORS)
def test_adjoint_and_pseudo_inverse(name):
    """<A x, y> = <x, A^T y>, and the four identities of Moore and Penrose."""
    a = OPERATORS[name]
    y = torch.randn(a.forward(X).shape, generator=G, **D)
    y = a.forward(a.adjoint(y))  # of its range: a mask's 0 stay 0
    assert torch.allclose((a.forward(X) * y).sum(), (X * a.adjoint(y)).sum(), rtol=1e-12)
    close = {"rtol": 1e-8, "atol": 1e-8}
    assert torch.allclose(a.forward(a.pseudo_inverse(a.forward(X))), a.forward(X), **close)
    assert torch.allclose(a.pseudo_inverse(a.forward(a.pseudo_inverse(y))), a.pseudo_inverse(y), **close)
    other = torch.randn(X.shape, generator=G, **D)
    projected = a.pseudo_inverse(a.forward(X))
    assert torch.allclose((projected * other).sum(), (X * a.pseudo_inverse(a.forward(other))).sum(), **close)
    y2 = a.forward(other)
    assert torch.allclose(
        (a.forward(a.pseudo_inverse(y)) * y2).sum(), (y * a.forward(a.pseudo_inverse(y2))).sum(), **close
    )


@pytest.mark.parametrize("name", OPERATORS)
def test_agreeing_is_the_least_change(name):
    """It gives y, and what it changes is orthogonal to all that A does not see."""
    a = OPERATORS[name]
    y = a.forward(torch.randn(X.shape, generator=G, **D))
    near = a.project(X, y)
    assert torch.allclose(a.forward(near), y, atol=1e-8)
    unseen = X - a.pseudo_inverse(a.forward(X))
    assert abs(float(((near - X) * unseen).sum())) < 1e-8


def test_the_operators_by_other_means():
    """Pillow's luma weights, numpy's means of squares, scipy's Gaussian filter."""
    x = X.numpy()
    assert np.allclose(grayscale().forward(X)[:, 0].numpy(), np.einsum("bchw,c->bhw", x, [0.299, 0.587, 0.114]))
    assert np.allclose(OPERATORS["downsampling"].forward(X).numpy(), x.reshape(3, 3, 2, 4, 3, 4).mean((3, 5)))
    blurred = ndimage.gaussian_filter(x, (0, 0, 1.3, 1.3), mode="reflect", radius=5)
    assert np.allclose(gaussian_blur(8, 12, 1.3, min_singular_value=0.0).forward(X).numpy(), blurred, atol=1e-12)
    assert np.allclose(gaussian_blur(8, 12, 1.3).forward(X).numpy(), blurred, atol=0.1)
    wide = gaussian_blur(3, 3, 5.0, min_singular_value=0.0).forward(
        torch.ones(1, 1, 3, 3)
    )  # a kernel wider than the image
    assert torch.allclose(wide, torch.ones_like(wide))
    with pytest.raises(ValueError, match="factor of 4"):
        downsampling(9, 12, 4)


def test_seen_pixels_are_kept_to_the_bit():
    """Not merely to rounding, whatever was drawn."""
    mask, y = Mask(torch.tensor([[True, False]])), torch.tensor([[[[0.1, 0.0]]]])
    assert torch.equal(mask.project(torch.full((1, 1, 1, 2), 1e8), y)[..., 0], y[..., 0])


def test_conjugate_gradients():
    """Each image's own system, one of them 0; where the matrix is not positive nothing breaks."""
    root = torch.randn(3, 6, 6, generator=G, **D)
    m = root @ root.mT + 0.1 * torch.eye(6, **D)
    right = torch.randn(3, 6, generator=G, **D)
    right[1] = 0
    got = conjugate_gradients(lambda v: (m @ v[..., None])[..., 0], right, 20)
    assert torch.allclose(got, torch.linalg.solve(m, right), rtol=1e-6, atol=1e-8)
    assert bool(conjugate_gradients(lambda v: -v, right, 5).isfinite().all())


# ---- exact: the data are a Gaussian, so that p(unseen | seen) is known

SHAPE = (1, 2, 4)
ROOT = torch.randn(8, 8, generator=torch.Generator().manual_seed(5), **D) * 0.35
COVARIANCE = ROOT @ ROOT.T + 0.02 * torch.eye(8, **D)
MEAN = torch.randn(8, generator=torch.Generator().manual_seed(6), **D) * 0.3
TRUE = GaussianMixture(torch.ones(1, **D), MEAN[None], COVARIANCE[None])
SEEN = torch.tensor([True, False, True, False, False, True, False, False])
Y = torch.tensor([0.9, 0.0, -0.4, 0.0, 0.0, 0.7, 0.0, 0.0], **D)
TABLE = schedules.linear(1000)


def conditional():
    """Mean and covariance of the unseen pixels (any textbook)."""
    gain = COVARIANCE[~SEEN][:, SEEN] @ torch.linalg.inv(COVARIANCE[SEEN][:, SEEN])
    mean = MEAN[~SEEN] + gain @ (Y[SEEN] - MEAN[SEEN])
    return mean, COVARIANCE[~SEEN][:, ~SEEN] - gain @ COVARIANCE[SEEN][:, ~SEEN]


def inpainted(denoise, sampler, n, levels):
    """Drawn images, (n, 8)."""
    noise = Noise(0, torch.arange(n))
    x = initial_noise(SHAPE, noise, torch.empty(0, **D))
    with torch.inference_mode():
        for step in sampling_loop(denoise, sampler, levels, x, noise):
            x = step.x
    return x.flatten(1)


def errors(x, n):
    """The largest miss of the mean and of the covariance, in standard errors."""
    mean, covariance = conditional()
    off = ((x[:, ~SEEN].mean(0) - mean).abs() / (covariance.diagonal() / n).sqrt()).max()
    variance_fraction = ((covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2) / n).sqrt()
    return float(off), float(((torch.cov(x[:, ~SEEN].T) - covariance).abs() / variance_fraction).max())


OPERATOR = Mask(SEEN.reshape(SHAPE))
KNOWN = Y.reshape(1, *SHAPE)


def test_the_guided_solver_draws_the_conditional_distribution():
    """Mean and covariance within 4 standard errors of 2,000 samples; what is seen is seen."""
    n, levels = 2000, sampling.logsnr(TABLE, 60)
    x = inpainted(MMPS(iterations=8).denoiser(TRUE, OPERATOR, KNOWN), DPMSolverPP(2), n, levels)
    assert max(errors(x, n)) < 4
    assert torch.allclose(x[:, SEEN], Y[SEEN].expand(n, -1), atol=1e-3)


def test_the_guided_denoiser_is_the_conditional_mean():
    """E[x_0 | x_t, y], from the joint covariance of x_0 and x_t, for a mask and for means of squares."""
    x = torch.randn(5, *SHAPE, generator=G, **D)
    for operator, y in ((OPERATOR, KNOWN), (downsampling(2, 4, 2), torch.tensor([[[[0.3, -0.5]]]], **D))):
        matrix = operator.forward(torch.eye(8, **D).reshape(8, *SHAPE)).flatten(1).T
        matrix = matrix[matrix.abs().sum(1) > 0]
        seen = y.flatten() if operator is not OPERATOR else Y[SEEN]
        for t in (0.05, 0.5, 1.0):
            level = TABLE.at(t)
            a, s = float(level.alpha), float(level.sigma)
            both = torch.cat([a * torch.eye(8, **D), matrix])  # of (x_t, y) on x_0
            noise = torch.diag(torch.cat([torch.full((8,), s**2, **D), torch.zeros(len(matrix), **D)]))
            gain = COVARIANCE @ both.T @ torch.linalg.inv(both @ COVARIANCE @ both.T + noise)
            given = torch.cat([x.flatten(1), seen.expand(5, -1)], 1)
            want = MEAN + (given - MEAN @ both.T) @ gain.T
            got = MMPS(iterations=12).denoiser(TRUE, operator, y)(x, level).x0.flatten(1)
            assert torch.allclose(got, want, atol=1e-6)


def test_pigdm_is_exact_for_white_data():
    """And then only: r is that of independent pixels."""
    white = GaussianMixture(torch.ones(1, **D), MEAN[None], 0.25 * torch.eye(8, **D)[None])
    x, level = torch.randn(4, *SHAPE, generator=G, **D), TABLE.at(0.5)
    got = PiGDM(sigma_data=0.5).denoiser(white, OPERATOR, KNOWN)(x, level).x0.flatten(1)
    want = torch.where(SEEN, Y, white(x, level).x0.flatten(1))
    assert torch.allclose(got, want, atol=1e-9)


def test_repaint_keeps_what_is_seen_and_is_biased():
    """Its miss shows at 1,000 samples, with more passes less; the mean is nearer than that of the data."""
    n, (mean, _) = 1000, conditional()
    off = [float((MEAN[~SEEN] - mean).norm())]
    for passes in (1, 4):
        x = inpainted(TRUE, ReplacementSampler(Ancestral(0.0), OPERATOR, KNOWN, passes), n, sampling.uniform(TABLE, 40))
        assert torch.equal(x[:, SEEN], Y[SEEN].expand(n, -1))
        assert max(errors(x, n)) > 4
        off.append(float((x[:, ~SEEN].mean(0) - mean).norm()))
    assert off[2] < off[1] < off[0]


def test_projection_keeps_what_is_seen():
    """To rounding, with any rule."""
    x = inpainted(DDNM().denoiser(TRUE, OPERATOR, KNOWN), DDIM(1.0), 50, sampling.uniform(TABLE, 30))
    assert torch.allclose(x[:, SEEN], Y[SEEN].expand(50, -1), atol=1e-12)


def test_noise_to_a_depth_and_back_leaves_the_distribution():
    """SDEdit of the data's own images, with the exact denoiser: other images of the same data."""
    n, noise = 2000, Noise(3, torch.arange(2000))
    x0 = TRUE.sample(noise)[0].reshape(n, *SHAPE)
    levels = [level for level in sampling.uniform(TABLE, 100) if level.t <= 0.5]
    x = levels[0].noisy(x0, initial_noise(SHAPE, noise, torch.empty(0, **D)))
    for step in sampling_loop(TRUE, Ancestral(0.0), levels, x, noise):
        x = step.x
    variance_fraction = ((COVARIANCE.diagonal()[:, None] * COVARIANCE.diagonal() + COVARIANCE**2) / n).sqrt()
    assert bool(((x.flatten(1).mean(0) - MEAN).abs() < 4 * (COVARIANCE.diagonal() / n).sqrt()).all())
    assert bool(((torch.cov(x.flatten(1).T) - COVARIANCE).abs() < 4.5 * variance_fraction).all())
    assert float((x - x0).abs().mean()) > 0.1


@pytest.mark.parametrize("wrapper", [DDNM(), PiGDM(), MMPS()])
def test_pure_noise_is_no_obstacle(wrapper):
    """Schedules of zero terminal SNR begin where J says nothing."""
    table = schedules.zero_terminal_snr(TABLE)
    denoise = wrapper.denoiser(TRUE, OPERATOR, KNOWN)
    x = inpainted(denoise, DDIM(), 20, sampling.uniform(table, 50))
    assert bool(x.isfinite().all()) and float((x[:, SEEN] - Y[SEEN]).abs().max()) < 0.1


def test_the_learned_spread_is_handed_on():
    """And no gradient leaves the wrappers."""
    variance_fraction = torch.full((1, *SHAPE), 0.3, **D)

    def model(x, level, cond=None, previous=None):
        return Prediction(0.5 * x, variance_fraction)

    for wrapper in (DDNM(), PiGDM(), MMPS()):
        prediction = wrapper.denoiser(model, OPERATOR, KNOWN)(torch.zeros(1, *SHAPE, **D), TABLE.at(0.5))
        assert torch.equal(prediction.variance_fraction, variance_fraction) and not prediction.x0.requires_grad
    assert math.isfinite(float(prediction.x0.sum()))
