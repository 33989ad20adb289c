"""From tensors, arrays, image lists, torch data sets and data loaders to ``Data``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from fromnoise.data.arrays import ArraySource, array_value_range, channels_last, label_list
from fromnoise.data.assembly import OnProgress, assemble
from fromnoise.data.dataset import Data, Images
from fromnoise.data.load import load
from fromnoise.data.source import Log, Source, default_log, encode_labels
from fromnoise.data.tables import IMAGE_COLUMNS, LABEL_COLUMNS
from fromnoise.data.value_range import ValueRange
from fromnoise.utils.errors import UserError

_ACCEPTED = (
    "a path, a SPEC, a tensor, an array, a list of images, a torch Dataset that has a length, or a DataLoader of one"
)


def as_data(
    images: object,
    *,
    labels: object = None,
    size: int | tuple[int, int] | None = None,
    channels: int | None = None,
    holdout: float = 0.05,
    seed: int = 0,
    memory_limit: int = 4 << 30,
    workers: int = 0,
    log: Log = default_log,
    on_progress: OnProgress | None = None,
) -> Data:
    """Convert images of any kind to training and held-out images of one shape.

    Args:
        images: one of

            - a path or SPEC, as of ``load``
            - a tensor or array of shape (N, H, W), (N, C, H, W) or (N, H, W, C): uint8, or floats in [0, 1], [-1, 1] or
              [0, 255], where the range is inferred from minimum and maximum
            - a list of Pillow images, arrays or tensors, of any sizes
            - a torch ``Dataset`` with a length, of images or pairs (image, label) or mappings with an image and a
              label; each item is read once, so random transforms are not repeated in every epoch
            - a ``DataLoader``, of which only the data set is used
            - ``Images`` or ``Data`` of this package; the latter is returned as it is
        labels: class of each image, a whole number or word, for images that come without.
        size: see ``load``.
        channels: see ``load``.
        holdout: see ``load``.
        seed: see ``load``.
        memory_limit: see ``load``; a torch ``Dataset`` must fit.
        workers: see ``load``.
        log: see ``load``.
        on_progress: see ``load``.

    Raises:
        UserError: ``images`` is none of these, or as ``load``.
    """
    if isinstance(images, Data):
        if labels is not None or size is not None or channels is not None:
            raise UserError("labels, size and channels are fixed in Data that are loaded; give them to load instead")
        return images
    if isinstance(images, str | Path):
        if labels is not None:
            raise UserError(
                f"labels cannot be given for '{images}': put the images of each class in a folder of its own, "
                "or a labels.csv beside them"
            )
        return load(
            str(images),
            size=size,
            channels=channels,
            holdout=holdout,
            seed=seed,
            memory_limit=memory_limit,
            workers=workers,
            log=log,
            on_progress=on_progress,
        )
    source, title = _as_source(images, labels, memory_limit, log)
    return assemble(
        source,
        title,
        size=size,
        channels=channels,
        holdout=holdout,
        seed=seed,
        memory_limit=memory_limit,
        workers=workers,
        attributes=bool(source.attribute_names),
        log=log,
        on_progress=on_progress,
    )


def _as_source(images: object, labels: object, memory_limit: int, log: Log) -> tuple[Source, str]:
    """A source of the images, and their name in messages."""
    if isinstance(images, Tensor):
        return _array_source(_to_numpy(images), labels, "the tensor", log), "the tensor"
    if isinstance(images, np.ndarray):
        return _array_source(images, labels, "the array", log), "the array"
    if isinstance(images, Images):
        return _ImagesSource(images, labels), "the set of images"
    if isinstance(images, DataLoader):
        log("the data loader's batch size, sampler and collate function are not used, only its data set")
        images = images.dataset
    kind = type(images).__name__
    title = f"the {kind}" if isinstance(images, list | tuple) else f"the data set {kind}"
    iterable = isinstance(images, IterableDataset) or hasattr(images, "__iter__") or hasattr(images, "__getitem__")
    if not iterable or isinstance(images, Mapping | bytes):
        raise UserError(f"an object of type {kind} is not a data set; give {_ACCEPTED}")
    if isinstance(images, IterableDataset) or not (hasattr(images, "__len__") and hasattr(images, "__getitem__")):
        raise UserError(f"{title} has no length and no access by index; give list(...) of it")
    items: Any = images
    return _items_source(items, labels, title, memory_limit, log), title


def _to_numpy(tensor: Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor).numpy()


def _array_source(array: np.ndarray, labels: object, title: str, log: Log) -> ArraySource:
    return ArraySource(array, title, log, *_encode(_given_labels(labels, title), None))


def _given_labels(labels: object, title: str) -> list[int | str | None] | None:
    """The argument ``labels`` as Python values."""
    if labels is None:
        return None
    try:
        return label_list(_to_numpy(labels) if isinstance(labels, Tensor) else np.asarray(labels), title)
    except ValueError:  # sequences of different lengths
        raise UserError(f"the labels of {title} are not one whole number or word per image") from None


def _encode(
    labels: Sequence[int | str | None] | None, class_names: Sequence[str] | None
) -> tuple[tuple[str, ...] | None, list[int | None] | None]:
    """Class names and class indices; words and numbers among the labels are all taken as words."""
    if labels is None:
        return None, None
    kinds = {isinstance(label, str) for label in labels if label is not None}
    if len(kinds) > 1:
        labels = [None if label is None else str(label) for label in labels]
    indices = kinds == {False} and class_names is not None
    names, encoded = encode_labels({"all": labels}, tuple(class_names) if indices and class_names else None)
    return names, encoded["all"]


def _python_label(value: Any, title: str) -> int | str | None:
    """The label of an item as a Python value."""
    if isinstance(value, Tensor | np.ndarray | np.generic) and np.prod(value.shape) == 1:
        value = value.item()
    if value is None or isinstance(value, int | str):
        return value
    shown = f"{value:g}" if isinstance(value, float) else f"of type {type(value).__name__}"
    raise UserError(f"a label of {title} is {shown}; give one whole number or word per image")


def _image_and_label(item: Any, i: int, title: str) -> tuple[Image.Image | np.ndarray, list[Any]]:
    """The image of an item, and its label in a list that is empty if there is none."""
    label: list[Any] = []
    if isinstance(item, Mapping):
        key = next((k for k in IMAGE_COLUMNS if k in item), None)
        if key is None:
            raise UserError(f"item {i} of {title} has the keys {', '.join(map(str, item))}; name the image 'image'")
        label = [item[k] for k in LABEL_COLUMNS if k in item][:1]
        item = item[key]
    elif isinstance(item, tuple | list):
        if len(item) not in (1, 2):
            raise UserError(f"item {i} of {title} has {len(item)} parts; make it an image or a pair (image, label)")
        item, label = item[0], list(item[1:])
    if isinstance(item, Tensor):
        item = _to_numpy(item)
    if isinstance(item, Image.Image):
        return item, label
    if not isinstance(item, np.ndarray):
        raise UserError(
            f"item {i} of {title} is of type {type(item).__name__}; make it a Pillow image, an array or a tensor"
        )
    if item.ndim not in (2, 3) or item.dtype.kind not in "buif" or 0 in item.shape:
        raise UserError(
            f"item {i} of {title} has shape {item.shape} and type {item.dtype}; "
            "an image is numbers of shape (H, W), (C, H, W) or (H, W, C)"
        )
    return item, label


def _items_source(items: Any, labels: object, title: str, memory_limit: int, log: Log) -> Source:
    """Read every item once."""
    images: list[Image.Image | np.ndarray] = []
    own: list[int | str | None] = []
    size = 0
    for i in range(len(items)):
        image, label = _image_and_label(items[i], i, title)
        if bool(label) != (len(own) == i) and i:
            raise UserError(f"only some items of {title} have a label: give each a label or none")
        images.append(image)
        own += [_python_label(value, title) for value in label]
        size += image.nbytes if isinstance(image, np.ndarray) else image.width * image.height * len(image.getbands())
        if size > memory_limit:
            raise UserError(
                f"{title} needs more than {memory_limit / 2**30:.3g} GiB in memory: give the path of its files, which "
                "can be decoded on demand, or a larger memory_limit"
            )
    if own and labels is not None:
        raise UserError(f"the items of {title} have labels: leave out the argument labels")
    classes = getattr(items, "classes", None)  # as data sets of torchvision have it
    named = isinstance(classes, Sequence) and all(isinstance(name, str) for name in classes)
    encoded = _encode(own, classes if named else None) if own else _encode(_given_labels(labels, title), None)
    arrays = [image for image in images if isinstance(image, np.ndarray)]
    kinds = {array.dtype for array in arrays}
    if len(kinds) > 1:
        raise UserError(
            f"the images of {title} have the types {', '.join(sorted(map(str, kinds)))}; convert them to one"
        )
    if arrays and len(arrays) == len(images) and len({array.shape for array in arrays}) == 1:
        return ArraySource(np.stack(arrays), title, log, *encoded)
    return _ListSource(images, title, log, *encoded)


@final
class _ListSource(Source):
    """A list of images of any sizes."""

    def __init__(
        self,
        images: Sequence[Image.Image | np.ndarray],
        title: str,
        log: Log,
        class_names: tuple[str, ...] | None,
        labels: Sequence[int | None] | None,
    ) -> None:
        if labels is not None and len(labels) != len(images):
            raise UserError(f"{title} has {len(images)} images but {len(labels)} labels; give one label per image")
        super().__init__(class_names, labels)
        self._images, self._title = images, title
        arrays = [image[None] for image in images if isinstance(image, np.ndarray)]
        self._range: ValueRange | None = None
        if arrays and arrays[0].dtype != np.uint8:
            self._range = array_value_range(arrays, title)
            log(f"{title}: {arrays[0].dtype} values interpreted as {self._range.description}")

    def __len__(self) -> int:
        return len(self._images)

    def read(self, i: int) -> Image.Image | np.ndarray:
        image = self._images[i]
        if isinstance(image, Image.Image):
            return image.copy()  # the reader closes it
        if image.ndim == 3 and not channels_last(image.shape):
            image = image.transpose(1, 2, 0)
        return image if self._range is None else self._range.to_uint8(image)

    def name(self, i: int) -> str:
        return f"image {i} of {self._title}"

    def file_size(self, i: int) -> int:
        image = self._images[i]
        return image.nbytes if isinstance(image, np.ndarray) else image.width * image.height


@final
class _ImagesSource(Source):
    """``Images`` of this package as a source."""

    def __init__(self, images: Images, labels: object) -> None:
        own = images.labels
        if own is not None and labels is not None:
            raise UserError("the images have labels: leave out the argument labels")
        attributes = own is not None and own.is_floating_point()
        values = _given_labels(labels if own is None or attributes else own, "the images")
        super().__init__(*_encode(values, None))
        self._images = images
        if own is not None and attributes:
            self.attribute_names = tuple(map(str, range(own.shape[1])))

    def __len__(self) -> int:
        return len(self._images)

    def attribute_values(self, i: int) -> tuple[float, ...] | None:
        own = self._images.labels
        return None if own is None or not self.attribute_names else tuple(own[i].tolist())

    def read(self, i: int) -> np.ndarray:
        return self._images.get(torch.tensor([i]))[0].permute(1, 2, 0).numpy()

    def name(self, i: int) -> str:
        return f"image {i}"

    def file_size(self, i: int) -> int:
        channels, height, width = self._images.shape
        return channels * height * width
