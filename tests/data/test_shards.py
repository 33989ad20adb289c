"""Shards: the WebDataset layout, order, patterns, damaged and hostile archives, the cache of indices."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_files import all_pixels, first_images, npy, png, random_images, same_data, write_shards, write_tar

from fromnoise.data import Source, load, open_source
from fromnoise.data.shards import store
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError


def image(source: Source, i: int) -> np.ndarray:
    """Image ``i`` as an array."""
    return np.asarray(source.read(i))


def named(source: Source, i: int) -> str | None:
    """Name of the class of image ``i``."""
    label = source.label(i)
    return None if label is None or source.class_names is None else source.class_names[label]


def refused(spec: str, **options: object) -> str:
    """The line with which a SPEC is refused."""
    with pytest.raises(UserError) as error:
        open_splits(spec, **options)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
    return str(error.value)


def test_images_and_labels_of_a_webdataset(tmp_path: Path) -> None:
    """Each image with the label of its key, in the order of the archive, in every format that holds its pixels."""
    images = random_images(4, 6, 7, 3)
    members = {
        "b/0001.png": png(images[0]),
        "b/0001.cls": b"7\n",
        "a/0001.cls": b"3",
        "a/0001.webp": png(images[1], "WEBP", lossless=True),
        "./0002.npy": npy(images[2]),
        "0003.png": png(images[3]),
        "0003.cls": b"7",
        "0003.txt": b"a caption",
    }
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert len(source) == 4 and all(np.array_equal(image(source, i), images[i]) for i in range(4))
    assert [named(source, i) for i in range(4)] == ["7", "3", None, "7"] and source.class_names == ("3", "7")
    assert source.name(2) == "x.tar/0002.npy" and source.file_size(0) == len(members["b/0001.png"])
    assert source.encoded(0) == (".png", members["b/0001.png"])


def test_labels_and_attributes_of_json(tmp_path: Path) -> None:
    """Words or numbers under usual keys are classes; numbers under other keys are attributes."""
    values = [{"label": "cat", "age": 3, "x": 0.5}, {"label": "dog", "age": -1.5, "x": 1e-3}]
    members: dict[str, bytes] = {}
    for i, value in enumerate(values):
        members |= {f"{i}.jpg": png(random_images(1)[0], "JPEG"), f"{i}.json": json.dumps(value).encode()}
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert [named(source, i) for i in range(2)] == ["cat", "dog"]
    assert source.attribute_names == ("age", "x")
    assert [source.attribute_values(i) for i in range(2)] == [(3.0, 0.5), (-1.5, 1e-3)]
    data = load(str(tmp_path / "x.tar"), attributes=True, log=lambda line: None)
    assert data.attributes is not None and [a.name for a in data.attributes] == ["age", "x"]


def test_further_images_of_a_sample_are_named(tmp_path: Path, lines: list[str]) -> None:
    """Of an image and its mask the image is used; plain files whose names have points are images each."""
    pictures = [png(a) for a in random_images(4)]
    write_tar(tmp_path / "x.tar", {"0.jpg": pictures[0], "0.mask.png": pictures[1], "1.jpg": pictures[2]})
    source = open_source(str(tmp_path / "x.tar"), log=lines.append)
    assert [source.name(i) for i in range(len(source))] == ["x.tar/0.jpg", "x.tar/1.jpg"]
    assert "0.mask.png (a further image of its sample)" in lines[0]
    write_tar(tmp_path / "y.tar", {"photo.2020.png": pictures[0], "photo.2021.png": pictures[1]})
    assert len(open_source(str(tmp_path / "y.tar"))) == 2


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_folders_are_classes_as_in_an_archive(tmp_path: Path, kind: int) -> None:
    """Without labels of samples, sub-folders are splits and classes, as in a .zip file; names may be long."""
    images = random_images(6)
    folders = ["train/cat", "train/dög", "train/cat", "test/cat", "test/dög", "train/dög"]
    members = {f"set/{f}/{'long' * 20}{i}.png": png(images[i]) for i, f in enumerate(folders)}
    write_tar(tmp_path / "x.tar", members, kind)
    train, test = (open_source(f"{tmp_path}/x.tar:{split}") for split in ("train", "test"))
    assert [named(train, i) for i in range(4)] == ["cat", "dög", "cat", "dög"]
    assert np.array_equal(image(train, 3), images[5]) and np.array_equal(image(test, 1), images[4])


def test_label_table_in_an_archive(tmp_path: Path) -> None:
    """A labels.csv among the images holds their classes and attributes."""
    table = b"file,label,age\n0.png,cat,3\n1.png,dog,4.5\n"
    members = {"labels.csv": table, "0.png": png(random_images(1)[0]), "1.png": png(random_images(1)[0])}
    source = open_source(str(write_tar(tmp_path / "x.tar", members)))
    assert [named(source, i) for i in range(2)] == ["cat", "dog"]
    assert source.attribute_values(1) == (4.5,)


@pytest.mark.parametrize(
    "spec", ["{}", "{}/part-*.tar", "{}/part-{{000000..000004}}.tar", "{}/part-00000{{0,1,2,3,4}}.tar"]
)
def test_sets_of_shards(tmp_path: Path, spec: str) -> None:
    """A folder, a glob pattern and braces name the same set, which equals the same images in one array."""
    images, labels = random_images(18), [i % 3 for i in range(18)]
    write_shards(tmp_path / "set", images, labels)
    np.savez(tmp_path / "x.npz", images=images, labels=np.array(labels))
    found, expected = (load(s, log=lambda line: None) for s in (spec.format(tmp_path / "set"), str(tmp_path / "x.npz")))
    assert same_data(found, expected)
    assert found.fingerprint == expected.fingerprint


def test_splits_by_the_names_of_shards(tmp_path: Path) -> None:
    """``train`` and ``test`` in the names; labels are the same numbers in both."""
    write_tar(tmp_path / "x-train-0.tar", {"0.png": png(random_images(1)[0]), "0.cls": b"5"})
    write_tar(tmp_path / "x-test-0.tar", {"0.png": png(random_images(1)[0]), "0.cls": b"4"})
    splits = open_splits(str(tmp_path))
    assert list(splits) == ["train", "test"] and splits["train"].class_names == ("4", "5")
    assert [splits[s].label(0) for s in splits] == [1, 0]


@pytest.mark.parametrize("world", [1, 2, 3])
def test_order_is_that_in_memory_on_any_number_of_ranks(tmp_path: Path, world: int) -> None:
    """Streamed from shards, the images of every step are those of the set in memory, from any step on."""
    write_shards(tmp_path, random_images(30))
    streamed = load(str(tmp_path), memory_limit=0, log=lambda line: None)
    in_memory = load(str(tmp_path), log=lambda line: None)
    expected = first_images(in_memory, 8, 6)
    ranks = [first_images(streamed, 8, 6 // world, rank, world) for rank in range(world)]
    assert torch.equal(torch.cat(ranks, 1), expected)
    assert torch.equal(first_images(streamed, 3, 6, start=30), expected[5:])


def test_missing_shard(tmp_path: Path, lines: list[str]) -> None:
    """It is named; only by choice it is left out."""
    paths = write_shards(tmp_path, random_images(12))
    paths[1].unlink()
    spec = f"{tmp_path}/part-{{000000..000002}}.tar"
    message = refused(spec)
    assert "1 shards" in message and "part-000001.tar (No such file" in message and "skip_damaged" in message
    found = load(spec, skip_damaged=True, holdout=0.2, log=lines.append)
    assert len(found.train) + len(found.held_out) == 8
    assert any("left out 1 shards" in line and "part-000001.tar" in line for line in lines)
    assert len(open_source(str(tmp_path))) == 8  # a folder without a list says nothing of others


def test_every_truncation_is_named(tmp_path: Path) -> None:
    """Cut anywhere before the mark of its end, a shard is refused: never are images left out without a word."""
    content = write_shards(tmp_path, random_images(3), [0, 1, 2])[0].read_bytes()
    end = len(content.rstrip(b"\0")) + 1024
    for cut in range(0, len(content), 256):
        (tmp_path / "x.tar").write_bytes(content[:cut])
        try:
            assert len(open_source(str(tmp_path / "x.tar"))) == 3 and cut >= end - 1024, cut
        except UserError as error:
            assert "x.tar" in str(error) and cut < end, (cut, str(error))


def header(name: str, kind: bytes, size: int = 0) -> tarfile.TarInfo:
    """A header without content."""
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, "/etc/passwd", 0
    return info


def test_members_that_are_no_files_are_left_out_and_named(tmp_path: Path, lines: list[str]) -> None:
    """Links, devices and pipes; nothing is written to the disk, so names that leave the folder are names."""
    kinds = {"link": tarfile.SYMTYPE, "hard": tarfile.LNKTYPE, "dev": tarfile.CHRTYPE, "pipe": tarfile.FIFOTYPE}
    members: dict[str, bytes | tarfile.TarInfo] = {f"{n}.png": header(f"{n}.png", k) for n, k in kinds.items()}
    members |= {"/etc/0.png": png(random_images(1)[0]), "../../1.png": png(random_images(1)[0]), "d": header("d", b"5")}
    source = open_source(str(write_tar(tmp_path / "x.tar", members)), log=lines.append)
    assert len(source) == 2
    assert "left out 4 members" in lines[0] and "x.tar/link.png (a link)" in lines[0] and "(a device)" in lines[0]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.tar"]


def patched(at: int, data: bytes) -> bytes:
    """A .tar file of one image, whose header is changed at a place and has a right checksum."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        info = tarfile.TarInfo("0.png")
        info.size = 100
        archive.addfile(info, io.BytesIO(bytes(100)))
    block = bytearray(buffer.getvalue())
    block[at : at + len(data)] = data
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block[:512])
    return bytes(block)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no archive" * 100,
        bytes(1024),
        patched(124, b"\x80" + b"\xff" * 11),  # a huge size in base 256
        patched(124, b"\xff" * 12),  # a negative size
        patched(124, b"77777777777\0"),
        patched(124, b"not octal!!\0"),
        patched(156, b"L"),  # a long name that is the content
        patched(156, b"x"),  # an extended header that is none
        patched(156, b"S"),
        patched(156, b"\xff"),
        patched(0, b"\0" * 100),
    ],
)
def test_hostile_archives_get_one_line(tmp_path: Path, content: bytes) -> None:
    """At once, naming the file."""
    (tmp_path / "x.tar").write_bytes(content)
    begin = time.monotonic()
    message = refused(str(tmp_path / "x.tar"))
    assert "x.tar" in message and time.monotonic() - begin < 1


@pytest.mark.parametrize(
    "records", [b"30 size=99999999999999999999\n", b"999999 path=x\n", b"x", b"4 a=\n", b"0 a=b\n"]
)
def test_hostile_extended_headers(tmp_path: Path, records: bytes) -> None:
    """Records that declare too much, or are none."""
    info = tarfile.TarInfo("x")
    info.type, info.size = tarfile.XHDTYPE, len(records)
    image_header = tarfile.TarInfo("0.png")
    image_header.size = 0
    content = info.tobuf() + records.ljust(512, b"\0") + image_header.tobuf() + bytes(1024)
    (tmp_path / "x.tar").write_bytes(content)
    assert "x.tar" in refused(str(tmp_path / "x.tar"))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tgz", "x.tar.zst", "set/x.tar.xz"])
def test_compressed_archives_are_refused_with_the_reason(tmp_path: Path, name: str) -> None:
    """They cannot be read by position."""
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"\x1f\x8b")
    message = refused(str(tmp_path / name if "/" not in name else tmp_path / "set"))
    assert "compressed" in message and "unpack" in message


@pytest.mark.parametrize(
    "spec", ["x-{5..3}.tar", "x-{0..9999999}.tar", "nothing-*.tar", "x-{0..2}.png", "{a,b}", "x-{0..1}.tar.gz"]
)
def test_wrong_patterns(tmp_path: Path, spec: str) -> None:
    """One line each."""
    assert refused(str(tmp_path / spec))


def test_damaged_image_in_a_shard_is_left_out_and_named(tmp_path: Path, lines: list[str]) -> None:
    """As in a folder."""
    members = {f"{i}.png": png(a) for i, a in enumerate(random_images(4))} | {"5.png": b"nothing"}
    members["6.npy"] = npy(np.zeros((3, 3), np.float32))
    write_tar(tmp_path / "x.tar", members)
    assert load(str(tmp_path / "x.tar"), holdout=0.3, log=lines.append).skipped == 2
    assert any("x.tar/5.png (not an image)" in line and "x.tar/6.npy (its array" in line for line in lines)


def test_arrays_of_one_header(tmp_path: Path) -> None:
    """The second image of a header is read like the first; one that is cut, or has another layout, is not mixed up."""
    images = random_images(3, 6, 7, 3)
    arrays = [images[0], images[1], images[2].transpose(2, 0, 1), np.asfortranarray(images[0]), images[1] > 99]
    contents = [*map(npy, arrays), npy(images[2])[:-1]] * 2
    source = open_source(str(write_tar(tmp_path / "x.tar", {f"{i}.npy": c for i, c in enumerate(contents)})))
    expected = [images[0], images[1], images[2], images[0], np.where(images[1] > 99, 255, 0)] * 2
    places = [*range(5), *range(6, 11)]
    assert all(np.array_equal(image(source, i), e) for i, e in zip(places, expected, strict=True))
    for i in (5, 11):
        with pytest.raises(ValueError, match=r"."):
            source.read(i)


def test_shard_that_becomes_shorter_stops_the_run(tmp_path: Path) -> None:
    """Its images are not replaced by others, as a single damaged image is."""
    write_shards(tmp_path, random_images(8))
    data = load(str(tmp_path), memory_limit=0, log=lambda line: None)
    for path in tmp_path.glob("*.tar"):
        os.truncate(path, 700)
    with pytest.raises(UserError, match=r"part-00000\d.tar' has become shorter"):
        all_pixels(data.train)


def test_index_is_made_once_and_again_for_a_changed_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is found by path, size and time; a damaged one is made again."""
    (path,) = write_shards(tmp_path, random_images(4))
    scanned: list[object] = []
    scan = store.scan
    monkeypatch.setattr(store, "scan", lambda *args: scanned.append(args) or scan(*args))
    assert len(open_source(str(path))) == len(open_source(str(path))) == 4 and len(scanned) == 1
    cache = Path(os.environ["FROMNOISE_CACHE"]) / "shard-index"
    assert cache.stat().st_mode & 0o777 == 0o700
    (index,) = cache.iterdir()
    index.write_bytes(index.read_bytes()[:-30])
    assert len(open_source(str(path))) == 4 and len(scanned) == 2
    write_shards(tmp_path, random_images(3))
    assert len(open_source(str(path))) == 3 and len(scanned) == 3


def test_cache_that_others_can_write_is_not_used(tmp_path: Path, lines: list[str]) -> None:
    """The index is made for this time, and a line says so."""
    (path,) = write_shards(tmp_path, random_images(4))
    cache = Path(os.environ["FROMNOISE_CACHE"]) / "shard-index"
    cache.mkdir()
    cache.chmod(0o777)
    assert len(open_source(str(path), log=lines.append)) == 4
    assert "others can write in it" in lines[0] and list(cache.iterdir()) == []


def test_index_of_another_shard_is_refused(tmp_path: Path) -> None:
    """Arrays that do not lie in the shard are no index of it."""
    (path,) = write_shards(tmp_path, random_images(4))
    with open(path, "rb") as file:
        index = store.scan(file, path, path.stat().st_size)
    (tmp_path / "x.index").write_bytes(index.to_bytes())
    again = store.read_index(tmp_path / "x.index", path.stat().st_size)
    assert [again.name(i) for i in range(4)] == [f"000{i}.png" for i in range(4)]
    with pytest.raises(UserError, match="no index of this shard"):
        store.read_index(tmp_path / "x.index", 2000)


def test_a_large_shard_opens_at_once(tmp_path: Path) -> None:
    """The index of a large shard is read as arrays: well below a second, and a few bytes an image."""
    picture = png(random_images(1, 2, 2)[0])
    block = picture.ljust(512, b"\0")
    count = 5_000
    with open(tmp_path / "x.tar", "wb") as file:
        for i in range(count):
            info = tarfile.TarInfo(f"{i:09d}.png")
            info.size = len(picture)
            file.write(info.tobuf(tarfile.USTAR_FORMAT) + block)
        file.write(bytes(10240))
    open_source(str(tmp_path / "x.tar"))
    begin = time.process_time()
    source = open_source(str(tmp_path / "x.tar"))
    assert len(source) == count and time.process_time() - begin < 0.2
    assert source.name(count - 1) == f"x.tar/{count - 1:09d}.png" and image(source, count - 1).shape == (2, 2)
