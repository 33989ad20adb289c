"""Order and flips as functions of (seed, position): nothing to save, nothing to replay.

Position ``p`` of the endless stream over ``n`` pictures is place ``p mod n`` of epoch ``p // n``, and
each epoch has its own permutation. Both sources of randomness are fixed by their definitions, not by a
library's choice of algorithm: the words of Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3") put in order, and SplitMix64 (Steele et al. 2014, "Fast splittable pseudorandom
number generators").
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_FLIP = 0x666C6970  # keeps the flips apart from anything else that a seed decides


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of ``0 .. n-1``: the order of the first n words of Philox under the key (seed, epoch).

    Args:
        n: how many.
        seed: any integer, taken modulo 2^64.
        epoch: any integer, taken modulo 2^64.

    Returns:
        int64 (n,), not to be written to.
    """
    words = np.random.Philox(key=np.array([seed & _WORD, epoch & _WORD], dtype=np.uint64)).random_raw(n)
    order = np.argsort(words, kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


def _as_array(positions: range | Tensor) -> np.ndarray:
    if isinstance(positions, range):
        return np.arange(positions.start, positions.stop, positions.step, dtype=np.int64)
    return positions.detach().cpu().numpy().astype(np.int64)


def shuffled_indices(n: int, seed: int, positions: range | Tensor) -> Tensor:
    """Which picture stands at each position.

    Args:
        n: number of pictures.
        seed: of the run.
        positions: from 0 on, no end; any order, any shape (B,).

    Returns:
        int64 (B,), each in ``0 .. n-1``.
    """
    at = _as_array(positions)
    epochs, places = np.divmod(at, n)
    indices = np.empty_like(at)
    for epoch in np.unique(epochs).tolist():
        here = epochs == epoch
        indices[here] = permutation(n, seed, epoch)[places[here]]
    return torch.from_numpy(indices)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64; uint64 arrays wrap as they should."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def splitmix(start: int, counters: np.ndarray) -> np.ndarray:
    """Numbers of the SplitMix64 sequence that begins at ``start``, by their place in it.

    Args:
        start: 64-bit state.
        counters: which numbers, uint64, from 0.

    Returns:
        uint64 of the same shape.
    """
    return _mix(np.uint64(start & _WORD) + (counters + np.uint64(1)) * np.uint64(_GOLDEN))


def flip_mask(seed: int, positions: range | Tensor) -> Tensor:
    """Whether the picture at each position is mirrored; one in two is.

    Args:
        seed: of the run.
        positions: (B,).

    Returns:
        bool (B,).
    """
    # the seed is mixed first: the sequences of related seeds would otherwise be one sequence, shifted
    start = int(splitmix(seed ^ _FLIP, np.zeros(1, dtype=np.uint64))[0])
    return torch.from_numpy(splitmix(start, _as_array(positions).astype(np.uint64)) >> np.uint64(63) == 1)
