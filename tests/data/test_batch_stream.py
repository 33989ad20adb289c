"""The endless stream of batches: its images do not depend on batch size, processes, threads or resuming."""

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
    """The images of ``PIXELS``, some of them unreadable; records which ones were read."""

    def __init__(self, damaged: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.damaged = damaged
        self.requested: list[int] = []

    def __len__(self) -> int:
        return N

    def read(self, i: int) -> np.ndarray:
        """Record and return the image."""
        self.requested.append(i)
        if i in self.damaged:
            raise OSError("image file is truncated")
        return PIXELS[i].permute(1, 2, 0).numpy()

    def name(self, i: int) -> str:
        """Its number."""
        return f"image {i}"

    def file_size(self, i: int) -> int:
        """Unused."""
        return 0


def in_memory() -> MemoryImages:
    """All images in memory."""
    return MemoryImages(PIXELS, LABELS)


def streamed(source: Source | None = None) -> StreamedImages:
    """All images, read on demand."""
    return StreamedImages(source or Recorder(), torch.arange(N), SHAPE, LABELS, lambda line: None)


def first_batches(stream: BatchStream, steps: int, *args: int) -> list[Batch]:
    """The first batches of ``iterate(*args)``."""
    batches = stream.iterate(*args)
    found = list(itertools.islice(batches, steps))
    batches.close()  # type: ignore[attr-defined]
    return found


def join(batches: list[Batch]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Concatenate batches."""
    labels = [b.labels for b in batches if b.labels is not None]
    return (
        torch.cat([b.pixels for b in batches]),
        torch.cat(labels),
        torch.cat([b.indices for b in batches]),
        torch.cat([b.positions for b in batches]),
    )


def all_equal(a: tuple[torch.Tensor, ...], b: tuple[torch.Tensor, ...]) -> bool:
    """Whether all tensors are equal."""
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("images", [in_memory(), streamed()], ids=["memory", "streamed"])
@pytest.mark.parametrize("workers", [0, 3])
def test_batches_belong_to_their_indices(images: Images, workers: int) -> None:
    """Pixels, mirrored or not, and labels are those of the indices, and the indices those of the positions."""
    for batch in first_batches(BatchStream(images, 2, True, workers), 6, 0, 5):
        assert torch.equal(batch.indices, shuffled_indices(N, 2, batch.positions))
        assert batch.labels is not None and torch.equal(batch.labels, LABELS[batch.indices])
        for image, index in zip(batch.pixels, batch.indices, strict=True):
            assert torch.equal(image, PIXELS[index]) or torch.equal(image, PIXELS[index].flip(-1))


def test_batch_size_does_not_matter() -> None:
    """60 positions in batches of 1, 4, 12 and 60 are the same images with the same flips."""
    stream = BatchStream(in_memory(), 3, True)
    expected = join([stream.batch(range(60))])
    for count in (1, 4, 12, 60):
        assert all_equal(join(first_batches(stream, 60 // count, 0, count)), expected)


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_number_of_processes_does_not_matter(world: int) -> None:
    """The slices of all ranks together are the batch of one process."""
    expected = join([BatchStream(in_memory(), 3, True).batch(range(48))])
    count = 12 // world
    ranks = [first_batches(BatchStream(in_memory(), 3, True), 4, 0, count, rank, world) for rank in range(world)]
    together = [ranks[rank][step] for step in range(4) for rank in range(world)]
    assert all_equal(join(together), expected)


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_starts_at_a_position(workers: int) -> None:
    """The images from position 36 on are those of an uninterrupted stream, and earlier ones are not decoded.

    HF#2636 (resuming iterates over all earlier batches).
    """
    uninterrupted = join(first_batches(BatchStream(in_memory(), 9, True), 8, 0, 6))
    source = Recorder()
    resumed = join(first_batches(BatchStream(streamed(source), 9, True, workers, 1), 2, 36, 6))
    assert all_equal(resumed, tuple(part[36:] for part in uninterrupted))
    ahead = 0 if workers == 0 else max(workers, 1)
    assert len(source.requested) <= (2 + ahead) * 6


@pytest.mark.parametrize("workers", [0, 1, 4])
def test_streamed_images_equal_images_in_memory(workers: int) -> None:
    """With and without threads."""
    expected = join(first_batches(BatchStream(in_memory(), 4, True), 7, 3, 5))
    assert all_equal(join(first_batches(BatchStream(streamed(), 4, True, workers), 7, 3, 5)), expected)


def test_flips_belong_to_positions() -> None:
    """Over many epochs each image occurs both mirrored and not mirrored."""
    batch = BatchStream(in_memory(), 0, True).batch(range(40 * N))
    mirrored = (batch.pixels != PIXELS[batch.indices]).flatten(1).any(1)
    for index in range(N):
        own = mirrored[batch.indices == index]
        assert own.any() and not own.all()


def test_no_flip_by_default() -> None:
    """Images are mirrored only on request."""
    batch = BatchStream(in_memory(), 0).batch(range(40))
    assert torch.equal(batch.pixels, PIXELS[batch.indices])


def test_flips_do_not_modify_the_data() -> None:
    """Only the batch is mirrored."""
    before = PIXELS.clone()
    stream = BatchStream(in_memory(), 0, True)
    stream.batch(range(100))
    assert torch.equal(PIXELS, before)


def test_positions_in_any_order() -> None:
    """Positions can be a tensor."""
    stream = BatchStream(in_memory(), 0, True)
    positions = torch.tensor([40, 3, 3, 77])
    batch = stream.batch(positions)
    for k, position in enumerate(positions.tolist()):
        assert torch.equal(batch.pixels[k], stream.batch(range(position, position + 1)).pixels[0])


def test_batch_larger_than_the_data() -> None:
    """Each image occurs once per epoch (DD#17: 140 images)."""
    counts = BatchStream(in_memory(), 0).batch(range(3 * N)).indices.bincount()
    assert counts.tolist() == [3] * N
    one = BatchStream(MemoryImages(PIXELS[:1]), 0, True).batch(range(5))
    assert one.indices.tolist() == [0] * 5 and one.labels is None


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_end_with_the_iterator(workers: int) -> None:
    """No thread is left after closing the iterator or after an exception."""

    def decoding_threads() -> int:
        return sum(t.name.startswith("decode") for t in threading.enumerate())

    before = decoding_threads()
    first_batches(BatchStream(streamed(), 0, workers=workers), 3, 0, 4)
    assert decoding_threads() == before
    with pytest.raises(RuntimeError, match="enough"):
        for step, _ in enumerate(BatchStream(streamed(), 0, workers=workers).iterate(0, 4)):
            if step == 2:
                raise RuntimeError("enough")
    assert decoding_threads() == before


@pytest.mark.parametrize("workers", [0, 3])
def test_unreadable_images_are_replaced(workers: int) -> None:
    """By the next readable image, with its own label and index; each unreadable one is logged once."""
    lines: list[str] = []
    images = StreamedImages(Recorder((4, 5, 12)), torch.arange(N), SHAPE, LABELS, lines.append)
    replacement = {4: 6, 5: 6, 12: 0}
    for batch in first_batches(BatchStream(images, 1, False, workers), 9, 0, 7):
        expected = [replacement.get(i, i) for i in shuffled_indices(N, 1, batch.positions).tolist()]
        assert batch.indices.tolist() == expected
        assert torch.equal(batch.pixels, PIXELS[expected])
        assert batch.labels is not None and torch.equal(batch.labels, LABELS[expected])
    assert images.skipped == 3 and len(lines) == 3
    assert all("truncated" in line and "image" in line for line in lines)


def test_image_that_becomes_unreadable() -> None:
    """The returned indices are those of the returned pixels, before and after a file is damaged."""
    source = Recorder()
    images = streamed(source)
    for damaged, index in (((), 4), ((4,), 5), ((4, 5), 6)):
        source.damaged = damaged
        pixels, indices = images.get_with_indices(torch.tensor([4]))
        assert indices.tolist() == [index] and torch.equal(pixels[0], PIXELS[index])


@pytest.mark.parametrize("workers", [0, 2])
def test_error_if_no_image_is_readable(workers: int) -> None:
    """A disk that is disconnected gives one line and does not hang."""
    images = StreamedImages(Recorder(tuple(range(N))), torch.arange(N), SHAPE, None, lambda line: None)
    with pytest.raises(UserError, match="none of the 13 images"):
        next(iter(BatchStream(images, 0, workers=workers).iterate(0, 4)))


def test_files_deleted_during_training(tmp_path: Path, write: Writer, lines: list[str]) -> None:
    """The next images are used instead, and the log says so."""
    write(tmp_path, [f"{i}.png" for i in range(6)])
    data = load(str(tmp_path), memory_limit=0, log=lines.append)
    for i in range(3):
        (tmp_path / f"{i}.png").unlink()
    batch = BatchStream(data.train, 0).batch(range(10))
    assert batch.pixels.shape == (10, 3, 6, 6)
    assert any("No such file" in line for line in lines)


def test_empty_data_are_refused() -> None:
    """A stream needs an image."""
    with pytest.raises(ValueError, match="at least one"):
        BatchStream(MemoryImages(PIXELS[:0]), 0)


def test_one_label_per_image() -> None:
    """Another number of labels is refused."""
    with pytest.raises(ValueError, match="13 images but 3 labels"):
        MemoryImages(PIXELS, LABELS[:3])
