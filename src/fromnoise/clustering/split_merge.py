"""Moves that no gradual step makes: a cluster that is empty, and one that is two while two others are one.

EM improves a sorting where it is; it neither leaves an empty cluster nor cuts one in two. Both moves here change what
is believed before an M-step; later E-steps judge them. Exchanges follow Ueda et al. 2000 ("SMEM algorithm for mixture
models"), but for what decides them: a generator that draws anything draws two kinds of images told one cluster as well
as told two, so that the bound hardly prefers either. What decides is evenness, which has to be assumed.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fromnoise.clustering.baselines import KMEANS_RESTARTS, flat_pixels, gaussian_mixture, principal_components
from fromnoise.clustering.init import one_hot_responsibilities
from fromnoise.data import Images
from fromnoise.utils.kmeans import kmeans

_ALIKE = 0.25  # of all pairs of clusters, those nearest to each other may be joined
_SMALLER = 0.2  # of a cluster that is cut in two, what the smaller part has at least
_COMPONENTS = 10


@dataclass
class Responsibilities:
    """What may be moved.

    Attributes:
        q: probabilities of each image's clusters, float64 (N, Q).
        seen: as ``em.EMState``, (N, Q).
    """

    q: Tensor
    seen: Tensor

    def give(self, cluster: int, images: Tensor, of: int) -> None:
        """Let ``cluster`` be these images ``of`` another: what was first seen does not tell the two apart."""
        clusters = self.q.shape[1]
        self.q = self.q.index_copy(0, images, one_hot_responsibilities(torch.full((len(images),), cluster), clusters))
        self.seen = self.seen.index_copy(1, torch.tensor([cluster]), self.seen[:, of : of + 1])


def revive(belief: Responsibilities, images: Images, least: float, seed: int) -> tuple[int, ...]:
    """Give each empty cluster one half of the largest, as 2-means on its principal components cuts it.

    Args:
        belief: changed in place.
        images: that are sorted.
        least: share of an even cluster below which one counts as empty.
        seed: of the cuts.

    Returns:
        The clusters begun anew.
    """
    count, revived = belief.q.shape[1], []
    for cluster in range(count):
        sizes = torch.bincount(belief.q.argmax(1), minlength=count)
        if sizes[cluster] >= least * len(belief.q) / count:
            continue
        largest = int(sizes.argmax())
        members = (belief.q.argmax(1) == largest).nonzero().flatten()
        if len(members) < 4:
            continue
        points = principal_components(flat_pixels(images, members))
        half = members[kmeans(points, 2, seed, KMEANS_RESTARTS).labels == 1]
        belief.give(cluster, half, largest)
        revived.append(cluster)
    return tuple(revived)


def exchange(
    belief: Responsibilities, nats: Tensor, images: Images, share: float, trust: float, fixed: set[int], seed: int
) -> tuple[tuple[int, int, int], ...]:
    """Where two clusters that look alike are together smaller than the largest: join them, and cut that in two.

    Alike are two clusters whose images take few nats more when told the other. The cut is a mixture of two Gaussians
    on the principal components of the images; one that takes less than a fifth away is none.

    Args:
        belief: changed in place.
        nats: L_c of each image, (N, Q).
        images: that are sorted.
        share: of the largest, that the two must not reach together; 0 exchanges nothing.
        trust: power of what was first seen.
        fixed: clusters that stay as they are.
        seed: of the cuts.

    Returns:
        (a, b, c) where b was joined to a, and is now a half of c.
    """
    done: list[tuple[int, int, int]] = []
    count, fixed = belief.q.shape[1], set(fixed)
    which = belief.q.argmax(1)
    apart = distances(nats, which, torch.bincount(which, minlength=count))
    near = apart[apart.isfinite()].quantile(_ALIKE) if apart.isfinite().any() else 0.0
    while True:
        which = belief.q.argmax(1)
        sizes = torch.bincount(which, minlength=count)
        free = [c for c in range(count) if c not in fixed and sizes[c] > 0]
        if len(free) < 3:
            return tuple(done)
        largest = max(free, key=lambda c: int(sizes[c]))
        pairs = [
            (float(apart[a, b]), a, b)
            for a in free
            for b in free
            if a < b and largest not in (a, b) and sizes[a] + sizes[b] < share * sizes[largest] and apart[a, b] <= near
        ]
        members = (which == largest).nonzero().flatten()
        if not pairs or len(members) < 4 * _COMPONENTS:
            return tuple(done)
        side = gaussian_mixture(principal_components(flat_pixels(images, members), _COMPONENTS), 2, seed)
        if side.double().mean() > 0.5:
            side = 1 - side
        fixed |= {largest}
        if side.double().mean() < _SMALLER:
            continue
        _, a, b = min(pairs)
        a, b = (a, b) if sizes[a] >= sizes[b] else (b, a)
        _join(belief, a, b, trust)
        belief.give(b, members[side == 1], largest)
        done.append((a, b, largest))
        fixed |= {a, b}


def distances(nats: Tensor, which: Tensor, sizes: Tensor) -> Tensor:
    """Nats that the images of two clusters take more, on average, when each is told the other.

    Args:
        nats: L_c of each image, (N, Q).
        which: cluster of each, (N,).
        sizes: images of each, (Q,).

    Returns:
        (Q, Q); inf on the diagonal and where a cluster is empty.
    """
    count = nats.shape[1]
    more = nats - nats.gather(1, which[:, None])
    told = torch.zeros(count, count, dtype=torch.float64).index_add_(0, which, more.double())
    both = (sizes[:, None] + sizes[None, :]).double()
    out = (told + told.T) / both.clamp(min=1)
    empty = (sizes == 0)[:, None] | (sizes == 0)[None, :] | torch.eye(count, dtype=torch.bool)
    return out.masked_fill(empty, torch.inf)


def _join(belief: Responsibilities, a: int, b: int, trust: float) -> None:
    """Let a be a and b: probabilities add up, and p(s | a or b) is the mean by their shares."""
    q, seen = belief.q.clone(), belief.seen.clone()
    shares = q[:, [a, b]].mean(0)
    q[:, a] += q[:, b]
    q[:, b] = 0
    if trust:
        both = torch.stack([-seen[:, a] / trust, -seen[:, b] / trust], 1) + (shares / shares.sum()).log()
        seen[:, a] = -trust * both.logsumexp(1)
    belief.q, belief.seen = q, seen
