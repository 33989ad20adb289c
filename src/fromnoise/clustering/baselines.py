"""Classical clustering of pixels: principal components and mixtures of Gaussians; k-means is in ``utils.kmeans``."""

from __future__ import annotations

import torch
from torch import Tensor

from fromnoise.data import Images

COMPONENTS = 50
KMEANS_RESTARTS = 4


def flat_pixels(images: Images, ids: Tensor | None = None) -> Tensor:
    """Pixels of all images, or of the images ``ids``, in [0, 1], float32 (N, D)."""
    return images.get(torch.arange(len(images)) if ids is None else ids).flatten(1).float() / 255


def principal_components(points: Tensor, count: int = COMPONENTS) -> Tensor:
    """The first principal components without whitening, at most ``count`` of them, (N, count)."""
    from sklearn.decomposition import PCA

    count = min(count, *points.shape)
    return torch.from_numpy(PCA(count, svd_solver="randomized", random_state=0).fit_transform(points.numpy()))


def gaussian_mixture(points: Tensor, clusters: int, seed: int) -> Tensor:
    """The most likely component of each point under a mixture of full-covariance Gaussians, int64 (N,)."""
    from sklearn.mixture import GaussianMixture

    regularization = 1e-3 * float(points.double().var(0).mean())
    model = GaussianMixture(clusters, reg_covar=regularization, random_state=seed % 2**32, max_iter=60)
    return torch.from_numpy(model.fit_predict(points.double().numpy())).long()
