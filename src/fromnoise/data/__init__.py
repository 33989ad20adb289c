"""Pictures: where they lie, how they are brought to one shape, and in which order they come."""

from __future__ import annotations

from fromnoise.data.base import Source
from fromnoise.data.batches import Batch, BatchStream
from fromnoise.data.dataset import Attribute, Data, Images, MemoryImages, Shape, StreamedImages
from fromnoise.data.images import prepare
from fromnoise.data.load import load
from fromnoise.data.order import flips, order
from fromnoise.data.pixels import to_pixels, to_unit
from fromnoise.data.sources import NAMES, open_source

__all__ = [
    "NAMES",
    "Attribute",
    "Batch",
    "Data",
    "Images",
    "MemoryImages",
    "Shape",
    "Source",
    "BatchStream",
    "StreamedImages",
    "flips",
    "load",
    "open_source",
    "order",
    "prepare",
    "to_pixels",
    "to_unit",
]
