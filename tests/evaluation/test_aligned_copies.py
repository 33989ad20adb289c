"""Copies that were blurred, shifted, darkened or covered with noise (review B9)."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from fromnoise.evaluation.aligned_copies import AlignedSearch, aligned_distances, normalize, smoothed


def paintings(n: int, seed: int) -> torch.Tensor:
    """Random smooth images of 28x28 with some detail, uint8."""
    generator = torch.Generator().manual_seed(seed)
    coarse = F.interpolate(torch.randn(n, 1, 5, 5, generator=generator), (28, 28), mode="bicubic")
    fine = F.interpolate(torch.randn(n, 1, 14, 14, generator=generator), (28, 28), mode="bilinear")
    return (128 + 50 * coarse + 15 * fine).clamp(0, 255).byte()


ALTERED = {
    "blurred": lambda x: F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1),
    "shifted": lambda x: x.roll((1, 1), (-2, -1)),
    "dark": lambda x: 0.8 * x,
    "noisy": lambda x: x + 40 * torch.randn(x.shape, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("name", ALTERED)
def test_b9_altered_copies_are_found(name):
    """Nearly all, each beside its own original; of other images hardly any.

    Version 0.1 compared plain pixels: it finds 42 % of the shifted, 18 % of the dark and none of the noisy copies here.
    """
    train = paintings(400, 0)
    copies = ALTERED[name](train[:50].float()).round().clamp(0, 255).byte()
    search = AlignedSearch(torch.cat([copies, paintings(50, 2)]), 51)
    for first in (0, 150):
        search.add_reference(train[first : {0: 150, 150: 400}[first]], first)
    result = search.result(lambda indices: smoothed(train[indices]))
    ratios = result.distance_ratios
    assert float((ratios[:50] < 0.5).double().mean()) > 0.9 and float((ratios[50:] < 0.5).double().mean()) < 0.05
    assert float((result.indices[:50, 0] == torch.arange(50)).double().mean()) > 0.9
    assert result.copy_rate.value == pytest.approx(float((ratios < 0.5).double().mean()))


def test_b9_aligned_distance_of_a_shifted_image_is_zero():
    """Over the pixels that both have, at any brightness and contrast.

    Version 0.1 had the distance by plain pixels only.
    """
    x = torch.rand(2, 1, 9, 9, dtype=torch.float64) * 200
    shifted = (0.5 * x + 20).roll(1, -1)
    assert float(aligned_distances(shifted, x[:, None]).max()) < 1e-6
    assert float(aligned_distances(x.flip(-2), x[:, None]).min()) > 1
    assert bool(torch.isfinite(normalize(torch.full((1, 1, 4, 4), 9.0))).all())


def test_b9_few_or_equal_training_images():
    """No division by zero."""
    x = torch.full((3, 1, 8, 8), 7, dtype=torch.uint8)
    for count in (1, 5):
        search = AlignedSearch(x, 51)
        search.add_reference(x[:1].expand(count, -1, -1, -1), 0)
        ratios = search.result(lambda indices: smoothed(x[torch.zeros_like(indices)])).distance_ratios
        assert not bool(ratios.isnan().any())
