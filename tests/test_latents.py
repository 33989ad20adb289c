"""Rate and distortion, shared latents and interpolation."""

from __future__ import annotations

import pytest
import torch

from fromnoise.data import to_float
from fromnoise.editing.interpolation import between, shared, slerp
from fromnoise.evaluation.progressive_coding import rate_and_distortion
from fromnoise.utils.errors import UserError
from test_bits import measure, pixels

_ = pixels


def test_rates_grow_to_the_bound(pixels):
    """The last row has all terms but the decoder's; the whole is the bound of the same noise."""
    m = measure(batch=12)
    found, whole = rate_and_distortion(m, pixels, None, lambda n: None), m.bound(pixels, None, None)
    assert found.steps == list(range(1, 21))
    assert all(a <= b for a, b in zip(found.rates[:-1], found.rates[1:], strict=True))
    assert found.rates[0] == pytest.approx(whole.prior, abs=1e-9)
    assert found.lossless == pytest.approx(float(whole.each.mean()))
    assert found.lossless - found.rates[-1] == pytest.approx(whole.decoder)


def test_the_distortion_is_the_error_of_the_estimate(pixels):
    """On 0-255: of a network that estimates 0 it is the root mean square of the image itself."""
    m = measure(batch=12)
    with torch.no_grad():
        for p in m.model.denoiser.parameters():
            p.zero_()
    # eps = 0: the estimate is x / alpha, clipped; at k = 1 it is nearly the image
    found = rate_and_distortion(m, pixels, None, lambda n: None)
    assert found.distortions[-1] < 15 < 30 < found.distortions[0]


def test_samples_share_what_they_branched_from():
    """The deeper the branch the more alike; from t = 1 on only the start is shared."""
    m = measure()
    config = m.model.recipe.sample
    rows = shared(m.model, config, m.compute, [1.0, 0.05], 6)
    apart = [to_float(row).var(0).mean() for row in rows]
    assert all(row.shape == (6, 1, 4, 4) for row in rows) and apart[1] < 0.5 * apart[0]
    assert len({tuple(image.flatten().tolist()) for image in rows[0]}) == 6


@pytest.mark.parametrize("flow", [False, True])
def test_interpolation_near_the_image_ends_at_the_ends(flow, pixels):
    """From a shallow depth both ends come back, nearly, and the middle is neither."""
    m = measure(sample_sampler="ddim")
    out = between(m.model, m.model.recipe.sample, m.compute, pixels[:2], 0.05, 5, flow=flow)
    assert out.shape == (5, 1, 4, 4) and out.dtype == torch.uint8
    off = [float((to_float(out[i]) - to_float(pixels[j])).abs().mean()) for i, j in ((0, 0), (4, 1))]
    assert max(off) < 0.25 < float((to_float(out[2]) - to_float(pixels[0])).abs().mean())


def test_what_cannot_be_interpolated(pixels):
    """Another shape, no such depth."""
    m = measure()
    with pytest.raises(UserError, match="the model draws"):
        between(m.model, m.model.recipe.sample, m.compute, torch.zeros(2, 3, 4, 4, dtype=torch.uint8), 0.5, 3)
    with pytest.raises(UserError, match="no time"):
        between(m.model, m.model.recipe.sample, m.compute, pixels[:2], 1.5, 3)


def test_slerp_keeps_to_the_sphere():
    """Unit vectors stay unit, a quarter of the way is a quarter of the angle."""
    a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    out = slerp(a, b, torch.tensor([[0.0], [0.25], [1.0]]))
    assert torch.allclose(out.norm(dim=1), torch.ones(3), atol=1e-6)
    angle = torch.atan2(out[:, 1], out[:, 0])
    assert torch.allclose(angle, torch.tensor([0.0, 0.25, 1.0]) * torch.pi / 2, atol=1e-6)
