"""Oxford Flowers 102."""

from __future__ import annotations

import tarfile
from pathlib import Path
from typing import final

from fromnoise.data.download import RemoteFile
from fromnoise.data.format import image_files
from fromnoise.data.formats.zip_archive import open_zip
from fromnoise.data.image_tree import list_files, open_folder
from fromnoise.data.named_dataset import DownloadedDataset
from fromnoise.data.source import Log, Splits
from fromnoise.registry import register

_FOLDER = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"


@register("dataset", "flowers102")
@final
class Flowers102(DownloadedDataset):
    """8,189 photographs of flowers in 102 classes (Nilsback and Zisserman 2008).

    The authors' split has 1,020 training images, ten per class, and 6,149 test images. This one has 80 % training, 10 %
    validation and 10 % test images, by the last digit of an image's number; images of one class have consecutive
    numbers.
    """

    name = "flowers102"
    files = (
        RemoteFile("102flowers.tgz", (_FOLDER + "102flowers.tgz",), "md5:52808999861908f626f3c1f4e79d11fa"),
        RemoteFile("imagelabels.mat", (_FOLDER + "imagelabels.mat",), "md5:e0620be6f572b9609742df49c70aed4d"),
    )
    manual_files = "its images as split/class/image.jpg"

    def find(self, parent: Path, log: Log) -> Splits | None:
        """See ``DownloadedDataset``; flowers102.zip and flowers102_64.zip are read as well."""
        folder = parent / self.name
        names = image_files(list_files(folder)) if folder.is_dir() else []
        if names:
            return open_folder(folder, names, log)
        archives = [path for path in (parent / "flowers102.zip", parent / "flowers102_64.zip") if path.is_file()]
        return open_zip(archives[0], log) if archives else None

    def unpack(self, folder: Path) -> None:
        """Unpack the images into ``split/class/image_00001.jpg``."""
        from scipy.io import loadmat

        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel()
        with tarfile.open(folder / "102flowers.tgz") as archive:
            for member in archive:
                if not member.isfile() or not image_files([member.name]):
                    continue
                name = Path(member.name).name
                number = int(name.removesuffix(".jpg").rpartition("_")[2])
                split = {0: "test", 5: "validation"}.get(number % 10, "train")
                target = folder / split / f"{labels[number - 1]:03d}" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                if content is not None:
                    target.write_bytes(content.read())
        for remote in self.files:
            (folder / remote.name).unlink()
