"""Standard errors of coverage and recall over sets of samples; the real images are fixed.

Both are fractions of the real images, but a binomial error over these is wrong: the real images do not vary between
sets of samples, and one sample decides about several of them. A jackknife over the samples is too large, by a factor of
1.2 to 1.8, since whether any ball holds an image is far from linear in the samples.
"""

from __future__ import annotations

import math
from typing import final

import torch
from torch import Tensor

_NEIGHBOURS = 64  # of a sample, within which its radius in a quarter of the samples is found
_PERMUTATIONS = 16  # random divisions of the samples into quarters
_SPLITS = ((0, 1), (0, 2), (0, 3))  # quarters that make up one half; the other two make up the other


@final
class CoverageError:
    """Standard error of the fraction of balls that hold a sample.

    With p_r the probability of a ball and p_rs that of the intersection of two, the variance for a Poisson number of
    samples of mean n is

        sum_rs e^(-n (p_r + p_s - p_rs)) (1 - e^(-n p_rs)) / M^2
            = E sum_{S not empty} (-1)^(|S| + 1) m_S^2 / M^2

    where m_S is the number of balls that hold the set S of samples and no other: the series of 1 - e^(-x), whose terms
    x^c/c! e^(-n p_(r or s)) are the probabilities that both balls hold the same c samples. For exactly n samples
    (n d/dn of the expected coverage)^2 / n is subtracted.
    """

    def __init__(self, samples: int) -> None:
        """Start without balls.

        Args:
            samples: number of samples, n.
        """
        generator = torch.Generator().manual_seed(0)
        self._hashes = torch.randint(-(2**62), 2**62, (samples,), generator=generator)
        self._n = samples
        self._keys: list[Tensor] = []
        self._sizes: list[Tensor] = []

    def add_reference(self, holds: Tensor) -> None:
        """Add balls.

        Args:
            holds: whether a ball holds a sample, bool (balls, n).
        """
        balls, samples = holds.cpu().nonzero(as_tuple=True)
        self._keys.append(torch.zeros(len(holds), dtype=torch.int64).index_add_(0, balls, self._hashes[samples]))
        self._sizes.append(balls.bincount(minlength=len(holds)))

    def estimate(self) -> float:
        """The standard error."""
        sizes = torch.cat(self._sizes)
        _, members, counts = torch.cat(self._keys).unique(return_inverse=True, return_counts=True)
        size = torch.zeros(len(counts), dtype=torch.int64)
        size[members] = sizes  # equal within a group
        squares = counts.double().square()
        single = float((sizes == 1).sum()) ** 2 / self._n
        jackknife = float(squares[size == 1].sum()) - single
        series = float(torch.where(size % 2 == 1, squares, -squares)[size > 0].sum()) - single
        return math.sqrt(max(series, jackknife / 4, 0.0)) / len(sizes)


@final
class RecallError:
    """Standard error of the fraction of real images in the samples' manifold, by independent subsets of the samples.

    Two halves of the samples are independent, so half the squared difference of their values estimates the variance at
    n/2 without bias; quarters give that at n/4. The variance at n follows by the power law through both, with an
    exponent between 0 and -1.
    """

    def __init__(self, samples: Tensor, k: int) -> None:
        """Find the neighbours of the samples, and the radius of each in each subset.

        Args:
            samples: vectors, (n, D).
            k: rank of the neighbour to which a ball reaches.
        """
        n = len(samples)
        self._count = 0
        self._possible = n // 4 > k
        if not self._possible:
            return
        parts = []
        for start in range(0, n, 1024):
            distances = torch.cdist(samples[start : start + 1024], samples, compute_mode="use_mm_for_euclid_dist")
            distances.diagonal(start).fill_(math.inf)
            parts.append(distances.topk(min(_NEIGHBOURS, n - 1), largest=False))
        distances, neighbours = (torch.cat([p[i] for p in parts]).cpu() for i in (0, 1))
        self._reach = distances[:, -1]
        generator = torch.Generator().manual_seed(0)
        members = []
        for _ in range(_PERMUTATIONS):
            quarter = torch.empty(n, dtype=torch.int64)
            quarter[torch.randperm(n, generator=generator)] = torch.arange(n) * 4 // n
            members += [quarter == q for q in range(4)]
            for one in _SPLITS:
                half = (quarter == one[0]) | (quarter == one[1])
                members += [half, ~half]
        self._radii = torch.stack([_radii(distances, neighbours, member, k) for member in members], 1)  # (n, subsets)
        self._recalled = torch.zeros(len(members), dtype=torch.float64)

    def add_reference(self, distances: Tensor) -> None:
        """Add real images.

        Args:
            distances: to the samples, (images, n).
        """
        self._count += len(distances)
        if not self._possible:
            return
        distances = distances.cpu()
        images, samples = (distances < self._reach).nonzero(as_tuple=True)
        near = distances[images, samples]
        for subset in range(len(self._recalled)):
            recalled = images[near < self._radii[samples, subset]]
            self._recalled[subset] += len(recalled.unique_consecutive())

    def estimate(self) -> float:
        """The standard error; nan if a quarter of the samples has not more than k of them."""
        if not self._possible:
            return math.nan
        values = (self._recalled / self._count).reshape(_PERMUTATIONS, 4 + 2 * len(_SPLITS))
        quarter = float(values[:, :4].var(1).mean())
        half = float((values[:, 4::2] - values[:, 5::2]).square().mean()) / 2
        ratio = min(1.0, max(0.5, half / quarter)) if quarter > 0 else 0.5
        return math.sqrt(half * ratio)


def _radii(distances: Tensor, neighbours: Tensor, member: Tensor, k: int) -> Tensor:
    """Distance to the k-th nearest other sample of a subset, (n,); 0 for samples outside the subset.

    Args:
        distances: to the nearest samples, ascending, (n, K).
        neighbours: their indices, (n, K).
        member: whether a sample belongs to the subset, bool (n,).
        k: rank; beyond K it is taken as K.
    """
    inside = member[neighbours]
    rank = (inside.cumsum(1) < k).sum(1).clamp(max=distances.shape[1] - 1)
    return torch.where(member, distances.gather(1, rank[:, None])[:, 0], 0.0)
