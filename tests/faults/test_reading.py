"""Files of the user: regular files only, within limits, one line for anything else (review C6, C7, C11, C12, Low)."""

from __future__ import annotations

import gzip
import io
import os
import socket
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from encoded import png, refused, three_images

from fromnoise import checkpoint
from fromnoise import config as recipes
from fromnoise.clustering.given_labels import read_given_labels
from fromnoise.data import load
from fromnoise.data.spec import open_source
from fromnoise.editing.inputs import load_image
from fromnoise.utils import reading

images = pytest.fixture(three_images)

# ---- C6: pipes and devices


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["x.npz", "x.npy", "x.zip", "x.parquet", "train-images-idx3-ubyte", "x.png"])
def test_c6_pipe_as_data(tmp_path, name):
    """A FIFO is refused at once."""
    os.mkfifo(tmp_path / name)
    refused(lambda: load(str(tmp_path / name)), name)


@pytest.mark.timeout(20)
def test_c6_pipe_as_checkpoint_recipe_labels_and_mask(tmp_path):
    """So is one in place of a model, a recipe, known labels, or an image to edit."""
    for name in ("x.safetensors", "x.toml", "x.csv", "x.png"):
        os.mkfifo(tmp_path / name)
    refused(lambda: checkpoint.load_model(tmp_path / "x.safetensors"), "x.safetensors", "pipe")
    refused(lambda: recipes.load(str(tmp_path / "x.toml")), "x.toml", "pipe")
    refused(lambda: read_given_labels(tmp_path / "x.csv", 10, 2), "x.csv", "pipe")
    refused(lambda: load_image(tmp_path / "x.png", 1), "x.png", "pipe")


@pytest.mark.timeout(20)
def test_c6_pipe_among_images_is_left_out(images):
    """One image that is a pipe is named; the others are used."""
    os.mkfifo(images / "pipe.png")
    lines: list[str] = []
    data = load(str(images), log=lines.append)
    assert data.skipped == 1 and any("pipe.png" in line and "a pipe" in line for line in lines)


@pytest.mark.timeout(20)
def test_c6_pipe_as_label_table(images):
    """A table of labels that is a pipe is an error, and does not hang."""
    os.mkfifo(images / "labels.csv")
    refused(lambda: load(str(images)), "labels.csv")


def test_c6_device_socket_and_folder(tmp_path):
    """Each is named as what it is."""
    with socket.socket(socket.AF_UNIX) as unix:
        unix.bind(str(tmp_path / "s"))
        refused(lambda: reading.read_bytes(tmp_path / "s"), "a socket")
    refused(lambda: reading.read_bytes("/dev/zero"), "a device")
    refused(lambda: reading.read_bytes(tmp_path), "a folder")
    refused(lambda: reading.read_bytes("a\0b"), "null byte")


# ---- C7: limits


@pytest.fixture
def tight(monkeypatch):
    """Limits as low as the tests' files, so that they are small."""
    low = reading.Limits(1 << 22, 1 << 22, 1 << 20, 1 << 20, 10_000, 100, 1 << 20)
    monkeypatch.setattr(reading, "Limits", lambda *args, **kwargs: low)


def test_c7_gzip_bomb(tmp_path, tight):
    """Unpacking stops at the limit."""
    (tmp_path / "x-images-idx3-ubyte.gz").write_bytes(gzip.compress(bytes(3 << 20)))
    refused(lambda: load(str(tmp_path / "x-images-idx3-ubyte.gz")), "unpack", "FROMNOISE_MAX_GB")


def test_c7_npz_bomb(tmp_path, tight):
    """The declared sizes are checked before anything is unpacked."""
    np.savez_compressed(tmp_path / "x.npz", images=np.zeros((3000, 32, 32), np.uint8))
    refused(lambda: load(str(tmp_path / "x.npz")), "x.npz", "FROMNOISE_MAX_GB")


def test_c7_npz_header_that_declares_more_than_the_file(tmp_path):
    """No memory is allocated for an array that the file does not hold."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|u1", "fortran_order": False, "shape": (10**9, 1000, 1000)})
    for name in ("x.npz", "x.npy"):
        path = tmp_path / name
        if name == "x.npz":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("images.npy", header.getvalue())
        else:
            path.write_bytes(header.getvalue())
        refused(lambda path=path: load(str(path)), name, "declares another size")


def test_c7_npz_of_empty_strings(tmp_path):
    """An array whose elements take no bytes cannot have more elements than the file has bytes."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "|S0", "fortran_order": False, "shape": (10**12,)})
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("labels.npy", header.getvalue())
    refused(lambda: load(str(tmp_path / "x.npz")), "x.npz")


def test_c7_zip_bomb(tmp_path, tight):
    """An archive member that unpacks to too much is left out and named."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("good.png", png())
        archive.writestr("bomb.png", bytes(1 << 22))
    lines: list[str] = []
    assert load(str(tmp_path / "x.zip"), log=lines.append).skipped == 1
    assert any("bomb.png" in line for line in lines)


def test_c7_zip_member_of_an_unbounded_method(tmp_path):
    """Python bounds the output of deflate alone."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("bomb.png", bytes(1 << 22))
    refused(lambda: load(str(tmp_path / "x.zip")), "method other than deflate")


def test_c7_parquet_bomb(tmp_path, tight):
    """A dictionary-encoded column that repeats one value is counted before it is read."""
    table = pa.table({"image": pa.array([b"a" * 100_000] * 1000, pa.binary())})
    pq.write_table(table, tmp_path / "x.parquet", use_dictionary=True)
    assert (tmp_path / "x.parquet").stat().st_size < 1 << 20
    refused(lambda: load(str(tmp_path / "x.parquet")), "x.parquet", "FROMNOISE_MAX_GB")


def test_c7_label_table_that_is_endless(images):
    """A link to a device is refused."""
    (images / "labels.csv").symlink_to("/dev/zero")
    refused(lambda: load(str(images)), "labels.csv", "device")


def test_c7_large_images_are_left_out(images, monkeypatch):
    """An image of too many pixels is left out before it is decoded; the variable raises the limit."""
    (images / "large.png").write_bytes(png(9000, 9000))
    lines: list[str] = []
    assert load(str(images), log=lines.append, channels=1, size=8).skipped == 1
    assert any("large.png" in line and "FROMNOISE_MAX_PIXELS" in line for line in lines)
    monkeypatch.setenv("FROMNOISE_MAX_PIXELS", "1e8")
    assert load(str(images), channels=1, size=8).skipped == 0


def test_c7_array_of_large_images(tmp_path, tight):
    """Arrays have the same limit of pixels."""
    np.save(tmp_path / "x.npy", np.zeros((1, 200, 200), np.uint8))
    refused(lambda: load(str(tmp_path / "x.npy")), "FROMNOISE_MAX_PIXELS")


def test_c7_limits_are_raised_by_environment_variables(monkeypatch):
    """Both are in one place; a wrong value is an error."""
    monkeypatch.setenv("FROMNOISE_MAX_GB", "20")
    found = reading.limits()
    assert found.array_bytes == found.text_bytes == found.checkpoint_bytes == found.expansion_free == 20 << 30
    monkeypatch.setenv("FROMNOISE_MAX_GB", "many")
    refused(reading.limits, "FROMNOISE_MAX_GB=many")


def test_c7_formats_that_start_programs(images):
    """A PostScript file called .png is not an image: no interpreter is started for it."""
    (images / "x.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    lines: list[str] = []
    assert load(str(images), log=lines.append).skipped == 1
    assert any("x.png (not an image)" in line for line in lines)


# ---- C11: paths in tables


def test_c11_paths_in_parquet_lead_below_its_folder_only(tmp_path, images):
    """Absolute paths, .. and links that lead out are unreadable rows; relative paths below the folder are read."""
    folder = tmp_path / "set"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "a.png").write_bytes(png())
    (folder / "in" / "b.png").write_bytes(png())
    (folder / "link.png").symlink_to(images / "0.png")
    paths = ["in/a.png", str(images / "0.png"), "../images/0.png", "link.png", "in/b.png"]
    rows = [{"bytes": None, "path": path} for path in paths]
    pq.write_table(pa.table({"image": rows}), folder / "x.parquet")
    lines: list[str] = []
    data = load(str(folder / "x.parquet"), log=lines.append)
    assert data.skipped == 3 and len(data.train) + len(data.held_out) == 2
    assert any("row 1" in line and "row 2" in line and "row 3" in line for line in lines)


# ---- C12: names


def test_c12_file_names_that_are_not_utf8(tmp_path):
    """Files and classes of any bytes are used, and printed with escapes."""
    for name in (b"caf\xe9", b"tea", b"\x1b[31mred\nline"):
        folder = os.path.join(os.fsencode(tmp_path), b"d", name)
        os.makedirs(folder)
        for i in range(2):
            with open(os.path.join(folder, b"\xff%d.png" % i), "wb") as file:
                file.write(png())
    with open(os.path.join(os.fsencode(tmp_path), b"d", b"tea", b"\xfe.png"), "wb") as file:
        file.write(b"bad")
    lines: list[str] = []
    data = load(str(tmp_path / "d"), log=lines.append, memory_limit=0)
    assert data.class_names is not None and all(name.isprintable() for name in data.class_names)
    assert r"caf\xe9" in data.class_names and r"\x1b[31mred\nline" in data.class_names
    assert data.fingerprint


def test_c12_fingerprint_of_plain_names_is_unchanged(images):
    """Runs on images with plain names resume as before."""
    import hashlib

    from fromnoise.data.image_tree import list_files

    source = open_source(str(images))
    sha = hashlib.sha256(repr((1, 8, 8)).encode())
    sha.update(repr((None, 3)).encode())
    for name in list_files(images):
        sha.update(f"{name}\0{(images / name).stat().st_size}\n".encode())
    assert len(source) == 3
    assert load(str(images), memory_limit=0).fingerprint == sha.hexdigest()[:16]
