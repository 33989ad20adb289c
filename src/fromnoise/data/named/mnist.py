"""MNIST, and other data sets in its four files."""

from __future__ import annotations

from abc import ABC
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, final

from fromnoise.data.download import RemoteFile
from fromnoise.data.formats.idx import find_idx_images, open_idx
from fromnoise.data.image_tree import list_files
from fromnoise.data.named_dataset import DownloadedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register


def mnist_files(folders: Sequence[str], digests: Sequence[str]) -> tuple[RemoteFile, ...]:
    """The four files of a data set in the format of MNIST.

    Args:
        folders: addresses of folders with the files, tried in order.
        digests: SHA-256 of images and labels of the train split, then of the test split.
    """
    names = [f"{split}-{kind}-ubyte.gz" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
    return tuple(
        RemoteFile(name, tuple(folder + name for folder in folders), f"sha256:{digest}")
        for name, digest in zip(names, digests, strict=True)
    )


class IdxDataset(DownloadedDataset, ABC):
    """A data set in four IDX files.

    Attributes:
        class_names: names of the classes.
    """

    class_names: ClassVar[tuple[str, ...]]

    def find(self, parent: Path, log: Log) -> Splits | None:
        """See ``DownloadedDataset``."""
        folder = parent / self.name
        files = find_idx_images(list_files(folder)) if folder.is_dir() else {}
        return open_idx({s: folder / f for s, f in files.items()}, log, self.class_names) if files else None


@register("dataset", "mnist")
@final
class Mnist(IdxDataset):
    """70,000 handwritten digits, 28x28 grey (LeCun et al. 1998)."""

    name = "mnist"
    channels, size = 1, (28, 28)
    classes = 10
    class_names = tuple("0123456789")
    files = mnist_files(
        ("https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"),
        (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
    )
