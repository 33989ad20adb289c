"""Loading a SPEC: size and channels, the held-out part, images that are left out, the fingerprint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fromnoise.data import Data, Images, MemoryImages, StreamedImages, load, prepare
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]


def all_pixels(images: Images) -> torch.Tensor:
    """All images in one tensor."""
    return images.get(torch.arange(len(images)))


def image_bytes(data: Data) -> list[bytes]:
    """Pixels of each image of both parts."""
    return [p.numpy().tobytes() for part in (data.train, data.held_out) for p in all_pixels(part)]


@pytest.fixture(params=["memory", "streamed"])
def limit(request: pytest.FixtureRequest) -> int:
    """A memory limit that keeps all images in memory, or none."""
    return 4 << 30 if request.param == "memory" else 0


@pytest.mark.parametrize("shape", [(28, 28), (31, 31), (100, 100), (1, 1), (24, 16), (5, 37)])
@pytest.mark.parametrize("channels", [1, 3])
def test_shape_of_the_data_is_kept(tmp_path: Path, write: Writer, shape: tuple, channels: int, limit: int) -> None:
    """Any size, square or not, grey or RGB, with unchanged pixels.

    HF#10677 (grey data converted to RGB), DD#42 (images that are not square).
    """
    arrays = write(tmp_path, [f"{i}.png" for i in range(4)], *shape, channels)
    if channels == 3:
        assert any((a != a[..., :1]).any() for a in arrays)
    data = load(str(tmp_path), memory_limit=limit, log=lambda line: None)
    assert data.shape == (channels, *shape) == data.train.shape == data.held_out.shape
    expected = [a.reshape(*shape, channels).transpose(2, 0, 1).tobytes() for a in arrays]
    assert sorted(image_bytes(data)) == sorted(expected)


def test_mixed_sizes(tmp_path: Path, write: Writer, limit: int, lines: list[str]) -> None:
    """Squares of the median shorter side, each as from ``prepare``; the log says so."""
    sizes = [(10, 20), (30, 12), (40, 40), (9, 9), (200, 300)]
    arrays = [write(tmp_path, [f"{i}.png"], *size)[0] for i, size in enumerate(sizes)]
    data = load(str(tmp_path), memory_limit=limit, log=lines.append)
    assert data.shape == (3, 12, 12)  # of 9, 10, 12, 40, 200
    assert sorted(image_bytes(data)) == sorted(prepare(a, 12, 12, 3).tobytes() for a in arrays)
    assert any("9x9" in line and "200x300" in line and "12x12" in line for line in lines)


def test_large_mixed_sizes_are_resized_to_64(tmp_path: Path, write: Writer) -> None:
    """The default is at most 64 pixels; another size can be requested."""
    write(tmp_path, ["a.png"], 100, 120)
    write(tmp_path, ["b.png"], 120, 100)
    assert load(str(tmp_path)).shape == (3, 64, 64)
    assert load(str(tmp_path), size=80).shape == (3, 80, 80)


@pytest.mark.parametrize(("size", "shape"), [(5, (5, 5)), ((8, 4), (8, 4)), ((1, 9), (1, 9))])
def test_requested_size(tmp_path: Path, write: Writer, size: int | tuple[int, int], shape: tuple, limit: int) -> None:
    """One side, or height and width (DD#42)."""
    arrays = write(tmp_path, ["a.png", "b.png"], 12, 10)
    data = load(str(tmp_path), size=size, memory_limit=limit)
    assert data.shape == (3, *shape)
    assert sorted(image_bytes(data)) == sorted(prepare(a, shape[0], shape[1], 3).tobytes() for a in arrays)


def test_mixed_channels(tmp_path: Path, write: Writer, limit: int) -> None:
    """One coloured image among grey ones makes the data set RGB; the grey ones stay grey."""
    write(tmp_path, [f"g{i}.png" for i in range(5)], channels=1)
    write(tmp_path, ["c.png"], channels=3)
    write(tmp_path, ["t.png"], channels=4)
    data = load(str(tmp_path), memory_limit=limit)
    assert data.shape == (3, 6, 6)
    grey = sum(int((p[:1] == p).all()) for part in (data.train, data.held_out) for p in all_pixels(part))
    assert grey == 5


def test_grey_images_stored_as_rgb(tmp_path: Path, write: Writer) -> None:
    """They have one channel, unless three are requested (HF#10677)."""
    grey = write(tmp_path / "set", ["a.png", "b.png"], channels=1)
    for array, name in zip(grey, ("a.png", "b.png"), strict=True):
        Image.fromarray(np.stack([array] * 3, axis=-1)).save(tmp_path / "set" / name)
    data = load(str(tmp_path / "set"))
    assert data.shape[0] == 1
    assert sorted(image_bytes(data)) == sorted(a.tobytes() for a in grey)
    assert load(str(tmp_path / "set"), channels=3).shape[0] == 3


def test_rgb_to_grey_on_request(tmp_path: Path, write: Writer, limit: int) -> None:
    """One channel of RGB images is the luma of ITU-R 601."""
    arrays = write(tmp_path, ["a.png", "b.png"])
    data = load(str(tmp_path), channels=1, memory_limit=limit)
    got = torch.cat([all_pixels(data.train), all_pixels(data.held_out)]).double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    luma = sorted((torch.from_numpy(a).double() @ weights).flatten().tolist() for a in arrays)
    assert np.abs(np.array(sorted(p.flatten().tolist() for p in got)) - np.array(luma)).max() < 1


def test_array_with_5_channels(tmp_path: Path, limit: int) -> None:
    """Five channels are kept and cannot be converted."""
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 8, 9), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    data = load(str(tmp_path / "x.npy"), memory_limit=limit)
    assert data.shape == (5, 8, 9) and sorted(image_bytes(data)) == sorted(a.tobytes() for a in array)
    with pytest.raises(UserError, match="5 channels"):
        load(str(tmp_path / "x.npy"), channels=3, memory_limit=0).train.get(torch.tensor([0]))
    with pytest.raises(UserError, match="5 channels"):
        load(str(tmp_path / "x.npy"), channels=3)


def test_streamed_images_equal_images_in_memory(tmp_path: Path, write: Writer) -> None:
    """Parts, pixels, labels and order do not depend on the memory limit."""
    write(tmp_path, [f"{c}/{i}.png" for c in "abc" for i in range(7)], 9, 12)
    in_memory, streamed = (load(str(tmp_path), size=8, memory_limit=m, holdout=0.2, seed=3) for m in (1 << 30, 0))
    assert isinstance(in_memory.train, MemoryImages) and isinstance(streamed.train, StreamedImages)
    for a, b in ((in_memory.train, streamed.train), (in_memory.held_out, streamed.held_out)):
        assert torch.equal(all_pixels(a), all_pixels(b))
        assert a.labels is not None and b.labels is not None and torch.equal(a.labels, b.labels)
    assert in_memory.class_names == streamed.class_names == ("a", "b", "c")


def test_memory_limit_is_in_bytes(tmp_path: Path, write: Writer) -> None:
    """Ten images of 6x6x3 bytes fit into 1080 and not into 1079."""
    write(tmp_path, [f"{i}.png" for i in range(10)])
    assert isinstance(load(str(tmp_path), memory_limit=1080).train, MemoryImages)
    assert isinstance(load(str(tmp_path), memory_limit=1079).train, StreamedImages)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_number_of_threads_does_not_matter(tmp_path: Path, write: Writer, workers: int) -> None:
    """The same images in the same order; ``on_progress`` counts up to all of them."""
    arrays = write(tmp_path, [f"{i:03d}.png" for i in range(150)])
    calls: list[tuple[int, int]] = []
    data = load(str(tmp_path), workers=workers, on_progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (150, 150) and [d for d, _ in calls] == sorted(d for d, _ in calls)
    stored = [a.transpose(2, 0, 1).tobytes() for a in arrays]
    indices = [stored.index(p.numpy().tobytes()) for p in all_pixels(data.train)]
    assert indices == sorted(indices)


@pytest.mark.parametrize(
    ("n", "share", "count"), [(2, 0.05, 1), (3, 0.9, 1), (40, 0.05, 2), (100, 0.1, 10), (7, 0.5, 3)]
)
def test_number_of_held_out_images(tmp_path: Path, write: Writer, n: int, share: float, count: int, limit: int) -> None:
    """At least one, at most half; no image is in both parts (DD#17: held-out loss)."""
    arrays = write(tmp_path, [f"{i:03d}.png" for i in range(n)])
    data = load(str(tmp_path), holdout=share, memory_limit=limit)
    assert (len(data.train), len(data.held_out)) == (n - count, count)
    assert sorted(image_bytes(data)) == sorted(a.transpose(2, 0, 1).tobytes() for a in arrays)


def test_seed_selects_the_held_out_images(tmp_path: Path, write: Writer) -> None:
    """The same images for the same seed; over many seeds every image is held out."""
    write(tmp_path, [f"{i}.png" for i in range(10)])

    def held_out(seed: int) -> list[bytes]:
        return [p.numpy().tobytes() for p in all_pixels(load(str(tmp_path), holdout=0.2, seed=seed).held_out)]

    assert held_out(5) == held_out(5)
    assert len({image for seed in range(60) for image in held_out(seed)}) == 10


def test_single_image(tmp_path: Path, write: Writer, limit: int, lines: list[str]) -> None:
    """It is in both parts, and the log says so."""
    array = write(tmp_path, ["a.png"])[0]
    data = load(str(tmp_path), memory_limit=limit, log=lines.append)
    for part in (data.train, data.held_out):
        assert all_pixels(part).numpy().tobytes() == array.transpose(2, 0, 1).tobytes()
    assert any("only one image" in line for line in lines)


@pytest.mark.parametrize("own", ["test", "val"])
def test_own_test_split_is_held_out(tmp_path: Path, write: Writer, own: str, limit: int) -> None:
    """Test if there is one, otherwise validation, for any ``holdout``; a named split is divided by seed."""
    train = write(tmp_path, [f"train/{i}.png" for i in range(6)])
    held_out = write(tmp_path, [f"{own}/{i}.png" for i in range(3)])
    data = load(str(tmp_path), holdout=0.5, memory_limit=limit)
    assert [p.numpy().tobytes() for p in all_pixels(data.train)] == [a.transpose(2, 0, 1).tobytes() for a in train]
    assert [p.numpy().tobytes() for p in all_pixels(data.held_out)] == [
        a.transpose(2, 0, 1).tobytes() for a in held_out
    ]
    named = load(f"{tmp_path}:train", holdout=0.5, memory_limit=limit)
    assert (len(named.train), len(named.held_out)) == (3, 3)
    joined = load(f"{tmp_path}:all", holdout=1 / 3, memory_limit=limit)
    assert (len(joined.train), len(joined.held_out)) == (6, 3)


def test_labels_belong_to_their_images(tmp_path: Path, limit: int) -> None:
    """Labels from folder names, in both parts and after a damaged file (DD#123, HF#128)."""
    for k, name in enumerate(("ant", "bee", "cow")):
        for i in range(5):
            path = tmp_path / name / f"{i}.png"
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(np.full((4, 4), 40 * k + i, dtype=np.uint8)).save(path)
    (tmp_path / "ant" / "2.png").write_bytes(b"bad")
    data = load(str(tmp_path), holdout=0.3, memory_limit=limit)
    assert data.class_names == ("ant", "bee", "cow")
    for part in (data.train, data.held_out):
        assert part.labels is not None and part.labels.dtype == torch.int64
        assert torch.equal(all_pixels(part)[:, 0, 0, 0].long() // 40, part.labels)


def test_incomplete_labels_are_not_used(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """With an image outside of the class folders there are no labels, and the log says so."""
    write(tmp_path, ["a/1.png", "b/2.png", "3.png"])
    data = load(str(tmp_path), log=lines.append)
    assert data.class_names is None and data.train.labels is None and data.held_out.labels is None
    assert any("no label" in line for line in lines)


def test_fingerprint_depends_on_the_content(tmp_path: Path, write: Writer, limit: int) -> None:
    """Not on the folder or the seed; it changes when a file is added or a class renamed."""
    for folder in ("first", "second"):
        write(tmp_path / folder, ["a/1.png", "a/2.png", "b/3.png"])

    def fingerprint(folder: str, **options: int) -> str:
        return load(str(tmp_path / folder), memory_limit=limit, **options).fingerprint  # type: ignore[arg-type]

    first = fingerprint("first")
    assert first == fingerprint("second") == fingerprint("first", seed=9) == fingerprint("first", workers=3)
    assert len(first) == 16 and int(first, 16) >= 0
    assert first != fingerprint("first", channels=1) and first != fingerprint("first", size=5)
    write(tmp_path / "first", ["b/4.png"])
    assert first != fingerprint("first")
    (tmp_path / "second" / "b").rename(tmp_path / "second" / "c")
    assert first != fingerprint("second")


def test_fingerprint_depends_on_every_pixel(tmp_path: Path) -> None:
    """For data in memory."""
    array = np.zeros((4, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    first = load(str(tmp_path / "x.npy")).fingerprint
    array[3, 4, 4] = 1
    np.save(tmp_path / "x.npy", array)
    assert load(str(tmp_path / "x.npy")).fingerprint != first


def test_log_of_load(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """One line with numbers and size of the images (pytorch-ddpm#10, DD#57)."""
    write(tmp_path, [f"{i}.png" for i in range(20)], 6, 8)
    load(str(tmp_path), log=lines.append)
    assert len(lines) == 1 and all(part in lines[0] for part in ("19 images", "6x8", "RGB", "1 held out"))


def test_get_returns_copies(tmp_path: Path, write: Writer, limit: int) -> None:
    """In any order, with repeats or empty; writing to the result does not change the data."""
    write(tmp_path, [f"{i}.png" for i in range(8)])
    images = load(str(tmp_path), memory_limit=limit).train
    everything = all_pixels(images)
    indices = torch.tensor([3, 0, 3, 5])
    got = images.get(indices)
    assert torch.equal(got, everything[indices]) and got.dtype == torch.uint8
    got.zero_()
    assert torch.equal(all_pixels(images), everything)
    assert images.get(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 6, 6)
