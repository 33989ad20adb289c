"""Shuffling and flips are functions of (seed, position)."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.data import flip_mask, shuffled_indices
from fromnoise.data.shuffling import MAX_SORTED, permutation, permute_places, splitmix

MASK = (1 << 64) - 1


def philox_words(key: tuple[int, int], count: int) -> list[int]:
    """Philox4x64-10, transcribed from Salmon et al. 2011; the counter of the first block is 1."""
    words: list[int] = []
    for block in range(1, -(-count // 4) + 1):
        c, k = [block, 0, 0, 0], list(key)
        for _ in range(10):
            p0, p1 = c[0] * 0xD2E7470EE14C6C93, c[2] * 0xCA5A826395121157
            c = [(p1 >> 64) ^ c[1] ^ k[0], p1 & MASK, (p0 >> 64) ^ c[3] ^ k[1], p0 & MASK]
            k = [(k[0] + 0x9E3779B97F4A7C15) & MASK, (k[1] + 0xBB67AE8584CAA73B) & MASK]
        words += c
    return words[:count]


def splitmix_words(state: int, count: int) -> list[int]:
    """SplitMix64, transcribed from Vigna's public-domain reference."""
    words = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) & MASK
        z = state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        words.append(z ^ (z >> 31))
    return words


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (1, 0), (0, 1), (123456789, 77), (-5, 3), (2**63 + 1, 2**40)])
def test_permutation_is_the_argsort_of_philox_words(seed: int, epoch: int) -> None:
    """Fixed by definition, so that a new version of a library cannot change the order of a run."""
    words = philox_words((seed & MASK, epoch & MASK), 50)
    assert permutation(50, seed, epoch).tolist() == sorted(range(50), key=lambda i: words[i])


def test_published_values_of_splitmix() -> None:
    """The first five numbers from seed 1234567, as widely published (Rosetta Code, Splitmix64)."""
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    expected += [4593380528125082431, 16408922859458223821]
    assert splitmix(1234567, np.arange(5, dtype=np.uint64)).tolist() == expected
    assert splitmix_words(1234567, 5) == expected


@settings(max_examples=40, deadline=None)
@given(st.integers(0, MASK), st.integers(0, 1000))
def test_splitmix_at_a_place_equals_the_sequence(state: int, count: int) -> None:
    """A number of the sequence is computed without those before it."""
    count %= 40
    assert splitmix(state, np.arange(count, dtype=np.uint64)).tolist() == splitmix_words(state, count)


@pytest.mark.parametrize("n", [1, 2, 3, 10, 1000])
def test_each_epoch_is_a_permutation(n: int) -> None:
    """Every image once per epoch, in another order than in other epochs."""
    epochs = shuffled_indices(n, 5, range(4 * n)).reshape(4, n)
    for epoch in epochs:
        assert sorted(epoch.tolist()) == list(range(n))
    if n >= 10:
        assert len({tuple(epoch.tolist()) for epoch in epochs}) == 4


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 30), st.integers(0, 2**32), st.lists(st.integers(0, 500), min_size=1, max_size=40))
def test_any_positions_equal_the_sequence(n: int, seed: int, positions: list[int]) -> None:
    """Positions can be requested in any order."""
    sequence = shuffled_indices(n, seed, range(501))
    assert torch.equal(shuffled_indices(n, seed, torch.tensor(positions)), sequence[positions])
    assert torch.equal(flip_mask(seed, torch.tensor(positions)), flip_mask(seed, range(501))[positions])


def test_positions_beyond_2_to_the_40() -> None:
    """Large positions cost the same as small ones and follow the same definition."""
    n, start = 7, 7 * (2**40)
    assert sorted(shuffled_indices(n, 0, range(start, start + n)).tolist()) == list(range(n))
    assert (
        shuffled_indices(n, 0, torch.tensor([start + 3])).item()
        == shuffled_indices(n, 0, range(start, start + n))[3].item()
    )


def test_seeds_and_epochs_differ() -> None:
    """Permutations of different seeds and epochs differ."""
    orders = {tuple(permutation(20, seed, epoch).tolist()) for seed in range(10) for epoch in range(10)}
    assert len(orders) == 100


def test_permutations_are_uniform() -> None:
    """The six permutations of three images over 3,000 epochs: chi-squared (5) exceeds 35.9 once in 1e6."""
    counts = Counter(tuple(permutation(3, 11, epoch).tolist()) for epoch in range(3000))
    assert len(counts) == 6
    assert sum((c - 500) ** 2 / 500 for c in counts.values()) < 35.9


def test_flips_are_fair_and_independent() -> None:
    """Probability 1/2, independent of neighbour, next seed and parity, within 5 standard errors."""
    n = 100_000
    a, b = flip_mask(0, range(n)).double(), flip_mask(1, range(n)).double()
    bound = 5 * 0.5 / n**0.5
    assert abs(a.mean() - 0.5) < bound and abs(a[::2].mean() - 0.5) < 1.5 * bound
    for x, y in ((a[1:], a[:-1]), (a, b), (a[1:], b[:-1])):
        assert abs((x != y).double().mean() - 0.5) < bound


def test_flips_belong_to_positions() -> None:
    """Over many epochs each image occurs both mirrored and not mirrored."""
    n = 8
    mirrored = flip_mask(3, range(64 * n)).reshape(64, n)
    indices = shuffled_indices(n, 3, range(64 * n)).reshape(64, n)
    for index in range(n):
        own = mirrored[indices == index]
        assert own.any() and not own.all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5000), st.integers(-5, MASK), st.integers(0, 2**40))
def test_places_of_large_sets_are_permuted(n: int, seed: int, epoch: int) -> None:
    """Each number once, at the same place whichever places are asked for."""
    places = np.arange(n)
    found = permute_places(n, seed, epoch, places)
    assert sorted(found.tolist()) == places.tolist()
    assert permute_places(n, seed, epoch, places[::-7]).tolist() == found[::-7].tolist()


def test_permuted_places_look_random() -> None:
    """Mean displacement n / 3, and neighbours, seeds and epochs are independent of each other."""
    n = 100_000
    found = [permute_places(n, seed, epoch, np.arange(n)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for each in found:
        assert abs(np.abs(each - np.arange(n)).mean() / (n / 3) - 1) < 0.02
        assert abs(np.corrcoef(each[1:], each[:-1])[0, 1]) < 0.02
        bins = np.bincount(each[:1000] * 20 // n, minlength=20)
        assert ((bins - 50) ** 2 / 50).sum() < 50  # chi^2 of 19 degrees of freedom: p = 1e-4
    for a, b in ((0, 1), (0, 2), (1, 2)):
        assert (found[a] == found[b]).sum() < 12 and abs(np.corrcoef(found[a], found[b])[0, 1]) < 0.02


def test_order_of_a_billion_images_needs_no_memory() -> None:
    """At any position."""
    n = 1_000_000_000
    assert n > MAX_SORTED
    found = shuffled_indices(n, 3, range(7 * n - 500, 7 * n + 500))
    assert len(set(found[:500].tolist())) == 500 and int(found.min()) >= 0 and int(found.max()) < n
    assert found.tolist()[500:] == permute_places(n, 3, 7, np.arange(500)).tolist()
