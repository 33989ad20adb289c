"""K-means on points whose clusters are known."""

from __future__ import annotations

import pytest
import torch

from fromnoise.utils.kmeans import kmeans


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_separated_groups_are_found(dtype):
    """Labels are the groups and centroids their means, in the dtype of the points; seeds may exceed 32 bits."""
    generator = torch.Generator().manual_seed(0)
    groups = torch.arange(3).repeat_interleave(20)
    points = (100 * groups[:, None] + torch.randn(60, 4, generator=generator)).to(dtype)
    found = kmeans(points, 3, seed=2**40 - 7, restarts=4)
    assert found.labels.dtype == torch.int64 and found.centroids.dtype == dtype
    for group in range(3):
        (label,) = found.labels[groups == group].unique().tolist()
        torch.testing.assert_close(found.centroids[label], points[groups == group].mean(0), rtol=1e-5, atol=1e-4)


def test_fewer_points_than_clusters_are_an_error():
    """No silent empty cluster."""
    with pytest.raises(ValueError, match="n_clusters"):
        kmeans(torch.zeros(2, 1), 3, seed=0)


def test_copies_of_a_point_make_no_warning(recwarn):
    """Fewer different points than clusters: one label, and nothing for the user to read."""
    assert kmeans(torch.ones(6, 2), 2, 0).labels.unique().numel() == 1
    assert not recwarn.list
