"""Shuffling and flips as functions of (seed, position), so that a resumed run needs no saved state and no replay.

Position ``p`` of the endless stream over ``n`` images is place ``p mod n`` of epoch ``p // n``, and each epoch has its
own permutation. All sources of randomness are fixed by their definitions and not by a library's choice of algorithm:
the argsort of the words of Philox4x64-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"), a cipher
over the places where sorting would take gigabytes (Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains"), and
SplitMix64 (Steele et al. 2014, "Fast Splittable Pseudorandom Number Generators").
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

_UINT64_MAX = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
MAX_SORTED = 1 << 27
"""Number of images up to which the order of an epoch is sorted and kept, 8 bytes each; that of more is computed."""
_ROUNDS = 8  # of the cipher; four make a pseudorandom permutation (Luby & Rackoff 1988)
_FLIP = 0x666C6970  # makes the flips independent of everything else that depends on the seed


@lru_cache(maxsize=4)
def permutation(n: int, seed: int, epoch: int) -> np.ndarray:
    """Permute ``0 .. n-1``: the argsort of the first n words of Philox with the key (seed, epoch).

    Args:
        n: number of elements.
        seed: any integer, taken modulo 2^64.
        epoch: any integer, taken modulo 2^64.

    Returns:
        int64 (n,), read-only.
    """
    key = np.array([seed & _UINT64_MAX, epoch & _UINT64_MAX], dtype=np.uint64)
    order = np.argsort(np.random.Philox(key=key).random_raw(n), kind="stable").astype(np.int64, copy=False)
    order.flags.writeable = False
    return order


def permute_places(n: int, seed: int, epoch: int, places: np.ndarray) -> np.ndarray:
    """A permutation of ``0 .. n-1`` at some places, without the others: a Feistel network of ``2 b`` bits, 4^b >= n.

    (L, R) <- (R, L xor F_k(R)), where F_k(R) is SplitMix64's finalizer of R + key_k, and key_k is word k of Philox with
    the key (seed, epoch). What leaves ``0 .. n-1`` is enciphered again until it is back (cycle walking).

    Args:
        n: number of elements.
        seed: any integer, taken modulo 2^64.
        epoch: any integer, taken modulo 2^64.
        places: int64 (B,), each from 0 to n - 1.

    Returns:
        int64 (B,).
    """
    key = np.array([seed & _UINT64_MAX, epoch & _UINT64_MAX], dtype=np.uint64)
    keys = np.random.Philox(key=key).random_raw(_ROUNDS)
    bits = np.uint64(max(1, -(-(n - 1).bit_length() // 2)))
    mask = (np.uint64(1) << bits) - np.uint64(1)
    found = places.astype(np.uint64)
    outside = np.arange(len(found))
    while len(outside):
        left, right = found[outside] >> bits, found[outside] & mask
        for each in keys:
            left, right = right, left ^ (_mix(right + each) & mask)
        found[outside] = left << bits | right
        outside = outside[found[outside] >= n]
    return found.astype(np.int64)


def _as_array(positions: range | Tensor) -> np.ndarray:
    if isinstance(positions, range):
        return np.arange(positions.start, positions.stop, positions.step, dtype=np.int64)
    return positions.detach().cpu().numpy().astype(np.int64)


def shuffled_indices(n: int, seed: int, positions: range | Tensor) -> Tensor:
    """Return the index of the image at each position of the shuffled stream.

    Args:
        n: number of images.
        seed: of the run.
        positions: (B,), from 0 without limit, in any order.

    Returns:
        int64 (B,), each from 0 to n - 1.
    """
    flat = _as_array(positions)
    epochs, places = np.divmod(flat, n)
    indices = np.empty_like(flat)
    for epoch in np.unique(epochs).tolist():
        mask = epochs == epoch
        if n > MAX_SORTED:
            indices[mask] = permute_places(n, seed, epoch, places[mask])
        else:
            indices[mask] = permutation(n, seed, epoch)[places[mask]]
    return torch.from_numpy(indices)


def _mix(z: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64; uint64 products wrap modulo 2^64."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def splitmix(start: int, counters: np.ndarray) -> np.ndarray:
    """Return numbers of the SplitMix64 sequence by their place in it.

    Args:
        start: 64-bit state before the first number.
        counters: places, uint64, from 0.

    Returns:
        uint64 of the same shape.
    """
    return _mix(np.uint64(start & _UINT64_MAX) + (counters + np.uint64(1)) * np.uint64(_GOLDEN))


def flip_mask(seed: int, positions: range | Tensor) -> Tensor:
    """Return whether the image at each position is mirrored, with probability 1/2.

    Args:
        seed: of the run.
        positions: (B,).

    Returns:
        bool (B,).
    """
    # the seed is mixed first: the sequences of related seeds would otherwise be shifts of one sequence
    start = int(splitmix(seed ^ _FLIP, np.zeros(1, dtype=np.uint64))[0])
    return torch.from_numpy(splitmix(start, _as_array(positions).astype(np.uint64)) >> np.uint64(63) == 1)
