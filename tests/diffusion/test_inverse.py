"""Linear operators, and solvers of linear inverse problems."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from fromnoise import registry
from fromnoise.diffusion import DDIM, Ancestral, Noise, Prediction, initial_noise, sampling, sampling_loop, schedules
from fromnoise.diffusion.inverse import DDNM, MMPS, Mask, PiGDM, RePaint, downsampling, gaussian_blur, grayscale
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
    """<A x, y> = <x, A^T y>, and the four Moore-Penrose conditions."""
    a = OPERATORS[name]
    y = torch.randn(a.forward(X).shape, generator=G, **D)
    y = a.forward(a.adjoint(y))  # in the range of A
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
def test_projection_is_the_smallest_change(name):
    """The projection gives y, and the change is orthogonal to the null space of A."""
    a = OPERATORS[name]
    y = a.forward(torch.randn(X.shape, generator=G, **D))
    near = a.project(X, y)
    assert torch.allclose(a.forward(near), y, atol=1e-8)
    null_space = X - a.pseudo_inverse(a.forward(X))
    assert abs(float(((near - X) * null_space).sum())) < 1e-8


def test_operators_against_pillow_numpy_and_scipy():
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


def test_mask_projection_is_exact():
    """Known pixels are copied bit for bit, not added."""
    mask, y = Mask(torch.tensor([[True, False]])), torch.tensor([[[[0.1, 0.0]]]])
    assert torch.equal(mask.project(torch.full((1, 1, 1, 2), 1e8), y)[..., 0], y[..., 0])


def test_conjugate_gradients():
    """Each image has its own system, one with right-hand side 0; an indefinite matrix gives finite results."""
    root = torch.randn(3, 6, 6, generator=G, **D)
    m = root @ root.mT + 0.1 * torch.eye(6, **D)
    right = torch.randn(3, 6, generator=G, **D)
    right[1] = 0
    got = conjugate_gradients(lambda v: (m @ v[..., None])[..., 0], right, 20)
    assert torch.allclose(got, torch.linalg.solve(m, right), rtol=1e-6, atol=1e-8)
    assert bool(conjugate_gradients(lambda v: -v, right, 5).isfinite().all())


# ---- Gaussian data, for which p(unknown | known) has a closed form

SHAPE = (1, 2, 4)
ROOT = torch.randn(8, 8, generator=torch.Generator().manual_seed(5), **D) * 0.35
COVARIANCE = ROOT @ ROOT.T + 0.02 * torch.eye(8, **D)
MEAN = torch.randn(8, generator=torch.Generator().manual_seed(6), **D) * 0.3
TRUE = GaussianMixture(torch.ones(1, **D), MEAN[None], COVARIANCE[None])
IS_KNOWN = torch.tensor([True, False, True, False, False, True, False, False])
Y = torch.tensor([0.9, 0.0, -0.4, 0.0, 0.0, 0.7, 0.0, 0.0], **D)
TABLE = schedules.linear(1000)


def conditional():
    """Mean and covariance of p(unknown pixels | known pixels)."""
    gain = COVARIANCE[~IS_KNOWN][:, IS_KNOWN] @ torch.linalg.inv(COVARIANCE[IS_KNOWN][:, IS_KNOWN])
    mean = MEAN[~IS_KNOWN] + gain @ (Y[IS_KNOWN] - MEAN[IS_KNOWN])
    return mean, COVARIANCE[~IS_KNOWN][:, ~IS_KNOWN] - gain @ COVARIANCE[IS_KNOWN][:, ~IS_KNOWN]


def inpainted(denoise, sampler, n, levels):
    """Samples, (n, 8)."""
    noise = Noise(0, torch.arange(n))
    x = initial_noise(SHAPE, noise, torch.empty(0, **D))
    with torch.inference_mode():
        for step in sampling_loop(denoise, sampler, levels, x, noise):
            x = step.x
    return x.flatten(1)


def errors(x, n):
    """The largest error of the mean and of the covariance, in standard errors."""
    mean, covariance = conditional()
    error = ((x[:, ~IS_KNOWN].mean(0) - mean).abs() / (covariance.diagonal() / n).sqrt()).max()
    standard_error = ((covariance.diagonal()[:, None] * covariance.diagonal() + covariance**2) / n).sqrt()
    return float(error), float(((torch.cov(x[:, ~IS_KNOWN].T) - covariance).abs() / standard_error).max())


OPERATOR = Mask(IS_KNOWN.reshape(SHAPE))
MEASUREMENT = Y.reshape(1, *SHAPE)


def test_mmps_samples_the_posterior():
    """Mean and covariance within 4 standard errors of 2,000 samples; known pixels are reproduced."""
    n, levels = 2000, sampling.logsnr(TABLE, 60)
    x = inpainted(MMPS(iterations=8).denoiser(TRUE, OPERATOR, MEASUREMENT), DPMSolverPP(2), n, levels)
    assert max(errors(x, n)) < 4
    assert torch.allclose(x[:, IS_KNOWN], Y[IS_KNOWN].expand(n, -1), atol=1e-3)


def test_mmps_is_the_posterior_mean_of_a_gaussian():
    """E[x_0 | x_t, y], from the joint covariance of x_0 and x_t, for a mask and for downsampling."""
    x = torch.randn(5, *SHAPE, generator=G, **D)
    for operator, y in ((OPERATOR, MEASUREMENT), (downsampling(2, 4, 2), torch.tensor([[[[0.3, -0.5]]]], **D))):
        matrix = operator.forward(torch.eye(8, **D).reshape(8, *SHAPE)).flatten(1).T
        matrix = matrix[matrix.abs().sum(1) > 0]
        known = y.flatten() if operator is not OPERATOR else Y[IS_KNOWN]
        for t in (0.05, 0.5, 1.0):
            level = TABLE.at(t)
            a, s = float(level.alpha), float(level.sigma)
            joint = torch.cat([a * torch.eye(8, **D), matrix])  # of (x_t, y) on x_0
            noise = torch.diag(torch.cat([torch.full((8,), s**2, **D), torch.zeros(len(matrix), **D)]))
            gain = COVARIANCE @ joint.T @ torch.linalg.inv(joint @ COVARIANCE @ joint.T + noise)
            observed = torch.cat([x.flatten(1), known.expand(5, -1)], 1)
            want = MEAN + (observed - MEAN @ joint.T) @ gain.T
            got = MMPS(iterations=12).denoiser(TRUE, operator, y)(x, level).x0.flatten(1)
            assert torch.allclose(got, want, atol=1e-6)


def test_pigdm_is_exact_for_white_data():
    """r_t is that of independent pixels."""
    white = GaussianMixture(torch.ones(1, **D), MEAN[None], 0.25 * torch.eye(8, **D)[None])
    x, level = torch.randn(4, *SHAPE, generator=G, **D), TABLE.at(0.5)
    got = PiGDM(sigma_data=0.5).denoiser(white, OPERATOR, MEASUREMENT)(x, level).x0.flatten(1)
    want = torch.where(IS_KNOWN, Y, white(x, level).x0.flatten(1))
    assert torch.allclose(got, want, atol=1e-9)


def test_repaint_keeps_the_known_pixels_and_is_biased():
    """The bias is significant at 1,000 samples and decreases with more resamplings."""
    n, (mean, _) = 1000, conditional()
    error = [float((MEAN[~IS_KNOWN] - mean).norm())]
    for resamplings in (1, 4):
        x = inpainted(
            TRUE, ReplacementSampler(Ancestral(0.0), OPERATOR, MEASUREMENT, resamplings), n, sampling.uniform(TABLE, 40)
        )
        assert torch.equal(x[:, IS_KNOWN], Y[IS_KNOWN].expand(n, -1))
        assert max(errors(x, n)) > 4
        error.append(float((x[:, ~IS_KNOWN].mean(0) - mean).norm()))
    assert error[2] < error[1] < error[0]


def test_ddnm_keeps_the_known_pixels():
    """To rounding, with a stochastic sampler."""
    x = inpainted(DDNM().denoiser(TRUE, OPERATOR, MEASUREMENT), DDIM(1.0), 50, sampling.uniform(TABLE, 30))
    assert torch.allclose(x[:, IS_KNOWN], Y[IS_KNOWN].expand(50, -1), atol=1e-12)


def test_sdedit_preserves_the_distribution():
    """Noising samples of the data to t = 0.5 and denoising them with the exact denoiser gives samples of the data."""
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


@pytest.mark.parametrize("solver", [DDNM(), PiGDM(), MMPS()])
def test_solvers_start_at_zero_terminal_snr(solver):
    """At t = 1 the Jacobian is 0 and the solvers fall back to projection."""
    table = schedules.zero_terminal_snr(TABLE)
    denoise = solver.denoiser(TRUE, OPERATOR, MEASUREMENT)
    x = inpainted(denoise, DDIM(), 20, sampling.uniform(table, 50))
    assert bool(x.isfinite().all()) and float((x[:, IS_KNOWN] - Y[IS_KNOWN]).abs().max()) < 0.1


def test_solvers_pass_on_the_learned_variance():
    """And detach the prediction from the graph."""
    variance_fraction = torch.full((1, *SHAPE), 0.3, **D)

    def model(x, level, cond=None, previous=None):
        return Prediction(0.5 * x, variance_fraction)

    for solver in (DDNM(), PiGDM(), MMPS()):
        prediction = solver.denoiser(model, OPERATOR, MEASUREMENT)(torch.zeros(1, *SHAPE, **D), TABLE.at(0.5))
        assert torch.equal(prediction.variance_fraction, variance_fraction) and not prediction.x0.requires_grad
    assert math.isfinite(float(prediction.x0.sum()))


def test_repaint_with_the_largest_number_of_resamplings():
    """The sampling loop has enough random numbers for them."""
    sampler = RePaint(80).sampler(DDIM(), OPERATOR, MEASUREMENT)
    assert bool(inpainted(TRUE, sampler, 2, sampling.uniform(TABLE, 2)).isfinite().all())


# ---- the registry


def test_inverse_solvers_are_registered():
    """Under their names, with their options and defaults."""
    options = {name: registry.options("inverse_solver", name) for name in ("mmps", "pigdm", "ddnm", "repaint")}
    assert {name: {k: o.default for k, o in found.items()} for name, found in options.items()} == {
        "mmps": {"iterations": 3, "noise_std": 0.0},
        "pigdm": {"sigma_data": 0.5},
        "ddnm": {},
        "repaint": {"resamplings": 10},
    }
    assert all(option.help for found in options.values() for option in found.values())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mmps", {"iterations": 0}),
        ("mmps", {"noise_std": -1.0}),
        ("pigdm", {"sigma_data": 0.0}),
        ("repaint", {"resamplings": 0}),
    ],
)
def test_invalid_options_of_inverse_solvers(name, values):
    """A ValueError that names the option."""
    with pytest.raises(ValueError, match=next(iter(values))):
        registry.build("inverse_solver", name, values)


def test_repaint_replaces_the_sampler_and_keeps_the_denoiser():
    """The other solvers keep the sampler."""
    ddim = DDIM()
    assert RePaint().denoiser(TRUE, OPERATOR, MEASUREMENT) is TRUE
    assert RePaint(4).sampler(ddim, OPERATOR, MEASUREMENT).resamplings == 4
    assert all(solver.sampler(ddim, OPERATOR, MEASUREMENT) is ddim for solver in (DDNM(), PiGDM(), MMPS()))
