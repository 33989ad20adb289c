"""Decoding of an image of any mode to uint8 (C, H, W)."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data import load, prepare
from fromnoise.data.decoding import channels_needed, display_size
from fromnoise.data.value_range import infer_value_range
from fromnoise.utils.errors import UserError

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    """Random bytes."""
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Alpha compositing over white by its definition, in float."""
    part = alpha.astype(float) / 255
    return colour * part + 255 * (1 - part)


def through_file(image: Image.Image, kind: str, **options: object) -> Image.Image:
    """Write an image to a file and open it again."""
    file = io.BytesIO()
    image.save(file, kind, **options)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(file.getvalue()))


def test_images_of_the_requested_size_keep_their_pixels() -> None:
    """Only the axes are permuted."""
    grey, colour = noise(5, 7), noise(5, 7, 3)
    assert np.array_equal(prepare(Image.fromarray(grey), 5, 7, 1), grey[None])
    assert np.array_equal(prepare(Image.fromarray(colour), 5, 7, 3), colour.transpose(2, 0, 1))
    assert np.array_equal(prepare(grey, 5, 7, 1), grey[None])
    assert np.array_equal(prepare(colour, 5, 7, 3), colour.transpose(2, 0, 1))


def test_result_is_a_contiguous_copy() -> None:
    """Writing to the result does not change the input."""
    array = noise(4, 4, 3)
    got = prepare(array, 4, 4, 3)
    got[:] = 0
    assert got.flags.c_contiguous and got.flags.writeable and array.any()


def test_grey_to_rgb_and_back() -> None:
    """RGB of a grey image has three equal channels; converted back, it is unchanged (HF#10677)."""
    grey = noise(6, 6)
    colour = prepare(Image.fromarray(grey), 6, 6, 3)
    assert np.array_equal(colour, np.stack([grey] * 3))
    assert np.array_equal(prepare(colour.transpose(1, 2, 0), 6, 6, 1), grey[None])


def test_one_bit_images() -> None:
    """Mode 1 becomes 0 and 255."""
    bits = RNG.random((6, 6)) > 0.5
    image = through_file(Image.fromarray(bits), "PNG")
    assert image.mode == "1"
    assert np.array_equal(prepare(image, 6, 6, 1)[0], np.where(bits, 255, 0))


def test_alpha_is_composited_over_white() -> None:
    """LA and RGBA agree with the definition of compositing."""
    array = noise(6, 6, 4)
    got = prepare(Image.fromarray(array), 6, 6, 3)
    assert np.abs(got.transpose(1, 2, 0) - over_white(array[..., :3], array[..., 3:])).max() <= 1
    array = noise(6, 6, 2)
    got = prepare(Image.fromarray(array, "LA"), 6, 6, 1)
    assert np.abs(got[0] - over_white(array[..., 0], array[..., 1])).max() <= 1


def test_transparent_pixels_are_white() -> None:
    """Alpha 0 is exactly white for any colour, alpha 255 exactly the colour."""
    array = noise(4, 4, 4)
    array[:2, :, 3], array[2:, :, 3] = 0, 255
    got = prepare(Image.fromarray(array), 4, 4, 3).transpose(1, 2, 0)
    assert (got[:2] == 255).all() and np.array_equal(got[2:], array[2:, :, :3])


def test_alpha_is_kept_with_2_or_4_channels() -> None:
    """Four channels are RGBA, two are grey and alpha."""
    array = noise(5, 5, 4)
    assert np.array_equal(prepare(Image.fromarray(array), 5, 5, 4), array.transpose(2, 0, 1))
    array = noise(5, 5, 2)
    assert np.array_equal(prepare(Image.fromarray(array, "LA"), 5, 5, 2), array.transpose(2, 0, 1))
    opaque = prepare(Image.fromarray(noise(5, 5, 3)), 5, 5, 4)
    assert (opaque[3] == 255).all()


def palette(transparency: object = None) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A PNG with a palette, its indices and its colours."""
    indices, colours = RNG.integers(0, 4, (6, 6), dtype=np.uint8), noise(4, 3)
    image = Image.fromarray(indices, "P")
    image.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    return through_file(image, "PNG", **options), indices, colours


def test_palette_image() -> None:
    """Each pixel has its colour in the palette."""
    image, indices, colours = palette()
    assert image.mode == "P"
    assert np.array_equal(prepare(image, 6, 6, 3).transpose(1, 2, 0), colours[indices])


def test_palette_with_one_transparent_colour() -> None:
    """As in a GIF; that colour becomes white."""
    image, indices, colours = palette(2)
    expected = colours.copy()
    expected[2] = 255
    assert np.array_equal(prepare(image, 6, 6, 3).transpose(1, 2, 0), expected[indices])


def test_palette_with_an_alpha_for_each_colour() -> None:
    """As in a PNG with a tRNS table."""
    alphas = np.array([0, 80, 255, 200], dtype=np.uint8)
    image, indices, colours = palette(alphas.tobytes())
    expected = over_white(colours[indices], alphas[indices][..., None])
    assert np.abs(prepare(image, 6, 6, 3).transpose(1, 2, 0) - expected).max() <= 1


def test_palette_to_grey_and_with_alpha() -> None:
    """A palette of greys is grey, with one channel and with two."""
    indices = RNG.integers(0, 4, (6, 6), dtype=np.uint8)
    greys = np.array([0, 90, 180, 255], dtype=np.uint8)
    image = Image.fromarray(indices, "P")
    image.putpalette(np.repeat(greys, 3).tobytes())
    image = through_file(image, "PNG")
    assert channels_needed(image) == 1
    assert np.array_equal(prepare(image, 6, 6, 1)[0], greys[indices])
    assert np.array_equal(prepare(image, 6, 6, 2)[0], greys[indices])


@pytest.mark.parametrize("key", [(10, 20, 30), 77])
def test_transparent_colour(key: tuple[int, int, int] | int) -> None:
    """RGB and grey PNGs that mark one colour as transparent."""
    array = np.full((4, 4, 3), 99, dtype=np.uint8) if isinstance(key, tuple) else np.full((4, 4), 99, dtype=np.uint8)
    array[1, 2] = key
    image = through_file(Image.fromarray(array), "PNG", transparency=key)
    got = prepare(image, 4, 4, 1 if isinstance(key, int) else 3)
    assert (got[:, 1, 2] == 255).all() and (np.delete(got.reshape(len(got), -1), 6, axis=1) == 99).all()


def test_cmyk_image() -> None:
    """(255 - c)(255 - k) / 255 per channel."""
    ink = noise(6, 6, 4)
    image = through_file(Image.fromarray(ink, "CMYK"), "TIFF")
    assert image.mode == "CMYK"
    bright = 255.0 - ink
    got = prepare(image, 6, 6, 3).transpose(1, 2, 0)
    assert np.abs(got - bright[..., :3] * bright[..., 3:] / 255).max() <= 1
    assert prepare(image, 6, 6, 1).shape == (1, 6, 6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_images(kind: str) -> None:
    """A value v of 16 bits becomes the byte nearest to v / 257."""
    deep = RNG.integers(0, 65536, (6, 6)).astype(np.uint16)
    deep[0, :3] = 0, 65535, 257
    image = through_file(Image.fromarray(deep), kind)
    assert image.mode.startswith("I")
    got = prepare(image, 6, 6, 1)[0].astype(int)
    assert got[0, :3].tolist() == [0, 255, 1]
    assert (np.abs(got * 257 - deep.astype(int)) <= 128).all()


@pytest.mark.parametrize("mode", ["I;16B", "I;16L", "I"])
def test_byte_orders_of_16_bit_images(mode: str) -> None:
    """Big-endian, little-endian and 32-bit integers give the same image."""
    deep = RNG.integers(0, 65536, (5, 4)).astype(np.uint16)
    raw = deep.astype({"I;16B": ">u2", "I;16L": "<u2", "I": "=i4"}[mode])
    image = Image.frombytes(mode, (4, 5), raw.tobytes())
    assert np.array_equal(prepare(image, 5, 4, 1), prepare(Image.fromarray(deep), 5, 4, 1))
    assert channels_needed(image) == 1


def test_float_images() -> None:
    """Mode F in [0, 1], [-1, 1] and [0, 255]; other ranges are refused."""
    ramp = np.linspace(0, 1, 16, dtype=np.float32).reshape(4, 4)
    expected = np.arange(0, 256, 17).reshape(1, 4, 4)
    assert np.array_equal(prepare(Image.fromarray(ramp), 4, 4, 1), expected)
    assert np.array_equal(prepare(Image.fromarray(ramp * 2 - 1), 4, 4, 1), expected)
    assert np.array_equal(prepare(Image.fromarray(ramp * 255), 4, 4, 1), expected)
    with pytest.raises(ValueError, match="span"):
        prepare(Image.fromarray(ramp * 1e5), 4, 4, 1)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(kind: str, orientation: int) -> None:
    """Images are oriented as the EXIF standard defines, and so is the size from the header."""
    upright = {
        1: lambda a: a,
        2: np.fliplr,
        3: lambda a: np.rot90(a, 2),
        4: np.flipud,
        5: np.transpose,
        6: lambda a: np.rot90(a, -1),
        7: lambda a: np.rot90(a, 2).T,
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    # blocks of 8, so that JPEG keeps them apart
    array = np.kron(np.array([[0, 120, 60], [255, 30, 190]], dtype=np.uint8), np.ones((8, 8), dtype=np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = through_file(Image.fromarray(array), kind, exif=exif)
    expected = upright(array)
    assert display_size(image) == expected.shape
    got = prepare(image, expected.shape[0], expected.shape[1], 1)[0]
    assert np.abs(got.astype(int) - expected).max() <= 6


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_crop_is_centred(height: int, width: int, data: st.DataObject) -> None:
    """If one side already fits, nothing is resized and the middle of the other side is kept (DD#42)."""
    array = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if data.draw(st.booleans()):
        to_height, to_width = height, data.draw(st.integers(1, width))
    else:
        to_height, to_width = data.draw(st.integers(1, height)), width
    top, left = (height - to_height) // 2, (width - to_width) // 2
    expected = array[top : top + to_height, left : left + to_width].transpose(2, 0, 1)
    assert np.array_equal(prepare(array, to_height, to_width, 3), expected)
    assert np.array_equal(prepare(Image.fromarray(array), to_height, to_width, 3), expected)


@pytest.mark.parametrize("shape", [(100, 31), (31, 100), (28, 28), (1, 1), (7, 300)])
@pytest.mark.parametrize("side", [1, 28, 31, 64])
def test_square_equals_pillow_resize_of_the_centre_square(shape: tuple[int, int], side: int) -> None:
    """The preprocessing of S5: largest centre square, antialiased resize."""
    array = noise(*shape, 3)
    image = Image.fromarray(array)
    edge = min(shape)
    left, top = (shape[1] - edge) // 2, (shape[0] - edge) // 2
    square = image.crop((left, top, left + edge, top + edge))
    expected = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS)) if edge != side else np.asarray(square)
    assert np.array_equal(prepare(image, side, side, 3).transpose(1, 2, 0), expected)
    assert np.array_equal(prepare(array, side, side, 3).transpose(1, 2, 0), expected)


def test_crop_is_the_largest_rectangle() -> None:
    """24x16 from 99x99 uses the whole height and two thirds of the width (DD#42)."""
    array = np.zeros((99, 99), dtype=np.uint8)
    array[:, 16:-16] = 255  # 67 of 99 columns: round(99 * 16 / 24) = 66 of them fit
    assert (prepare(array, 24, 16, 1) == 255).all()
    array[:, 17], array[0] = 0, 0
    got = prepare(array, 24, 16, 1)[0]
    assert got[0].min() < 250 and got[5:, 0].max() < 250


def test_downscaling_does_not_alias() -> None:
    """A checkerboard of single pixels becomes uniform grey; subsampled pixels would be black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    got = prepare(board, 8, 8, 1).astype(float)
    assert np.abs(got - 127.5).max() < 12


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 255))
def test_constant_image_stays_constant(h: int, w: int, th: int, tw: int, value: int) -> None:
    """From any size to any size: the weights of the filter sum to one."""
    got = prepare(np.full((h, w), value, dtype=np.uint8), th, tw, 1)
    assert got.shape == (1, th, tw) and (got == value).all()


def test_arrays_with_5_channels() -> None:
    """The channels are resized one by one and cannot be converted to three."""
    array = noise(12, 12, 5)
    got = prepare(array, 6, 6, 5)
    for k in range(5):
        assert np.array_equal(got[k], prepare(array[..., k], 6, 6, 1)[0])
    with pytest.raises(UserError, match="5 channels"):
        prepare(array, 6, 6, 3)
    with pytest.raises(UserError, match="7 channels"):
        prepare(Image.fromarray(noise(4, 4, 3)), 4, 4, 7)


def test_channels_needed() -> None:
    """A grey image stored as RGB needs one channel, one with a coloured pixel three (HF#10677)."""
    grey = noise(5, 5)
    stored = np.stack([grey] * 3, axis=-1)
    assert channels_needed(grey) == channels_needed(stored) == channels_needed(Image.fromarray(stored)) == 1
    assert (
        channels_needed(Image.fromarray(grey)) == channels_needed(Image.fromarray(np.dstack([grey, grey]), "LA")) == 1
    )
    stored[2, 2, 1] ^= 1
    assert channels_needed(stored) == channels_needed(Image.fromarray(stored)) == 3
    assert channels_needed(noise(5, 5, 4)) == 4 and channels_needed(noise(5, 5, 2)) == 2


def test_infer_value_range() -> None:
    """The range inferred from type, minimum and maximum."""
    for kind, low, high, expected in (
        ("f", 0, 1, "[0, 1]"),
        ("f", -1, 1, "[-1, 1]"),
        ("f", 0, 255, "0..255"),
        ("u", 0, 65535, "0..65535"),
    ):
        found = infer_value_range(kind, low, high)
        assert found is not None and found.description == expected
    for kind, low, high in (("f", -3, 3), ("i", -1, 1), ("f", 0, 65535)):
        assert infer_value_range(kind, low, high) is None


@pytest.mark.parametrize("size", [(64, 64), (50, 50), (91, 91), (9, 9)])
def test_bilinear_resize_equals_torch_with_antialiasing(size: tuple[int, int]) -> None:
    """Within one level of torch's antialiased bilinear interpolation, which is another implementation of the filter."""
    array = noise(*size, 3)
    images = torch.from_numpy(array).permute(2, 0, 1)[None].double()
    expected = torch.nn.functional.interpolate(images, (16, 16), mode="bilinear", antialias=True)[0]
    got = prepare(Image.fromarray(array), 16, 16, 3, "bilinear")
    assert np.abs(got - expected.numpy()).max() <= 1
    assert np.array_equal(got, prepare(array, 16, 16, 3, "bilinear"))
    assert not np.array_equal(got, prepare(array, 16, 16, 3))


@pytest.mark.parametrize("limit", [1 << 30, 0])
def test_data_set_resized_with_another_filter(tmp_path: Path, limit: int) -> None:
    """The filter reaches images in memory and images decoded on demand, and changes the fingerprint."""
    array = noise(40, 30, 3)
    for name in ("a.png", "b.png"):
        Image.fromarray(array).save(tmp_path / name)
    lanczos, bilinear = (
        load(str(tmp_path), size=16, resize=resize, memory_limit=limit, log=lambda line: None)
        for resize in ("lanczos", "bilinear")
    )
    first = torch.tensor([0])
    assert np.array_equal(bilinear.train.get(first)[0].numpy(), prepare(array, 16, 16, 3, "bilinear"))
    assert np.array_equal(lanczos.train.get(first)[0].numpy(), prepare(array, 16, 16, 3))
    assert bilinear.fingerprint != lanczos.fingerprint
