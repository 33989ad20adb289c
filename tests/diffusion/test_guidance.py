"""Denoisers that wrap denoisers."""

from __future__ import annotations

import torch

from fromnoise.diffusion import ClassifierFree, Clip, Prediction, schedule

LEVEL = schedule.linear(1000).at(0.5)


def conditional(x, level, cond=None, previous=None):
    """x_0 is the class number, 10 for none; the batch sizes seen are kept."""
    conditional.calls.append(len(x))
    told = torch.full((len(x),), -1) if cond is None else cond
    value = torch.where(told < 0, 10.0, told.float()).reshape(-1, 1).expand_as(x)
    return Prediction(value + (0 if previous is None else previous))


def guided(scale, cond, previous=None):
    conditional.calls = []
    x = torch.zeros(len(cond) if cond is not None else 2, 1)
    return ClassifierFree(conditional, scale)(x, LEVEL, cond, previous).x0[:, 0].tolist(), conditional.calls


def test_guidance():
    """u + scale (c - u), Ho and Salimans 2022: both halves in one call of the network."""
    cond = torch.tensor([2, 3])
    assert guided(3.0, cond) == ([10 + 3 * (2 - 10), 10 + 3 * (3 - 10)], [4])
    assert guided(1.0, cond) == ([2, 3], [2])
    assert guided(0.0, cond) == ([10, 10], [2])
    assert guided(3.0, None) == ([10, 10], [2])
    assert guided(5.0, torch.tensor([-1, 2])) == ([10, 10 + 5 * (2 - 10)], [4])


def test_guidance_hands_on_the_last_estimate():
    """Both halves see it."""
    values, _ = guided(2.0, torch.tensor([2, 3]), torch.ones(2, 1))
    assert values == [11 + 2 * (3 - 11), 11 + 2 * (4 - 11)]


def test_clip():
    """To the range of pixels, the spread untouched."""
    spread = torch.tensor([0.3])
    wrapped = Clip(lambda x, level, cond=None, previous=None: Prediction(x, spread))
    told = wrapped(torch.tensor([-3.0, -0.5, 0.5, 3.0]), LEVEL)
    assert told.x0.tolist() == [-1, -0.5, 0.5, 1] and told.spread is spread
