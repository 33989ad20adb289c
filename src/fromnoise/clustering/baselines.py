"""The usual ways: k-means and Gaussian mixtures on pixels or their principal components."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.data import Images
from fromnoise.utils.errors import UserError

COMPONENTS = 50


def flat(images: Images, ids: Tensor | None = None) -> Tensor:
    """Pixels of all images, or of some, in [0, 1], float32 (N, D)."""
    return images.get(torch.arange(len(images)) if ids is None else ids).flatten(1).float() / 255


def components(points: Tensor, count: int = COMPONENTS) -> Tensor:
    """Principal components, at most ``count``, as they are scaled by the data, (N, count)."""
    from sklearn.decomposition import PCA

    count = min(count, *points.shape)
    return torch.from_numpy(PCA(count, svd_solver="randomized", random_state=0).fit_transform(points.numpy()))


def kmeans(points: Tensor, clusters: int, seed: int, tries: int = 4) -> Tensor:
    """The cluster of each point, int64 (N,), the best of several tries.

    Raises:
        UserError: there are fewer points than clusters.
    """
    from sklearn.cluster import KMeans

    if len(points) < clusters:
        raise UserError(f"{len(points)} images cannot make {clusters} clusters: take a smaller -q")
    found = KMeans(clusters, n_init=tries, random_state=seed % 2**32).fit_predict(points.numpy())  # type: ignore[call-overload]
    return torch.from_numpy(found).long()


def gaussians(points: Tensor, clusters: int, seed: int) -> Tensor:
    """The cluster of each point by a mixture of Gaussians with full covariances, int64 (N,)."""
    from sklearn.mixture import GaussianMixture

    spread = 1e-3 * float(points.double().var(0).mean())
    model = GaussianMixture(clusters, reg_covar=spread, random_state=seed % 2**32, max_iter=60)
    return torch.from_numpy(model.fit_predict(points.double().numpy())).long()
