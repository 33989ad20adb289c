"""The endless stream: the same pictures whoever asks, whenever, and however many at a time."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from fromnoise.data import Batch, BatchStream, Images, MemoryImages, Source, StreamedImages, load, shuffled_indices
from fromnoise.utils.errors import UserError

Writer = Callable[..., list[np.ndarray]]

N, SHAPE = 13, (3, 4, 5)
PIXELS = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (N, *SHAPE), dtype=np.uint8))
LABELS = torch.arange(N) % 4


class Recorder(Source):
    """Pictures of ``PIXELS`` that keep count of who was read; some cannot be read."""

    def __init__(self, broken: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.broken = broken
        self.seen: list[int] = []

    def __len__(self) -> int:
        return N

    def read(self, i: int) -> np.ndarray:
        """Keep count."""
        self.seen.append(i)
        if i in self.broken:
            raise OSError("image file is truncated")
        return PIXELS[i].permute(1, 2, 0).numpy()

    def name(self, i: int) -> str:
        """A number."""
        return f"picture {i}"

    def size(self, i: int) -> int:
        """Nothing."""
        return 0


def in_memory() -> MemoryImages:
    """All of them."""
    return MemoryImages(PIXELS, LABELS)


def streamed(source: Source | None = None) -> StreamedImages:
    """All of them, read one by one."""
    return StreamedImages(source or Recorder(), torch.arange(N), SHAPE, LABELS, lambda line: None)


def take(stream: BatchStream, steps: int, *args: int) -> list[Batch]:
    """The first batches."""
    batches = stream.iterate(*args)
    taken = list(itertools.islice(batches, steps))
    batches.close()  # type: ignore[attr-defined]
    return taken


def join(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """One long batch."""
    labels = [b.labels for b in batches if b.labels is not None]
    return (
        torch.cat([b.pixels for b in batches]),
        torch.cat(labels),
        torch.cat([b.indices for b in batches]),
        torch.cat([b.positions for b in batches]),
    )


def same(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    """Equal in everything."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("images", [in_memory(), streamed()], ids=["memory", "streamed"])
@pytest.mark.parametrize("workers", [0, 3])
def test_a_batch_holds_what_its_indices_say(images: Images, workers: int) -> None:
    """Pixels, mirrored or not, and labels belong to the indices, and the indices to the positions."""
    for batch in take(BatchStream(images, 2, True, workers), 6, 0, 5):
        assert torch.equal(batch.indices, shuffled_indices(N, 2, batch.positions))
        assert batch.labels is not None and torch.equal(batch.labels, LABELS[batch.indices])
        for picture, index in zip(batch.pixels, batch.indices, strict=True):
            assert torch.equal(picture, PIXELS[index]) or torch.equal(picture, PIXELS[index].flip(-1))


def test_batch_size_does_not_matter() -> None:
    """60 positions by 1, 4, 12 and 60: the same pictures, mirrored the same way."""
    stream = BatchStream(in_memory(), 3, True)
    whole = join([stream.batch(range(60))])
    for count in (1, 4, 12, 60):
        assert same(join(take(stream, 60 // count, 0, count)), whole)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_the_number_of_processes_does_not_matter(world: int) -> None:
    """The slices of all ranks, side by side, are what one process would take."""
    whole = join([BatchStream(in_memory(), 3, True).batch(range(48))])
    count = 12 // world
    ranks = [take(BatchStream(in_memory(), 3, True), 4, 0, count, rank, world) for rank in range(world)]
    together = [ranks[rank][step] for step in range(4) for rank in range(world)]
    assert same(join(together), whole)


@pytest.mark.parametrize("workers", [0, 2])
def test_to_resume_is_to_start_there(workers: int) -> None:
    """From position 39 come the pictures that an unbroken stream has there, and none before it is decoded.

    HF#2636 (resuming loops through the batches that were done).
    """
    unbroken = join(take(BatchStream(in_memory(), 9, True), 8, 0, 6))
    source = Recorder()
    resumed = join(take(BatchStream(streamed(source), 9, True, workers, 1), 2, 36, 6))
    assert same(resumed, tuple(part[36:] for part in unbroken))
    ahead = 0 if workers == 0 else max(workers, 1)
    assert len(source.seen) <= (2 + ahead) * 6


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_streamed_is_in_memory(workers: int) -> None:
    """Pixel for pixel, with and without threads."""
    expected = join(take(BatchStream(in_memory(), 4, True), 7, 3, 5))
    assert same(join(take(BatchStream(streamed(), 4, True, workers), 7, 3, 5)), expected)


def test_a_picture_is_seen_both_ways() -> None:
    """A flip belongs to the position and not to the picture."""
    batch = BatchStream(in_memory(), 0, True).batch(range(40 * N))
    mirrored = (batch.pixels != PIXELS[batch.indices]).flatten(1).any(1)
    for picture in range(N):
        seen = mirrored[batch.indices == picture]
        assert seen.any() and not seen.all()


def test_no_flip_by_default() -> None:
    """Digits must not be mirrored unless asked."""
    batch = BatchStream(in_memory(), 0).batch(range(40))
    assert torch.equal(batch.pixels, PIXELS[batch.indices])


def test_flips_leave_the_set_alone() -> None:
    """Mirroring writes into the batch only."""
    before = PIXELS.clone()
    stream = BatchStream(in_memory(), 0, True)
    stream.batch(range(100))
    assert torch.equal(PIXELS, before)


def test_positions_in_any_order() -> None:
    """A tensor of positions is as good as a range."""
    stream = BatchStream(in_memory(), 0, True)
    positions = torch.tensor([40, 3, 3, 77])
    batch = stream.batch(positions)
    for k, position in enumerate(positions.tolist()):
        assert torch.equal(batch.pixels[k], stream.batch(range(position, position + 1)).pixels[0])


def test_a_batch_larger_than_the_set() -> None:
    """Each picture comes as often as the epochs say (DD#17: 140 images)."""
    counts = BatchStream(in_memory(), 0).batch(range(3 * N)).indices.bincount()
    assert counts.tolist() == [3] * N
    one = BatchStream(MemoryImages(PIXELS[:1]), 0, True).batch(range(5))
    assert one.indices.tolist() == [0] * 5 and one.labels is None


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_end_with_the_iterator(workers: int) -> None:
    """Closing, running out of interest and an exception all leave no thread behind."""

    def decoding() -> int:
        return sum(t.name.startswith("decode") for t in threading.enumerate())

    before = decoding()
    take(BatchStream(streamed(), 0, workers=workers), 3, 0, 4)
    assert decoding() == before
    with pytest.raises(RuntimeError, match="enough"):
        for step, _ in enumerate(BatchStream(streamed(), 0, workers=workers).iterate(0, 4)):
            if step == 2:
                raise RuntimeError("enough")
    assert decoding() == before


@pytest.mark.parametrize("workers", [0, 3])
def test_the_next_readable_picture_stands_in(workers: int) -> None:
    """Deterministic, with its own label and index, counted, and named in the log once."""
    lines: list[str] = []
    images = StreamedImages(Recorder((4, 5, 12)), torch.arange(N), SHAPE, LABELS, lines.append)
    stand_in = {4: 6, 5: 6, 12: 0}
    for batch in take(BatchStream(images, 1, False, workers), 9, 0, 7):
        expected = [stand_in.get(i, i) for i in shuffled_indices(N, 1, batch.positions).tolist()]
        assert batch.indices.tolist() == expected
        assert torch.equal(batch.pixels, PIXELS[expected])
        assert batch.labels is not None and torch.equal(batch.labels, LABELS[expected])
    assert images.skipped == 3 and len(lines) == 3
    assert all("truncated" in line and "picture" in line for line in lines)


def test_a_picture_that_can_no_longer_be_read() -> None:
    """What ``take`` says was shown is what it shows, before and after a file breaks."""
    source = Recorder()
    images = streamed(source)
    for broken, shown in (((), 4), ((4,), 5), ((4, 5), 6)):
        source.broken = broken
        pixels, indices = images.take(torch.tensor([4]))
        assert indices.tolist() == [shown] and torch.equal(pixels[0], PIXELS[shown])


@pytest.mark.parametrize("workers", [0, 2])
def test_nothing_readable_is_an_error(workers: int) -> None:
    """A disk that goes away ends the run with one line; it does not hang."""
    images = StreamedImages(Recorder(tuple(range(N))), torch.arange(N), SHAPE, None, lambda line: None)
    with pytest.raises(UserError, match="none of the 13 images"):
        next(iter(BatchStream(images, 0, workers=workers).iterate(0, 4)))


def test_a_file_that_vanishes_while_training(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """Deleted after the set was opened: the next picture stands in, the run goes on."""
    write(tmp_path, [f"{i}.png" for i in range(6)])
    data = load(str(tmp_path), memory_limit=0, log=lines.append)
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    batch = BatchStream(data.train, 0).batch(range(10))
    assert batch.pixels.shape == (10, 3, 6, 6)
    assert any("No such file" in line for line in lines)


def test_an_empty_set_is_refused() -> None:
    """A stream over nothing would wait for ever."""
    with pytest.raises(ValueError, match="at least one"):
        BatchStream(MemoryImages(PIXELS[:0]), 0)


def test_labels_must_fit() -> None:
    """One label a picture."""
    with pytest.raises(ValueError, match="13 images but 3 labels"):
        MemoryImages(PIXELS, LABELS[:3])
