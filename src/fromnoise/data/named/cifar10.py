"""CIFAR-10."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fromnoise.data.download import RemoteFile
from fromnoise.data.formats.parquet import open_parquet
from fromnoise.data.image_tree import list_files
from fromnoise.data.named_dataset import DownloadedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register

_COMMIT = "0b2714987fa478483af9968de7c934580d0bb9a2"
_FOLDER = f"https://huggingface.co/datasets/uoft-cs/cifar10/resolve/{_COMMIT}/plain_text/"
_DIGESTS = {
    "train-00000-of-00001.parquet": "8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
    "test-00000-of-00001.parquet": "841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
}


@register("dataset", "cifar10")
@final
class Cifar10(DownloadedDataset):
    """60,000 photographs in 10 classes, 32x32 RGB (Krizhevsky 2009), as parquet files of PNGs."""

    name = "cifar10"
    channels, size = 3, (32, 32)
    classes = 10
    class_names = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
    files = tuple(RemoteFile(name, (_FOLDER + name,), f"sha256:{digest}") for name, digest in _DIGESTS.items())

    def find(self, parent: Path, log: Log) -> Splits | None:
        """See ``DownloadedDataset``."""
        folder = parent / self.name
        names = [f for f in list_files(folder) if f.endswith(".parquet")] if folder.is_dir() else []
        return open_parquet(folder, names, log, self.class_names) if names else None
