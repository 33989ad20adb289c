"""One picture, of any mode, to uint8 (C, H, W)."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fromnoise.data import prepare
from fromnoise.data.decoding import channels_needed, display_size, scale_of
from fromnoise.utils.errors import UserError

RNG = np.random.default_rng(7)


def noise(*shape: int) -> np.ndarray:
    """Bytes."""
    return RNG.integers(0, 256, shape, dtype=np.uint8)


def over_white(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The definition of compositing, in float."""
    part = alpha.astype(float) / 255
    return colour * part + 255 * (1 - part)


def through_file(picture: Image.Image, kind: str, **options: object) -> Image.Image:
    """Write and open again, as a source does."""
    file = io.BytesIO()
    picture.save(file, kind, **options)  # type: ignore[arg-type]
    return Image.open(io.BytesIO(file.getvalue()))


def test_grey_and_colour_pass_untouched() -> None:
    """A picture that fits keeps its pixels, only the axes move."""
    grey, colour = noise(5, 7), noise(5, 7, 3)
    assert np.array_equal(prepare(Image.fromarray(grey), 5, 7, 1), grey[None])
    assert np.array_equal(prepare(Image.fromarray(colour), 5, 7, 3), colour.transpose(2, 0, 1))
    assert np.array_equal(prepare(grey, 5, 7, 1), grey[None])
    assert np.array_equal(prepare(colour, 5, 7, 3), colour.transpose(2, 0, 1))


def test_the_result_is_contiguous_and_a_copy() -> None:
    """What comes out does not lie in what went in."""
    array = noise(4, 4, 3)
    got = prepare(array, 4, 4, 3)
    got[:] = 0
    assert got.flags.c_contiguous and got.flags.writeable and array.any()


def test_grey_as_colour_and_back() -> None:
    """Grey in three channels is three times the grey; back, it is what it was (HF#10677)."""
    grey = noise(6, 6)
    colour = prepare(Image.fromarray(grey), 6, 6, 3)
    assert np.array_equal(colour, np.stack([grey] * 3))
    assert np.array_equal(prepare(colour.transpose(1, 2, 0), 6, 6, 1), grey[None])


def test_one_bit() -> None:
    """Mode 1 is black and white."""
    bits = RNG.random((6, 6)) > 0.5
    picture = through_file(Image.fromarray(bits), "PNG")
    assert picture.mode == "1"
    assert np.array_equal(prepare(picture, 6, 6, 1)[0], np.where(bits, 255, 0))


def test_alpha_is_laid_on_white() -> None:
    """LA and RGBA, by the definition of compositing."""
    array = noise(6, 6, 4)
    got = prepare(Image.fromarray(array), 6, 6, 3)
    assert np.abs(got.transpose(1, 2, 0) - over_white(array[..., :3], array[..., 3:])).max() <= 1
    array = noise(6, 6, 2)
    got = prepare(Image.fromarray(array, "LA"), 6, 6, 1)
    assert np.abs(got[0] - over_white(array[..., 0], array[..., 1])).max() <= 1


def test_what_is_transparent_is_white_whatever_colour_it_hides() -> None:
    """Alpha 0 is exactly white, alpha 255 exactly the colour."""
    array = noise(4, 4, 4)
    array[:2, :, 3], array[2:, :, 3] = 0, 255
    got = prepare(Image.fromarray(array), 4, 4, 3).transpose(1, 2, 0)
    assert (got[:2] == 255).all() and np.array_equal(got[2:], array[2:, :, :3])


def test_alpha_can_be_kept() -> None:
    """Four channels are RGBA, two are grey and alpha."""
    array = noise(5, 5, 4)
    assert np.array_equal(prepare(Image.fromarray(array), 5, 5, 4), array.transpose(2, 0, 1))
    array = noise(5, 5, 2)
    assert np.array_equal(prepare(Image.fromarray(array, "LA"), 5, 5, 2), array.transpose(2, 0, 1))
    opaque = prepare(Image.fromarray(noise(5, 5, 3)), 5, 5, 4)
    assert (opaque[3] == 255).all()


def palette(transparency: object = None) -> tuple[Image.Image, np.ndarray, np.ndarray]:
    """A paletted PNG, its indices and its colours."""
    indices, colours = RNG.integers(0, 4, (6, 6), dtype=np.uint8), noise(4, 3)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.tobytes())
    options = {} if transparency is None else {"transparency": transparency}
    return through_file(picture, "PNG", **options), indices, colours


def test_palette() -> None:
    """Each pixel is its palette's colour."""
    picture, indices, colours = palette()
    assert picture.mode == "P"
    assert np.array_equal(prepare(picture, 6, 6, 3).transpose(1, 2, 0), colours[indices])


def test_palette_with_one_transparent_colour() -> None:
    """As in a GIF: that colour is white."""
    picture, indices, colours = palette(2)
    expected = colours.copy()
    expected[2] = 255
    assert np.array_equal(prepare(picture, 6, 6, 3).transpose(1, 2, 0), expected[indices])


def test_palette_with_an_alpha_for_each_colour() -> None:
    """As in a PNG with a tRNS table."""
    alphas = np.array([0, 80, 255, 200], dtype=np.uint8)
    picture, indices, colours = palette(alphas.tobytes())
    expected = over_white(colours[indices], alphas[indices][..., None])
    assert np.abs(prepare(picture, 6, 6, 3).transpose(1, 2, 0) - expected).max() <= 1


def test_palette_to_grey_and_with_alpha() -> None:
    """A palette of greys is grey, in one channel and in two."""
    indices = RNG.integers(0, 4, (6, 6), dtype=np.uint8)
    greys = np.array([0, 90, 180, 255], dtype=np.uint8)
    picture = Image.fromarray(indices, "P")
    picture.putpalette(np.repeat(greys, 3).tobytes())
    picture = through_file(picture, "PNG")
    assert channels_needed(picture) == 1
    assert np.array_equal(prepare(picture, 6, 6, 1)[0], greys[indices])
    assert np.array_equal(prepare(picture, 6, 6, 2)[0], greys[indices])


@pytest.mark.parametrize("key", [(10, 20, 30), 77])
def test_transparent_key_colour(key: tuple[int, int, int] | int) -> None:
    """RGB and grey PNGs that name one colour as transparent."""
    array = np.full((4, 4, 3), 99, dtype=np.uint8) if isinstance(key, tuple) else np.full((4, 4), 99, dtype=np.uint8)
    array[1, 2] = key
    picture = through_file(Image.fromarray(array), "PNG", transparency=key)
    got = prepare(picture, 4, 4, 1 if isinstance(key, int) else 3)
    assert (got[:, 1, 2] == 255).all() and (np.delete(got.reshape(len(got), -1), 6, axis=1) == 99).all()


def test_cmyk() -> None:
    """Ink on white paper: (255 - c)(255 - k) / 255."""
    ink = noise(6, 6, 4)
    picture = through_file(Image.fromarray(ink, "CMYK"), "TIFF")
    assert picture.mode == "CMYK"
    bright = 255.0 - ink
    got = prepare(picture, 6, 6, 3).transpose(1, 2, 0)
    assert np.abs(got - bright[..., :3] * bright[..., 3:] / 255).max() <= 1
    assert prepare(picture, 6, 6, 1).shape == (1, 6, 6)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bits(kind: str) -> None:
    """65535 is 255, in files of both kinds: the nearest byte to v / 257."""
    deep = RNG.integers(0, 65536, (6, 6)).astype(np.uint16)
    deep[0, :3] = 0, 65535, 257
    picture = through_file(Image.fromarray(deep), kind)
    assert picture.mode.startswith("I")
    got = prepare(picture, 6, 6, 1)[0].astype(int)
    assert got[0, :3].tolist() == [0, 255, 1]
    assert (np.abs(got * 257 - deep.astype(int)) <= 128).all()


@pytest.mark.parametrize("mode", ["I;16B", "I;16L", "I"])
def test_sixteen_bits_in_other_orders(mode: str) -> None:
    """Big-endian, little-endian and 32-bit integers hold the same picture."""
    deep = RNG.integers(0, 65536, (5, 4)).astype(np.uint16)
    raw = deep.astype({"I;16B": ">u2", "I;16L": "<u2", "I": "=i4"}[mode])
    picture = Image.frombytes(mode, (4, 5), raw.tobytes())
    assert np.array_equal(prepare(picture, 5, 4, 1), prepare(Image.fromarray(deep), 5, 4, 1))
    assert channels_needed(picture) == 1


def test_floats() -> None:
    """[0, 1], [-1, 1] and 0..255 in mode F; other ranges are refused."""
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
    """Each picture is shown as the EXIF standard says, and its size is told so before it is decoded."""
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
    picture = through_file(Image.fromarray(array), kind, exif=exif)
    expected = upright(array)
    assert display_size(picture) == expected.shape
    got = prepare(picture, expected.shape[0], expected.shape[1], 1)[0]
    assert np.abs(got.astype(int) - expected).max() <= 6


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_the_crop_is_the_centre(height: int, width: int, data: st.DataObject) -> None:
    """Where one side already fits nothing is resized: the middle of the other side is left (DD#42)."""
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
def test_a_square_is_pillows_resize_of_the_centre_square(shape: tuple[int, int], side: int) -> None:
    """The preparation of S5: largest centre square, antialiased resize."""
    array = noise(*shape, 3)
    picture = Image.fromarray(array)
    edge = min(shape)
    left, top = (shape[1] - edge) // 2, (shape[0] - edge) // 2
    square = picture.crop((left, top, left + edge, top + edge))
    expected = np.asarray(square.resize((side, side), Image.Resampling.LANCZOS)) if edge != side else np.asarray(square)
    assert np.array_equal(prepare(picture, side, side, 3).transpose(1, 2, 0), expected)
    assert np.array_equal(prepare(array, side, side, 3).transpose(1, 2, 0), expected)


def test_the_rectangle_is_the_largest_of_its_shape() -> None:
    """24x16 out of 100x100 sees the whole height and two thirds of the width (DD#42)."""
    array = np.zeros((99, 99), dtype=np.uint8)
    array[:, 16:-16] = 255  # 67 of 99 columns: round(99 * 16 / 24) = 66 of them fit
    assert (prepare(array, 24, 16, 1) == 255).all()
    array[:, 17], array[0] = 0, 0
    got = prepare(array, 24, 16, 1)[0]
    assert got[0].min() < 250 and got[5:, 0].max() < 250


def test_shrinking_does_not_alias() -> None:
    """A checkerboard of single pixels becomes an even grey; picked pixels would be black or white."""
    board = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    got = prepare(board, 8, 8, 1).astype(float)
    assert np.abs(got - 127.5).max() < 12


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(1, 50), st.integers(0, 255))
def test_an_even_picture_stays_even(h: int, w: int, th: int, tw: int, value: int) -> None:
    """Any size to any size: the weights of the filter sum to one."""
    got = prepare(np.full((h, w), value, dtype=np.uint8), th, tw, 1)
    assert got.shape == (1, th, tw) and (got == value).all()


def test_arrays_of_other_channel_counts() -> None:
    """Five channels stay five, resized one by one; they cannot become three."""
    array = noise(12, 12, 5)
    got = prepare(array, 6, 6, 5)
    for k in range(5):
        assert np.array_equal(got[k], prepare(array[..., k], 6, 6, 1)[0])
    with pytest.raises(UserError, match="5 channels"):
        prepare(array, 6, 6, 3)
    with pytest.raises(UserError, match="7 channels"):
        prepare(Image.fromarray(noise(4, 4, 3)), 4, 4, 7)


def test_channels_that_a_picture_needs() -> None:
    """Grey stored as colour is grey; one coloured pixel is not (HF#10677)."""
    grey = noise(5, 5)
    stored = np.stack([grey] * 3, axis=-1)
    assert channels_needed(grey) == channels_needed(stored) == channels_needed(Image.fromarray(stored)) == 1
    assert (
        channels_needed(Image.fromarray(grey)) == channels_needed(Image.fromarray(np.dstack([grey, grey]), "LA")) == 1
    )
    stored[2, 2, 1] ^= 1
    assert channels_needed(stored) == channels_needed(Image.fromarray(stored)) == 3
    assert channels_needed(noise(5, 5, 4)) == 4 and channels_needed(noise(5, 5, 2)) == 2


def test_usual_ranges() -> None:
    """Which numbers are taken as what."""
    assert (scale_of("f", 0, 1) or ("",))[-1] == "[0, 1]"
    assert (scale_of("f", -1, 1) or ("",))[-1] == "[-1, 1]"
    assert (scale_of("f", 0, 255) or ("",))[-1] == "0..255"
    assert (scale_of("u", 0, 65535) or ("",))[-1] == "0..65535"
    assert scale_of("f", -3, 3) is None and scale_of("i", -1, 1) is None and scale_of("f", 0, 65535) is None
