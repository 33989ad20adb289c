"""Images that become files of a run: uploads and samples, decoded, checked and written again as PNG."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from fromnoise.data import prepare
from fromnoise.data.decoding import display_size, open_encoded
from fromnoise.editing import load_mask
from fromnoise.evaluation.features.pixel_features import PixelFeatures
from fromnoise.evaluation.metrics.nearest import NearestNeighbours
from fromnoise.evaluation.resolve import load_model_data
from fromnoise.reporting import image_io
from fromnoise.utils.errors import UserError
from fromnoise.utils.files import write_atomic
from fromnoise.utils.reading import decoding
from fromnoise.web.compute.models import open_trained
from fromnoise.web.compute.sampling import samples_of
from fromnoise.web.compute.sending import Send, pixels

FOLDER = "edits"
"""Folder of a run with the images and masks that are edited."""
MAX_FILES = 500
"""Images and masks of a run, at most."""
_LARGEST_SIDE = 1024
_BLOCK = 2048


def store_image(send: Send, run: str, path: str, fit: bool) -> None:
    """Write an uploaded image as PNG into the run.

    Args:
        send: receives its name and shape.
        run: folder of the run.
        path: of the upload.
        fit: crop and resize it to the size of the training images.
    """
    channels, height, width = open_trained(run).model.dataset_info.shape
    with decoding("the upload", "an image", "choose another file"):
        image = open_encoded(path)
        image.load()
    size = (height, width) if fit else display_size(image)
    if max(size) > _LARGEST_SIDE:
        raise UserError(f"the image has {size[0]}x{size[1]} pixels: use sides of at most {_LARGEST_SIDE}")
    _send_stored(send, run, torch.from_numpy(prepare(image, *size, channels)))


def store_sample(send: Send, run: str, sampling: dict[str, Any], index: int) -> None:
    """Write a sample as PNG into the run."""
    images = samples_of(run, sampling).images
    if not 0 <= index < len(images):
        raise UserError(f"there are {len(images)} samples, and no number {index}")
    _send_stored(send, run, images[index])


def _send_stored(send: Send, run: str, image: Tensor) -> None:
    name = _store(Path(run), "image", image_io.single(image))
    send("end", name=name, shape=list(image.shape))


def store_mask(send: Send, run: str, path: str, height: int, width: int) -> None:
    """Write an uploaded mask as PNG into the run: white where to sample.

    Args:
        send: receives its name.
        run: folder of the run.
        path: of the upload, light where to sample.
        height: of the image.
        width: of the image.
    """
    known = load_mask(Path(path), (height, width))
    send("end", name=_store(Path(run), "mask", Image.fromarray((~known).numpy().astype("uint8") * 255)))


def _store(run: Path, kind: str, image: Image.Image) -> str:
    """Write an image under a name made of its content; returns the name below the run."""
    folder = run / FOLDER
    if folder.is_dir() and sum(1 for _ in folder.iterdir()) >= MAX_FILES:
        raise UserError(f"{folder} holds {MAX_FILES} images: delete some")
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    content = buffer.getvalue()
    name = f"{kind}-{hashlib.sha256(content).hexdigest()[:12]}.png"
    if not (folder / name).exists():
        write_atomic(folder / name, content)
    return f"{FOLDER}/{name}"


def nearest(send: Send, run: str, sampling: dict[str, Any]) -> None:
    """Send the training images that are nearest to some samples, by their pixels."""
    images = samples_of(run, sampling).images
    data = load_model_data(open_trained(run).model, None, lambda line: None)
    if data.shape != tuple(images.shape[1:]):
        raise UserError("samples of another size than the training images have no nearest one")
    features = PixelFeatures(data.shape)
    search = NearestNeighbours(features.extract(images).features, k=1)
    for first in range(0, len(data.train), _BLOCK):
        block = data.train.get(torch.arange(first, min(first + _BLOCK, len(data.train))))
        search.add_reference(features.extract(block).features, first)
        send("progress", done=first + len(block), total=len(data.train))
    found = data.train.get(search.indices[:, 0])
    send("end", pixels(found), count=len(found), shape=list(found.shape[1:]))
