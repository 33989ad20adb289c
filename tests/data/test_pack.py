"""Packing: the same data in the same order, resumed, checked; and lists of shards."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from shard_files import all_pixels, png, random_images, same_data, write_shards

from fromnoise.data import Source, Splits, load, open_source
from fromnoise.data.shards.manifest import parse_manifest
from fromnoise.data.shards.pack import PackSettings, pack
from fromnoise.data.shards.verify import verify
from fromnoise.data.spec import open_splits
from fromnoise.utils.errors import UserError

SMALL = PackSettings(shard_bytes=10_000)  # some four images


class Stopped(Exception):
    """A packing is interrupted."""


def packed(spec: object, out: Path, settings: PackSettings = SMALL, stop: int = 0) -> Path:
    """Pack a SPEC; interrupted after ``stop`` images."""

    def on_packed(done: int, total: int) -> None:
        if done == stop:
            raise Stopped

    pack(open_splits(str(spec)), out, settings, lambda line: None, 2, on_packed if stop else None)
    return out


def arrays(tmp_path: Path, n: int = 30, channels: int = 1, labels: bool = True) -> Path:
    """Random images with labels in an .npz file."""
    images = random_images(n, 6, 5, channels)
    np.savez(tmp_path / "x.npz", images=images, **({"labels": np.arange(n) % 3} if labels else {}))
    return tmp_path / "x.npz"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("channels", [1, 3, 2, 4, 5])
@pytest.mark.parametrize("encoding", ["auto", "png", "npy"])
def test_shards_are_the_source(tmp_path: Path, channels: int, encoding: str) -> None:
    """Pixels, labels, held-out images and fingerprint; in memory and streamed."""
    spec = arrays(tmp_path, channels=channels)
    settings = PackSettings(encoding=encoding, shard_bytes=10_000)  # type: ignore[arg-type]
    out = packed(spec, tmp_path / "out", settings)
    assert len(list(out.glob("shard-*.tar"))) > 2
    expected, found = (load(str(s), log=lambda line: None) for s in (spec, out))
    assert same_data(found, expected) and found.fingerprint == expected.fingerprint
    assert same_data(load(str(out), memory_limit=0, log=lambda line: None), expected)


def test_splits_and_classes_are_kept(tmp_path: Path, write) -> None:
    """Words as classes, an own test split; a shard alone knows its classes too."""
    names = [f"{s}/{c}/{i}.png" for s in ("train", "test") for c in ("cat", "dog") for i in range(3)]
    write(tmp_path / "set", names)
    out = packed(tmp_path / "set", tmp_path / "out")
    assert {p.name.split("-")[0] for p in out.glob("*.tar")} == {"train", "test"}
    expected, found = (load(str(s), log=lambda line: None) for s in (tmp_path / "set", out))
    assert same_data(found, expected) and found.class_names == ("cat", "dog")
    assert open_source(f"{out}/train-000000.tar").class_names == ("cat", "dog")


def test_files_are_kept_as_they_are(tmp_path: Path) -> None:
    """A JPEG is not encoded again, from folder, archive, table or shard; with a size it is cropped as in training."""
    (tmp_path / "set").mkdir()
    jpeg = png(random_images(1, 20, 30, 3)[0], "JPEG", quality=80)
    (tmp_path / "set" / "0.jpeg").write_bytes(jpeg)
    out = packed(tmp_path / "set", tmp_path / "out")
    assert open_source(str(out)).encoded(0) == (".jpeg", jpeg)
    assert open_source(str(packed(out, tmp_path / "again"))).encoded(0) == (".jpeg", jpeg)
    small = packed(tmp_path / "set", tmp_path / "small", PackSettings(size=(8, 6), channels=1, resize="bilinear"))
    options = {"size": (8, 6), "channels": 1, "resize": "bilinear", "log": lambda line: None}
    expected, found = load(str(tmp_path / "set"), **options), load(str(small), log=lambda line: None)
    assert found.shape == (1, 8, 6) and torch.equal(all_pixels(found.train), all_pixels(expected.train))


def test_files_of_parquet_and_zip(tmp_path: Path) -> None:
    """Their bytes are packed."""
    import zipfile

    import pyarrow as pa
    import pyarrow.parquet as pq

    content = png(random_images(1)[0], "WEBP", lossless=True)
    pq.write_table(pa.table({"image": [{"bytes": content, "path": None}]}), tmp_path / "x.parquet")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("0.webp", content)
    for name in ("x.parquet", "x.zip"):
        out = packed(tmp_path / name, tmp_path / f"out-{name}")
        assert open_source(str(out)).encoded(0) == (".webp", content)


def test_attributes_are_kept(tmp_path: Path, write) -> None:
    """The numbers of a label table, in JSON beside each image."""
    write(tmp_path / "set", ["0.png", "1.png", "2.png"])
    (tmp_path / "set" / "labels.csv").write_text("file,age\n0.png,3.25\n1.png,4\n2.png,1e-3\n")
    out = packed(tmp_path / "set", tmp_path / "out")
    expected, found = (load(str(s), attributes=True, log=lambda line: None) for s in (tmp_path / "set", out))
    assert same_data(found, expected) and found.attributes == expected.attributes


def test_other_programs_read_the_shards(tmp_path: Path) -> None:
    """Python's tarfile finds the members, and the list has the keys of wids, with true counts."""
    out = packed(arrays(tmp_path), tmp_path / "out")
    listed = json.loads((out / "index.json").read_text())
    assert listed["wids_version"] == 1 and sum(s["nsamples"] for s in listed["shardlist"]) == 30
    first = listed["shardlist"][0]
    with tarfile.open(out / first["url"]) as archive:
        names = archive.getnames()
        label = archive.extractfile("000000001.cls")
        assert label is not None and label.read() == b"1"
    assert names == [f"{i:09d}.{kind}" for i in range(first["nsamples"]) for kind in ("npy", "cls")]
    assert (out / first["url"]).stat().st_size == first["filesize"] >= 10_000


@pytest.mark.parametrize("stop", [1, 4, 5, 9, 17, 29, 30])
def test_interrupted_packing_goes_on(tmp_path: Path, stop: int) -> None:
    """To the same bytes; until then the shards are refused, and nothing is left behind."""
    spec = arrays(tmp_path)
    expected = contents(packed(spec, tmp_path / "whole"))
    out = tmp_path / "out"
    with pytest.raises(Stopped):
        packed(spec, out, stop=stop)
    assert not list(out.glob(".*"))
    if (out / "index.json").exists():
        with pytest.raises(UserError, match="interrupted: run the same"):
            open_source(str(out))
    assert contents(packed(spec, out)) == expected


def test_lost_shards_are_written_again(tmp_path: Path) -> None:
    """By the same command, which leaves the others as they are; temporary files of a killed process are removed."""
    spec = arrays(tmp_path)
    out = packed(spec, tmp_path / "out")
    expected, times = contents(out), {p.name: p.stat().st_mtime_ns for p in out.glob("*.tar")}
    (out / "shard-000001.tar").unlink()
    (out / ".shard-000001.tar.7-ab.tmp").write_bytes(b"x")
    with open(out / "shard-000002.tar", "ab") as file:
        file.write(b"x")
    (out / "shard-000003.tar.index").unlink()
    with pytest.raises(UserError, match="2 shards .* missing or damaged.*shard-000001.tar .No such.*shard-000002"):
        open_source(str(out))
    assert contents(packed(spec, out)) == expected
    changed = {p.name for p in out.glob("*.tar") if p.stat().st_mtime_ns != times[p.name]}
    assert changed == {f"shard-00000{k}.tar" for k in (1, 2, 3)}


def test_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    """Other settings, other data, other files, a packing that runs."""
    spec, out = arrays(tmp_path), tmp_path / "out"
    packed(spec, out)
    with pytest.raises(UserError, match="another shard bytes"):
        packed(spec, out, PackSettings())
    with pytest.raises(UserError, match="other data"):
        packed(arrays(tmp_path, 29), out)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.png").write_bytes(b"")
    with pytest.raises(UserError, match=r"other files \(x.png\)"):
        packed(spec, tmp_path / "photos")


def test_images_that_cannot_be_read_are_left_out_and_named(tmp_path: Path, write, lines: list[str]) -> None:
    """The others keep their order."""
    write(tmp_path / "set", [f"{i}.png" for i in range(5)], 8, 8)
    (tmp_path / "set" / "2.png").write_bytes(b"nothing")
    out, splits = tmp_path / "out", open_splits(str(tmp_path / "set"))
    manifest = pack(splits, out, PackSettings(size=(8, 8)), lines.append)
    assert lines[-1] == "left out 1 images that cannot be read: 2.png (not an image)"
    assert manifest.left_out == ("2.png (not an image)",)
    data = [load(str(s), log=lambda line: None) for s in (tmp_path / "set", out)]
    assert torch.equal(all_pixels(data[0].train), all_pixels(data[1].train))
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "2.png").write_bytes(b"nothing")
    with pytest.raises(UserError, match="no image can be read"):
        pack(open_splits(str(tmp_path / "none")), tmp_path / "x", PackSettings(encoding="png"), lines.append)


def test_verify_finds_every_damage(tmp_path: Path) -> None:
    """A flipped bit, a cut, a missing shard; and a list that another program wrote."""
    out = packed(arrays(tmp_path), tmp_path / "out")
    assert verify(out)[1] == []
    content = bytearray((out / "shard-000001.tar").read_bytes())
    content[700] ^= 1
    (out / "shard-000001.tar").write_bytes(content)
    (out / "shard-000002.tar").write_bytes(content[:-512])
    (out / "shard-000003.tar").unlink()
    problems = verify(out)[1]
    assert [p[:16] for p in problems] == [f"shard-00000{k}.tar" for k in (1, 2, 3)]
    assert "another digest" in problems[0] and "bytes" in problems[1] and "No such file" in problems[2]
    write_shards(tmp_path / "other", random_images(4))
    (tmp_path / "other" / "index.json").write_text('{"shardlist": [{"url": "part-000000.tar", "nsamples": 5}]}')
    assert verify(tmp_path / "other")[1] == ["part-000000.tar (4 of 5 images)"]
    with pytest.raises(UserError, match="4 of 5 images"):
        open_source(str(tmp_path / "other"))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "ValueError|JSON|Expecting"),
        ("[]", "TypeError"),
        ('{"shardlist": []}', "empty"),
        ('{"shardlist": [{"url": "../x.tar"}]}', "no file of its own folder"),
        ('{"shardlist": [{"url": "/etc/passwd"}]}', "no file of its own folder"),
        ('{"shardlist": [{"url": "x.tar"}, {"url": "x.tar"}]}', "twice"),
        ('{"shardlist": [{"url": "x.tar", "filesize": -1}]}', "number"),
        ('{"shardlist": [{"url": "x.tar", "sha256": "abc"}]}', "digest"),
        ('{"shardlist": [{"url": "x.tar"}], "classes": [1]}', "classes"),
        ("[" * 5000, "RecursionError"),
    ],
)
def test_hostile_lists(text: str, reason: str) -> None:
    """One line that names the list."""
    with pytest.raises(UserError, match=reason) as error:
        parse_manifest(text.encode(), "set/index.json")
    assert "set/index.json" in str(error.value) and "\n" not in str(error.value)


def test_shards_beside_the_list(tmp_path: Path, lines: list[str]) -> None:
    """A shard that is not in the list is left out and named; one that the user names alone is used."""
    out = packed(arrays(tmp_path), tmp_path / "out")
    extra = write_shards(tmp_path / "other", random_images(2))[0]
    extra.rename(out / "zzz.tar")
    assert len(open_source(str(out), log=lines.append)) == 30
    assert any("zzz.tar" in line and "not in index.json" in line for line in lines)
    assert len(open_source(str(out / "zzz.tar"))) == 2


class _Slow(Source):
    """Images that record how many of them are encoded before they are written."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n, self.read_rows = n, 0

    def __len__(self) -> int:
        return self.n

    def read(self, i: int) -> np.ndarray:
        self.read_rows += 1
        return np.full((2, 2), i % 256, dtype=np.uint8)

    def name(self, i: int) -> str:
        return str(i)

    def file_size(self, i: int) -> int:
        return 4


def test_memory_holds_a_few_images(tmp_path: Path) -> None:
    """Images are encoded a few hundred ahead, not all at once."""
    source, seen = _Slow(2000), []
    splits: Splits = {"all": source}
    pack(
        splits, tmp_path / "x", PackSettings(), lambda _: None, 2, lambda done, _: seen.append(source.read_rows - done)
    )
    assert max(seen) < 500
