"""The random numbers: known answers, moments, and independence of seeds, samples, streams and batches."""

from __future__ import annotations

import torch
from scipy import stats

from fromnoise.diffusion.rng import Noise, Stream, philox

F = 0xFFFFFFFF


def int64(*values):
    return tuple(torch.tensor([v], dtype=torch.int64) for v in values)


def test_philox_known_answers():
    """The three vectors for Philox4x32-10 in Random123's kat_vectors."""
    for counter, key, answer in [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((F, F, F, F), (F, F), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ]:
        assert tuple(int(w) for w in philox(int64(*counter), key)) == answer


def test_normal_and_uniform_distributions():
    """Kolmogorov-Smirnov tests on 200,000 numbers, across samples and within one."""
    like = torch.empty(0, dtype=torch.float64)
    inside = Noise(3, torch.tensor([5])).normal((200_000,), Stream.EPS, like=like)[0]
    across = Noise(3, torch.arange(200_000)).normal((1,), Stream.EPS, like=like)[:, 0]
    for sample in (inside, across):
        assert stats.kstest(sample.numpy(), "norm").pvalue > 1e-3
    assert stats.kstest(Noise(0, torch.arange(200_000)).uniform(Stream.TIME).numpy(), "uniform").pvalue > 1e-3


def test_streams_parts_seeds_and_samples_are_uncorrelated():
    """Within 5 standard errors of 50,000 pairs."""
    like = torch.empty(0, dtype=torch.float64)
    n = 50_000

    def normal(seed=0, sample=0, stream=Stream.STEP, part=0):
        return Noise(seed, torch.tensor([sample])).normal((n,), stream, part, like=like)[0]

    base = normal()
    others = [
        normal(seed=1),
        normal(seed=1 << 32),
        normal(sample=1),
        normal(sample=1 << 32),
        normal(stream=Stream.EPS),
        normal(part=1),
    ]
    for i, a in enumerate([base, *others]):
        for b in others[i:]:
            assert abs(float((a * b).mean())) < 5 / n**0.5


def test_a_sample_does_not_depend_on_its_batch():
    """Sample 17 alone, among 40, and in another order: the same bits."""
    like = torch.empty(0)
    many = Noise(9, torch.arange(40)).normal((3, 5, 7), Stream.START, like=like)
    alone = Noise(9, torch.tensor([17])).normal((3, 5, 7), Stream.START, like=like)
    shuffled = Noise(9, torch.tensor([30, 17, 2])).normal((3, 5, 7), Stream.START, like=like)
    assert torch.equal(many[17], alone[0]) and torch.equal(many[17], shuffled[1]) and torch.equal(many[2], shuffled[2])


def test_negative_and_large_seeds():
    """Every 64-bit integer gives other numbers."""
    like = torch.empty(0)
    numbers = [Noise(s, torch.tensor([0])).normal((4,), Stream.START, like=like) for s in (-1, 0, 1, 2**63, 2**32)]
    for i, a in enumerate(numbers):
        assert bool(a.isfinite().all())
        assert not any(torch.equal(a, b) for b in numbers[i + 1 :])
