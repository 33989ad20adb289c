"""From a SPEC to pictures of one shape: size, channels, what is held out, what is left out."""

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


def everything(images: Images) -> torch.Tensor:
    """Every picture."""
    return images.get(torch.arange(len(images)))


def rows(data: Data) -> list[bytes]:
    """The pixels of every picture, both parts."""
    return [p.numpy().tobytes() for part in (data.train, data.held_out) for p in everything(part)]


@pytest.fixture(params=["memory", "streamed"])
def limit(request: pytest.FixtureRequest) -> int:
    """A memory limit under which everything, or nothing, is kept."""
    return 4 << 30 if request.param == "memory" else 0


@pytest.mark.parametrize("shape", [(28, 28), (31, 31), (100, 100), (1, 1), (24, 16), (5, 37)])
@pytest.mark.parametrize("channels", [1, 3])
def test_the_shape_is_that_of_the_data(tmp_path: Path, write: Writer, shape: tuple, channels: int, limit: int) -> None:
    """Any side, square or not, grey or colour, and the pixels untouched.

    HF#10677 (grey data forced to colour), DD#42 (pictures that are not square).
    """
    arrays = write(tmp_path, [f"{i}.png" for i in range(4)], *shape, channels)
    if channels == 3:
        assert any((a != a[..., :1]).any() for a in arrays)
    data = load(str(tmp_path), memory_limit=limit, log=lambda line: None)
    assert data.shape == (channels, *shape) == data.train.shape == data.held_out.shape
    expected = [a.reshape(*shape, channels).transpose(2, 0, 1).tobytes() for a in arrays]
    assert sorted(rows(data)) == sorted(expected)


def test_mixed_sizes(tmp_path: Path, write: Writer, limit: int, lines: list[str]) -> None:
    """The median short side, at most 64, as squares; the log says so; each is as ``prepare`` makes it."""
    sizes = [(10, 20), (30, 12), (40, 40), (9, 9), (200, 300)]
    arrays = [write(tmp_path, [f"{i}.png"], *size)[0] for i, size in enumerate(sizes)]
    data = load(str(tmp_path), memory_limit=limit, log=lines.append)
    assert data.shape == (3, 12, 12)  # of 9, 10, 12, 40, 200
    assert sorted(rows(data)) == sorted(prepare(a, 12, 12, 3).tobytes() for a in arrays)
    assert any("9x9" in line and "200x300" in line and "12x12" in line for line in lines)


def test_large_mixed_sizes_become_64(tmp_path: Path, write: Writer) -> None:
    """Photographs of any size train at 64 unless another size is asked for."""
    write(tmp_path, ["a.png"], 100, 120)
    write(tmp_path, ["b.png"], 120, 100)
    assert load(str(tmp_path)).shape == (3, 64, 64)
    assert load(str(tmp_path), size=80).shape == (3, 80, 80)


@pytest.mark.parametrize(("size", "shape"), [(5, (5, 5)), ((8, 4), (8, 4)), ((1, 9), (1, 9))])
def test_the_size_asked_for(
    tmp_path: Path, write: Writer, size: int | tuple[int, int], shape: tuple, limit: int
) -> None:
    """A side, or height and width (DD#42)."""
    arrays = write(tmp_path, ["a.png", "b.png"], 12, 10)
    data = load(str(tmp_path), size=size, memory_limit=limit)
    assert data.shape == (3, *shape)
    assert sorted(rows(data)) == sorted(prepare(a, shape[0], shape[1], 3).tobytes() for a in arrays)


def test_mixed_channels(tmp_path: Path, write: Writer, limit: int) -> None:
    """One coloured picture among grey ones makes the set coloured; grey stays grey inside it."""
    write(tmp_path, [f"g{i}.png" for i in range(5)], channels=1)
    write(tmp_path, ["c.png"], channels=3)
    write(tmp_path, ["t.png"], channels=4)
    data = load(str(tmp_path), memory_limit=limit)
    assert data.shape == (3, 6, 6)
    grey = sum(int((p[:1] == p).all()) for part in (data.train, data.held_out) for p in everything(part))
    assert grey == 5


def test_grey_stored_as_colour_is_grey(tmp_path: Path, write: Writer) -> None:
    """Scans saved as RGB train in one channel, unless three are asked for (HF#10677)."""
    grey = write(tmp_path / "set", ["a.png", "b.png"], channels=1)
    for array, name in zip(grey, ("a.png", "b.png"), strict=True):
        Image.fromarray(np.stack([array] * 3, axis=-1)).save(tmp_path / "set" / name)
    data = load(str(tmp_path / "set"))
    assert data.shape[0] == 1
    assert sorted(rows(data)) == sorted(a.tobytes() for a in grey)
    assert load(str(tmp_path / "set"), channels=3).shape[0] == 3


def test_colour_to_grey_when_asked(tmp_path: Path, write: Writer, limit: int) -> None:
    """One channel of coloured pictures is Pillow's luma (ITU-R 601)."""
    arrays = write(tmp_path, ["a.png", "b.png"])
    data = load(str(tmp_path), channels=1, memory_limit=limit)
    got = torch.cat([everything(data.train), everything(data.held_out)]).double()
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    luma = sorted((torch.from_numpy(a).double() @ weights).flatten().tolist() for a in arrays)
    assert np.abs(np.array(sorted(p.flatten().tolist() for p in got)) - np.array(luma)).max() < 1


def test_arrays_of_any_channels(tmp_path: Path, limit: int) -> None:
    """Five channels stay five."""
    array = np.random.default_rng(0).integers(0, 256, (4, 5, 8, 9), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    data = load(str(tmp_path / "x.npy"), memory_limit=limit)
    assert data.shape == (5, 8, 9) and sorted(rows(data)) == sorted(a.tobytes() for a in array)
    with pytest.raises(UserError, match="5 channels"):
        load(str(tmp_path / "x.npy"), channels=3, memory_limit=0).train.get(torch.tensor([0]))
    with pytest.raises(UserError, match="5 channels"):
        load(str(tmp_path / "x.npy"), channels=3)


def test_streamed_is_in_memory(tmp_path: Path, write: Writer) -> None:
    """The same parts, pixels, labels and order, whatever the memory limit."""
    write(tmp_path, [f"{c}/{i}.png" for c in "abc" for i in range(7)], 9, 12)
    kept, read = (load(str(tmp_path), size=8, memory_limit=m, holdout=0.2, seed=3) for m in (1 << 30, 0))
    assert isinstance(kept.train, MemoryImages) and isinstance(read.train, StreamedImages)
    for a, b in ((kept.train, read.train), (kept.held_out, read.held_out)):
        assert torch.equal(everything(a), everything(b))
        assert a.labels is not None and b.labels is not None and torch.equal(a.labels, b.labels)
    assert kept.class_names == read.class_names == ("a", "b", "c")


def test_the_memory_limit_is_in_bytes(tmp_path: Path, write: Writer) -> None:
    """Ten pictures of 6x6x3 bytes fit into 1080 and not into 1079."""
    write(tmp_path, [f"{i}.png" for i in range(10)])
    assert isinstance(load(str(tmp_path), memory_limit=1080).train, MemoryImages)
    assert isinstance(load(str(tmp_path), memory_limit=1079).train, StreamedImages)


@pytest.mark.parametrize("workers", [1, 2, 5])
def test_the_number_of_threads_does_not_matter(tmp_path: Path, write: Writer, workers: int) -> None:
    """The same set in the same order, and progress counts up to all of it."""
    arrays = write(tmp_path, [f"{i:03d}.png" for i in range(150)])
    told: list[tuple[int, int]] = []
    data = load(str(tmp_path), workers=workers, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (150, 150) and [d for d, _ in told] == sorted(d for d, _ in told)
    order = [a.transpose(2, 0, 1).tobytes() for a in arrays]
    where = [order.index(p.numpy().tobytes()) for p in everything(data.train)]
    assert where == sorted(where)


@pytest.mark.parametrize(
    ("n", "share", "held"), [(2, 0.05, 1), (3, 0.9, 1), (40, 0.05, 2), (100, 0.1, 10), (7, 0.5, 3)]
)
def test_how_many_are_held_out(tmp_path: Path, write: Writer, n: int, share: float, held: int, limit: int) -> None:
    """At least one, at most half; no picture is on both sides (DD#17: held-out loss)."""
    arrays = write(tmp_path, [f"{i:03d}.png" for i in range(n)])
    data = load(str(tmp_path), holdout=share, memory_limit=limit)
    assert (len(data.train), len(data.held_out)) == (n - held, held)
    assert sorted(rows(data)) == sorted(a.transpose(2, 0, 1).tobytes() for a in arrays)


def test_the_seed_picks_what_is_held_out(tmp_path: Path, write: Writer) -> None:
    """The same for the same seed; over seeds every picture has its turn."""
    write(tmp_path, [f"{i}.png" for i in range(10)])

    def held(seed: int) -> list[bytes]:
        return [p.numpy().tobytes() for p in everything(load(str(tmp_path), holdout=0.2, seed=seed).held_out)]

    assert held(5) == held(5)
    assert len({picture for seed in range(60) for picture in held(seed)}) == 10


def test_one_picture(tmp_path: Path, write: Writer, limit: int, lines: list[str]) -> None:
    """It is on both sides, and the log says so."""
    array = write(tmp_path, ["a.png"])[0]
    data = load(str(tmp_path), memory_limit=limit, log=lines.append)
    for part in (data.train, data.held_out):
        assert everything(part).numpy().tobytes() == array.transpose(2, 0, 1).tobytes()
    assert any("one image only" in line for line in lines)


@pytest.mark.parametrize("own", ["test", "val"])
def test_the_sets_own_split_is_held_out(tmp_path: Path, write: Writer, own: str, limit: int) -> None:
    """Test if there is one, else validation, whatever ``holdout`` says; a named split is cut by seed."""
    ours = write(tmp_path, [f"train/{i}.png" for i in range(6)])
    theirs = write(tmp_path, [f"{own}/{i}.png" for i in range(3)])
    data = load(str(tmp_path), holdout=0.5, memory_limit=limit)
    assert [p.numpy().tobytes() for p in everything(data.train)] == [a.transpose(2, 0, 1).tobytes() for a in ours]
    assert [p.numpy().tobytes() for p in everything(data.held_out)] == [a.transpose(2, 0, 1).tobytes() for a in theirs]
    named = load(f"{tmp_path}:train", holdout=0.5, memory_limit=limit)
    assert (len(named.train), len(named.held_out)) == (3, 3)
    joined = load(f"{tmp_path}:all", holdout=1 / 3, memory_limit=limit)
    assert (len(joined.train), len(joined.held_out)) == (6, 3)


def test_labels_follow_their_pictures(tmp_path: Path, limit: int) -> None:
    """Folder names -> labels, on both sides of the cut and past a broken file (DD#123, HF#128)."""
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
        assert torch.equal(everything(part)[:, 0, 0, 0].long() // 40, part.labels)


def test_labels_that_are_not_whole_are_left_out(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """A picture outside the class folders: no labels, and the log says so."""
    write(tmp_path, ["a/1.png", "b/2.png", "3.png"])
    data = load(str(tmp_path), log=lines.append)
    assert data.class_names is None and data.train.labels is None and data.held_out.labels is None
    assert any("no label" in line for line in lines)


def test_the_fingerprint_is_of_the_content(tmp_path: Path, write: Writer, limit: int) -> None:
    """The same in another place and with another seed; another when a file is added or a class renamed."""
    for place in ("here", "there"):
        write(tmp_path / place, ["a/1.png", "a/2.png", "b/3.png"])

    def fingerprint(place: str, **options: int) -> str:
        return load(str(tmp_path / place), memory_limit=limit, **options).fingerprint  # type: ignore[arg-type]

    first = fingerprint("here")
    assert first == fingerprint("there") == fingerprint("here", seed=9) == fingerprint("here", workers=3)
    assert len(first) == 16 and int(first, 16) >= 0
    assert first != fingerprint("here", channels=1) and first != fingerprint("here", size=5)
    write(tmp_path / "here", ["b/4.png"])
    assert first != fingerprint("here")
    (tmp_path / "there" / "b").rename(tmp_path / "there" / "c")
    assert first != fingerprint("there")


def test_one_pixel_changes_the_fingerprint(tmp_path: Path) -> None:
    """Of a set in memory, to the last bit."""
    array = np.zeros((4, 5, 5), dtype=np.uint8)
    np.save(tmp_path / "x.npy", array)
    first = load(str(tmp_path / "x.npy")).fingerprint
    array[3, 4, 4] = 1
    np.save(tmp_path / "x.npy", array)
    assert load(str(tmp_path / "x.npy")).fingerprint != first


def test_the_log_says_what_there_is(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """One line: how many, how large, how many held out (pytorch-ddpm#10, DD#57)."""
    write(tmp_path, [f"{i}.png" for i in range(20)], 6, 8)
    load(str(tmp_path), log=lines.append)
    assert len(lines) == 1 and all(told in lines[0] for told in ("19 images", "6x8", "colour", "1 held out"))


def test_get_gives_copies_of_what_is_asked(tmp_path: Path, write: Writer, limit: int) -> None:
    """In any order, with repeats, or none at all; writing into it changes nothing."""
    write(tmp_path, [f"{i}.png" for i in range(8)])
    images = load(str(tmp_path), memory_limit=limit).train
    whole = everything(images)
    indices = torch.tensor([3, 0, 3, 5])
    got = images.get(indices)
    assert torch.equal(got, whole[indices]) and got.dtype == torch.uint8
    got.zero_()
    assert torch.equal(everything(images), whole)
    assert images.get(torch.empty(0, dtype=torch.int64)).shape == (0, 3, 6, 6)
