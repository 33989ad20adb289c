"""Bytes to [-1, 1] and back."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise.data import to_float, to_uint8


def test_every_byte_survives_the_round_trip() -> None:
    """All 256 values, through every floating type that holds them."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert torch.equal(to_uint8(to_float(pixels).double()), pixels)
    assert torch.equal(to_uint8(to_float(pixels).half()), pixels)


def test_the_ends_and_the_middle() -> None:
    """0 is -1, 255 is 1, and the scale is straight between."""
    unit = to_float(torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8))
    assert unit.dtype == torch.float32
    assert torch.allclose(unit, torch.linspace(-1, 1, 6), atol=1e-7)


def test_the_nearest_byte_is_taken_and_the_rest_clamped() -> None:
    """Each float goes to the byte whose unit value is nearest; beyond the ends, to the ends."""
    x = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    units = to_float(torch.arange(256, dtype=torch.uint8)).double()
    distance = (x[:, None] - units).abs()
    got = units[to_uint8(x).long()]
    assert torch.allclose((x - got).abs(), distance.min(1).values, atol=1e-6)


@pytest.mark.parametrize(("bad", "byte"), [(math.nan, {127, 128}), (math.inf, {255}), (-math.inf, {0})])
def test_numbers_that_are_not_finite(bad: float, byte: set[int]) -> None:
    """NaN is mid-grey and infinities are the ends, on either side of a good number."""
    got = to_uint8(torch.tensor([1.0, bad, -1.0])).tolist()
    assert got[0] == 255 and got[2] == 0 and got[1] in byte


def test_the_input_is_left_alone() -> None:
    """No function writes into what it was given."""
    x, pixels = torch.tensor([0.3, math.nan]), torch.tensor([1, 2], dtype=torch.uint8)
    before, bytes_before = x.clone(), pixels.clone()
    to_uint8(x)
    to_float(pixels)
    assert torch.equal(x.nan_to_num(9), before.nan_to_num(9)) and torch.equal(pixels, bytes_before)
