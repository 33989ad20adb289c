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

from fromnoise.evaluation.estimate import stratum_index

_NEIGHBOURS = 64  # of a sample, within which its radius in a quarter of the samples is found
_PERMUTATIONS = 16  # random divisions of the samples into quarters
_ELEMENTS = 2**21  # of the largest temporary tensor
_SPLITS = ((0, 1), (0, 2), (0, 3))  # quarters that make up one half; the other two make up the other
_NOISE = 1.06  # of an error from so few independent subsets, by the simulations of benchmarks/error_coverage.py


@final
class CoverageError:
    """Standard error of the fraction of balls that hold a sample.

    With p_r the probability of a ball and p_rs that of the intersection of two, the variance for a Poisson number of
    samples of mean n is

        sum_rs e^(-n (p_r + p_s - p_rs)) (1 - e^(-n p_rs)) / M^2
            = E sum_{S not empty} (-1)^(|S| + 1) m_S^2 / M^2

    where m_S is the number of balls that hold the set S of samples and no other: the series of 1 - e^(-x), whose terms
    x^c/c! e^(-n p_(r or s)) are the probabilities that both balls hold the same c samples. For exactly n_h samples of
    stratum h, n_h (d/dn_h of the expected coverage)^2 is subtracted for each; i.i.d. samples are one stratum.
    """

    def __init__(self, samples: int, strata: Tensor | None = None) -> None:
        """Start without balls.

        Args:
            samples: number of samples, n.
            strata: of the samples, as of ``standard_error``.
        """
        generator = torch.Generator().manual_seed(0)
        self._hashes = torch.randint(-(2**62), 2**62, (samples,), generator=generator)
        self._strata = stratum_index(strata, samples)
        self._keys: list[Tensor] = []
        self._sizes: list[Tensor] = []
        self._only: list[Tensor] = []  # the sample in each ball that holds one

    def add_reference(self, holds: Tensor) -> None:
        """Add balls.

        Args:
            holds: whether a ball holds a sample, bool (balls, n).
        """
        balls, samples = holds.cpu().nonzero(as_tuple=True)
        self._keys.append(torch.zeros(len(holds), dtype=torch.int64).index_add_(0, balls, self._hashes[samples]))
        size = balls.bincount(minlength=len(holds))
        self._sizes.append(size)
        self._only.append(samples[size[balls] == 1])

    def estimate(self) -> float:
        """The standard error."""
        sizes = torch.cat(self._sizes)
        _, members, counts = torch.cat(self._keys).unique(return_inverse=True, return_counts=True)
        size = torch.zeros(len(counts), dtype=torch.int64)
        size[members] = sizes  # equal within a group
        squares = counts.double().square()
        only = torch.cat(self._only).bincount(minlength=len(self._strata)).double()  # balls that hold this sample alone
        in_stratum = self._strata.bincount().double()
        sums, own = (torch.zeros_like(in_stratum).index_add_(0, self._strata, v) for v in (only, only.square()))
        single = float(((sums.square() - own) / (in_stratum - 1).clamp(min=1)).sum())  # unbiased for n_h (mean of h)^2
        jackknife = float(squares[size == 1].sum()) - single
        series = float(torch.where(size % 2 == 1, squares, -squares)[size > 0].sum()) - single
        return math.sqrt(max(series, jackknife / 4, 0.0)) / len(sizes)


@final
class RecallError:
    """Standard error of the fraction of real images in the samples' manifold, by independent subsets of the samples.

    Two halves of the samples are independent, so half the squared difference of their values estimates the variance at
    n/2 without bias; quarters give that at n/4. The variance at n follows by the power law through both, with an
    exponent between 0 and -1. Each subset holds its part of every stratum. The estimate is itself noisy, and
    its root a little too small: without the factor 1.06, two errors covered 0.92 to 0.96 in simulations.
    """

    def __init__(self, samples: Tensor, k: int, strata: Tensor | None = None) -> None:
        """Find the neighbours of the samples, and the radius of each in each subset.

        Args:
            samples: vectors, (n, D).
            k: rank of the neighbour to which a ball reaches.
            strata: of the samples, as of ``standard_error``.
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
        generator, index = torch.Generator().manual_seed(0), stratum_index(strata, n)
        members = []
        for _ in range(_PERMUTATIONS):
            order = torch.randperm(n, generator=generator)
            order = order[index[order].argsort(stable=True)]  # by stratum, at random within each
            quarter = torch.empty(n, dtype=torch.int64)
            quarter[order] = torch.rand(-(-n // 4), 4, generator=generator).argsort(1).flatten()[:n]
            members += [quarter == q for q in range(4)]
            for one in _SPLITS:
                half = (quarter == one[0]) | (quarter == one[1])
                members += [half, ~half]
        member = torch.stack(members, 1)  # (n, subsets)
        rows = max(1, _ELEMENTS // (member.shape[1] * distances.shape[1]))
        parts = [_radii(d, i, member, k) for d, i in zip(distances.split(rows), neighbours.split(rows), strict=True)]
        self._radii = torch.where(member, torch.cat(parts), 0.0)
        self._reach = self._radii.amax(1)
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
        near, subsets = distances[images, samples], len(self._recalled)
        counts = torch.zeros(len(distances), subsets)  # balls of a subset that hold an image
        for i, j, d in zip(*(v.split(max(1, _ELEMENTS // subsets)) for v in (images, samples, near)), strict=True):
            counts.index_add_(0, i, (d[:, None] < self._radii[j]).float())
        self._recalled += (counts > 0).sum(0)

    def estimate(self) -> float:
        """The standard error; nan if a quarter of the samples has not more than k of them."""
        if not self._possible:
            return math.nan
        values = (self._recalled / self._count).reshape(_PERMUTATIONS, 4 + 2 * len(_SPLITS))
        quarter = float(values[:, :4].var(1).mean())
        half = float((values[:, 4::2] - values[:, 5::2]).square().mean()) / 2
        ratio = min(1.0, max(0.5, half / quarter)) if quarter > 0 else 0.5
        return _NOISE * math.sqrt(half * ratio)


def _radii(distances: Tensor, neighbours: Tensor, member: Tensor, k: int) -> Tensor:
    """Distance to the k-th nearest other sample of each subset, (b, subsets).

    Args:
        distances: to the nearest samples, ascending, (b, K).
        neighbours: their indices, (b, K).
        member: whether a sample belongs to a subset, bool (n, subsets).
        k: rank; beyond K it is taken as K.
    """
    counts = member[neighbours].cumsum(1, dtype=torch.int16)  # (b, K, subsets)
    rank = (counts < k).sum(1).clamp(max=distances.shape[1] - 1)
    return distances.gather(1, rank)
