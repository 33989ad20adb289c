"""Oxford Flowers 102, in the split of its authors."""

from __future__ import annotations

from pathlib import Path
from typing import final

from fromnoise.data.download import RemoteFile
from fromnoise.data.named.flowers102 import FILES, FOLDER, find_flowers, unpack_flowers
from fromnoise.data.named_dataset import DownloadedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register


@register("dataset", "flowers102_official")
@final
class Flowers102Official(DownloadedDataset):
    """8,189 photographs of flowers in 102 classes (Nilsback and Zisserman 2008), in the split of the authors.

    1,020 training images and 1,020 validation images, ten per class, and 6,149 test images.
    """

    name = "flowers102_official"
    files = (*FILES, RemoteFile("setid.mat", (FOLDER + "setid.mat",), "md5:a5357ecc9cb78c4bef273ce3793fc85c"))
    manual_files = "its images as split/class/image.jpg"
    alternative = "flowers102"
    channels, classes = 3, 102

    def find(self, parent: Path, log: Log) -> Splits | None:
        """See ``DownloadedDataset``."""
        return find_flowers(parent / self.name, log)

    def unpack(self, folder: Path) -> None:
        """Divide the images as ``setid.mat`` does."""
        from scipy.io import loadmat

        numbers = loadmat(folder / "setid.mat")
        keys = {"train": "trnid", "validation": "valid", "test": "tstid"}
        split_of = {int(number): split for split, key in keys.items() for number in numbers[key].ravel()}
        unpack_flowers(folder, split_of.__getitem__)
        (folder / "setid.mat").unlink()
