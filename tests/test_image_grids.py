"""Image grids and strips, pixel by pixel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fromnoise.reporting import image_io
from shown import noise, pixels

# ---- grids


@settings(deadline=None, max_examples=40)
@given(
    n=st.integers(1, 11),
    channels=st.sampled_from([1, 3, 5]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    columns=st.none() | st.integers(1, 12),
    gap=st.integers(0, 4),
    scale=st.integers(1, 3),
)
def test_grid_pixels(n, channels, height, width, columns, gap, scale):
    """Pixel (y, x) of image i is a block at its position; the rest is white."""
    images = noise(n, channels, height, width)
    sheet = pixels(image_io.grid(images, columns, gap, scale))
    across = columns or math.ceil(n**0.5)
    down = -(-n // across)
    expected = np.full(
        (down * height * scale + (down - 1) * gap, across * width * scale + (across - 1) * gap, 3), 255, np.uint8
    )
    for i in range(n):
        row, column = divmod(i, across)
        for y in range(height * scale):
            for x in range(width * scale):
                value = images[i, :, y // scale, x // scale].tolist()
                colour = value * 3 if channels == 1 else value[:3]
                expected[row * (height * scale + gap) + y, column * (width * scale + gap) + x] = colour
    assert sheet.shape == expected.shape
    assert (sheet == expected).all()


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 9, 10, 16, 17, 64, 100])
def test_grid_is_nearly_square(n):
    """At most one row fewer than columns, and no empty row."""
    sheet = image_io.grid(torch.zeros(n, 1, 4, 4, dtype=torch.uint8), gap=0, scale=1)
    across, down = sheet.width // 4, sheet.height // 4
    assert 0 <= across - down <= 1 and (down - 1) * across < n <= down * across


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_composited_on_white(channels):
    """Opaque, transparent and a fifth."""
    images = torch.full((1, channels, 1, 3), 100, dtype=torch.uint8)
    images[0, -1, 0] = torch.tensor([255, 0, 51])  # 51 is a fifth
    sheet = pixels(image_io.grid(images, scale=1))
    assert sheet[0, :, 0].tolist() == [100, 255, 224] and (sheet == sheet[..., :1]).all()


@pytest.mark.parametrize(("side", "least"), [(1, 40), (8, 40), (28, 40), (32, 40), (33, 33), (64, 64), (100, 100)])
def test_small_images_are_magnified(side, least):
    """By an integer factor; larger images keep their size."""
    shown = image_io.grid(noise(1, 1, side, side)).width
    assert shown % side == 0 and least <= shown <= max(64, side)


def test_height_and_width_have_one_magnification():
    """Of images that are not square."""
    sheet = image_io.grid(noise(1, 3, 8, 16))
    assert sheet.width == 2 * sheet.height > 16


@pytest.mark.parametrize("wrong", [torch.zeros(1, 1, 4, 4), torch.zeros(1, 4, 4, dtype=torch.uint8)])
def test_images_must_be_uint8_batches(wrong):
    """Floats have an unknown range."""
    with pytest.raises((ValueError, IndexError)):
        image_io.grid(wrong)


# ---- strips


def levels(strip, rows):
    """Grey levels from left to right in the last ``rows`` rows of a strip of constant images."""
    line = pixels(strip)[-rows:]
    assert (line == line[:1]).all()
    found = []
    for value in line[0, :, 0].tolist():
        if value != 255 and (not found or found[-1] != value):
            found.append(value)
    return found


def constant(*values, n=1, side=32):
    """Batches of constant images, one grey level each."""
    return [torch.full((n, 1, side, side), v, dtype=torch.uint8) for v in values]


def ink(strip, left, right, height):
    """Number of dark pixels in the caption area."""
    return int((pixels(strip)[:height, left:right] < 200).sum())


def test_strip_has_one_captioned_column_per_batch():
    """In order, row i image i, with a caption above each."""
    batches = [noise(3, 3, 40, 50, seed=s) for s in range(4)]
    strip = image_io.strip(batches, ["a", "b", "c", "d"])
    column = pixels(image_io.grid(batches[0], columns=1))
    head = strip.height - column.shape[0]
    assert head > 8
    left = 0
    for batch in batches:
        expected = pixels(image_io.grid(batch, columns=1))
        body = pixels(strip)[head:]
        places = [x for x in range(left, strip.width - 49) if (body[:, x : x + 50] == expected).all()]
        assert len(places) == 1
        left = places[0] + 50
        assert ink(strip, places[0], left, head) > 5
    assert ink(image_io.strip(batches, [""] * 4), 0, strip.width, head) == 0


def test_strip_needs_one_caption_per_column():
    """Raises otherwise."""
    with pytest.raises(ValueError):
        image_io.strip(constant(1, 2), ["one"])


def test_long_captions_widen_their_columns():
    """Captions do not overlap."""
    batches = constant(10, 20, side=33)
    words = "a caption wider than its column"
    wide = image_io.strip(batches, [words, words])
    alone = image_io.strip(batches[:1], [words])
    assert wide.width >= 2 * alone.width


def test_forward_strip():
    """Captions are t in per cent."""
    batches = constant(10, 20, 30)
    strip = image_io.forward_strip(batches, [0.0, 0.5, 1.0])
    assert levels(strip, 32) == [10, 20, 30]
    assert (pixels(strip) == pixels(image_io.strip(batches, ["0%", "50%", "100%"]))).all()


def test_reverse_strip_shows_the_first_and_the_last_frame():
    """Ten of many frames, equally spaced; all of few."""
    frames = constant(*range(1, 201, 2))
    times = [1 - i / 99 for i in range(100)]
    shown = levels(image_io.reverse_strip(frames, times, columns=10), 32)
    assert shown == list(range(1, 201, 22))
    assert levels(image_io.reverse_strip(frames[:3], times[:3]), 32) == [1, 3, 5]
    two = image_io.reverse_strip(frames, times, columns=2)
    assert (pixels(two) == pixels(image_io.strip([frames[0], frames[-1]], ["100%", "0%"]))).all()


def test_side_by_side_keeps_the_images():
    """Of different heights, each under its title."""
    a, b = image_io.grid(noise(4, 3, 40, 40)), image_io.grid(noise(1, 3, 50, 50, seed=1))
    both = image_io.side_by_side([("a", a), ("b", b)], gap=12)
    assert both.width == a.width + 12 + b.width and both.height > max(a.height, b.height)
    head = both.height - max(a.height, b.height)
    assert (pixels(both)[head : head + a.height, : a.width] == pixels(a)).all()
    assert (pixels(both)[head : head + b.height, -b.width :] == pixels(b)).all()
