"""Progressive coding, samples that share a latent, and interpolation."""

from __future__ import annotations

import pytest
import torch

from fromnoise.data import to_float
from fromnoise.editing.interpolation import interpolate, shared_latents, slerp
from fromnoise.evaluation.progressive_coding import rate_and_distortion
from fromnoise.utils.errors import UserError
from test_likelihood import evaluator, pixels

_ = pixels


def test_rates_increase_up_to_the_bound(pixels):
    """The last rate has all terms but the decoder's; with it, the rate is the bound with the same noise."""
    m = evaluator(batch=12)
    found, whole = rate_and_distortion(m, pixels, None, lambda n: None), m.bound(pixels, None, None)
    assert found.steps == list(range(1, 21))
    assert all(a <= b for a, b in zip(found.rates[:-1], found.rates[1:], strict=True))
    assert found.rates[0] == pytest.approx(whole.prior, abs=1e-9)
    assert found.lossless == pytest.approx(float(whole.each.mean()))
    assert found.lossless - found.rates[-1] == pytest.approx(whole.decoder)


def test_distortion_decreases_with_the_rate(pixels):
    """For a network that predicts eps = 0, the distortion on 0-255 is large at k = T and small at k = 1."""
    m = evaluator(batch=12)
    with torch.no_grad():
        for p in m.model.denoiser.parameters():
            p.zero_()
    # eps = 0: the estimate is x / alpha, clipped; at k = 1 it is nearly the image
    found = rate_and_distortion(m, pixels, None, lambda n: None)
    assert found.distortions[-1] < 15 < 30 < found.distortions[0]


def test_samples_from_a_late_branch_are_similar():
    """Samples that share x_t at small t differ less than those that share x_T, and all samples differ."""
    m = evaluator()
    config = m.model.recipe.sample
    rows = shared_latents(m.model, config, m.compute, [1.0, 0.05], 6)
    apart = [to_float(row).var(0).mean() for row in rows]
    assert all(row.shape == (6, 1, 4, 4) for row in rows) and apart[1] < 0.5 * apart[0]
    assert len({tuple(image.flatten().tolist()) for image in rows[0]}) == 6


@pytest.mark.parametrize("flow", [False, True])
def test_interpolation_at_a_small_depth_reproduces_both_ends(flow, pixels):
    """Approximately; the middle differs from them."""
    m = evaluator({"sample.sampler": "ddim"})
    out = interpolate(m.model, m.model.recipe.sample, m.compute, pixels[:2], 0.05, 5, flow=flow)
    assert out.shape == (5, 1, 4, 4) and out.dtype == torch.uint8
    off = [float((to_float(out[i]) - to_float(pixels[j])).abs().mean()) for i, j in ((0, 0), (4, 1))]
    assert max(off) < 0.25 < float((to_float(out[2]) - to_float(pixels[0])).abs().mean())


def test_invalid_interpolations(pixels):
    """Images of another shape; a depth out of range."""
    m = evaluator()
    with pytest.raises(UserError, match="the images have shape"):
        interpolate(m.model, m.model.recipe.sample, m.compute, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 0.5, 3)
    with pytest.raises(UserError, match="out of range"):
        interpolate(m.model, m.model.recipe.sample, m.compute, pixels[:2], 1.5, 3)


def test_slerp_is_uniform_along_the_great_circle():
    """Unit vectors stay unit vectors; the angle is proportional to the weight."""
    a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    out = slerp(a, b, torch.tensor([[0.0], [0.25], [1.0]]))
    assert torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-6)
    angle = torch.atan2(out[:, 1], out[:, 0])
    assert torch.allclose(angle, torch.tensor([0.0, 0.25, 1.0]) * torch.pi / 2, atol=1e-6)
