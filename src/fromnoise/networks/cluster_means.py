"""A network that sees the mean training image of its cluster beside the noisy image."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ClusterMeans(nn.Module):
    """Concatenates the mean image of each pseudo-label to the network's input, as further channels.

        network([x, means[cond + 1]], t, cond)

    At high noise the best estimate of an image is near the mean of its cluster, which the network need not learn then.
    An image without a pseudo-label gets the mean of all images. Conditioning by channel concatenation: Saharia et al.
    2022 ("Image super-resolution via iterative refinement"), there with a low-resolution image.

    Attributes:
        means: (K + 1, C, H, W) in [-1, 1]: of all training images, then of each cluster; saved with the weights.
    """

    means: Tensor

    def __init__(self, network: nn.Module, clusters: int, shape: tuple[int, int, int]) -> None:
        """Wrap a network.

        Args:
            network: called as ``network(x, t, cond)``, with C more input channels than the images have.
            clusters: K, the largest number of clusters.
            shape: (C, H, W) of the images.
        """
        super().__init__()
        self.network = network
        self.register_buffer("means", torch.zeros(clusters + 1, *shape))
        self.capturable = getattr(network, "capturable", False)
        self.fixed_size = getattr(network, "fixed_size", False)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor | None = None, augmentation: Tensor | None = None) -> Tensor:
        """As the network's; images of another size than the means get resized means."""
        means = self.means[:1].expand(len(x), -1, -1, -1) if cond is None else self.means[cond + 1]
        if means.shape[-2:] != x.shape[-2:]:
            means = F.interpolate(means, x.shape[-2:], mode="bilinear", antialias=True)
        more = {} if augmentation is None else {"augmentation": augmentation}
        return self.network(torch.cat([x, means.to(x)], dim=1), t, cond, **more)
