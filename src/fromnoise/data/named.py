"""Sets known by name: where they lie on this machine, and where on the net if they do not."""

from __future__ import annotations

import hashlib
import os
import tarfile
import tempfile
import urllib.request
from abc import ABC, abstractmethod
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import final

from fromnoise.data.arrays import idx_files, open_digits, open_idx
from fromnoise.data.files import is_image, open_folder, open_zip, walk
from fromnoise.data.source import Log, Parts
from fromnoise.data.tables import open_parquet
from fromnoise.utils.errors import UserError

_TIMEOUT = 30  # seconds without a byte
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_AT = "0b2714987fa478483af9968de7c934580d0bb9a2"
_CIFAR10_BASE = f"https://huggingface.co/datasets/uoft-cs/cifar10/resolve/{_CIFAR10_AT}/plain_text/"
_FASHION = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class Remote:
    """A file on the net.

    Attributes:
        name: what it is called here.
        urls: where it lies, tried in order.
        digest: of its content, as ``sha256:...`` or ``md5:...``.
    """

    name: str
    urls: tuple[str, ...]
    digest: str


class Named(ABC):
    """A set known by name; below a folder of data sets it lies in the folder of that name."""

    name: str
    remotes: tuple[Remote, ...]

    @abstractmethod
    def find(self, place: Path, log: Log) -> Parts | None:
        """Open the set below a folder of data sets; None if it is not there."""

    def build(self, folder: Path) -> None:  # noqa: B027  most sets are read as they are fetched
        """Turn what was fetched into ``folder`` into what ``find`` reads."""

    def by_hand(self) -> str:
        """What to put into the set's folder."""
        return ", ".join(remote.name for remote in self.remotes)


@final
class Idx(Named):
    """A set in the four files of MNIST."""

    def __init__(self, name: str, bases: tuple[str, ...], digests: tuple[str, ...], labels: tuple[str, ...]) -> None:
        """Name the set, the folders of the net that hold it, the SHA-256 of its files and its classes."""
        files = [f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        self.name, self._labels = name, labels
        self.remotes = tuple(
            Remote(file, tuple(base + file for base in bases), f"sha256:{d}")
            for file, d in zip(files, digests, strict=True)
        )

    def find(self, place: Path, log: Log) -> Parts | None:
        """By the names that the files have."""
        folder = place / self.name
        files = idx_files(walk(folder)) if folder.is_dir() else {}
        return open_idx({s: folder / f for s, f in files.items()}, log, self._labels) if files else None


@final
class Cifar10(Named):
    """CIFAR-10 (Krizhevsky 2009) as parquet: the original pixels as PNG, and no pickle."""

    name = "cifar10"
    remotes = (
        Remote(
            "train-00000-of-00001.parquet",
            (_CIFAR10_BASE + "train-00000-of-00001.parquet",),
            "sha256:8428b53a88a11ac374111006708df51469e315a22ac6d66470afd9c78d2ae883",
        ),
        Remote(
            "test-00000-of-00001.parquet",
            (_CIFAR10_BASE + "test-00000-of-00001.parquet",),
            "sha256:841389e6f2d64f28bf17310e430aebac20ec3ba611a3c5e231dc93c645ce84de",
        ),
    )

    def find(self, place: Path, log: Log) -> Parts | None:
        """By the names that the files have."""
        folder = place / self.name
        names = [f for f in walk(folder) if f.endswith(".parquet")] if folder.is_dir() else []
        return open_parquet(folder, names, log, _CIFAR10) if names else None


@final
class Flowers102(Named):
    """Oxford Flowers 102 (Nilsback and Zisserman 2008).

    Its own split is meant for learning from ten pictures a class and leaves 1,020 of 8,189 to train on.
    Here it is 80 % to train on, 10 % validation and 10 % test, by the last digit of the picture's number;
    pictures of a class have neighbouring numbers.
    """

    name = "flowers102"
    _base = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
    remotes = (
        Remote("102flowers.tgz", (_base + "102flowers.tgz",), "md5:52808999861908f626f3c1f4e79d11fa"),
        Remote("imagelabels.mat", (_base + "imagelabels.mat",), "md5:e0620be6f572b9609742df49c70aed4d"),
    )

    def find(self, place: Path, log: Log) -> Parts | None:
        """By the names that the files have."""
        folder = place / self.name
        names = [f for f in walk(folder) if is_image(f)] if folder.is_dir() else []
        if names:
            return open_folder(folder, names, log)
        zips = [path for path in (place / "flowers102.zip", place / "flowers102_64.zip") if path.is_file()]
        return open_zip(zips[0], log) if zips else None

    def build(self, folder: Path) -> None:
        """Unpack the pictures into ``split/class/image_00001.jpg``."""
        from scipy.io import loadmat

        labels = loadmat(folder / "imagelabels.mat")["labels"].ravel()
        with tarfile.open(folder / "102flowers.tgz") as archive:
            for member in archive:
                if not member.isfile() or not is_image(member.name):
                    continue
                name = Path(member.name).name
                number = int(name.removesuffix(".jpg").rpartition("_")[2])
                split = {0: "test", 5: "validation"}.get(number % 10, "train")
                target = folder / split / f"{labels[number - 1]:03d}" / name
                target.parent.mkdir(parents=True, exist_ok=True)
                content = archive.extractfile(member)
                if content is not None:
                    target.write_bytes(content.read())
        for remote in self.remotes:
            (folder / remote.name).unlink()

    def by_hand(self) -> str:
        """Pictures in folders."""
        return "its pictures as split/class/picture.jpg"


_SETS: dict[str, Named] = {
    named.name: named
    for named in (
        Idx(
            "mnist",
            (
                "https://ossci-datasets.s3.amazonaws.com/mnist/",
                "https://storage.googleapis.com/cvdf-datasets/mnist/",
            ),
            (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
            ),
            tuple("0123456789"),
        ),
        Idx(
            "fashion_mnist",
            (
                "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
                "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
            ),
            (
                "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
                "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
                "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
                "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
            ),
            _FASHION,
        ),
        Cifar10(),
        Flowers102(),
    )
}
NAMES = ("digits", *_SETS)
"""The sets known by name."""


def cache_folder() -> Path:
    """Where downloads go: $FROMNOISE_CACHE, else ~/.cache/fromnoise."""
    return Path(os.environ.get("FROMNOISE_CACHE") or Path.home() / ".cache" / "fromnoise").expanduser()


def _fetch(remote: Remote, folder: Path) -> str | None:
    """Download a file; what went wrong at the last of its addresses, or None."""
    kind, _, wanted = remote.digest.partition(":")
    wrong = None
    for url in remote.urls:
        request = urllib.request.Request(url, headers={"User-Agent": "fromnoise"})
        digest = hashlib.new(kind, usedforsecurity=False)
        try:
            with (
                urllib.request.urlopen(request, timeout=_TIMEOUT) as answer,
                (folder / remote.name).open("wb") as file,
            ):
                while block := answer.read(1 << 20):
                    digest.update(block)
                    file.write(block)
        except (OSError, HTTPException) as error:
            wrong = str(error) or type(error).__name__
            continue
        if digest.hexdigest() == wanted:
            return None
        wrong = f"{url} holds something else than expected"
    return wrong


def _download(named: Named, cache: Path, log: Log) -> None:
    """Put a set into the cache, whole or not at all."""
    target = cache / named.name
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache '{cache}' ({error.strerror}); name one in FROMNOISE_CACHE") from None
    with tempfile.TemporaryDirectory(prefix=f".{named.name}-", dir=cache, ignore_cleanup_errors=True) as draft:
        folder = Path(draft) / named.name
        folder.mkdir()
        for remote in named.remotes:
            log(f"fetching {remote.urls[0]} into {target}")
            wrong = _fetch(remote, folder)
            if wrong is not None:
                raise UserError(
                    f"'{named.name}' is not on this machine and {remote.name} cannot be fetched ({wrong}); "
                    f"put {named.by_hand()} into {target}, or let FROMNOISE_DATA name a folder with it"
                )
        named.build(folder)
        try:
            folder.rename(target)
        except OSError:
            # the folder is there: filled by a faster process, or by hand and in part
            for item in folder.iterdir():
                if not (target / item.name).exists():
                    item.rename(target / item.name)


def open_named(name: str, log: Log) -> Parts:
    """Open a set known by name: below $FROMNOISE_DATA, else from the cache, else from the net into the cache.

    Args:
        name: one of ``NAMES``.
        log: takes a line for each download.

    Raises:
        UserError: the set is nowhere to be had.
    """
    if name == "digits":
        return open_digits(log)
    named, cache = _SETS[name], cache_folder()
    own = os.environ.get("FROMNOISE_DATA")
    places = [Path(own).expanduser()] if own else []
    for place in (*places, cache):
        parts = named.find(place, log)
        if parts is not None:
            return parts
    _download(named, cache, log)
    parts = named.find(cache, log)
    if parts is None:
        raise UserError(f"'{name}' was fetched into {cache} but is not there; is somebody else emptying that folder?")
    return parts
