"""Split-and-merge moves for EM (after Ueda et al. 2000, "SMEM algorithm for mixture models").

EM reaches a local optimum near its initialization: it neither refills an empty cluster nor splits one. Both moves here
change the responsibilities before an M-step; the following E-steps correct them. Ueda et al. accept a move by the
likelihood. That is not possible here: a flexible network models two kinds of images as well with one cluster as with
two, so that the bound hardly differs. The moves are accepted if they make the cluster sizes more even, which assumes
that the sizes are similar.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, gaussian_mixture, principal_components
from fromnoise.clustering.init import smoothed_one_hot
from fromnoise.data import Images
from fromnoise.utils.kmeans import kmeans

_MERGE_QUANTILE = 0.25  # only the closest quarter of all pairs of clusters may be merged
_MIN_PART = 0.2  # the smaller part of a split has at least this fraction of the cluster
_COMPONENTS = 10


@dataclass
class Responsibilities:
    """The part of the EM state that the moves change.

    Attributes:
        q: responsibilities, float64 (N, Q).
        encoder_nats: as in ``em.EMState``, (N, Q).
    """

    q: Tensor
    encoder_nats: Tensor

    def reassign(self, images: Tensor, source: int, target: int) -> None:
        """Move images of cluster ``source`` to cluster ``target``, and give both clusters the same encoder term."""
        labels = torch.full((len(images),), target)
        self.q = self.q.index_copy(0, images, smoothed_one_hot(labels, self.q.shape[1]))
        column = self.encoder_nats[:, source : source + 1]
        self.encoder_nats = self.encoder_nats.index_copy(1, torch.tensor([target]), column)

    def merge(self, a: int, b: int, encoder_weight: float) -> None:
        """Merge cluster b into a: the responsibilities add up, and p(s | a or b) is the mean weighted by size."""
        q, encoder_nats = self.q.clone(), self.encoder_nats.clone()
        sizes = q[:, [a, b]].mean(0)
        q[:, a] += q[:, b]
        q[:, b] = 0
        if encoder_weight:
            logs = torch.stack([-encoder_nats[:, a] / encoder_weight, -encoder_nats[:, b] / encoder_weight], 1)
            encoder_nats[:, a] = -encoder_weight * (logs + (sizes / sizes.sum()).log()).logsumexp(1)
        self.q, self.encoder_nats = q, encoder_nats


def reseed_empty(
    state: Responsibilities, images: Images, min_weight: float, fixed: set[int], seed: int
) -> tuple[int, ...]:
    """Give each empty cluster one half of the largest other one, split by 2-means on its principal components.

    Args:
        state: changed in place.
        images: the images that are clustered.
        min_weight: a cluster with fewer images than this fraction of N / Q counts as empty.
        fixed: clusters that take no part.
        seed: of k-means.

    Returns:
        The clusters that were empty.
    """
    count, reseeded = state.q.shape[1], []
    free = [cluster for cluster in range(count) if cluster not in fixed]
    for cluster in free:
        sizes = torch.bincount(state.q.argmax(1), minlength=count)
        if sizes[cluster] >= min_weight * len(state.q) / count:
            continue
        largest = max(free, key=lambda c: int(sizes[c]))
        members = (state.q.argmax(1) == largest).nonzero().flatten()
        if largest == cluster or len(members) < 4:
            continue
        points = principal_components(flat_pixels(images, members))
        half = members[kmeans(points, 2, seed, KMEANS_RESTARTS).labels == 1]
        state.reassign(half, largest, cluster)
        reseeded.append(cluster)
    return tuple(reseeded)


def split_and_merge(
    state: Responsibilities,
    nats: Tensor,
    images: Images,
    threshold: float,
    encoder_weight: float,
    fixed: set[int],
    seed: int,
) -> tuple[tuple[int, int, int], ...]:
    """Merge two close clusters that are together smaller than the largest one, and split the largest; repeat.

    Clusters are close if the L_c of their images differ by little (``cluster_distances``). The split is a mixture of
    two Gaussians on the principal components of the images; if the smaller part has less than a fifth of them, the
    cluster is not split.

    Args:
        state: changed in place.
        nats: L_c of each image, with the encoder term, (N, Q).
        images: the images that are clustered.
        threshold: two clusters are merged if together they have fewer images than this fraction of the largest; 0
            disables the moves.
        encoder_weight: weight of the encoder term.
        fixed: clusters that take no part.
        seed: of the splits.

    Returns:
        (a, b, c) for each move: b was merged into a, and then took a part of c.
    """
    moves: list[tuple[int, int, int]] = []
    count, fixed = state.q.shape[1], set(fixed)
    labels = state.q.argmax(1)
    distances = cluster_distances(nats, labels, torch.bincount(labels, minlength=count))
    finite = distances[distances.isfinite()]
    limit = finite.quantile(_MERGE_QUANTILE) if len(finite) else 0.0
    while True:
        labels = state.q.argmax(1)
        sizes = torch.bincount(labels, minlength=count)
        free = [c for c in range(count) if c not in fixed and sizes[c] > 0]
        if len(free) < 3:
            return tuple(moves)
        largest = max(free, key=lambda c: int(sizes[c]))
        pairs = [
            (float(distances[a, b]), a, b)
            for a in free
            for b in free
            if a < b
            and largest not in (a, b)
            and sizes[a] + sizes[b] < threshold * sizes[largest]
            and distances[a, b] <= limit
        ]
        members = (labels == largest).nonzero().flatten()
        if not pairs or len(members) < 4 * _COMPONENTS:
            return tuple(moves)
        part = gaussian_mixture(principal_components(flat_pixels(images, members), _COMPONENTS), 2, seed)
        if part.double().mean() > 0.5:
            part = 1 - part
        fixed |= {largest}
        if part.double().mean() < _MIN_PART:
            continue
        _, a, b = min(pairs)
        a, b = (a, b) if sizes[a] >= sizes[b] else (b, a)
        state.merge(a, b, encoder_weight)
        state.reassign(members[part == 1], largest, b)
        moves.append((a, b, largest))
        fixed |= {a, b}


def cluster_distances(nats: Tensor, labels: Tensor, sizes: Tensor) -> Tensor:
    """Mean increase of L_c in nats when the images of two clusters are conditioned on the other cluster.

    Args:
        nats: L_c of each image, (N, Q).
        labels: cluster of each image, int64 (N,).
        sizes: number of images in each cluster, (Q,).

    Returns:
        Symmetric (Q, Q); inf on the diagonal and for empty clusters.
    """
    count = nats.shape[1]
    increase = nats - nats.gather(1, labels[:, None])
    totals = torch.zeros(count, count, dtype=torch.float64).index_add_(0, labels, increase.double())
    images = (sizes[:, None] + sizes[None, :]).double()
    distances = (totals + totals.T) / images.clamp(min=1)
    undefined = (sizes == 0)[:, None] | (sizes == 0)[None, :] | torch.eye(count, dtype=torch.bool)
    return distances.masked_fill(undefined, torch.inf)
