"""``fromnoise.evaluate``: samples and real images in, metrics out."""

from __future__ import annotations

import pytest
import torch

import fromnoise as fn


def images(n: int, seed: int, mean: float = 100.0) -> torch.Tensor:
    """Random images, uint8 (n, 1, 8, 8)."""
    noise = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(seed))
    return (mean + 30 * noise).clamp(0, 255).to(torch.uint8)


def test_samples_of_the_same_distribution_are_nearer_than_brighter_ones():
    """The Frechet distance orders a good and a bad set, and comes with that of held-out images."""
    real = fn.as_data(images(400, 0), holdout=0.25)
    good = fn.evaluate(images(100, 1), real, features="pixels", device="cpu")
    bad = fn.evaluate(images(100, 2, mean=160.0), real, features="pixels", device="cpu")
    assert good["frechet"].samples.value < bad["frechet"].samples.value
    assert good["frechet"].real_vs_real is not None
    assert "Frechet" in str(good)


def test_samples_may_be_files(tmp_path):
    """A folder of images gives the numbers of the tensor."""
    from PIL import Image

    samples = images(40, 3)
    for i, image in enumerate(samples):
        Image.fromarray(image[0].numpy()).save(tmp_path / f"{i:03}.png")
    real = fn.as_data(images(200, 0), holdout=0.25)
    by_files = fn.evaluate(tmp_path, real, features="pixels", device="cpu")
    by_tensor = fn.evaluate(samples, real, features="pixels", device="cpu")
    assert by_files["frechet"].samples.value == pytest.approx(by_tensor["frechet"].samples.value)


def test_samples_of_another_shape_are_refused():
    """One line says which shape is needed."""
    with pytest.raises(fn.UserError, match=r"\(N, 1, 8, 8\)"):
        fn.evaluate(torch.zeros(20, 3, 8, 8, dtype=torch.uint8), images(200, 0), features="pixels", device="cpu")


def test_a_metric_that_was_not_measured_is_named():
    """The message lists those that were."""
    result = fn.evaluate(images(40, 1), images(200, 0), features="pixels", device="cpu")
    with pytest.raises(KeyError, match="frechet"):
        result["fid"]
