"""Valid files that the campaign mutates: pictures in every format, labels, recipes, and tiny trained models."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image
from sandbox import Limits, run, warm

NETWORK = [
    *("--network.width", "8", "--network.multipliers", "[1]", "--network.blocks", "1", "--network.groups", "4"),
    *("--network.attention_resolutions", "[]", "--network.middle_attention", "false"),
]
"""Flags of a network with a few thousand weights."""
SMALL_RUN = [
    *NETWORK,
    *("--batch", "8", "--train.held_out", "8", "--train.evaluations", "1", "--train.previews", "0"),
    *("--sample.count", "2", "--sample.steps", "2", "--train.optimizer", "adamw", "--device", "cpu"),
]
"""Flags of a run that takes a second."""
COUNT, SIDE = 64, 8


def pictures() -> np.ndarray:
    """Grey pictures of two kinds, bright above or below, uint8 (COUNT, SIDE, SIDE)."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 80, (COUNT, SIDE, SIDE), dtype=np.uint8)
    images[::2, : SIDE // 2] += 150
    images[1::2, SIDE // 2 :] += 150
    return images


def labels() -> np.ndarray:
    """Their kinds, int64 (COUNT,)."""
    return np.arange(COUNT) % 2


def encoded(image: np.ndarray, kind: str = "PNG") -> bytes:
    """A picture as a PNG or JPEG file."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind)
    return buffer.getvalue()


def idx(array: np.ndarray) -> bytes:
    """An array of bytes as an IDX file."""
    return struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def npy(array: np.ndarray) -> bytes:
    """An array as a .npy file."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Files in a zip archive."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, method)
    return buffer.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    """Files in a .tar archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def parquet(columns: dict[str, list]) -> bytes:
    """Columns as a parquet file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    buffer = io.BytesIO()
    pq.write_table(pa.table(columns), buffer)
    return buffer.getvalue()


def _sample(i: int, name: str, data: bytes) -> dict[str, bytes]:
    """An image with its label as members of a shard."""
    return {f"{i:04d}.png": data, f"{i:04d}.cls": name.split("/")[0].encode()}


def valid_files() -> dict[str, bytes]:
    """One small valid file of each data format, by its usual name."""
    images, kinds = pictures()[:6], labels()[:6]
    pngs = {
        f"{('above', 'below')[k]}/{i}.png": encoded(image)
        for i, (image, k) in enumerate(zip(images, kinds, strict=True))
    }
    rows = [{"bytes": data, "path": name} for name, data in pngs.items()]
    return {
        "x.png": encoded(np.stack([images[0]] * 3, -1)),
        "x.jpg": encoded(np.stack([images[0]] * 3, -1), "JPEG"),
        "train-images-idx3-ubyte": idx(images),
        "train-labels-idx1-ubyte": idx(kinds),
        "train-images-idx3-ubyte.gz": gzip.compress(idx(images), mtime=0),
        "x.npy": npy(images),
        "x.npz": zipped({"images.npy": npy(images), "labels.npy": npy(kinds)}),
        "x.zip": zipped(pngs),
        "x.tar": tarred({k: v for i, (n, d) in enumerate(pngs.items()) for k, v in _sample(i, n, d).items()}),
        "x.parquet": parquet({"image": rows, "label": kinds.tolist()}),
        "labels.csv": b"file,label,age\n0.png,cat,3\n1.png,dog,4.5\n2.png,cat,1\n",
        "given.csv": b"index,label\n0,a\n3,b\n5,a\n",
    }


def make_materials(folder: Path) -> Path:
    """Write a data set, pictures, and two tiny trained runs, one of them conditional, into a new folder.

    ``run/`` has states of steps 2 and 4 and can be trained to step 6 by ``resume_words``.
    """
    folder.mkdir(parents=True)
    images = pictures()
    np.savez(folder / "pics.npz", images=images, labels=labels())
    (folder / "folder").mkdir()
    for i in range(3):
        (folder / "folder" / f"{i}.png").write_bytes(encoded(images[i]))
    (folder / "picture.png").write_bytes(encoded(images[0]))
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[2:6, 2:6] = 255
    (folder / "mask.png").write_bytes(encoded(mask))
    (folder / "small.png").write_bytes(encoded(images[0, ::2, ::2]))
    (folder / "labels.csv").write_bytes(valid_files()["given.csv"])
    warm(train_words(4, "run"), folder)
    warm(train_words(2, "labelled", "--data.labels", "true"), folder)
    warm(("sample", "run", "-n", "1", "--steps", "2", "--out", "sample.png", "--device", "cpu"), folder)
    warm(("doctor", "run", "-n", "0", "--device", "cpu"), folder)
    resolved = run((*train_words(2, "unused"), "--dry-run"), folder, Limits(seconds=300))
    assert resolved.code == 0, resolved.err
    (folder / "recipe.toml").write_text(resolved.out)
    return folder


def train_words(steps: int, out: str, *words: str) -> tuple[str, ...]:
    """The command that trains a tiny network on ``pics.npz``, with a state every two steps."""
    flags = ("--data", "pics.npz", "--steps", str(steps), "--out", out, "--train.checkpoint_steps", "2")
    return ("train", "digits", *flags, "--train.decay", "constant", "--data.holdout", "0.2", *SMALL_RUN, *words)


def prepare_environment(cache: Path) -> None:
    """Settings of all campaigns, to be made before torch is imported.

    Args:
        cache: a folder for compiled kernels and features, so that no case uses the user's.
    """
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    os.environ |= {"FROMNOISE_CACHE": str(cache), "MPLCONFIGDIR": str(cache / "matplotlib")}
    os.environ |= {"HF_HUB_OFFLINE": "1", "HF_HOME": str(cache / "hub"), "HF_DATASETS_OFFLINE": "1"}
    for name in ("FROMNOISE_DATA", "FROMNOISE_MAX_GB", "FROMNOISE_MAX_PIXELS", "WORLD_SIZE", "RANK"):
        os.environ.pop(name, None)
