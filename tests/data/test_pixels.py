"""Conversion of bytes to [-1, 1] and back."""

from __future__ import annotations

import math

import pytest
import torch

from fromnoise.data import to_float, to_uint8


def test_round_trip_of_every_byte() -> None:
    """All 256 values, in every floating type that can represent them."""
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    assert torch.equal(to_uint8(to_float(pixels)), pixels)
    assert torch.equal(to_uint8(to_float(pixels).double()), pixels)
    assert torch.equal(to_uint8(to_float(pixels).half()), pixels)


def test_scale_is_linear_from_minus_1_to_1() -> None:
    """0 becomes -1 and 255 becomes 1."""
    x = to_float(torch.tensor([0, 51, 102, 153, 204, 255], dtype=torch.uint8))
    assert x.dtype == torch.float32
    assert torch.allclose(x, torch.linspace(-1, 1, 6), atol=1e-7)


def test_nearest_byte_with_clamping() -> None:
    """Each float becomes the byte whose value is nearest."""
    x = torch.linspace(-3, 3, 4001, dtype=torch.float64)
    values = to_float(torch.arange(256, dtype=torch.uint8)).double()
    distance = (x[:, None] - values).abs()
    got = values[to_uint8(x).long()]
    assert torch.allclose((x - got).abs(), distance.min(1).values, atol=1e-6)


@pytest.mark.parametrize(("bad", "byte"), [(math.nan, {127, 128}), (math.inf, {255}), (-math.inf, {0})])
def test_values_that_are_not_finite(bad: float, byte: set[int]) -> None:
    """NaN becomes mid-grey, infinities 0 and 255."""
    got = to_uint8(torch.tensor([1.0, bad, -1.0])).tolist()
    assert got[0] == 255 and got[2] == 0 and got[1] in byte


def test_input_is_not_modified() -> None:
    """Neither function writes to its argument."""
    x, pixels = torch.tensor([0.3, math.nan]), torch.tensor([1, 2], dtype=torch.uint8)
    before, bytes_before = x.clone(), pixels.clone()
    to_uint8(x)
    to_float(pixels)
    assert torch.equal(x.nan_to_num(9), before.nan_to_num(9)) and torch.equal(pixels, bytes_before)
