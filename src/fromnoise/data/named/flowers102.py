"""Oxford Flowers 102, divided 80:10:10."""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import final

from fromnoise.data.download import RemoteFile
from fromnoise.data.format import image_files
from fromnoise.data.formats.zip_archive import open_zip
from fromnoise.data.image_tree import list_files, open_folder
from fromnoise.data.named_dataset import DownloadedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register
from fromnoise.utils.files import write_atomic

FOLDER = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
"""Address of the authors' files."""
FILES = (
    RemoteFile("102flowers.tgz", (FOLDER + "102flowers.tgz",), "md5:52808999861908f626f3c1f4e79d11fa"),
    RemoteFile("imagelabels.mat", (FOLDER + "imagelabels.mat",), "md5:e0620be6f572b9609742df49c70aed4d"),
)
"""Images and labels of the authors."""


def unpack_flowers(folder: Path, split_of: Callable[[int], str]) -> None:
    """Unpack the authors' files into ``split/class/image_00001.jpg``, and delete them.

    Args:
        folder: with the files of ``FILES``.
        split_of: returns the split of an image by its number, from 1 to 8,189.
    """
    from scipy.io import loadmat

    labels = loadmat(folder / "imagelabels.mat")["labels"].ravel()
    with tarfile.open(folder / "102flowers.tgz") as archive:
        for member in archive:
            if not member.isfile() or not image_files([member.name]):
                continue
            name = Path(member.name).name
            number = int(name.removesuffix(".jpg").rpartition("_")[2])
            target = folder / split_of(number) / f"{labels[number - 1]:03d}" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            content = archive.extractfile(member)
            if content is not None:
                write_atomic(target, content.read())
    for remote in FILES:
        (folder / remote.name).unlink()


def find_flowers(folder: Path, log: Log) -> Splits | None:
    """Open the images in a folder that ``unpack_flowers`` made; None if there are none."""
    names = image_files(list_files(folder)) if folder.is_dir() else []
    return open_folder(folder, names, log) if names else None


@register("dataset", "flowers102")
@final
class Flowers102(DownloadedDataset):
    """8,189 photographs of flowers in 102 classes (Nilsback and Zisserman 2008); 80 % of them are training images.

    The splits are 80 % training, 10 % validation and 10 % test images, by the last digit of an image's number; images
    of one class have consecutive numbers. The split of the authors, which has only 1,020 training images, is
    ``flowers102_official``.
    """

    name = "flowers102"
    files = FILES
    manual_files = "its images as split/class/image.jpg"
    channels, classes = 3, 102

    def find(self, parent: Path, log: Log) -> Splits | None:
        """See ``DownloadedDataset``; flowers102.zip and flowers102_64.zip are read as well."""
        archives = [path for path in (parent / "flowers102.zip", parent / "flowers102_64.zip") if path.is_file()]
        return find_flowers(parent / self.name, log) or (open_zip(archives[0], log) if archives else None)

    def unpack(self, folder: Path) -> None:
        """Divide the images by the last digit of their number."""
        unpack_flowers(folder, lambda number: {0: "test", 5: "validation"}.get(number % 10, "train"))
